//! Several instances: any of them takes an acknowledgement, and one that ends hands back what it holds.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use kronos_testkit::wait_up_to;
use serde_json::json;

use crate::harness::{Harness, PATIENCE, Sent, Sse, take_from, text};

#[tokio::test]
async fn a_delivery_is_acknowledged_retried_and_extended_at_another_instance() {
    let messaging = Harness::start().await;
    messaging.topic("q", "queue", &json!({})).await;
    let another = messaging.another().await;
    let (here, there) = (messaging.client(), messaging.client_at(&another));
    let mut subscriber = Sse::open(&here, "q", "max=1").await;
    for n in 0..5 {
        messaging.publish("q", n).await;
    }
    let mut seen = Vec::new();
    for _ in 0..5 {
        // The window is one: each acknowledgement there frees the seat here, at once.
        let begun = Instant::now();
        let message = subscriber.message().await;
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        seen.push(message["payload"].as_i64().unwrap());
        there.post(&format!("/extend/{}", text(&message, "deliveryId")), &json!({})).await.expect(200);
        there.post(&format!("/ack/{}", text(&message, "messageId")), &json!(null)).await.expect(204);
    }
    assert_eq!(seen, [0, 1, 2, 3, 4]);
    messaging.publish("q", "fails").await;
    let message = subscriber.message().await;
    there.post(&format!("/retry/{}", text(&message, "messageId")), &json!({ "delayMs": 10 })).await.expect(202);
    assert_eq!(subscriber.message().await["attempt"], 2);
    another.stop().await;
    messaging.stop().await;
}

#[tokio::test]
async fn subscribers_at_two_instances_share_without_doubles() {
    let messaging = Harness::start().await;
    let another = messaging.another().await;
    for kind in ["stream", "queue"] {
        messaging.topic(kind, kind, &json!({})).await;
        let (here, there) = (messaging.client(), messaging.client_at(&another));
        let mut one = Sse::open(&here, kind, "group=g").await;
        let mut two = Sse::open(&there, kind, "group=g").await;
        let mut published = HashSet::new();
        for n in 0..60 {
            published.insert(messaging.publish(kind, n).await);
        }
        let mut got = HashSet::new();
        while got.len() < 60 {
            let (client, message) = tokio::select! {
                message = one.message() => (&there, message),
                message = two.message() => (&here, message),
            };
            assert!(got.insert(text(&message, "messageId").to_owned()), "twice: {message}");
            client.post(&format!("/ack/{}", text(&message, "deliveryId")), &json!(null)).await.expect(204);
        }
        assert_eq!(got, published);
    }
    another.stop().await;
    messaging.stop().await;
}

#[tokio::test]
async fn an_instance_that_ends_closes_its_streams_and_hands_back_what_they_hold() {
    let messaging = Harness::start().await;
    messaging.topic("q", "queue", &json!({ "leaseMs": 600_000 })).await;
    let another = messaging.another().await;
    let mut subscriber = Sse::open(&messaging.client_at(&another), "q", "").await;
    let message_id = messaging.publish("q", 1).await;
    let held = subscriber.message().await;
    let stopping = tokio::spawn(another.stop());
    let last = subscriber.next().await;
    assert!(matches!(&last, Some(Sent::Comment(text)) if text.starts_with("closing")), "{last:?}");
    assert_eq!(subscriber.next().await, None);
    stopping.await.unwrap();
    let again = take_from(&messaging.client(), "q", "").await;
    assert_eq!((&again["messageId"], &again["attempt"]), (&json!(message_id), &json!(1)), "the attempt does not count");
    let answer = messaging.client().post(&format!("/ack/{}", text(&held, "deliveryId")), &json!(null)).await;
    answer.expect_problem(409, "stale_delivery");
    messaging.stop().await;
}

#[tokio::test]
async fn a_topic_deleted_at_one_instance_is_soon_unknown_at_the_other() {
    let messaging = Harness::start().await;
    let another = messaging.another().await;
    let there = messaging.client_at(&another);
    messaging.topic("q", "queue", &json!({})).await;
    there.get("/topics/q").await.expect(200);
    messaging.client().delete("/topics/q").await.expect(204);
    wait_up_to(PATIENCE, "it is unknown there", async || {
        there.post("/publish", &json!({ "topic": "q", "payload": 1 })).await.status == 404
    })
    .await;
    another.stop().await;
    messaging.stop().await;
}

#[tokio::test]
async fn a_stream_ends_when_its_token_does() {
    let messaging = Harness::start().await;
    messaging.topic("q", "queue", &json!({})).await;
    let token = messaging.issuer.build("tester").permissions(&["messages:subscribe"]).life(2).sign();
    let client = kronos_testkit::http(messaging.running.api).bearer(token);
    let mut subscriber = Sse::open(&client, "q", "").await;
    let last = subscriber.next().await;
    assert_eq!(last, Some(Sent::Comment("closing: the token has ended".to_owned())));
    assert_eq!(subscriber.next().await, None);
    messaging.stop().await;
}
