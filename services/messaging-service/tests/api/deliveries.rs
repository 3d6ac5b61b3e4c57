//! Acknowledgement, retry, back-off, expiry, dead letters, replay; and who may say what of which delivery.

use std::time::{Duration, Instant};

use kronos_testkit::wait_up_to;
use serde_json::{Value, json};

use crate::harness::{Harness, PATIENCE, Sse, take_from, text};

#[tokio::test]
async fn an_acknowledged_message_never_comes_again() {
    let messaging = Harness::start().await;
    messaging.topic("q", "queue", &json!({ "leaseMs": 300 })).await;
    let client = messaging.client();
    for id in ["messageId", "deliveryId"] {
        messaging.publish("q", id).await;
        let taken = messaging.take("q", "").await;
        let path = format!("/ack/{}", text(&taken, id));
        client.post(&path, &json!(null)).await.expect(204);
        client.post(&path, &json!(null)).await.expect(204);
        messaging.nothing_comes("q", "", 700).await;
    }
    messaging.stop().await;
}

#[tokio::test]
async fn a_failed_message_comes_again_after_growing_back_offs_then_lies_dead_and_is_replayed() {
    let messaging = Harness::start().await;
    messaging.topic("q", "queue", &json!({ "maxAttempts": 3, "backoffMs": 400 })).await;
    let client = messaging.client();
    let message_id = messaging.publish_with("q", "poison", &json!({ "key": "k", "headers": { "a": "b" } })).await;
    let retry = async |message: &Value, body: Value| {
        client.post(&format!("/retry/{}", text(message, "deliveryId")), &body).await.expect(202).json()
    };
    let mut failed = Instant::now();
    for attempt in 1..=3_u32 {
        let taken = messaging.take("q", "").await;
        assert_eq!((&taken["attempt"], &taken["messageId"]), (&json!(attempt), &json!(message_id)));
        if attempt > 1 {
            let waited = failed.elapsed();
            let most = Duration::from_millis(400 << (attempt - 2));
            assert!(waited >= most.mul_f64(0.74), "{waited:?} of {most:?}");
        }
        failed = Instant::now();
        let answer = retry(&taken, json!({ "reason": format!("failure {attempt}") })).await;
        assert_eq!(answer["status"], if attempt == 3 { "dead" } else { "scheduled" }, "{answer}");
    }
    // The next one of its key is not held up.
    messaging.publish_with("q", "good", &json!({ "key": "k" })).await;
    assert_eq!(messaging.take("q", "").await["payload"], "good");
    let letters = client.get("/dead-letters?topic=q").await.expect(200).json();
    let letter = &letters["items"][0];
    assert_eq!((&letter["messageId"], &letter["attempts"]), (&json!(message_id), &json!(3)));
    assert_eq!((&letter["payload"], &letter["reason"]), (&json!("poison"), &json!("failure 3")));
    assert_eq!((&letter["key"], &letter["headers"]), (&json!("k"), &json!({ "a": "b" })));
    client.post(&format!("/ack/{message_id}"), &json!(null)).await.expect_problem(409, "stale_delivery");
    client.post(&format!("/retry/{message_id}"), &json!({})).await.expect(202);
    let replayed = messaging.take("q", "").await;
    assert_eq!((&replayed["messageId"], &replayed["attempt"]), (&json!(message_id), &json!(1)));
    client.post(&format!("/ack/{message_id}"), &json!(null)).await.expect(204);
    assert_eq!(client.get("/dead-letters?topic=q").await.expect(200).json()["items"], json!([]));
    messaging.stop().await;
}

#[tokio::test]
async fn an_ended_lease_is_redelivered_and_the_old_receipt_is_stale() {
    let messaging = Harness::start().await;
    messaging.topic("q", "queue", &json!({ "leaseMs": 400, "maxAttempts": 2 })).await;
    let client = messaging.client();
    let message_id = messaging.publish("q", 1).await;
    let first = messaging.take("q", "").await;
    let second = messaging.take("q", "").await;
    assert_eq!((&first["attempt"], &second["attempt"]), (&json!(1), &json!(2)));
    assert_ne!(first["deliveryId"], second["deliveryId"]);
    for path in ["ack", "retry", "extend"] {
        let answer = client.post(&format!("/{path}/{}", text(&first, "deliveryId")), &json!({})).await;
        answer.expect_problem(409, "stale_delivery");
        let answer = client.post(&format!("/{path}/{message_id}?attempt=1"), &json!({})).await;
        answer.expect_problem(409, "stale_delivery");
    }
    // The last attempt's lease ends: dead.
    wait_up_to(PATIENCE, "it is dead", async || {
        client.get("/dead-letters?topic=q").await.expect(200).json()["items"].as_array().unwrap().len() == 1
    })
    .await;
    let answer = client.post(&format!("/ack/{}", text(&second, "deliveryId")), &json!(null)).await;
    answer.expect_problem(409, "stale_delivery");
    messaging.stop().await;
}

#[tokio::test]
async fn a_lease_can_be_extended() {
    let messaging = Harness::start().await;
    messaging.topic("q", "queue", &json!({ "leaseMs": 500 })).await;
    let client = messaging.client();
    messaging.publish("q", 1).await;
    let taken = messaging.take("q", "").await;
    let path = format!("/extend/{}", text(&taken, "deliveryId"));
    let extended = client.post(&path, &json!({ "leaseMs": 60000 })).await.expect(200).json();
    assert!(text(&extended, "leaseExpiresAt") > text(&taken, "leaseExpiresAt"));
    messaging.nothing_comes("q", "", 1000).await;
    client.post(&format!("/ack/{}", text(&taken, "deliveryId")), &json!(null)).await.expect(204);
    messaging.stop().await;
}

#[tokio::test]
async fn a_retry_may_name_its_own_delay() {
    let messaging = Harness::start().await;
    messaging.topic("q", "queue", &json!({ "backoffMs": 60000 })).await;
    let message_id = messaging.publish("q", 1).await;
    messaging.take("q", "").await;
    let client = messaging.client();
    let answer = client.post(&format!("/retry/{message_id}"), &json!({ "delayMs": 0 })).await.expect(202).json();
    assert_eq!(answer["status"], "scheduled");
    assert_eq!(messaging.take("q", "").await["attempt"], 2);
    // Without a body at all: the topic's back-off.
    let request = client.request(reqwest::Method::POST, &format!("/retry/{message_id}"));
    let answer = request.await.expect(202).json();
    let wait =
        chrono::DateTime::parse_from_rfc3339(text(&answer, "availableAt")).unwrap() - chrono::Utc::now().fixed_offset();
    assert!(wait.num_seconds() > 60, "doubled for the second attempt: {answer}");
    messaging.stop().await;
}

#[tokio::test]
async fn a_message_id_means_only_the_callers_own_delivery() {
    let messaging = Harness::start().await;
    messaging.topic("q", "queue", &json!({})).await;
    let message_id = messaging.publish("q", 1).await;
    let taken = messaging.take("q", "").await;
    let stranger = messaging.client_as("stranger", &["messages:subscribe"]);
    for path in ["ack", "retry", "extend"] {
        let answer = stranger.post(&format!("/{path}/{message_id}"), &json!({})).await;
        answer.expect_problem(409, "stale_delivery");
    }
    // But whoever is given the receipt may use it.
    stranger.post(&format!("/ack/{}", text(&taken, "deliveryId")), &json!(null)).await.expect(204);
    messaging.stop().await;
}

#[tokio::test]
async fn when_several_groups_hold_a_message_its_id_alone_is_ambiguous() {
    let messaging = Harness::start().await;
    messaging.topic("s", "stream", &json!({})).await;
    let client = messaging.client();
    let message_id = messaging.publish("s", 1).await;
    let one = messaging.take("s", "&group=one").await;
    let two = messaging.take("s", "&group=two").await;
    assert_eq!((&one["messageId"], &two["messageId"]), (&json!(message_id), &json!(message_id)));
    let answer = client.post(&format!("/ack/{message_id}"), &json!(null)).await;
    assert!(answer.expect_problem(409, "ambiguous_delivery").text().contains("group"));
    client.post(&format!("/ack/{message_id}?group=one"), &json!(null)).await.expect(204);
    client.post(&format!("/ack/{message_id}"), &json!(null)).await.expect(204);
    client.post(&format!("/ack/{message_id}?group=three"), &json!(null)).await.expect_problem(404, "unknown_delivery");
    messaging.stop().await;
}

#[tokio::test]
async fn what_nobody_knows_is_a_404() {
    let messaging = Harness::start().await;
    let client = messaging.client();
    for id in [uuid::Uuid::now_v7().to_string(), "nonsense".to_owned(), "AQAAAAAAAAAB".to_owned()] {
        for path in ["ack", "retry", "extend"] {
            client.post(&format!("/{path}/{id}"), &json!({})).await.expect_problem(404, "unknown_delivery");
        }
    }
    messaging.stop().await;
}

#[tokio::test]
async fn dead_letters_are_listed_page_by_page_and_by_group() {
    let messaging = Harness::start().await;
    messaging.topic("s", "stream", &json!({ "maxAttempts": 1 })).await;
    let client = messaging.client();
    for n in 0..5 {
        messaging.publish("s", n).await;
    }
    for group in ["one", "two"] {
        for _ in 0..5 {
            let taken = take_from(&client, "s", &format!("&group={group}")).await;
            client.post(&format!("/retry/{}", text(&taken, "deliveryId")), &json!({})).await.expect(202);
        }
    }
    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = client.get(&format!("/dead-letters?topic=s&group=two&limit=2{cursor}")).await.expect(200).json();
        found.extend(page["items"].as_array().unwrap().clone());
        match page["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    let mut payloads: Vec<i64> = found.iter().map(|letter| letter["payload"].as_i64().unwrap()).collect();
    payloads.sort_unstable();
    assert_eq!(payloads, [0, 1, 2, 3, 4]);
    assert!(found.is_sorted_by(|a, b| text(a, "deadAt") >= text(b, "deadAt")), "the newest first");
    assert_eq!(client.get("/dead-letters").await.expect(200).json()["items"].as_array().unwrap().len(), 10);
    client.get("/dead-letters?topic=nowhere").await.expect_problem(404, "unknown_topic");
    client.get("/dead-letters?cursor=nonsense").await.expect_problem(400, "invalid_cursor");
    // Exactly one group's copy is replayed by its receipt.
    let letter = &found[0];
    client
        .post(&format!("/retry/{}", text(letter, "messageId")), &json!({}))
        .await
        .expect_problem(409, "ambiguous_delivery");
    client.post(&format!("/retry/{}", text(letter, "deliveryId")), &json!({})).await.expect(202);
    assert_eq!(messaging.take("s", "&group=two").await["messageId"], letter["messageId"]);
    messaging.stop().await;
}

#[tokio::test]
async fn one_poison_message_does_not_hold_up_its_neighbours() {
    let messaging = Harness::start().await;
    messaging.topic("q", "queue", &json!({ "maxAttempts": 3, "backoffMs": 50 })).await;
    let client = messaging.client();
    let mut subscriber = Sse::open(&client, "q", "").await;
    for n in 0..30 {
        messaging.publish_with("q", n, &json!({ "key": "same" })).await;
    }
    let (mut good, mut failures) = (0, 0);
    while good < 29 || failures < 3 {
        let message = subscriber.message().await;
        let path = if message["payload"] == 7 { "retry" } else { "ack" };
        client.post(&format!("/{path}/{}", text(&message, "deliveryId")), &json!({})).await;
        if message["payload"] == 7 { failures += 1 } else { good += 1 }
    }
    assert_eq!(client.get("/dead-letters?topic=q").await.expect(200).json()["items"][0]["payload"], 7);
    messaging.stop().await;
}
