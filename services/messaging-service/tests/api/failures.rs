//! Dead letters replayed by filter, and the history of a message that failed.

use serde_json::{Value, json};

use crate::harness::{Harness, text};

async fn kill(messaging: &Harness, topic: &str, count: usize, reason: &str, key: &str) -> Vec<String> {
    let mut ids = Vec::new();
    for n in 0..count {
        ids.push(messaging.publish_with(topic, n, &json!({ "key": key })).await);
        let taken = messaging.take(topic, "").await;
        let path = format!("/retry/{}", text(&taken, "deliveryId"));
        messaging.client().post(&path, &json!({ "reason": reason })).await.expect(202);
    }
    ids
}

#[tokio::test]
async fn dead_letters_are_replayed_by_filter_and_a_dry_run_changes_nothing() {
    let messaging = Harness::start().await;
    messaging.topic("q", "queue", &json!({ "maxAttempts": 1 })).await;
    messaging.topic("other", "queue", &json!({ "maxAttempts": 1 })).await;
    let steel = kill(&messaging, "q", 3, "no STEEL left", "a").await;
    kill(&messaging, "q", 2, "no power", "b").await;
    kill(&messaging, "other", 1, "no steel", "a").await;
    let client = messaging.client();
    let replay = async |body: Value| {
        let answer = client.post("/dead-letters/replay", &body).await.expect(200).json();
        (answer["matched"].as_i64().unwrap(), answer["replayed"].as_i64().unwrap())
    };
    for (filter, expected) in [
        (json!({}), 5),
        (json!({ "reason": "steel" }), 3),
        (json!({ "key": "b" }), 2),
        (json!({ "group": "nobody" }), 0),
        (json!({ "messageIds": [steel[0], steel[1]] }), 2),
        (json!({ "deadAfter": "2100-01-01T00:00:00Z" }), 0),
        (json!({ "deadBefore": "2100-01-01T00:00:00Z", "reason": "power" }), 2),
    ] {
        assert_eq!(replay(json!({ "topic": "q", "filter": filter, "dryRun": true })).await, (expected, 0), "{filter}");
    }
    assert_eq!(replay(json!({ "topic": "q", "filter": { "reason": "steel" } })).await, (3, 3));
    for id in &steel {
        let taken = messaging.take("q", "").await;
        assert_eq!((text(&taken, "messageId"), &taken["attempt"]), (id.as_str(), &json!(1)));
        client.post(&format!("/ack/{id}"), &json!(null)).await.expect(204);
    }
    assert_eq!(replay(json!({ "topic": "q" })).await, (2, 2));
    assert_eq!(replay(json!({ "topic": "q" })).await, (0, 0));
    assert_eq!(client.get("/dead-letters").await.expect(200).json()["items"].as_array().unwrap().len(), 1);
    client.post("/dead-letters/replay", &json!({ "topic": "none" })).await.expect_problem(404, "unknown_topic");
    let answer = client.post("/dead-letters/replay", &json!({ "topic": "q", "filter": { "colour": 1 } })).await;
    answer.expect_problem(422, "invalid_request");
    messaging.stop().await;
}

#[tokio::test]
async fn the_history_of_a_message_tells_every_failed_attempt() {
    let messaging = Harness::start().await;
    messaging.topic("q", "queue", &json!({ "maxAttempts": 3, "backoffMs": 0, "leaseMs": 300 })).await;
    let client = messaging.client();
    client.get("/messages/nothing/history").await.expect_problem(404, "unknown_message");
    let id = messaging.publish("q", 1).await;
    let path = format!("/messages/{id}/history");
    let taken = messaging.take("q", "").await;
    client
        .post(&format!("/retry/{}", text(&taken, "deliveryId")), &json!({ "reason": "no steel", "delayMs": 0 }))
        .await
        .expect(202);
    // The second attempt says nothing, the third one fails: dead; and then it is replayed and done.
    messaging.take("q", "").await;
    let taken = messaging.take("q", "").await;
    let held = client.get(&path).await.expect(200).json();
    assert_eq!(
        (&held["topic"], &held["groups"][0]["state"], &held["groups"][0]["attempts"]),
        (&json!("q"), &json!("held"), &json!(3))
    );
    client.post(&format!("/retry/{}", text(&taken, "deliveryId")), &json!({})).await.expect(202);
    assert_eq!(client.get(&path).await.expect(200).json()["groups"][0]["state"], "dead");
    client.post(&format!("/retry/{id}"), &json!({})).await.expect(202);
    messaging.take("q", "").await;
    client.post(&format!("/ack/{id}"), &json!(null)).await.expect(204);
    let history = client.get(&path).await.expect(200).json();
    assert_eq!(history["groups"][0]["state"], "settled", "{history}");
    let failures: Vec<(i64, &str)> = history["groups"][0]["failures"]
        .as_array()
        .unwrap()
        .iter()
        .map(|failure| (failure["attempt"].as_i64().unwrap(), text(failure, "outcome")))
        .collect();
    assert_eq!(failures, [(1, "retried"), (2, "lease_ended"), (3, "retried"), (3, "replayed")]);
    assert_eq!(history["groups"][0]["failures"][0]["reason"], "no steel");
    assert_eq!(history["groups"][0]["failures"][0]["principal"], "tester");
    messaging.stop().await;
}
