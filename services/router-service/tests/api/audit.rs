//! The audit trail: one record per request, in Kafka, and nobody waits for it.

use std::time::{Duration, Instant};

use kronos_common::kafka;
use kronos_testkit::{test_kafka, wait_up_to};
use rdkafka::{
    Message as _,
    admin::{AdminOptions, NewTopic, TopicReplication},
    consumer::Consumer as _,
};
use serde_json::{Value, json};

use crate::harness::{Instance, World};

#[tokio::test]
async fn every_request_leaves_a_record() {
    let (world, echo) = (World::new().await, Instance::start("a"));
    let mut config = world.config.clone();
    config.kafka = test_kafka();
    config.audit.requests = true;
    let kafka_config = config.kafka.clone();
    // As log-service does at its start.
    let name = kafka_config.name("requests");
    let topic = NewTopic::new(&name, 1, TopicReplication::Fixed(1));
    let made = kafka::admin(&kafka_config).unwrap().create_topics([&topic], &AdminOptions::new()).await.unwrap();
    assert!(made.iter().all(Result::is_ok), "{made:?}");
    let gateway = world.start_with(config).await;
    gateway.echo(&[&echo]).await;
    let request = gateway.client.get("/echo/robots/7?secret=1").header("x-request-id", "audited-1");
    request.header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").await.expect(200);
    gateway.client.get("/nowhere").header("x-request-id", "audited-2").await.expect(404);
    gateway.admin.get("/routes").header("x-request-id", "audited-3").await.expect(200);
    let consumer =
        kafka::consumer(&kafka_config, "audit-test", &[("topic.metadata.refresh.interval.ms", "500")]).unwrap();
    consumer.subscribe(&[&name]).unwrap();
    let mut records: Vec<Value> = Vec::new();
    wait_up_to(Duration::from_secs(30), "all records came", async || {
        if let Ok(Ok(message)) = tokio::time::timeout(Duration::from_millis(500), consumer.recv()).await {
            records.push(serde_json::from_slice(message.payload().unwrap()).unwrap());
        }
        ["audited-1", "audited-2", "audited-3"]
            .iter()
            .all(|id| records.iter().any(|record| record["attributes"]["requestId"] == *id))
    })
    .await;
    let of = |id: &str| {
        let found: Vec<&Value> = records.iter().filter(|record| record["attributes"]["requestId"] == id).collect();
        assert_eq!(found.len(), 1, "one record for {id}");
        found[0].clone()
    };
    let first = of("audited-1");
    assert_eq!((&first["service"], &first["level"]), (&json!("router-service"), &json!("info")));
    assert_eq!(first["traceId"], "0af7651916cd43dd8448eb211c80319c");
    let said = &first["attributes"];
    for (name, value) in [
        ("method", json!("GET")),
        ("path", json!("/echo/robots/7")),
        ("route", json!("echo")),
        ("upstream", json!("echo")),
        ("instance", json!(echo.address.to_string())),
        ("status", json!(200)),
        ("address", json!("127.0.0.1")),
        ("complete", json!(true)),
    ] {
        assert_eq!(said[name], value, "{name}");
    }
    assert!(said["responseBytes"].as_u64().unwrap() > 0 && said["durationUs"].as_u64().unwrap() > 0);
    assert!(!first.to_string().contains("secret"), "no query");
    assert_eq!(of("audited-2")["attributes"]["route"], "unmatched");
    assert_eq!(of("audited-3")["attributes"]["route"], "gateway");
}

#[tokio::test]
async fn a_request_does_not_wait_for_kafka() {
    let (world, echo) = (World::new().await, Instance::start("a"));
    let mut config = world.config.clone();
    // Nobody listens there.
    config.kafka.brokers = "127.0.0.1:1".to_owned();
    config.kafka.timeout_ms = 1000;
    config.audit.requests = true;
    let gateway = world.start_with(config).await;
    gateway.echo(&[&echo]).await;
    let begun = Instant::now();
    for _ in 0..50 {
        gateway.client.get("/echo/x").await.expect(200);
    }
    assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
    wait_up_to(Duration::from_secs(15), "dropped records are counted", async || {
        gateway.metric("kronos_gateway_audit_dropped_total", &[]).await >= 50.0
    })
    .await;
}
