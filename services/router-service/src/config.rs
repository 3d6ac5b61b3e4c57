//! What the gateway reads from its configuration; `config.default.toml` is the reference.

use ipnet::IpNet;
use kronos_common::config::{self, ServiceConfig};
use serde::Deserialize;

use crate::origin::TrustedHeader;

/// The whole configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub http: config::Http,
    pub telemetry: config::Telemetry,
    pub postgres: config::Postgres,
    pub redis: config::Redis,
    pub kafka: config::Kafka,
    pub identity: config::Identity,
    pub services: Services,
    pub gateway: Gateway,
    pub balance: Balance,
    pub cache: Cache,
    pub limits: Limits,
    pub tls: Tls,
    pub signatures: Signatures,
    pub audit: Audit,
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
    pub min_body_bytes_per_second: u64,
    pub write_timeout_ms: u64,
    pub max_header_bytes: usize,
    pub max_headers: usize,
    pub max_connections_per_address: usize,
    pub max_resets: u32,
    pub trusted_proxies: Vec<IpNet>,
    pub trusted_header: TrustedHeader,
    pub proxy_protocol_from: Vec<IpNet>,
    pub allow_networks: Vec<IpNet>,
    pub deny_networks: Vec<IpNet>,
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
    pub ca_file: String,
}

/// `[tls]`: files are paths; empty: none.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    pub certificate: String,
    pub key: String,
    pub by_name: Vec<Pair>,
    pub client_ca: String,
    pub required: bool,
    pub handshake_timeout_ms: u64,
}

/// A certificate with its chain, and its key.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

/// `[signatures]`: what is asked of signed requests.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signatures {
    pub window_seconds: u32,
    pub leeway_seconds: u32,
    pub required_components: Vec<String>,
    pub body_limit_bytes: usize,
}

/// `[audit]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Audit {
    pub requests: bool,
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

/// `[cache]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cache {
    pub near_bytes: u64,
    pub redis_timeout_ms: u64,
}
