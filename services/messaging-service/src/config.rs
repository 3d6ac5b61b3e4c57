//! This service's settings. `config.default.toml` explains them.

use std::time::Duration;

use kronos_common::config::{Http, Identity, Kafka, Postgres, Rabbit, Redis, Sealing, ServiceConfig, Telemetry};
use serde::Deserialize;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub http: Http,
    pub telemetry: Telemetry,
    pub postgres: Postgres,
    pub redis: Redis,
    pub rabbit: Rabbit,
    pub kafka: Kafka,
    pub identity: Identity,
    pub sealing: Sealing,
    pub topics: Topics,
    pub publish: Publish,
    pub deliver: Deliver,
    pub subscribe: Subscribe,
    pub channels: Channels,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topics {
    pub max_attempts: i32,
    pub backoff_ms: i64,
    pub lease_ms: i64,
    pub partitions: i32,
    pub ageing_ms: i64,
    pub replication: i32,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Publish {
    pub max_payload_bytes: usize,
    pub max_batch: usize,
    pub max_pending: i64,
    pub relay_retry_ms: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deliver {
    pub ready_rows: i64,
    pub ready_bytes: i64,
    pub window: usize,
    pub window_bytes: usize,
    pub max_backoff_ms: u64,
    pub remember_seconds: u64,
    pub expiry_interval_ms: u64,
    pub look_interval_ms: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subscribe {
    pub longest_wait_ms: u64,
    pub keep_alive_ms: u64,
    pub lag_messages: usize,
    pub max_subscribers: usize,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Channels {
    pub enabled: bool,
}

impl Deliver {
    /// The longest back-off.
    pub fn max_backoff(&self) -> Duration {
        Duration::from_millis(self.max_backoff_ms)
    }
}

impl ServiceConfig for Config {
    fn telemetry(&self) -> &Telemetry {
        &self.telemetry
    }

    fn identity(&self) -> &Identity {
        &self.identity
    }
}
