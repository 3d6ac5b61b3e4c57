//! Encrypted topics: what lies in Kafka, RabbitMQ and PostgreSQL is sealed, and who may have it gets it opened.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use kronos_common::config::Sealing;
use lapin::options::BasicGetOptions;
use rdkafka::{Message as _, Offset, TopicPartitionList, consumer::Consumer as _};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use crate::harness::{Harness, Sse, text};

const SECRET: &str = "the robot's own secret";

fn keys() -> Sealing {
    let keys = BTreeMap::from([("one".to_owned(), STANDARD.encode([7; 32]).into())]);
    Sealing { active: "one".to_owned(), keys }
}

async fn start() -> Harness {
    Harness::start_with(|config| config.sealing = keys()).await
}

/// A part of the names of what stands for a topic at its broker.
fn tail(topic: &Value) -> String {
    let id = text(topic, "topicId").replace('-', "");
    id[id.len() - 8..].to_owned()
}

fn assert_sealed(place: &str, bytes: &[u8]) {
    let shown = String::from_utf8_lossy(bytes);
    assert!(!shown.contains(SECRET) && !shown.contains("robot"), "{place}: {shown}");
    assert!(bytes.len() > SECRET.len(), "{place}: {shown}");
}

#[tokio::test]
async fn what_lies_in_kafka_rabbitmq_outbox_and_inventory_is_sealed() {
    let messaging = start().await;
    let payload = json!({ "secret": SECRET });
    for kind in ["queue", "stream", "broadcast"] {
        messaging.topic(kind, kind, &json!({ "encrypted": true, "maxAttempts": 1 })).await;
    }
    let of = async |name: &str| messaging.client().get(&format!("/topics/{name}")).await.expect(200).json();
    let mut live = Sse::open(&messaging.client(), "broadcast", "").await;
    for kind in ["queue", "stream", "broadcast"] {
        messaging.publish(kind, &payload).await;
    }

    // RabbitMQ, as it is.
    let url = messaging.config.rabbit.url.expose_secret();
    let rabbit = lapin::Connection::connect(url, lapin::ConnectionProperties::default()).await.unwrap();
    let channel = rabbit.create_channel().await.unwrap();
    let name = format!("kronos.queue.queue.{}.p0", tail(&of("queue").await));
    let got = channel.basic_get(name.as_str().into(), BasicGetOptions::default()).await.unwrap().unwrap();
    assert_sealed("RabbitMQ", &got.delivery.data);
    rabbit.close(200, "done".into()).await.unwrap();

    // Kafka, as it is.
    let name = messaging.config.kafka.name(&format!("stream.stream.{}", tail(&of("stream").await)));
    let reader = kronos_common::kafka::consumer(&messaging.config.kafka, "raw", &[]).unwrap();
    let mut all = TopicPartitionList::new();
    for partition in 0..3 {
        all.add_partition_offset(&name, partition, Offset::Beginning).unwrap();
    }
    reader.assign(&all).unwrap();
    let record = tokio::time::timeout(crate::harness::PATIENCE, reader.recv()).await.unwrap().unwrap();
    assert_sealed("Kafka", record.payload().unwrap());

    // The outbox, a schedule, and what waits to be handed out.
    let later = messaging.publish_with("queue", &payload, &json!({ "delayMs": 3_600_000 })).await;
    let at = json!({ "topic": "queue", "payload": payload, "at": "2100-01-01T00:00:00Z" });
    let schedule = messaging.client().post("/schedules", &at).await.expect(201).json();
    assert_eq!(schedule["payload"], payload);
    let taken = messaging.take("queue", "").await;
    assert_eq!(taken["payload"], payload, "opened for who takes it");
    let pool = messaging.database.pool("kronos_messaging").await;
    for (table, statement) in [
        ("pending_publishes", "select payload from pending_publishes"),
        ("schedules", "select payload from schedules"),
        ("deliveries", "select payload from deliveries"),
    ] {
        let kept: Vec<Vec<u8>> = sqlx::query_scalar(statement).fetch_all(&pool).await.unwrap();
        assert!(!kept.is_empty(), "{table}");
        kept.iter().for_each(|payload| assert_sealed(table, payload));
    }
    assert!(!later.is_empty());

    // Opened for everybody who may have it.
    assert_eq!(live.message().await["payload"], payload);
    let mut replayed = Sse::open(&messaging.client(), "stream", "from=earliest").await;
    assert_eq!(replayed.message().await["payload"], payload);
    messaging.client().post(&format!("/retry/{}", text(&taken, "deliveryId")), &json!({})).await.expect(202);
    let letters = messaging.client().get("/dead-letters?topic=queue").await.expect(200).json();
    assert_eq!(letters["items"][0]["payload"], payload);
    messaging.stop().await;
}

#[tokio::test]
async fn a_dead_letters_copy_and_a_reply_stay_sealed_too() {
    let messaging = start().await;
    messaging.topic("graves", "queue", &json!({})).await;
    messaging.topic("q", "queue", &json!({ "encrypted": true, "maxAttempts": 1, "deadLetter": "graves" })).await;
    let payload = json!({ "secret": SECRET });
    messaging.publish("q", &payload).await;
    let taken = messaging.take("q", "").await;
    messaging.client().post(&format!("/retry/{}", text(&taken, "deliveryId")), &json!({})).await.expect(202);
    assert_eq!(messaging.take("graves", "").await["payload"], payload);
    let asking = messaging.client().post("/request/q", &json!({ "payload": payload }));
    let asked = asking.header("prefer", "respond-async").await.expect(202).json();
    let path = |verb: &str| format!("/{verb}/{}", text(&asked, "messageId"));
    messaging.client().post(&path("reply"), &json!({ "payload": payload })).await.expect(204);
    let pool = messaging.database.pool("kronos_messaging").await;
    for statement in ["select payload from deliveries where payload is not null", "select reply from requests"] {
        let kept: Vec<Vec<u8>> = sqlx::query_scalar(statement).fetch_all(&pool).await.unwrap();
        assert!(!kept.is_empty(), "{statement}");
        kept.iter().for_each(|payload| assert_sealed(statement, payload));
    }
    assert_eq!(messaging.client().get(&path("requests")).await.expect(200).json()["payload"], payload);
    messaging.stop().await;
}

#[tokio::test]
async fn without_a_key_no_topic_is_encrypted_and_nobody_marks_a_payload_as_sealed() {
    let messaging = Harness::start().await;
    let refused = json!({ "name": "q", "kind": "queue", "encrypted": true });
    let answer = messaging.client().post("/topics", &refused).await.expect_problem(422, "invalid_request");
    assert_eq!(answer.json()["errors"][0]["pointer"], "/encrypted");
    messaging.topic("plain", "queue", &json!({})).await;
    messaging.publish_with("plain", "x", &json!({ "headers": { "kronos-sealed": "1" } })).await;
    assert_eq!(messaging.take("plain", "").await["payload"], "x");
    messaging.stop().await;
}
