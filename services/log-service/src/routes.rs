//! The resources of log-service, and who may use them.

mod logs;
mod otlp;
mod search;
mod sources;
mod tail;

use kronos_common::{idempotency, identity::Permission, privacy};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::App;

/// What this service asks for, declared when it starts: each with what it allows.
pub(crate) const PERMISSIONS: &[(&str, &str)] = &[
    ("logs:manage", "Rule what is kept of logs, and for how long"),
    ("logs:read", "Read logs"),
    ("logs:write", "Write logs"),
];

/// `logs:read`
pub(crate) struct CanReadLogs;

impl Permission for CanReadLogs {
    const NAME: &'static str = "logs:read";
}

/// `logs:write`
pub(crate) struct CanWriteLogs;

impl Permission for CanWriteLogs {
    const NAME: &'static str = "logs:write";
}

/// `logs:manage`
pub(crate) struct CanManageLogs;

impl Permission for CanManageLogs {
    const NAME: &'static str = "logs:manage";
}

/// All routes.
pub(crate) fn router(app: App) -> OpenApiRouter {
    let repeatable = idempotency::layer(app.pool.clone(), app.verifier.clone());
    OpenApiRouter::new()
        .routes(routes!(sources::list_sources))
        .routes(routes!(sources::get_source, sources::put_source, sources::delete_source))
        .routes(routes!(logs::write_logs, search::find_logs))
        .layer(repeatable)
        .merge(privacy::routes("user-service"))
        .routes(routes!(tail::tail_logs))
        .routes(routes!(otlp::export_logs))
        .with_state(app)
}
