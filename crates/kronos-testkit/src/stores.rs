//! The real stores that tests run against. `cargo xtask test` starts them once; each test then has its own database, vhost
//! and prefix in them, so that tests run in parallel and in any order.

use std::{
    collections::HashMap,
    net::{SocketAddr, TcpStream, ToSocketAddrs as _},
    path::PathBuf,
    sync::OnceLock,
    time::Duration,
};

use kronos_common::config;
use reqwest::Url;
use serde::Deserialize;

use crate::wait::unique;

const HINT: &str = "run `cargo xtask test`, or `cargo xtask stores` and then `cargo test`";

/// Where each store is, as `stores.json` says.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stores {
    /// With a role that may create databases.
    pub postgres: Store,
    /// Redis.
    pub redis: Store,
    /// RabbitMQ.
    pub rabbitmq: Store,
    /// Kafka; the URL is `host:port`.
    pub kafka: Store,
    /// Elasticsearch.
    pub elasticsearch: Store,
    /// Login role of each service → its password.
    pub role_passwords: HashMap<String, String>,
}

/// One store.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Store {
    /// How to connect to it.
    pub url: String,
    /// Its process, for tests that kill it.
    #[serde(default)]
    pub pid: Option<u32>,
    /// RabbitMQ's management API.
    #[serde(default)]
    pub management_url: Option<String>,
}

impl Stores {
    /// The stores of this test run.
    ///
    /// # Panics
    /// If they are not there; the message says what to run.
    pub fn get() -> &'static Self {
        static STORES: OnceLock<Stores> = OnceLock::new();
        STORES.get_or_init(|| {
            let path = path();
            let text = std::fs::read_to_string(&path)
                .unwrap_or_else(|error| panic!("no test stores ({}: {error}): {HINT}", path.display()));
            let stores: Self = serde_json::from_str(&text)
                .unwrap_or_else(|error| panic!("{} is not as expected ({error}): {HINT}", path.display()));
            for (name, url) in [
                ("PostgreSQL", &stores.postgres.url),
                ("Redis", &stores.redis.url),
                ("RabbitMQ", &stores.rabbitmq.url),
                ("Kafka", &stores.kafka.url),
                ("Elasticsearch", &stores.elasticsearch.url),
            ] {
                assert!(answers(url), "{name} does not answer at its address in {}: {HINT}", path.display());
            }
            stores
        })
    }
}

fn path() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).join(".kronos/test/stores.json")
}

fn answers(url: &str) -> bool {
    address(url).is_some_and(|address| TcpStream::connect_timeout(&address, Duration::from_secs(2)).is_ok())
}

fn address(url: &str) -> Option<SocketAddr> {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest).split('/').next()?;
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    host.to_socket_addrs().ok()?.next()
}

/// A `[redis]` section with a prefix of its own.
pub fn test_redis() -> config::Redis {
    config::Redis {
        url: Stores::get().redis.url.clone().into(),
        prefix: format!("{}:", unique("test")),
        max_connections: 4,
        timeout_ms: 2_000,
    }
}

/// A `[kafka]` section with a prefix of its own.
pub fn test_kafka() -> config::Kafka {
    kafka_at(Stores::get().kafka.url.clone())
}

/// The same for another broker.
pub(crate) fn kafka_at(brokers: String) -> config::Kafka {
    config::Kafka {
        brokers,
        prefix: format!("{}.", unique("test")),
        timeout_ms: 10_000,
        security: config::KafkaSecurity::Plaintext,
        ca_file: String::new(),
        sasl_mechanism: config::SaslMechanism::default(),
        username: String::new(),
        password: String::new().into(),
    }
}

/// The URL with other credentials.
pub(crate) fn with_login(url: &str, user: &str, password: &str) -> Url {
    let mut url = Url::parse(url).expect("stores.json holds URLs");
    url.set_username(user).expect("a URL with a host");
    url.set_password(Some(password)).expect("a URL with a host");
    url
}
