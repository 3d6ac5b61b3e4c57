//! The response cache (RFC 9111) for routes that ask for it: the policy `cache`. Answers are kept near, in this process and
//! bounded in bytes, and in Redis for all gateways. `freshness` has the rules, `entry` what is kept, `keep` where, `flow` what
//! becomes of a request.

pub mod entry;
pub mod flow;
pub mod freshness;
pub mod keep;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The longest time that an answer is kept, whatever it says: a week.
pub const LONGEST_S: u64 = 604_800;

/// Which answers of a route are kept. What an answer says itself (`Cache-Control`, `Expires`) always counts first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CacheSpec {
    /// For how long an answer is fresh that says nothing about it, in seconds. Default: 0, it is not kept.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 604_800)]
    pub default_seconds: u64,
    /// For how long a stale answer may be given while a new one is fetched, in seconds, where the answer does not say so
    /// itself (`stale-while-revalidate`, RFC 5861). Default: 0.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 604_800)]
    pub stale_while_revalidate_seconds: u64,
    /// For how long a stale answer may be given when the upstream fails, in seconds, where the answer does not say so itself
    /// (`stale-if-error`, RFC 5861). Default: 0.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 604_800)]
    pub stale_if_error_seconds: u64,
    /// Larger answers are not kept, in bytes. Default: 1048576.
    #[serde(default = "one_mib")]
    #[schema(minimum = 1, maximum = 16_777_216)]
    pub object_limit_bytes: u32,
    /// Whether answers are also kept in Redis, for all gateways. Default: true.
    #[serde(default = "yes")]
    pub shared: bool,
}

fn one_mib() -> u32 {
    1 << 20
}

fn yes() -> bool {
    true
}

impl CacheSpec {
    /// Everything that is wrong with it.
    pub fn check(&self, wrong: &mut impl FnMut(&str, &'static str, String)) {
        for (field, seconds) in [
            ("defaultSeconds", self.default_seconds),
            ("staleWhileRevalidateSeconds", self.stale_while_revalidate_seconds),
            ("staleIfErrorSeconds", self.stale_if_error_seconds),
        ] {
            if seconds > LONGEST_S {
                wrong(&format!("/cache/{field}"), "out_of_range", format!("from 0 to {LONGEST_S}"));
            }
        }
        if !(1..=16 << 20).contains(&self.object_limit_bytes) {
            wrong("/cache/objectLimitBytes", "out_of_range", "from 1 to 16777216".to_owned());
        }
    }
}
