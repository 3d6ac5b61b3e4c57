//! kill -9, with the real program and the real brokers: what was answered with a 2xx arrives, once by id.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use futures::future::join_all;
use kronos_testkit::{Issuer, TestClient, TestDatabase, http};
use serde_json::{Value, json};

use crate::harness::{ALL, PATIENCE, Program, configuration, text};

/// Message id → payload of what was answered with a 2xx.
type Acknowledged = Arc<Mutex<HashMap<String, String>>>;

/// Publishes until the program is gone, and notes what was acknowledged.
async fn publish_on(base: String, token: String, topic: &'static str, caller: String, acknowledged: Acknowledged) {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    for n in 0.. {
        let payload = format!("{caller}/{n}");
        let message = json!({ "topic": topic, "payload": payload, "key": caller });
        let sent = http.post(format!("{base}/publish")).bearer_auth(&token).json(&message).send().await;
        // The program may be killed in the middle of an answer: that is no acknowledgement.
        let Ok(answer) = sent else { return };
        if answer.status() == 503 {
            // On a busy machine; it promises nothing.
            continue;
        }
        assert!([201, 202].contains(&answer.status().as_u16()), "{}", answer.status());
        let Ok(answer) = answer.json::<Value>().await else { return };
        acknowledged.lock().unwrap().insert(text(&answer, "messageId").to_owned(), payload);
    }
}

#[tokio::test]
async fn kill_9_while_publishing_and_consuming_loses_no_acknowledged_message() {
    let database = TestDatabase::create().await;
    let issuer = Issuer::start().await;
    let config = configuration(&database, &issuer).await;
    let token = issuer.token("tester", &ALL);
    let topics = [("stream", "robots"), ("queue", "orders")];
    let acknowledged = Acknowledged::default();
    let mut got: HashMap<String, String> = HashMap::new();
    let mut settled: HashMap<String, u32> = HashMap::new();
    for round in 0..3 {
        let program = Program::start(&config).await;
        let client = http(program.api).bearer(token.clone());
        if round == 0 {
            for (kind, topic) in topics {
                let settings = json!({ "name": topic, "kind": kind, "leaseMs": 1500, "maxAttempts": 100 });
                let created = async || client.post("/topics", &settings).await.status == 201;
                kronos_testkit::wait_up_to(PATIENCE, "the topic is created", created).await;
            }
        }
        let callers: Vec<_> = (0..8)
            .map(|caller| {
                let (base, topic) = (format!("http://{}", program.api), topics[caller % 2].1);
                let caller = format!("{round}-{caller}");
                tokio::spawn(publish_on(base, token.clone(), topic, caller, acknowledged.clone()))
            })
            .collect();
        // It also consumes, so that the kill hits every step from broker to acknowledgement.
        while acknowledged.lock().unwrap().len() < 150 * (round + 1) || settled.len() < 40 * (round + 1) {
            for (_, topic) in topics {
                take(&client, topic, &mut got, &mut settled).await;
            }
        }
        program.kill().await;
        for caller in callers {
            caller.await.unwrap();
        }
    }
    let acknowledged = acknowledged.lock().unwrap().clone();
    let program = Program::start(&config).await;
    let client = http(program.api).bearer(token);
    let missing =
        |got: &HashMap<String, String>| acknowledged.keys().filter(|message_id| !got.contains_key(*message_id)).count();
    // As long as some come, others may; the busiest machine is no reason to give up.
    let (mut left, mut since) = (missing(&got), tokio::time::Instant::now());
    while left > 0 {
        assert!(since.elapsed() < PATIENCE * 2, "{left} of {} are lost", acknowledged.len());
        for (_, topic) in topics {
            take(&client, topic, &mut got, &mut settled).await;
        }
        if missing(&got) < left {
            (left, since) = (missing(&got), tokio::time::Instant::now());
        }
    }
    for (message_id, payload) in &acknowledged {
        assert_eq!(got.get(message_id), Some(payload), "nothing is exchanged");
    }
    let twice: Vec<_> = settled.iter().filter(|(_, count)| **count > 1).collect();
    assert!(twice.is_empty(), "acknowledged, and delivered again: {twice:?}");
    for (_, topic) in topics {
        client.delete(&format!("/topics/{topic}")).await.expect(204);
    }
    program.kill().await;
}

/// Takes what is there and acknowledges it.
async fn take(client: &TestClient, topic: &str, got: &mut HashMap<String, String>, settled: &mut HashMap<String, u32>) {
    let path = format!("/subscribe/{topic}?mode=poll&group=g&max=50&waitMs=200");
    let answer = client.get(&path).await;
    if answer.status == 503 {
        return;
    }
    let polled: Value = answer.expect(200).json();
    let acknowledge = async |message: &Value| {
        let answer = client.post(&format!("/ack/{}", text(message, "deliveryId")), &json!(null)).await;
        (answer.status == 204).then(|| text(message, "messageId").to_owned())
    };
    let messages = polled["messages"].as_array().unwrap();
    for message in messages {
        got.insert(text(message, "messageId").to_owned(), text(message, "payload").to_owned());
    }
    for message_id in join_all(messages.iter().map(acknowledge)).await.into_iter().flatten() {
        *settled.entry(message_id).or_default() += 1;
    }
}

#[tokio::test]
async fn an_acknowledgement_is_taken_after_the_instance_that_delivered_was_killed() {
    let database = TestDatabase::create().await;
    let issuer = Issuer::start().await;
    let config = configuration(&database, &issuer).await;
    let token = issuer.token("tester", &ALL);
    let one = Program::start(&config).await;
    let two = Program::start(&config).await;
    let (first, second) = (http(one.api).bearer(token.clone()), http(two.api).bearer(token));
    let queue = json!({ "name": "q", "kind": "queue" });
    kronos_testkit::wait_up_to(PATIENCE, "the queue is created", async || {
        first.post("/topics", &queue).await.status == 201
    })
    .await;
    first.post("/publish", &json!({ "topic": "q", "payload": 1 })).await.expect(201);
    let taken = crate::harness::take_from(&first, "q", "").await;
    one.kill().await;
    second.post(&format!("/ack/{}", text(&taken, "messageId")), &json!(null)).await.expect(204);
    let polled = second.get("/subscribe/q?mode=poll&waitMs=500").await.expect(200).json();
    assert_eq!(polled["messages"], json!([]));
    second.delete("/topics/q").await.expect(204);
    two.kill().await;
}
