//! Brokers that want TLS and a login: what is configured is spoken, and nothing less is enough.

use std::time::Duration;

use kronos_common::config::{self, KafkaSecurity, SaslMechanism};
use kronos_testkit::{Authority, OwnKafka, OwnRabbit, wait_up_to};
use rdkafka::producer::Producer as _;
use serde_json::json;

use crate::harness::{Harness, PATIENCE};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_flow_over_brokers_that_demand_tls_and_a_login() {
    let authority = Authority::new();
    let (rabbit, kafka) = tokio::join!(OwnRabbit::start_with_tls(&authority), OwnKafka::start_with_tls(&authority));
    let messaging = Harness::start_with(|config| {
        config.rabbit = rabbit.config();
        config.kafka = kafka.login_config(SaslMechanism::ScramSha512);
    })
    .await;
    for kind in ["queue", "stream", "broadcast"] {
        messaging.topic(kind, kind, &json!({})).await;
        let confirmed = json!({ "topic": kind, "payload": "safely" });
        if kind != "broadcast" {
            messaging.client().post("/publish", &confirmed).await.expect(201);
            assert_eq!(messaging.take(kind, "&group=g").await["payload"], "safely");
        }
    }
    messaging.stop().await;

    for mechanism in [SaslMechanism::Plain, SaslMechanism::ScramSha256] {
        assert!(speaks(kafka.login_config(mechanism)).await, "{mechanism:?}");
    }
    assert!(speaks(kafka.tls_config()).await);
    let good = kafka.login_config(SaslMechanism::ScramSha512);
    let elsewhere = Authority::new();
    for (what, config) in [
        ("another password", config::Kafka { password: "guess".to_owned().into(), ..good.clone() }),
        ("no TLS", config::Kafka { security: KafkaSecurity::SaslPlaintext, ..good.clone() }),
        ("no login", config::Kafka { security: KafkaSecurity::Ssl, ..good.clone() }),
        ("another authority", config::Kafka { ca_file: elsewhere.ca_file.clone(), ..good }),
    ] {
        assert!(!speaks(config).await, "{what}");
    }
}

/// Whether the broker answers.
async fn speaks(config: config::Kafka) -> bool {
    let producer = kronos_common::kafka::producer(&config).unwrap();
    let asked = move || producer.client().fetch_metadata(None, Duration::from_secs(3)).is_ok();
    tokio::task::spawn_blocking(asked).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rabbitmq_of_another_authority_is_not_believed() {
    let (authority, elsewhere) = (Authority::new(), Authority::new());
    let rabbit = OwnRabbit::start_with_tls(&authority).await;
    let connects = async |ca_file: &str| {
        let config = config::Rabbit { ca_file: ca_file.to_owned(), ..rabbit.config() };
        kronos_common::service::install_crypto();
        let uri = secrecy::ExposeSecret::expose_secret(&config.url).to_owned();
        let tls = lapin::tcp::OwnedTLSConfig {
            identity: None,
            cert_chain: (!ca_file.is_empty()).then(|| std::fs::read_to_string(ca_file).unwrap()),
        };
        let runtime = lapin::runtime::default_runtime().unwrap();
        lapin::Connection::connect_with_config(&uri, lapin::ConnectionProperties::default(), tls, runtime).await.is_ok()
    };
    wait_up_to(PATIENCE, "its own authority is believed", async || connects(&authority.ca_file).await).await;
    assert!(!connects(&elsewhere.ca_file).await);
    assert!(!connects("").await, "the system's authorities do not know it");
}
