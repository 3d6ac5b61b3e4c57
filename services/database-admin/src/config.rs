//! The settings of database-admin; `config.default.toml` beside the sources explains each.

use std::path::PathBuf;

use kronos_common::config::{self, ServiceConfig};
use secrecy::SecretString;
use serde::Deserialize;

use crate::migrate;

/// All sections.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub http: config::Http,
    pub telemetry: config::Telemetry,
    pub postgres: config::Postgres,
    pub redis: config::Redis,
    pub identity: config::Identity,
    pub sealing: config::Sealing,
    pub reader: Reader,
    pub query: Query,
    pub backup: Backup,
    pub migrate: migrate::Settings,
}

impl ServiceConfig for Config {
    fn telemetry(&self) -> &config::Telemetry {
        &self.telemetry
    }

    fn identity(&self) -> &config::Identity {
        &self.identity
    }
}

/// `[reader]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reader {
    pub url: SecretString,
    pub max_connections: u32,
    pub acquire_timeout_ms: u64,
}

/// `[query]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Query {
    pub statement_timeout_ms: u32,
    pub deadline_ms: u64,
    pub max_cost: f64,
    pub max_plan_rows: f64,
    pub default_rows: u32,
    pub max_rows: u32,
    pub max_result_bytes: usize,
    pub max_row_bytes: u32,
    pub cache_min_ms: u64,
    pub cache_seconds: u64,
    pub cache_bytes: u64,
    pub audit_days: u16,
}

/// `[backup]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backup {
    pub url: SecretString,
    pub directory: PathBuf,
    pub pg_dump: PathBuf,
    pub compression: u8,
    pub deadline_seconds: u64,
}
