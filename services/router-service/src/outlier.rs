//! When an instance is left out for failing, and when so many are that all are used (panic): the policy `outlier` of an
//! upstream. What was left out is known to the [`crate::instance::Instance`].

use kronos_common::problem::FieldError;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::config::Balance;

/// When an instance is left out for failing; what is absent is as the gateway's configuration says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OutlierSpec {
    /// So many failures in a row: no connection, a broken answer, a timeout, 502 to 504.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1000)]
    pub consecutive_failures: Option<u32>,
    /// For how long the first time, in milliseconds; each further time twice as long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 3_600_000)]
    pub base_ms: Option<u64>,
    /// For how long at most, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 3_600_000)]
    pub max_ms: Option<u64>,
    /// When fewer than this percentage of the instances are left, all are used; 0: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 100)]
    pub panic_percent: Option<u32>,
}

impl OutlierSpec {
    /// Everything that is wrong with it.
    pub fn check(&self, errors: &mut Vec<FieldError>) {
        let mut wrong = |field: &str, detail: &'static str| {
            errors.push(FieldError::new(format!("/outlier/{field}"), "out_of_range", detail));
        };
        if self.consecutive_failures.is_some_and(|count| !(1..=1000).contains(&count)) {
            wrong("consecutiveFailures", "from 1 to 1000");
        }
        for (field, time) in [("baseMs", self.base_ms), ("maxMs", self.max_ms)] {
            if time.is_some_and(|time| !(1..=3_600_000).contains(&time)) {
                wrong(field, "from 1 to 3600000");
            }
        }
        if self.panic_percent.is_some_and(|percent| percent > 100) {
            wrong("panicPercent", "from 0 to 100");
        }
    }
}

/// The policy, compiled.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    pub failures: u32,
    pub base_us: u64,
    pub max_us: u64,
    /// Below this percentage of instances that are left, all are used.
    pub panic_percent: u32,
}

impl From<&Balance> for Rules {
    fn from(config: &Balance) -> Self {
        Self {
            failures: config.ejection_failures,
            base_us: config.ejection_base_ms * 1000,
            max_us: config.ejection_max_ms * 1000,
            panic_percent: config.panic_percent,
        }
    }
}

impl Rules {
    /// As an upstream wants them.
    pub fn with(self, spec: Option<&OutlierSpec>) -> Self {
        let Some(spec) = spec else { return self };
        let base_us = spec.base_ms.map_or(self.base_us, |ms| ms * 1000);
        Self {
            failures: spec.consecutive_failures.unwrap_or(self.failures),
            base_us,
            max_us: spec.max_ms.map_or(self.max_us, |ms| ms * 1000).max(base_us),
            panic_percent: spec.panic_percent.unwrap_or(self.panic_percent),
        }
    }
}
