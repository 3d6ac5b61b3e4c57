//! `POST /publish`: confirmed, delayed, repeated, in batches.

use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::{Value, json};

use crate::harness::{Harness, text};

#[tokio::test]
async fn a_publish_is_confirmed_and_arrives_as_it_was() {
    let messaging = Harness::start().await;
    for kind in ["stream", "queue"] {
        messaging.topic(kind, kind, &json!({})).await;
        let payload = json!({ "robot": "R-42", "text": "é\u{0}\n\"", "numbers": [1, 2.5, 12345678901234567890_u64], "none": null });
        let message = json!({ "topic": kind, "payload": payload, "key": "R-42", "headers": { "source": "hypérion" } });
        let answer = messaging.client().post("/publish", &message).await.expect(201).json();
        assert_eq!(answer["status"], "confirmed");
        let taken = messaging.take(kind, "&group=g").await;
        assert_eq!(taken["messageId"], answer["messageId"]);
        assert_eq!((&taken["payload"], &taken["key"], &taken["topic"]), (&payload, &json!("R-42"), &json!(kind)));
        assert_eq!((&taken["headers"], &taken["attempt"]), (&json!({ "source": "hypérion" }), &json!(1)));
        for time in ["publishedAt", "leaseExpiresAt"] {
            chrono::DateTime::parse_from_rfc3339(text(&taken, time)).unwrap();
        }
        assert!(text(&taken, "traceparent").starts_with("00-"));
    }
    messaging.stop().await;
}

#[tokio::test]
async fn a_payload_is_any_json_and_its_line_breaks_are_harmless() {
    let messaging = Harness::start().await;
    messaging.topic("q", "queue", &json!({})).await;
    for payload in [json!(null), json!("text"), json!(0), json!([]), json!({})] {
        messaging.publish("q", &payload).await;
        assert_eq!(messaging.take("q", "").await["payload"], payload);
    }
    let body = "{\"topic\": \"q\",\r\n \"payload\": {\n\r\n \"a\": [1,\n2] } }";
    let request = messaging.client().request(reqwest::Method::POST, "/publish");
    request.header("content-type", "application/json").body(body).await.expect(201);
    assert_eq!(messaging.take("q", "").await["payload"], json!({ "a": [1, 2] }));
    messaging.stop().await;
}

#[tokio::test]
async fn a_repetition_with_the_same_key_publishes_once() {
    let messaging = Harness::start().await;
    messaging.topic("q", "queue", &json!({})).await;
    let publish = async |payload: &str| {
        let message = json!({ "topic": "q", "payload": payload });
        messaging.client().post("/publish", &message).header("idempotency-key", "order-1").await
    };
    let first = publish("one").await.expect(201).json();
    let second = publish("one").await.expect(201);
    assert_eq!((second.json(), second.header("idempotent-replayed")), (first.clone(), Some("true")));
    assert_eq!(publish("two").await.status, 422);
    assert_eq!(messaging.take("q", "").await["messageId"], first["messageId"]);
    messaging.nothing_comes("q", "", 300).await;
    messaging.stop().await;
}

#[tokio::test]
async fn a_delayed_message_is_accepted_and_comes_when_it_is_due() {
    let messaging = Harness::start().await;
    for kind in ["stream", "queue"] {
        messaging.topic(kind, kind, &json!({})).await;
        let begun = Instant::now();
        let later = json!({ "topic": kind, "payload": "later", "key": "k", "delayMs": 1500 });
        let answer = messaging.client().post("/publish", &later).await.expect(202).json();
        assert_eq!(answer["status"], "accepted");
        // It holds up nobody, not even its own key.
        let now = json!({ "topic": kind, "payload": "now", "key": "k" });
        messaging.client().post("/publish", &now).await.expect(201);
        assert_eq!(messaging.take(kind, "&group=g").await["payload"], "now");
        let taken = messaging.take(kind, "&group=g").await;
        assert_eq!((&taken["payload"], &taken["messageId"]), (&json!("later"), &answer["messageId"]));
        assert!(begun.elapsed() >= Duration::from_millis(1490), "{:?}", begun.elapsed());
    }
    messaging.stop().await;
}

#[tokio::test]
async fn a_message_whose_time_to_live_is_over_is_not_delivered() {
    let messaging = Harness::start().await;
    messaging.topic("q", "queue", &json!({})).await;
    messaging.publish_with("q", "soon old", &json!({ "ttlMs": 200 })).await;
    messaging.publish_with("q", "young", &json!({ "ttlMs": 60000 })).await;
    tokio::time::sleep(Duration::from_millis(250)).await;
    assert_eq!(messaging.take("q", "").await["payload"], "young");
    messaging.nothing_comes("q", "", 300).await;
    messaging.stop().await;
}

#[tokio::test]
async fn a_batch_gives_a_result_for_each_and_keeps_a_keys_order() {
    let messaging = Harness::start().await;
    messaging.topic("s", "stream", &json!({})).await;
    let mut messages: Vec<Value> = (0..100).map(|n| json!({ "topic": "s", "payload": n, "key": "one" })).collect();
    messages.insert(50, json!({ "topic": "nowhere", "payload": 1 }));
    messages.insert(51, json!({ "topic": "s", "payload": 1, "priority": 3 }));
    let answer = messaging.client().post("/publish/batch", &json!({ "messages": messages })).await.expect(207).json();
    let results = answer["results"].as_array().unwrap();
    assert_eq!(results.len(), 102);
    assert_eq!(results[50]["problem"]["code"], "unknown_topic");
    assert_eq!((&results[51]["status"], &results[51]["problem"]["status"]), (&json!("refused"), &json!(422)));
    assert_eq!(results.iter().filter(|result| result["status"] == "confirmed").count(), 100);
    let mut got = Vec::new();
    while got.len() < 100 {
        let path = "/subscribe/s?mode=poll&group=g&max=100&waitMs=5000";
        let polled = messaging.client().get(path).await.expect(200).json();
        got.extend(polled["messages"].as_array().unwrap().iter().map(|message| message["payload"].as_i64().unwrap()));
    }
    assert_eq!(got, (0..100).collect::<Vec<_>>());
    messaging.client().post("/publish/batch", &json!({ "messages": [] })).await.expect_problem(422, "invalid_request");
    messaging.stop().await;
}

#[tokio::test]
async fn many_publishes_at_once_are_each_confirmed_and_arrive_once() {
    let messaging = Harness::start().await;
    for kind in ["stream", "queue"] {
        messaging.topic(kind, kind, &json!({})).await;
        let mut published = join_all((0..300).map(|n| messaging.publish(kind, n))).await;
        let mut got = Vec::new();
        while got.len() < 300 {
            let path = format!("/subscribe/{kind}?mode=poll&group=g&max=500&waitMs=5000");
            let polled = messaging.client().get(&path).await.expect(200).json();
            let messages = polled["messages"].as_array().unwrap();
            assert!(!messages.is_empty(), "only {} of 300 came", got.len());
            got.extend(messages.iter().map(|message| text(message, "messageId").to_owned()));
        }
        published.sort_unstable();
        got.sort_unstable();
        assert_eq!(got, published);
    }
    messaging.stop().await;
}

#[tokio::test]
async fn publishes_deliveries_and_acknowledgements_are_counted() {
    let messaging = Harness::start().await;
    messaging.topic("q", "queue", &json!({})).await;
    messaging.publish("q", 1).await;
    let taken = messaging.take("q", "").await;
    messaging.client().post(&format!("/ack/{}", text(&taken, "deliveryId")), &json!(null)).await.expect(204);
    let metrics = kronos_testkit::http(messaging.running.operations).get("/metrics").await.text();
    for line in [
        "kronos_messaging_published_total{kind=\"queue\",outcome=\"confirmed\"} 1",
        "kronos_messaging_delivered_total{kind=\"queue\"} 1",
        "kronos_messaging_deliveries_ended_total{kind=\"queue\",outcome=\"acknowledged\"} 1",
        "kronos_messaging_dead_total{kind=\"queue\"} 0",
    ] {
        assert!(metrics.contains(line), "no {line} in {metrics}");
    }
    messaging.stop().await;
}
