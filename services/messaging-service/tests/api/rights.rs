//! Rights on single topics: what a person may do there, and nowhere else.

use kronos_testkit::{TestClient, http};
use serde_json::{Value, json};

use crate::harness::{Harness, text};

/// A person without any permission in the token.
fn person(messaging: &Harness, subject: &str) -> TestClient {
    http(messaging.running.api).bearer(messaging.issuer.token(subject, &[]))
}

async fn publish(client: &TestClient, topic: &str) -> u16 {
    client.post("/publish", &json!({ "topic": topic, "payload": 1 })).await.status
}

#[tokio::test]
async fn who_may_publish_to_some_topics_publishes_to_those_alone() {
    let messaging = Harness::start().await;
    for topic in ["orders.eu", "orders", "bills"] {
        messaging.topic(topic, "queue", &json!({})).await;
    }
    messaging.issuer.grant("nora", "messages:publish", "topic:orders.*");
    let nora = person(&messaging, "nora");
    assert_eq!(publish(&nora, "orders.eu").await, 201);
    for topic in ["orders", "bills", "no-such", "orders.eu/x", "\u{0}"] {
        assert_eq!(publish(&nora, topic).await, 403, "{topic:?}");
    }
    // What does not exist is only told to who may know.
    assert_eq!(publish(&nora, "orders.no-such").await, 404);
    let batch = json!({ "messages": [{ "topic": "orders.eu", "payload": 1 }, { "topic": "bills", "payload": 1 }] });
    let results = nora.post("/publish/batch", &batch).await.expect(207).json();
    assert_eq!(results["results"][0]["status"], "confirmed");
    assert_eq!(results["results"][1]["problem"]["code"], "permission_denied");
    let event = |topic: &str| {
        nora.post(&format!("/publish?topic={topic}"), &json!(1)).header("content-type", "application/json")
    };
    event("orders.eu").await.expect(201);
    event("bills").await.expect_problem(403, "permission_denied");
    let at = json!({ "topic": "orders.eu", "payload": 1, "at": "2100-01-01T00:00:00Z" });
    let schedule = nora.post("/schedules", &at).await.expect(201).json();
    nora.get(&format!("/schedules/{}", text(&schedule, "scheduleId"))).await.expect(200);
    nora.get("/schedules").await.expect_problem(403, "permission_denied");
    nora.get("/schedules?topic=orders.eu").await.expect(200);
    nora.post("/request/bills", &json!({ "payload": 1 })).await.expect_problem(403, "permission_denied");
    // Nothing else, and nobody else.
    nora.get("/subscribe/orders.eu?mode=poll").await.expect_problem(403, "permission_denied");
    nora.delete("/topics/orders.eu").await.expect_problem(403, "permission_denied");
    assert_eq!(publish(&person(&messaging, "otto"), "orders.eu").await, 403);
    messaging.stop().await;
}

#[tokio::test]
async fn who_may_subscribe_to_some_topics_takes_acknowledges_and_replays_there_alone() {
    let messaging = Harness::start().await;
    for topic in ["orders.eu", "bills"] {
        messaging.topic(topic, "queue", &json!({ "maxAttempts": 1 })).await;
    }
    messaging.issuer.grant("nora", "messages:subscribe", "topic:orders.eu");
    let nora = person(&messaging, "nora");
    messaging.publish("orders.eu", 1).await;
    messaging.publish("bills", 1).await;
    nora.get("/subscribe/bills?mode=poll").await.expect_problem(403, "permission_denied");
    let bill = messaging.take("bills", "").await;
    for path in ["ack", "retry", "extend"] {
        for id in [text(&bill, "deliveryId"), text(&bill, "messageId"), "no-such"] {
            let answer = nora.post(&format!("/{path}/{id}"), &json!({})).await;
            answer.expect_problem(403, "permission_denied");
        }
    }
    let order = crate::harness::take_from(&nora, "orders.eu", "").await;
    let id = text(&order, "deliveryId");
    nora.post(&format!("/extend/{id}"), &json!({})).await.expect(200);
    nora.post(&format!("/retry/{id}"), &json!({ "reason": "no" })).await.expect(202);
    let letters = nora.get("/dead-letters?topic=orders.eu").await.expect(200).json();
    assert_eq!(letters["items"].as_array().map(Vec::len), Some(1));
    nora.get("/dead-letters").await.expect_problem(403, "permission_denied");
    nora.get(&format!("/messages/{}/history", text(&order, "messageId"))).await.expect(200);
    nora.get(&format!("/messages/{}/history", text(&bill, "messageId"))).await.expect_problem(403, "permission_denied");
    let replayed = nora.post("/dead-letters/replay", &json!({ "topic": "orders.eu" })).await.expect(200).json();
    assert_eq!(replayed["replayed"], 1);
    nora.post("/dead-letters/replay", &json!({ "topic": "bills" })).await.expect_problem(403, "permission_denied");
    let order = crate::harness::take_from(&nora, "orders.eu", "").await;
    nora.post(&format!("/ack/{}", text(&order, "messageId")), &json!(null)).await.expect(204);
    messaging.stop().await;
}

#[tokio::test]
async fn who_may_manage_some_topics_makes_and_deletes_those_alone() {
    let messaging = Harness::start().await;
    messaging.topic("bills", "queue", &json!({})).await;
    messaging.issuer.grant("nora", "topics:manage", "topic:nora.*");
    let nora = person(&messaging, "nora");
    nora.post("/topics", &json!({ "name": "nora.s", "kind": "stream" })).await.expect(201);
    let made = nora.post("/queues/create", &json!({ "name": "nora.q" })).await.expect(201).json();
    nora.post("/topics", &json!({ "name": "other", "kind": "queue" })).await.expect_problem(403, "permission_denied");
    nora.post("/queues/create", &json!({ "name": "other" })).await.expect_problem(403, "permission_denied");
    // A body that says nothing is nobody's.
    nora.post("/topics", &json!({})).await.expect_problem(403, "permission_denied");
    nora.delete("/topics/nora.s").await.expect(204);
    nora.delete(&format!("/queues/{}", text(&made, "queueId"))).await.expect(204);
    nora.delete("/queues/bills").await.expect_problem(403, "permission_denied");
    nora.delete("/queues/no-such").await.expect_problem(403, "permission_denied");
    messaging.stop().await;
}

#[tokio::test]
async fn a_right_that_comes_with_a_new_token_counts_at_once() {
    let messaging = Harness::start().await;
    messaging.topic("q", "queue", &json!({})).await;
    let nora = |epoch| http(messaging.running.api).bearer(messaging.issuer.build("nora").epoch(epoch).sign());
    assert_eq!(publish(&nora(1), "q").await, 403);
    messaging.issuer.grant("nora", "messages:*", "topic:q");
    // The answer of a moment ago is remembered, and was about other rights.
    assert_eq!(publish(&nora(1), "q").await, 403);
    assert_eq!(publish(&nora(2), "q").await, 201);
    // A client's rights may be on some topics alone too.
    messaging.topic("other", "queue", &json!({})).await;
    messaging.issuer.grant("robot", "messages:*", "topic:q");
    let client = http(messaging.running.api).bearer(messaging.issuer.build("robot").client_id("robot").sign());
    assert_eq!((publish(&client, "q").await, publish(&client, "other").await), (201, 403));
    messaging.stop().await;
}

#[tokio::test]
async fn who_asks_for_a_reply_reads_it_and_who_takes_the_message_gives_it() {
    let messaging = Harness::start().await;
    messaging.topic("asks", "queue", &json!({})).await;
    messaging.issuer.grant("nora", "messages:publish", "topic:asks");
    messaging.issuer.grant("otto", "messages:subscribe", "topic:asks");
    let (nora, otto) = (person(&messaging, "nora"), person(&messaging, "otto"));
    let asked: Value = nora
        .post("/request/asks", &json!({ "payload": "how?" }))
        .header("prefer", "respond-async")
        .await
        .expect(202)
        .json();
    let id = text(&asked, "messageId");
    nora.post(&format!("/reply/{id}"), &json!({ "payload": "so" })).await.expect_problem(403, "permission_denied");
    otto.post(&format!("/reply/{id}"), &json!({ "payload": "so" })).await.expect(204);
    otto.get(&format!("/requests/{id}")).await.expect_problem(403, "permission_denied");
    assert_eq!(nora.get(&format!("/requests/{id}")).await.expect(200).json()["payload"], "so");
    messaging.stop().await;
}
