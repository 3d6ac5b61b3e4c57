//! Lines from Kafka, domain events from RabbitMQ.

use std::time::Duration;

use kronos_common::{
    event::{EXCHANGE, Event},
    kafka, rabbit,
    service::Context,
};
use kronos_testkit::{Proxy, Stores, test_kafka, test_rabbit, wait_up_to};
use lapin::BasicProperties;
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::{Value, json};

use crate::harness::{Harness, line};

async fn produce(producer: &FutureProducer, topic: &str, payload: &str) {
    // The topic is made by the service, which may not have come to it yet.
    wait_up_to(Duration::from_secs(30), "Kafka takes a record", async || {
        let record = FutureRecord::<(), str>::to(topic).payload(payload);
        producer.send(record, Duration::from_secs(10)).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn lines_from_kafka_are_kept_and_bad_records_stop_nothing() {
    let kafka = test_kafka();
    let logs = Harness::start_with(|config| config.kafka = kafka.clone()).await;
    let (producer, topic) = (kafka::producer(&kafka).unwrap(), kafka.name("logs"));
    produce(&producer, &topic, &line("one from kafka").to_string()).await;
    produce(&producer, &topic, "no json, password=hunter2").await;
    produce(&producer, &topic, &json!([line("two from kafka"), line("three from kafka")]).to_string()).await;
    logs.find("q=kafka", 3).await;
    let pool = logs.database.pool("kronos_logs").await;
    let mut bad: Vec<(String, String)> = Vec::new();
    wait_up_to(Duration::from_secs(10), "the bad record is in quarantine", async || {
        let select = "select reference, excerpt from quarantine where origin = 'kafka'";
        bad = sqlx::query_as(select).fetch_all(&pool).await.unwrap();
        bad.len() == 1
    })
    .await;
    assert!(bad[0].0.starts_with(&topic) && bad[0].1 == "no json, password=[redacted]", "{bad:?}");
    logs.stop().await;
}

#[tokio::test]
async fn the_gateways_audit_trail_can_be_searched() {
    let kafka = test_kafka();
    let logs = Harness::start_with(|config| config.kafka = kafka.clone()).await;
    let (producer, topic) = (kafka::producer(&kafka).unwrap(), kafka.name("requests"));
    let record = json!({
        "timestamp": chrono::Utc::now(), "service": "router-service", "level": "warn", "message": "GET /robots/7 403",
        "traceId": "0af7651916cd43dd8448eb211c80319c", "id": "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        "attributes": {"audit": true, "requestId": "r-1", "method": "GET", "path": "/robots/7", "route": "robots",
                       "status": 403, "durationUs": 412, "address": "10.0.0.7", "subject": "user-7"},
    });
    produce(&producer, &topic, &record.to_string()).await;
    let found = logs.find("q=robots&service=router-service", 1).await;
    assert_eq!(found[0]["attributes"]["subject"], "user-7");
    logs.stop().await;
}

#[tokio::test]
async fn records_that_come_twice_are_kept_once() {
    let kafka = test_kafka();
    let logs = Harness::start_with(|config| config.kafka = kafka.clone()).await;
    let (producer, topic) = (kafka::producer(&kafka).unwrap(), kafka.name("logs"));
    produce(&producer, &topic, &line("before the restart").to_string()).await;
    logs.find("q=restart", 1).await;
    let (database, issuer, mut config) = (logs.database, logs.issuer, logs.config);
    logs.running.stop().await;
    // Another group has committed nothing: it reads everything again.
    let admin = kafka::admin(&kafka).unwrap();
    let group = kafka.name("log-service");
    wait_up_to(Duration::from_secs(30), "the group is empty and its offsets are forgotten", async || {
        let forgotten = admin.delete_groups(&[group.as_str()], &rdkafka::admin::AdminOptions::new()).await;
        forgotten.is_ok_and(|groups| groups.iter().all(Result::is_ok))
    })
    .await;
    config.kafka = kafka.clone();
    let running = log_service::start(config.clone()).await.unwrap();
    let logs = Harness { database, issuer, config, running };
    produce(&producer, &topic, &line("after the restart").to_string()).await;
    logs.find("q=restart", 2).await;
    logs.stop().await;
}

#[tokio::test]
async fn kafka_that_comes_late_disturbs_nothing() {
    let mut kafka = test_kafka();
    let (proxy, url) = Proxy::in_front_of(&format!("tcp://{}", kafka.brokers)).await;
    proxy.block();
    let through = url.trim_start_matches("tcp://").trim_end_matches('/').to_owned();
    let real = std::mem::replace(&mut kafka.brokers, through);
    let logs = Harness::start_with(|config| config.kafka = kafka.clone()).await;
    logs.keep(&line("over http")).await;
    logs.find("q=http", 1).await;
    proxy.restore();
    kafka.brokers = real;
    produce(&kafka::producer(&kafka).unwrap(), &kafka.name("logs"), &line("over kafka").to_string()).await;
    logs.find("q=kafka", 1).await;
    logs.stop().await;
}

#[tokio::test]
async fn domain_events_are_lines_too() {
    assert!(!Stores::get().rabbitmq.url.is_empty());
    let settings = test_rabbit().await;
    let logs = Harness::start_with(|config| config.rabbit = settings.clone()).await;
    let context = Context::detached("test");
    let connection = rabbit::Connection::open(&settings, &context).await.unwrap();
    connection.connected().await;
    let publish = async |event: &Event| {
        let channel = connection.confirming_channel().await.unwrap();
        let payload = event.encode();
        let message = rabbit::Message {
            exchange: EXCHANGE,
            routing_key: &event.type_,
            mandatory: true,
            payload: payload.as_bytes(),
            properties: BasicProperties::default(),
        };
        connection.publish(&channel, message).await
    };
    let data = json!({ "roles": ["technician"], "temporaryPassword": "hunter2" });
    let event = Event::new("kronos.user.rights-changed", "user-1", data);
    // Mandatory: it is returned until the service's queue is bound.
    wait_up_to(Duration::from_secs(20), "the service's queue is bound", async || publish(&event).await.is_ok()).await;
    publish(&event).await.unwrap();
    publish(&Event::new("kronos.user.login-failed", "user-2", Value::Null)).await.unwrap();
    let items = logs.find("service=kronos.user&level=info", 1).await;
    assert_eq!(items[0]["message"], "kronos.user.rights-changed user-1");
    assert_eq!(items[0]["attributes"]["roles"], json!(["technician"]));
    assert_eq!(items[0]["attributes"]["temporaryPassword"], "[redacted]");
    logs.find("q=login-failed&level=warn", 1).await;
    context.shutdown.cancel();
    logs.stop().await;
}
