//! Queues: work shared out, priorities, a backlog larger than the inventory, slow subscribers.

use std::{collections::HashSet, time::Duration};

use kronos_testkit::wait_up_to;
use serde_json::{Value, json};

use crate::harness::{Harness, PATIENCE, Sse, text};

#[tokio::test]
async fn the_work_of_a_queue_is_shared_out_among_its_subscribers() {
    let messaging = Harness::start().await;
    messaging.topic("work", "queue", &json!({})).await;
    let client = messaging.client();
    // Whatever group they name: a queue is one.
    let mut one = Sse::open(&client, "work", "").await;
    let mut two = Sse::open(&client, "work", "group=other").await;
    let batch: Vec<Value> = (0..40).map(|n| json!({ "topic": "work", "payload": n })).collect();
    client.post("/publish/batch", &json!({ "messages": batch })).await.expect(207);
    let mut seen = HashSet::new();
    let (mut ones, mut twos) = (0, 0);
    while seen.len() < 40 {
        let message = tokio::select! {
            message = one.message() => { ones += 1; message }
            message = two.message() => { twos += 1; message }
        };
        assert!(seen.insert(text(&message, "messageId").to_owned()), "twice: {message}");
        client.post(&format!("/ack/{}", text(&message, "messageId")), &json!(null)).await.expect(204);
    }
    assert!(ones >= 5 && twos >= 5, "{ones} and {twos}");
    messaging.stop().await;
}

#[tokio::test]
async fn a_subscriber_holds_no_more_than_its_window() {
    let messaging = Harness::start().await;
    messaging.topic("work", "queue", &json!({})).await;
    let client = messaging.client();
    let mut subscriber = Sse::open(&client, "work", "max=3").await;
    for n in 0..5 {
        messaging.publish("work", n).await;
    }
    let held = subscriber.messages(3).await;
    assert!(subscriber.is_quiet(Duration::from_millis(700)).await);
    client.post(&format!("/ack/{}", text(&held[0], "deliveryId")), &json!(null)).await.expect(204);
    subscriber.message().await;
    assert!(subscriber.is_quiet(Duration::from_millis(300)).await);
    messaging.stop().await;
}

#[tokio::test]
async fn urgent_messages_come_first_and_equal_ones_in_their_order() {
    let messaging = Harness::start().await;
    messaging.topic("orders", "queue", &json!({ "priorityLevels": 3 })).await;
    for (n, priority) in [(1, 0), (2, 1), (3, 2), (4, 0), (5, 2), (6, 9)] {
        messaging.publish_with("orders", n, &json!({ "priority": priority })).await;
    }
    // Filled by a first look, so that all are there to choose from.
    let first = messaging.take("orders", "").await;
    let back = json!({ "delayMs": 0 });
    messaging.client().post(&format!("/retry/{}", text(&first, "deliveryId")), &back).await.expect(202);
    let pool = messaging.database.pool("kronos_messaging").await;
    wait_up_to(PATIENCE, "all are in the inventory", async || {
        let ready: i64 =
            sqlx::query_scalar("select count(*) from deliveries where state = 'ready'").fetch_one(&pool).await.unwrap();
        ready == 6
    })
    .await;
    let mut order = Vec::new();
    for _ in 0..6 {
        order.push(messaging.take("orders", "").await["payload"].as_i64().unwrap());
    }
    assert_eq!(order, [6, 3, 5, 2, 1, 4]);
    messaging.stop().await;
}

#[tokio::test]
async fn an_urgent_message_overtakes_a_backlog_that_fills_the_inventory() {
    let messaging = Harness::start_with(|config| config.deliver.ready_rows = 20).await;
    messaging.topic("orders", "queue", &json!({ "priorityLevels": 2 })).await;
    let batch: Vec<Value> = (0..200).map(|n| json!({ "topic": "orders", "payload": n })).collect();
    messaging.client().post("/publish/batch", &json!({ "messages": batch })).await.expect(207);
    let mut subscriber = Sse::open(&messaging.client(), "orders", "max=1").await;
    let first = subscriber.message().await;
    messaging.publish_with("orders", "urgent", &json!({ "priority": 1 })).await;
    let pool = messaging.database.pool("kronos_messaging").await;
    wait_up_to(PATIENCE, "the urgent one is in the inventory", async || {
        let count: i64 =
            sqlx::query_scalar("select count(*) from deliveries where priority = 1").fetch_one(&pool).await.unwrap();
        count == 1
    })
    .await;
    let waiting: i64 =
        sqlx::query_scalar("select count(*) from deliveries where state = 'ready'").fetch_one(&pool).await.unwrap();
    assert!(waiting <= 60, "the backlog stays at the broker, but {waiting} are here");
    messaging.client().post(&format!("/ack/{}", text(&first, "deliveryId")), &json!(null)).await.expect(204);
    assert_eq!(subscriber.message().await["payload"], "urgent");
    messaging.stop().await;
}

#[tokio::test]
async fn a_backlog_is_worked_off_through_a_small_inventory() {
    let messaging = Harness::start_with(|config| config.deliver.ready_rows = 10).await;
    messaging.topic("work", "queue", &json!({})).await;
    let batch: Vec<Value> = (0..300).map(|n| json!({ "topic": "work", "payload": n })).collect();
    messaging.client().post("/publish/batch", &json!({ "messages": batch })).await.expect(207);
    let client = messaging.client();
    let mut subscriber = Sse::open(&client, "work", "").await;
    let mut seen = HashSet::new();
    while seen.len() < 300 {
        let message = subscriber.message().await;
        assert!(seen.insert(message["payload"].as_i64().unwrap()));
        client.post(&format!("/ack/{}", text(&message, "deliveryId")), &json!(null)).await.expect(204);
    }
    messaging.stop().await;
}

#[tokio::test]
async fn what_a_subscriber_that_left_had_not_read_goes_back_at_once() {
    let messaging = Harness::start().await;
    messaging.topic("work", "queue", &json!({})).await;
    let client = messaging.client();
    let idle = Sse::open(&client, "work", "max=5").await;
    for n in 0..3 {
        messaging.publish("work", vec!["x".repeat(200_000); 1]).await;
        let _ = n;
    }
    let pool = messaging.database.pool("kronos_messaging").await;
    wait_up_to(PATIENCE, "all are leased", async || {
        let leased: i64 = sqlx::query_scalar("select count(*) from deliveries where state = 'leased'")
            .fetch_one(&pool)
            .await
            .unwrap();
        leased == 3
    })
    .await;
    drop(idle);
    // Whatever was in the sockets stays leased; nothing is lost either way, and no attempt is counted for what goes back.
    wait_up_to(PATIENCE, "nobody listens", async || {
        client.get("/queues").await.expect(200).json()["items"][0]["consumers"] == 0
    })
    .await;
    let rows: Vec<(String, i32)> =
        sqlx::query_as("select state, attempt from deliveries").fetch_all(&pool).await.unwrap();
    for (state, attempt) in rows {
        assert_eq!(attempt, i32::from(state == "leased"), "{state}");
    }
    messaging.stop().await;
}

#[tokio::test]
async fn a_message_that_waits_long_is_handed_out_before_urgent_ones_that_are_young() {
    let messaging = Harness::start().await;
    messaging.topic("orders", "queue", &json!({ "priorityLevels": 3, "ageingMs": 200 })).await;
    let made = messaging.topic("strict", "queue", &json!({ "priorityLevels": 3, "ageingMs": 0 })).await;
    assert_eq!(made["ageingMs"], 0);
    let pool = messaging.database.pool("kronos_messaging").await;
    for (topic, expected) in [("orders", ["patient", "urgent"]), ("strict", ["urgent", "patient"])] {
        messaging.publish_with(topic, "patient", &json!({ "priority": 0 })).await;
        tokio::time::sleep(Duration::from_millis(700)).await;
        messaging.publish_with(topic, "urgent", &json!({ "priority": 2 })).await;
        // Held and given back, so that both are there to choose from.
        let held = messaging.take(topic, "").await;
        messaging
            .client()
            .post(&format!("/retry/{}", text(&held, "deliveryId")), &json!({ "delayMs": 0 }))
            .await
            .expect(202);
        wait_up_to(PATIENCE, "both wait", async || {
            let ready: i64 = sqlx::query_scalar("select count(*) from deliveries where state = 'ready'")
                .fetch_one(&pool)
                .await
                .unwrap();
            ready == 2
        })
        .await;
        for payload in expected {
            let taken = messaging.take(topic, "").await;
            assert_eq!(taken["payload"], payload, "{topic}");
            messaging.client().post(&format!("/ack/{}", text(&taken, "deliveryId")), &json!(null)).await.expect(204);
        }
    }
    messaging.stop().await;
}
