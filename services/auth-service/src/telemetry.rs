//! Names of auth-service's own metrics; those of every service are in `kronos_common::telemetry`.

use kronos_common::service::Context;
use prometheus::{IntCounterVec, Opts};

/// Histogram: how long one password hash takes.
pub(crate) const PASSWORD_HASH_SECONDS: &str = "kronos_auth_password_hash_seconds";
/// Counter: hashes refused because there was no room or no time.
pub(crate) const PASSWORD_HASHES_SHED: &str = "kronos_auth_password_hashes_shed_total";
/// Counter by `result`: logins.
pub(crate) const LOGINS: &str = "kronos_auth_logins_total";
/// Counter by `kind`: tokens issued.
pub(crate) const TOKENS_ISSUED: &str = "kronos_auth_tokens_issued_total";

/// The counters that flows touch.
pub(crate) struct Metrics {
    /// By result: `succeeded`, `failed`, `throttled`, `overloaded`.
    pub(crate) logins: IntCounterVec,
    /// By kind: `login`, `refresh`, `client_credentials`.
    pub(crate) tokens: IntCounterVec,
}

impl Metrics {
    pub(crate) fn register(context: &Context) -> Self {
        let counter = |name, help, label| {
            let counter = IntCounterVec::new(Opts::new(name, help), &[label]).expect("name and label are valid");
            context.register(counter)
        };
        Self {
            logins: counter(LOGINS, "Logins by result", "result"),
            tokens: counter(TOKENS_ISSUED, "Access tokens issued by kind", "kind"),
        }
    }
}
