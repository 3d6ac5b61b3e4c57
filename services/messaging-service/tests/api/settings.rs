//! Topics' settings: schema, maximum length, order, retention, dead-letter topic, back-off; what a queue says of itself.

use std::time::Duration;

use kronos_testkit::wait_up_to;
use serde_json::{Value, json};

use crate::harness::{Harness, PATIENCE, Sse, text};

#[tokio::test]
async fn a_payload_against_its_topics_schema_is_refused_naming_each_error() {
    let messaging = Harness::start().await;
    let schema = json!({
        "type": "object", "required": ["robot"], "additionalProperties": false,
        "properties": { "robot": { "type": "string", "pattern": "^R-[0-9]+$" }, "battery": { "maximum": 100 } },
    });
    let made = messaging.topic("s", "stream", &json!({ "schema": schema })).await;
    assert_eq!(made["schema"], schema);
    let publish =
        async |payload: Value| messaging.client().post("/publish", &json!({ "topic": "s", "payload": payload })).await;
    let answer = publish(json!({ "robot": "42", "battery": 101, "x": 1 })).await.expect_problem(422, "invalid_request");
    let mut errors: Vec<String> =
        answer.json()["errors"].as_array().unwrap().iter().map(|e| text(e, "pointer").to_owned()).collect();
    errors.sort_unstable();
    assert_eq!(errors, ["/payload", "/payload/battery", "/payload/robot"], "{answer}");
    assert!(answer.json()["errors"].as_array().unwrap().iter().all(|error| error["code"] == "against_schema"));
    publish(json!({ "robot": "R-42", "battery": 81 })).await.expect(201);
    let batch =
        json!({ "messages": [{ "topic": "s", "payload": 1 }, { "topic": "s", "payload": { "robot": "R-1" } }] });
    let results = messaging.client().post("/publish/batch", &batch).await.expect(207).json();
    assert_eq!(
        (&results["results"][0]["status"], &results["results"][1]["status"]),
        (&json!("refused"), &json!("confirmed"))
    );
    messaging.stop().await;
}

#[tokio::test]
async fn a_full_queue_refuses_publishes_until_some_were_taken() {
    let messaging = Harness::start().await;
    messaging.topic("q", "queue", &json!({ "maxLength": 5 })).await;
    let batch: Vec<Value> = (0..7).map(|n| json!({ "topic": "q", "payload": n })).collect();
    let results = messaging.client().post("/publish/batch", &json!({ "messages": batch })).await.expect(207).json();
    let statuses: Vec<&str> =
        results["results"].as_array().unwrap().iter().map(|result| text(result, "status")).collect();
    assert_eq!(statuses.iter().filter(|status| **status == "confirmed").count(), 5, "{results}");
    assert_eq!(results["results"][6]["problem"]["code"], "queue_full");
    let message = json!({ "topic": "q", "payload": "more" });
    let answer = messaging.client().post("/publish", &message).await.expect_problem(429, "queue_full");
    assert!(answer.header("retry-after").is_some());
    let queue = async || messaging.client().get("/queues").await.expect(200).json()["items"][0].clone();
    wait_up_to(PATIENCE, "it says that it is full", async || queue().await["blockedReason"] == "full").await;
    let taken = messaging.take("q", "").await;
    messaging.client().post(&format!("/ack/{}", text(&taken, "deliveryId")), &json!(null)).await.expect(204);
    wait_up_to(PATIENCE, "there is room", async || messaging.client().post("/publish", &message).await.status == 201)
        .await;
    messaging.stop().await;
}

#[tokio::test]
async fn a_strict_topic_hands_out_the_messages_of_a_key_one_after_the_other() {
    let messaging = Harness::start().await;
    let another = messaging.another().await;
    for kind in ["queue", "stream", "broadcast"] {
        let settings = json!({ "ordering": "strict", "backoffMs": 0, "maxAttempts": 3 });
        messaging.topic(kind, kind, &settings).await;
        messaging.nothing_comes(kind, "&group=g", 100).await;
        for n in 0..3 {
            for key in ["a", "b"] {
                messaging.publish_with(kind, n, &json!({ "key": key })).await;
            }
        }
        let client = messaging.client();
        let mut one = Sse::open(&client, kind, "group=g&max=10").await;
        let mut two = Sse::open(&messaging.client_at(&another), kind, "group=g&max=10").await;
        let mut next = [0, 0];
        let mut failed = false;
        while next != [3, 3] {
            let message = tokio::select! { message = one.message() => message, message = two.message() => message };
            let key = usize::from(message["key"] == "b");
            assert_eq!(message["payload"], next[key], "{message}");
            let path = text(&message, "deliveryId");
            // The second one of a key fails once, and the third one waits for it.
            if message["payload"] == 1 && key == 0 && !failed {
                failed = true;
                client.post(&format!("/retry/{path}"), &json!({ "delayMs": 300 })).await.expect(202);
            } else {
                next[key] += 1;
                client.post(&format!("/ack/{path}"), &json!(null)).await.expect(204);
            }
        }
        assert!(failed);
    }
    another.stop().await;
    messaging.stop().await;
}

#[tokio::test]
async fn after_a_poison_message_the_next_one_of_its_key_flows() {
    let messaging = Harness::start().await;
    messaging.topic("q", "queue", &json!({ "ordering": "strict", "backoffMs": 0, "maxAttempts": 2 })).await;
    for payload in ["poison", "good"] {
        messaging.publish_with("q", payload, &json!({ "key": "k" })).await;
    }
    for _ in 0..2 {
        let taken = messaging.take("q", "").await;
        assert_eq!(taken["payload"], "poison");
        messaging
            .client()
            .post(&format!("/retry/{}", text(&taken, "deliveryId")), &json!({ "delayMs": 0 }))
            .await
            .expect(202);
    }
    assert_eq!(messaging.take("q", "").await["payload"], "good");
    messaging.stop().await;
}

#[tokio::test]
async fn a_copy_of_a_dead_letter_goes_to_the_topic_named_for_it() {
    let messaging = Harness::start().await;
    messaging.topic("graves", "queue", &json!({})).await;
    messaging.topic("q", "queue", &json!({ "maxAttempts": 1, "deadLetter": "graves", "leaseMs": 200 })).await;
    let chain = json!({ "name": "x", "kind": "queue", "deadLetter": "q" });
    messaging.client().post("/topics", &chain).await.expect_problem(422, "invalid_request");
    let id = messaging.publish_with("q", json!({ "n": 1 }), &json!({ "headers": { "a": "1" }, "key": "k" })).await;
    let taken = messaging.take("q", "").await;
    messaging
        .client()
        .post(&format!("/retry/{}", text(&taken, "deliveryId")), &json!({ "reason": "no steel" }))
        .await
        .expect(202);
    let grave = messaging.take("graves", "").await;
    assert_eq!((&grave["payload"], &grave["key"]), (&json!({ "n": 1 }), &json!("k")));
    let headers = &grave["headers"];
    assert_eq!((&headers["a"], &headers["dead-letter-topic"]), (&json!("1"), &json!("q")), "{grave}");
    assert_eq!((&headers["dead-letter-message"], &headers["dead-letter-reason"]), (&json!(id), &json!("no steel")));
    // Also when its lease ends, and with a header that PostgreSQL's JSON can't hold.
    messaging.publish_with("q", 2, &json!({ "headers": { "zero": "\u{0}" } })).await;
    messaging.take("q", "").await;
    assert_eq!(messaging.take("graves", "").await["payload"], 2);
    messaging.stop().await;
}

#[tokio::test]
async fn what_nobody_took_within_a_queues_retention_is_dropped() {
    let messaging = Harness::start().await;
    messaging.topic("q", "queue", &json!({ "retentionMs": 1000 })).await;
    messaging.publish("q", "old").await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    messaging.publish("q", "new").await;
    assert_eq!(messaging.take("q", "").await["payload"], "new");
    messaging.nothing_comes("q", "", 300).await;
    messaging.stop().await;
}

#[tokio::test]
async fn a_queue_says_what_it_promises_and_why_messages_wait() {
    let messaging = Harness::start().await;
    let client = messaging.client();
    let made = client
        .post(
            "/queues/create",
            &json!({ "name": "q", "ordering": "strict", "maxLength": 100, "maxAttempts": 7, "leaseMs": 60_000 }),
        )
        .await
        .expect(201)
        .json();
    for id in ["q", text(&made, "queueId")] {
        let words = client.get(&format!("/queues/{id}/guarantees")).await.expect(200).json();
        assert!(text(&words, "ordering").contains("one after the other"), "{words}");
        assert!(text(&words, "retries").contains("7 attempts"));
        assert!(text(&words, "capacity").contains("100 messages"));
    }
    client.get("/queues/nothing/guarantees").await.expect_problem(404, "unknown_topic");
    let mut last = json!(null);
    let mut queue = async |reason: Value| {
        wait_up_to(PATIENCE, &format!("blocked: {reason}"), async || {
            last = client.get("/queues").await.expect(200).json()["items"][0].clone();
            last["blockedReason"] == reason
        })
        .await;
        last.clone()
    };
    queue(json!(null)).await;
    messaging.publish("q", 1).await;
    messaging.publish("q", 2).await;
    queue(json!("no_subscriber")).await;
    let mut subscriber = Sse::open(&client, "q", "max=1").await;
    let message = subscriber.message().await;
    queue(json!("not_acknowledged")).await;
    client.post(&format!("/ack/{}", text(&message, "deliveryId")), &json!(null)).await.expect(204);
    let message = subscriber.message().await;
    client.post(&format!("/retry/{}", text(&message, "deliveryId")), &json!({ "delayMs": 600_000 })).await.expect(202);
    let state = queue(json!("backing_off")).await;
    assert_eq!(state["depth"], 1, "{state}");
    wait_up_to(PATIENCE, "the rates are told", async || {
        let state = client.get("/queues").await.expect(200).json()["items"][0].clone();
        state["rateIn"].as_f64().unwrap() > 0.0 && state["rateOut"].as_f64().unwrap() > 0.0
    })
    .await;
    messaging.stop().await;
}

#[tokio::test]
async fn a_topics_ledger_adds_up() {
    let messaging = Harness::start().await;
    for kind in ["queue", "stream"] {
        messaging.topic(kind, kind, &json!({ "maxAttempts": 1 })).await;
        messaging.nothing_comes(kind, "&group=g", 50).await;
        for n in 0..6 {
            messaging.publish(kind, n).await;
        }
        let client = messaging.client();
        for n in 0..5 {
            let taken = messaging.take(kind, "&group=g").await;
            let path = text(&taken, "deliveryId");
            match n {
                0 => client.post(&format!("/retry/{path}"), &json!({})).await.expect(202),
                4 => continue,
                _ => client.post(&format!("/ack/{path}"), &json!(null)).await.expect(204),
            };
        }
        let mut last = json!(null);
        wait_up_to(PATIENCE, "everything is told", async || {
            last = client.get(&format!("/topics/{kind}/ledger")).await.expect(200).json();
            last["acknowledged"] == 3 && last["dead"] == 1 && last["arrived"] == 6 && last["accepted"] == 6
        })
        .await;
        assert_eq!(
            (&last["confirmed"], &last["inFlight"], &last["waiting"]),
            (&json!(6), &json!(1), &json!(1)),
            "{last}"
        );
        assert_eq!((&last["deadNow"], &last["lost"], &last["inOutbox"]), (&json!(1), &json!(0), &json!(0)), "{last}");
    }
    let metrics = kronos_testkit::http(messaging.running.operations).get("/metrics").await.text();
    let line = "kronos_messaging_topic_messages_total{happened=\"acknowledged\",topic=\"queue\"} 3";
    assert!(metrics.contains(line), "{metrics}");
    // How long they took, from publish to each step.
    for kind in ["queue", "stream"] {
        for (step, messages) in [("confirmed", 6), ("delivered", 5), ("acknowledged", 3)] {
            let line = format!("kronos_messaging_topic_seconds_count{{step=\"{step}\",topic=\"{kind}\"}} {messages}\n");
            assert!(metrics.contains(&line), "{line}{metrics}");
        }
    }
    messaging.stop().await;
}

#[tokio::test]
async fn a_queues_confirmed_message_that_never_arrives_is_lost_in_the_ledger() {
    let messaging = Harness::start().await;
    let made = messaging.topic("q", "queue", &json!({})).await;
    for n in 0..3 {
        messaging.publish("q", n).await;
    }
    let pool = messaging.database.pool("kronos_messaging").await;
    // As if a long time ago, and two messages more than the broker has.
    wait_up_to(PATIENCE, "the counts are told", async || {
        let id: uuid::Uuid = text(&made, "topicId").parse().unwrap();
        sqlx::query("update topic_counts set bucket = bucket - interval '1 minute', confirmed = confirmed + 2 where topic_id = $1 and confirmed = 3")
            .bind(id)
            .execute(&pool)
            .await
            .unwrap()
            .rows_affected()
            == 1
    })
    .await;
    wait_up_to(PATIENCE, "two are lost", async || {
        messaging.client().get("/topics/q/ledger").await.expect(200).json()["lost"] == 2
    })
    .await;
    messaging.stop().await;
}
