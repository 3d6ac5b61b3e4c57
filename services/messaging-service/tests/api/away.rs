//! A broker away: accepted, kept in order, delivered later.

use futures::future::join_all;
use kronos_testkit::{Proxy, test_rabbit, wait_up_to};
use secrecy::ExposeSecret as _;
use serde_json::json;

use crate::harness::{Harness, PATIENCE, Sse, text};

#[tokio::test]
async fn while_rabbitmq_is_away_publishes_are_accepted_and_come_later_in_their_order() {
    let (proxy, url) = Proxy::in_front_of(test_rabbit().await.url.expose_secret()).await;
    let messaging = Harness::start_with(|config| {
        config.rabbit.url = url.into();
        config.rabbit.confirm_timeout_ms = 1000;
    })
    .await;
    messaging.topic("q", "queue", &json!({})).await;
    let client = messaging.client();
    let publish = async |n: i64| client.post("/publish", &json!({ "topic": "q", "payload": n, "key": "k" })).await;
    publish(0).await.expect(201);
    proxy.block();
    for n in 1..=20 {
        let answer = publish(n).await.expect(202).json();
        assert_eq!(answer["status"], "accepted");
    }
    client.post("/topics", &json!({ "name": "new", "kind": "queue" })).await.expect_problem(503, "store_unavailable");
    proxy.restore();
    let mut n = 21;
    // Behind those that wait, as long as one does.
    wait_up_to(PATIENCE, "publishes are confirmed again", async || {
        let status = publish(n).await.status;
        n += 1;
        status == 201
    })
    .await;
    let mut subscriber = Sse::open(&client, "q", "max=500").await;
    let got = subscriber.messages(usize::try_from(n).unwrap()).await;
    let order: Vec<i64> = got.iter().map(|message| message["payload"].as_i64().unwrap()).collect();
    assert_eq!(order, (0..n).collect::<Vec<_>>());
    messaging.stop().await;
}

#[tokio::test]
async fn subscribers_survive_a_broker_that_was_away() {
    let (proxy, url) = Proxy::in_front_of(test_rabbit().await.url.expose_secret()).await;
    let messaging = Harness::start_with(|config| config.rabbit.url = url.into()).await;
    messaging.topic("q", "queue", &json!({})).await;
    let client = messaging.client();
    let mut subscriber = Sse::open(&client, "q", "").await;
    for round in 0..3 {
        let before = messaging.publish("q", "before").await;
        assert_eq!(subscriber.message().await["messageId"], before);
        // Acknowledging needs no broker.
        proxy.block();
        client.post(&format!("/ack/{before}"), &json!(null)).await.expect(204);
        let during = messaging.publish("q", round).await;
        proxy.restore();
        assert_eq!(subscriber.message().await["messageId"], during);
        client.post(&format!("/ack/{during}"), &json!(null)).await.expect(204);
    }
    messaging.stop().await;
}

#[tokio::test]
async fn while_kafka_is_away_publishes_are_accepted_and_come_later() {
    let messaging = Harness::start().await;
    messaging.topic("s", "stream", &json!({})).await;
    // This instance finds no Kafka; nobody else relays until it does.
    let proxy = Proxy::start(messaging.config.kafka.brokers.clone()).await;
    proxy.block();
    let mut config = messaging.config.clone();
    config.kafka.brokers = proxy.address().to_string();
    config.kafka.timeout_ms = 1000;
    let Harness { database, issuer, config: good, running, .. } = messaging;
    running.stop().await;
    let running = messaging_service::start(config).await.unwrap();
    let messaging = Harness::of(database, issuer, good, running);
    let client = messaging.client();
    let begun = std::time::Instant::now();
    let publishes =
        (0..20).map(|n| {
            let client = client.clone();
            async move {
                client.post("/publish", &json!({ "topic": "s", "payload": n, "key": "k" })).await.expect(202).json()
            }
        });
    let mut accepted: Vec<String> =
        join_all(publishes).await.iter().map(|answer| text(answer, "messageId").to_owned()).collect();
    // Only the first ones waited for the broker.
    client.post("/publish", &json!({ "topic": "s", "payload": "last" })).await.expect(202);
    assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
    proxy.restore();
    let mut subscriber = Sse::open(&client, "s", "group=g&max=500").await;
    let mut got = Vec::new();
    while got.len() < 20 {
        let message = subscriber.message().await;
        if message["payload"] != "last" {
            got.push(text(&message, "messageId").to_owned());
        }
    }
    accepted.sort_unstable();
    got.sort_unstable();
    assert_eq!(got, accepted);
    messaging.stop().await;
}

#[tokio::test]
async fn a_frozen_database_refuses_keyed_publishes_with_a_503() {
    let database = kronos_testkit::TestDatabase::create().await;
    let (proxy, url) = Proxy::in_front_of(&database.url("kronos_messaging")).await;
    let messaging = Harness::start_with(|config| {
        config.postgres.url = url.into();
        config.postgres.acquire_timeout_ms = 3000;
    })
    .await;
    messaging.topic("q", "queue", &json!({})).await;
    messaging.publish("q", 1).await;
    proxy.block();
    // Its order can't be promised; one without key needs no database.
    let keyed = json!({ "topic": "q", "payload": 2, "key": "k" });
    let answer = messaging.client().post("/publish", &keyed).await.expect_problem(503, "store_unavailable");
    assert!(answer.header("retry-after").is_some());
    messaging.client().post("/publish", &json!({ "topic": "q", "payload": 3 })).await.expect(201);
    proxy.restore();
    wait_up_to(PATIENCE, "keyed publishes work again", async || {
        messaging.client().post("/publish", &keyed).await.status == 201
    })
    .await;
    messaging.stop().await;
    drop(database);
}
