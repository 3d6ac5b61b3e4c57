//! Bad input: the right status, a stable code, every bad field named, nothing changed.

use kronos_testkit::TestResponse;
use serde_json::{Value, json};

use crate::harness::{ALL, Harness};

fn pointers(answer: &TestResponse) -> Vec<String> {
    let mut pointers: Vec<String> = answer.json()["errors"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|error| error["pointer"].as_str().unwrap().to_owned())
        .collect();
    pointers.sort_unstable();
    pointers.dedup();
    pointers
}

#[tokio::test]
async fn a_bad_topic_is_refused_with_every_bad_field() {
    let messaging = Harness::start().await;
    let table: [(Value, &[&str]); 13] = [
        (json!({}), &["/kind", "/name"]),
        (json!({ "name": "", "kind": "pipe" }), &["/kind", "/name"]),
        (json!({ "name": "a b", "kind": "queue", "color": 1 }), &["/color", "/name"]),
        (json!({ "name": "x".repeat(101), "kind": "queue" }), &["/name"]),
        (
            json!({ "name": "ok", "kind": "queue", "maxAttempts": 0, "leaseMs": 1, "backoffMs": -1 }),
            &["/backoffMs", "/leaseMs", "/maxAttempts"],
        ),
        (
            json!({ "name": "ok", "kind": "queue", "priorityLevels": 11, "maxAttempts": "5" }),
            &["/maxAttempts", "/priorityLevels"],
        ),
        (json!({ "name": "ok", "kind": "stream", "priorityLevels": 3 }), &["/priorityLevels"]),
        (json!({ "name": "ok", "kind": "queue", "partitions": 3 }), &["/partitions"]),
        (json!({ "name": "kronos.x", "kind": "queue", "deadLetter": "kronos.events.user" }), &["/deadLetter", "/name"]),
        (json!({ "name": "ok", "kind": "stream", "maxLength": 3 }), &["/maxLength"]),
        (json!({ "name": "ok", "kind": "queue", "ordering": "strict", "priorityLevels": 3 }), &["/ordering"]),
        (
            json!({ "name": "ok", "kind": "queue", "schema": { "type": "strange" }, "deadLetter": "nowhere" }),
            &["/deadLetter", "/schema"],
        ),
        (
            json!({ "name": "ok", "kind": "queue", "schema": { "$ref": "http://127.0.0.1:1/x" }, "retentionMs": 1 }),
            &["/retentionMs"],
        ),
    ];
    for (body, expected) in table {
        let answer = messaging.client().post("/topics", &body).await.expect_problem(422, "invalid_request");
        assert_eq!(pointers(&answer), expected, "{body}: {answer}");
    }
    assert_eq!(messaging.client().get("/topics").await.expect(200).json()["items"], json!([]));
    messaging.stop().await;
}

#[tokio::test]
async fn a_bad_message_is_refused_with_every_bad_field() {
    let messaging = Harness::start().await;
    messaging.topic("q", "queue", &json!({})).await;
    messaging.topic("s", "stream", &json!({})).await;
    let table: [(Value, &[&str]); 7] = [
        (json!({ "topic": "q" }), &["/payload"]),
        (json!({ "payload": 1, "to": "q" }), &["/to", "/topic"]),
        (
            json!({ "topic": "q", "payload": 1, "priority": 256, "delayMs": -1, "ttlMs": 0 }),
            &["/delayMs", "/priority", "/ttlMs"],
        ),
        (json!({ "topic": "s", "payload": 1, "priority": 1 }), &["/priority"]),
        (json!({ "topic": "q", "payload": 1, "key": "k".repeat(513) }), &["/key"]),
        (json!({ "topic": "q", "payload": 1, "headers": { "a": 1 } }), &["/headers/a"]),
        (json!({ "topic": "q", "payload": 1, "headers": { "a": "x".repeat(5000) } }), &["/headers/a"]),
    ];
    for (body, expected) in table {
        let answer = messaging.client().post("/publish", &body).await.expect_problem(422, "invalid_request");
        assert_eq!(pointers(&answer), expected, "{answer}");
    }
    for name in ["nowhere", "", "a/b", "\u{0}", "é"] {
        let answer = messaging.client().post("/publish", &json!({ "topic": name, "payload": 1 })).await;
        answer.expect_problem(404, "unknown_topic");
    }
    messaging.nothing_comes("q", "", 200).await;
    messaging.stop().await;
}

#[tokio::test]
async fn a_payload_that_is_too_large_is_a_413() {
    let messaging = Harness::start_with(|config| config.publish.max_payload_bytes = 1000).await;
    messaging.topic("q", "queue", &json!({})).await;
    let message = |size| json!({ "topic": "q", "payload": "x".repeat(size) });
    messaging.client().post("/publish", &message(998)).await.expect(201);
    messaging.client().post("/publish", &message(999)).await.expect_problem(413, "payload_too_large");
    messaging.client().post("/publish", &message(100_000)).await.expect_problem(413, "body_too_large");
    messaging.stop().await;
}

#[tokio::test]
async fn a_bad_query_is_a_400() {
    let messaging = Harness::start().await;
    messaging.topic("q", "queue", &json!({})).await;
    for query in ["max=0", "max=501", "max=x", "mode=push", "waitMs=-1", "group=a%20b", "colour=red", "from=latest"] {
        messaging.client().get(&format!("/subscribe/q?{query}")).await.expect_problem(400, "invalid_query");
    }
    messaging.client().post("/ack/x?attempt=y", &json!(null)).await.expect_problem(400, "invalid_query");
    messaging.client().get("/queues?limit=0").await.expect_problem(400, "invalid_query");
    messaging.stop().await;
}

#[tokio::test]
async fn every_operation_asks_for_its_own_permission() {
    let messaging = Harness::start().await;
    messaging.topic("q", "queue", &json!({})).await;
    let table = [
        ("POST", "/topics", json!({ "name": "x", "kind": "queue" }), "topics:manage"),
        ("GET", "/topics", json!(null), "topics:read"),
        ("GET", "/topics/q", json!(null), "topics:read"),
        ("DELETE", "/topics/q", json!(null), "topics:manage"),
        ("POST", "/queues/create", json!({ "name": "x" }), "topics:manage"),
        ("GET", "/queues", json!(null), "topics:read"),
        ("DELETE", "/queues/q", json!(null), "topics:manage"),
        ("POST", "/publish", json!({ "topic": "q", "payload": 1 }), "messages:publish"),
        ("POST", "/publish/batch", json!({ "messages": [] }), "messages:publish"),
        ("GET", "/subscribe/q", json!(null), "messages:subscribe"),
        ("POST", "/ack/x", json!(null), "messages:subscribe"),
        ("POST", "/retry/x", json!({}), "messages:subscribe"),
        ("POST", "/extend/x", json!({}), "messages:subscribe"),
        ("GET", "/dead-letters", json!(null), "messages:subscribe"),
        ("POST", "/dead-letters/replay", json!({ "topic": "q" }), "messages:subscribe"),
        ("POST", "/request/q", json!({ "payload": 1 }), "messages:publish"),
        ("GET", "/requests/x", json!(null), "messages:publish"),
        ("POST", "/reply/x", json!({ "payload": 1 }), "messages:subscribe"),
        ("POST", "/schedules", json!({ "topic": "q", "payload": 1, "cron": "@daily" }), "messages:publish"),
        ("GET", "/schedules", json!(null), "messages:publish"),
        ("GET", "/schedules/x", json!(null), "messages:publish"),
        ("DELETE", "/schedules/x", json!(null), "messages:publish"),
        ("GET", "/asyncapi.json", json!(null), "topics:read"),
        ("GET", "/messages/x/history", json!(null), "messages:subscribe"),
        ("GET", "/queues/q/guarantees", json!(null), "topics:read"),
        ("GET", "/topics/q/ledger", json!(null), "topics:read"),
    ];
    for (method, path, body, permission) in table {
        let others: Vec<&str> = ALL.into_iter().filter(|other| *other != permission).collect();
        let request = |subject: &str, permissions: &[&str]| {
            let client = messaging.client_as(subject, permissions);
            client.request(method.parse().unwrap(), path).json(&body)
        };
        let answer = request("poor", &others).await.expect_problem(403, "permission_denied");
        assert!(answer.text().contains(permission), "{answer}");
        request("nobody", &[]).anonymous().await.expect_problem(401, "token_missing");
        let expired = messaging.issuer.expired("late", &ALL);
        request("late", &[]).bearer(expired).await.expect_problem(401, "token_expired");
    }
    assert_eq!(messaging.client().get("/topics").await.expect(200).json()["items"].as_array().unwrap().len(), 1);
    messaging.stop().await;
}
