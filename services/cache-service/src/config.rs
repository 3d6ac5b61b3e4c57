//! The settings of cache-service; `config.default.toml` beside the sources explains each.

use kronos_common::config::{self, ServiceConfig};
use serde::Deserialize;

/// All sections.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub http: config::Http,
    pub telemetry: config::Telemetry,
    pub redis: config::Redis,
    pub identity: config::Identity,
    pub cache: Cache,
}

impl ServiceConfig for Config {
    fn telemetry(&self) -> &config::Telemetry {
        &self.telemetry
    }

    fn identity(&self) -> &config::Identity {
        &self.identity
    }
}

/// `[cache]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cache {
    pub default_ttl_seconds: u64,
    pub max_ttl_seconds: u64,
}
