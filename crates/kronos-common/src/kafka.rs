//! Kafka: clients with the settings that every user needs (acks from all replicas, idempotent producer, no commit that the
//! caller did not ask for). What topics hold is not decided here.

use std::time::Duration;

use anyhow::Context as _;
use rdkafka::{
    ClientConfig, admin::AdminClient, client::DefaultClientContext, consumer::StreamConsumer, producer::FutureProducer,
};
use secrecy::ExposeSecret as _;

use crate::config::{self, KafkaSecurity, SaslMechanism};

/// Records that a producer may hold before it says that its queue is full.
const QUEUE_RECORDS: &str = "100000";
/// Memory that a producer's queue may take, in KiB.
const QUEUE_KIBIBYTES: &str = "65536";
/// Memory that a consumer's read-ahead may take, in KiB.
const FETCH_KIBIBYTES: &str = "16384";

/// A producer that waits for all replicas and never reorders or repeats within its own retries.
///
/// # Errors
/// A setting that the client refuses; that no broker answers is not one.
pub fn producer(config: &config::Kafka) -> anyhow::Result<FutureProducer> {
    base(config)
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("message.timeout.ms", config.timeout_ms.to_string())
        .set("linger.ms", "2")
        // Cheap for who sends and for who reads; every client has it.
        .set("compression.type", "lz4")
        .set("queue.buffering.max.messages", QUEUE_RECORDS)
        .set("queue.buffering.max.kbytes", QUEUE_KIBIBYTES)
        .create()
        .context("create Kafka producer")
}

/// A consumer in `group` (the prefix is added) that starts at the oldest record and commits only what it is told to.
/// `overrides` are librdkafka settings that this use needs otherwise.
///
/// # Errors
/// A setting that the client refuses.
pub fn consumer(config: &config::Kafka, group: &str, overrides: &[(&str, &str)]) -> anyhow::Result<StreamConsumer> {
    let mut client = base(config);
    client
        .set("group.id", config.name(group))
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "earliest")
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("session.timeout.ms", "10000")
        .set("queued.max.messages.kbytes", FETCH_KIBIBYTES);
    for (key, value) in overrides {
        client.set(*key, *value);
    }
    client.create().context("create Kafka consumer")
}

/// A client that creates and deletes topics.
///
/// # Errors
/// A setting that the client refuses.
pub fn admin(config: &config::Kafka) -> anyhow::Result<AdminClient<DefaultClientContext>> {
    base(config).create().context("create Kafka administration client")
}

impl config::Kafka {
    /// A topic's or group's name with the prefix.
    pub fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The longest wait.
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }
}

fn base(config: &config::Kafka) -> ClientConfig {
    let mut client = ClientConfig::new();
    client
        .set("bootstrap.servers", &config.brokers)
        .set("client.id", "kronos")
        .set("broker.address.family", "v4")
        .set("socket.keepalive.enable", "true")
        .set("reconnect.backoff.ms", "100")
        .set("reconnect.backoff.max.ms", "2000")
        .set("allow.auto.create.topics", "false")
        // Connections that come and go are the client's business; errors reach the caller by its own calls.
        .set("log.connection.close", "false");
    secure(&mut client, config);
    client
}

fn secure(client: &mut ClientConfig, config: &config::Kafka) {
    let (protocol, tls, login) = match config.security {
        KafkaSecurity::Plaintext => return,
        KafkaSecurity::Ssl => ("ssl", true, false),
        KafkaSecurity::SaslPlaintext => ("sasl_plaintext", false, true),
        KafkaSecurity::SaslSsl => ("sasl_ssl", true, true),
    };
    client.set("security.protocol", protocol);
    if tls {
        // The certificate must be the broker's own: the default, said once more.
        client.set("ssl.endpoint.identification.algorithm", "https");
        client.set("ssl.ca.location", if config.ca_file.is_empty() { "probe" } else { config.ca_file.as_str() });
    }
    if login {
        let mechanism = match config.sasl_mechanism {
            SaslMechanism::ScramSha512 => "SCRAM-SHA-512",
            SaslMechanism::ScramSha256 => "SCRAM-SHA-256",
            SaslMechanism::Plain => "PLAIN",
        };
        client.set("sasl.mechanism", mechanism);
        client.set("sasl.username", &config.username).set("sasl.password", config.password.expose_secret());
    }
}
