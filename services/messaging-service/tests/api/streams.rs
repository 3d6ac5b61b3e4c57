//! Streams: groups share, subscribers without group all see all.

use std::{collections::HashSet, time::Duration};

use serde_json::{Value, json};

use crate::harness::{Harness, Sse, text};

async fn batch(messaging: &Harness, topic: &str, count: i64) {
    let messages: Vec<Value> =
        (0..count).map(|n| json!({ "topic": topic, "payload": n, "key": format!("k{}", n % 7) })).collect();
    let answer = messaging.client().post("/publish/batch", &json!({ "messages": messages })).await.expect(207).json();
    assert!(answer["results"].as_array().unwrap().iter().all(|result| result["status"] == "confirmed"), "{answer}");
}

#[tokio::test]
async fn each_group_gets_all_and_its_members_share_them() {
    let messaging = Harness::start().await;
    messaging.topic("events", "stream", &json!({ "partitions": 4 })).await;
    batch(&messaging, "events", 60).await;
    let client = messaging.client();
    let mut alone = Sse::open(&client, "events", "group=alone&max=500").await;
    let mut one = Sse::open(&client, "events", "group=pair&max=500").await;
    let mut two = Sse::open(&client, "events", "group=pair&max=500").await;
    let everything: HashSet<i64> = (0..60).collect();
    let all: HashSet<i64> =
        alone.messages(60).await.iter().map(|message| message["payload"].as_i64().unwrap()).collect();
    assert_eq!(all, everything);
    let mut shared = HashSet::new();
    while shared.len() < 60 {
        let message = tokio::select! { message = one.message() => message, message = two.message() => message };
        assert!(shared.insert(message["payload"].as_i64().unwrap()), "twice: {message}");
    }
    assert_eq!(shared, everything);
    messaging.stop().await;
}

#[tokio::test]
async fn the_messages_of_a_key_come_in_their_order() {
    let messaging = Harness::start().await;
    messaging.topic("events", "stream", &json!({ "partitions": 4 })).await;
    batch(&messaging, "events", 200).await;
    let mut subscriber = Sse::open(&messaging.client(), "events", "group=g&max=500").await;
    let mut last = std::collections::HashMap::new();
    for message in subscriber.messages(200).await {
        let payload = message["payload"].as_i64().unwrap();
        let before = last.insert(text(&message, "key").to_owned(), payload);
        assert!(before.is_none_or(|before| before < payload), "{before:?} before {payload}");
    }
    messaging.stop().await;
}

#[tokio::test]
async fn without_group_everybody_sees_what_comes_from_now_on() {
    let messaging = Harness::start().await;
    messaging.topic("events", "stream", &json!({})).await;
    messaging.publish("events", "before").await;
    let client = messaging.client();
    let mut one = Sse::open(&client, "events", "").await;
    let mut two = Sse::open(&client, "events", "").await;
    let mut whole = Sse::open(&client, "events", "from=earliest").await;
    messaging.publish("events", "after").await;
    for subscriber in [&mut one, &mut two] {
        let message = subscriber.message().await;
        assert_eq!((&message["payload"], &message["leaseExpiresAt"]), (&json!("after"), &json!(null)));
    }
    let whole: HashSet<String> =
        whole.messages(2).await.iter().map(|message| text(message, "payload").to_owned()).collect();
    assert_eq!(whole, ["before".to_owned(), "after".to_owned()].into());
    messaging.stop().await;
}

#[tokio::test]
async fn a_new_group_begins_at_the_beginning_or_on_demand_at_the_end() {
    let messaging = Harness::start().await;
    messaging.topic("events", "stream", &json!({})).await;
    messaging.publish("events", "old").await;
    assert_eq!(messaging.take("events", "&group=whole").await["payload"], "old");
    messaging.nothing_comes("events", "&group=rest&from=latest", 300).await;
    messaging.publish("events", "new").await;
    assert_eq!(messaging.take("events", "&group=rest").await["payload"], "new");
    messaging.stop().await;
}

#[tokio::test]
async fn a_poll_without_group_is_refused_where_it_would_miss_messages() {
    let messaging = Harness::start().await;
    for kind in ["stream", "broadcast"] {
        messaging.topic(kind, kind, &json!({})).await;
        let answer = messaging.client().get(&format!("/subscribe/{kind}?mode=poll")).await;
        answer.expect_problem(400, "group_required");
    }
    messaging.stop().await;
}

#[tokio::test]
async fn a_group_goes_on_where_it_was_after_a_restart() {
    let messaging = Harness::start().await;
    messaging.topic("events", "stream", &json!({ "partitions": 1 })).await;
    batch(&messaging, "events", 10).await;
    let client = messaging.client();
    for _ in 0..4 {
        let taken = messaging.take("events", "&group=g").await;
        client.post(&format!("/ack/{}", text(&taken, "deliveryId")), &json!(null)).await.expect(204);
    }
    let again = messaging.another().await;
    let Harness { database, issuer, config, running, .. } = messaging;
    running.stop().await;
    let messaging = Harness::of(database, issuer, config, again);
    for n in 4..10 {
        assert_eq!(messaging.take("events", "&group=g").await["payload"], n);
    }
    messaging.nothing_comes("events", "&group=g", 500).await;
    messaging.stop().await;
}

#[tokio::test]
async fn a_quiet_stream_sends_comments() {
    let messaging = Harness::start_with(|config| config.subscribe.keep_alive_ms = 100).await;
    messaging.topic("q", "queue", &json!({})).await;
    let mut subscriber = Sse::open(&messaging.client(), "q", "").await;
    let comment = tokio::time::timeout(Duration::from_secs(5), subscriber.next()).await.unwrap();
    assert!(matches!(comment, Some(crate::harness::Sent::Comment(_))), "{comment:?}");
    messaging.stop().await;
}
