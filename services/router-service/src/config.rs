//! What the gateway reads from its configuration; `config.default.toml` is the reference.

use ipnet::IpNet;
use kronos_common::config::{self, ServiceConfig};
use serde::Deserialize;

/// The whole configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub http: config::Http,
    pub telemetry: config::Telemetry,
    pub postgres: config::Postgres,
    pub redis: config::Redis,
    pub identity: config::Identity,
    pub services: Services,
    pub gateway: Gateway,
    pub balance: Balance,
    pub limits: Limits,
}

impl ServiceConfig for Config {
    fn telemetry(&self) -> &config::Telemetry {
        &self.telemetry
    }

    fn identity(&self) -> &config::Identity {
        &self.identity
    }
}

/// `[services]`: base URLs for the first start.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Services {
    pub auth_url: String,
    pub user_url: String,
    pub log_url: String,
    pub cache_url: String,
    pub messaging_url: String,
    pub database_admin_url: String,
}

/// `[gateway]`: listeners and what a client's connection may do.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gateway {
    pub workers: usize,
    pub table_path: String,
    pub max_connections: usize,
    pub first_byte_timeout_ms: u64,
    pub header_timeout_ms: u64,
    pub keep_alive_timeout_ms: u64,
    pub body_idle_timeout_ms: u64,
    pub write_timeout_ms: u64,
    pub max_header_bytes: usize,
    pub max_headers: usize,
    pub trusted_proxies: Vec<IpNet>,
    pub openapi_cache_ms: u64,
    pub poll_interval_ms: u64,
}

/// `[balance]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Balance {
    pub connect_timeout_ms: u64,
    pub ejection_failures: u32,
    pub ejection_base_ms: u64,
    pub ejection_max_ms: u64,
    pub panic_percent: u32,
    pub retry_percent: u32,
    pub pool_idle_timeout_ms: u64,
}

/// `[limits]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    pub default_requests: u32,
    pub default_per_seconds: u32,
    pub redis_timeout_ms: u64,
    pub max_clients: usize,
}
