//! The settings of log-service; `config.default.toml` beside the sources explains each.

use std::{path::PathBuf, time::Duration};

use kronos_common::config::{self, ServiceConfig};
use secrecy::SecretString;
use serde::Deserialize;

/// All sections.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub http: config::Http,
    pub telemetry: config::Telemetry,
    pub postgres: config::Postgres,
    pub redis: config::Redis,
    pub rabbit: config::Rabbit,
    pub kafka: config::Kafka,
    pub identity: config::Identity,
    pub sealing: config::Sealing,
    pub elasticsearch: Elasticsearch,
    pub ingest: Ingest,
    pub spill: Spill,
    pub retention: Retention,
    pub tail: Tail,
    pub sources: Sources,
}

impl ServiceConfig for Config {
    fn telemetry(&self) -> &config::Telemetry {
        &self.telemetry
    }

    fn identity(&self) -> &config::Identity {
        &self.identity
    }
}

/// `[elasticsearch]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Elasticsearch {
    pub url: String,
    pub prefix: String,
    pub username: String,
    pub password: SecretString,
    pub timeout_ms: u64,
    pub refresh_interval_ms: u64,
    pub replicas: u32,
    pub bulk_lines: u32,
    pub poll_ms: u64,
    pub max_lag_ms: u64,
}

/// `[ingest]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ingest {
    pub queue_bytes: usize,
    pub batch_lines: usize,
    pub linger_ms: u64,
    pub patience_ms: u64,
}

/// `[spill]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spill {
    pub directory: PathBuf,
    pub max_bytes: u64,
}

/// `[retention]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    pub days: u32,
    pub days_ahead: u32,
}

/// `[tail]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tail {
    pub max_tails: usize,
    pub buffer_lines: usize,
    pub poll_ms: u64,
    pub max_replay: i64,
}

/// `[sources]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sources {
    pub timeout_ms: u64,
    pub max_response_bytes: usize,
}

impl Elasticsearch {
    /// Longest wait for an answer.
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }
}

impl Config {
    /// What no type can say.
    ///
    /// # Errors
    /// A value that can't work, by its key.
    pub fn check(&self) -> anyhow::Result<()> {
        anyhow::ensure!(self.retention.days >= 1, "configuration key `retention.days`: at least 1");
        anyhow::ensure!(self.ingest.batch_lines >= 1, "configuration key `ingest.batch_lines`: at least 1");
        anyhow::ensure!(self.tail.buffer_lines >= 1, "configuration key `tail.buffer_lines`: at least 1");
        anyhow::ensure!(self.elasticsearch.bulk_lines >= 1, "configuration key `elasticsearch.bulk_lines`: at least 1");
        anyhow::ensure!(
            self.ingest.queue_bytes >= self.http.body_limit_bytes,
            "configuration key `ingest.queue_bytes`: at least `http.body_limit_bytes`, or a full body could never be taken"
        );
        let prefix = &self.elasticsearch.prefix;
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
        anyhow::ensure!(
            prefix.chars().all(allowed) && prefix.starts_with(|c: char| c.is_ascii_alphanumeric()),
            "configuration key `elasticsearch.prefix`: lowercase letters, digits, `-`, `_` and `.`, beginning with a letter or digit"
        );
        Ok(())
    }
}
