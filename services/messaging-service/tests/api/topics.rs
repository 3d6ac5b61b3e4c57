//! `/topics` and `/queues`: made and deleted, here and at the brokers.

use kronos_testkit::wait_up_to;
use serde_json::json;

use crate::harness::{Harness, PATIENCE, Sse};

#[tokio::test]
async fn a_topic_of_each_kind_is_made_once_listed_shown_and_deleted() {
    let messaging = Harness::start().await;
    let client = messaging.client();
    for kind in ["stream", "queue", "broadcast"] {
        let made = messaging.topic(&format!("all-{kind}"), kind, &json!({ "maxAttempts": 7 })).await;
        assert_eq!((&made["kind"], &made["maxAttempts"], &made["leaseMs"]), (&json!(kind), &json!(7), &json!(30_000)));
        let again = json!({ "name": format!("all-{kind}"), "kind": "queue" });
        client.post("/topics", &again).await.expect_problem(409, "topic_exists");
        let shown = client.get(&format!("/topics/all-{kind}")).await.expect(200).json();
        assert_eq!(shown, made);
    }
    let page = client.get("/topics?limit=2").await.expect(200).json();
    assert_eq!((&page["items"][0]["name"], &page["items"][1]["name"]), (&json!("all-broadcast"), &json!("all-queue")));
    let rest = client.get(&format!("/topics?limit=2&cursor={}", page["nextCursor"].as_str().unwrap())).await;
    let rest = rest.expect(200).json();
    assert_eq!((&rest["items"][0]["name"], &rest["nextCursor"]), (&json!("all-stream"), &json!(null)));
    let streams = client.get("/topics?kind=stream").await.expect(200).json();
    assert_eq!(streams["items"].as_array().unwrap().len(), 1);
    for kind in ["stream", "queue", "broadcast"] {
        client.delete(&format!("/topics/all-{kind}")).await.expect(204);
        client.get(&format!("/topics/all-{kind}")).await.expect_problem(404, "unknown_topic");
        client.delete(&format!("/topics/all-{kind}")).await.expect_problem(404, "unknown_topic");
    }
    messaging.stop().await;
}

#[tokio::test]
async fn a_topic_made_again_under_a_deleted_ones_name_is_empty() {
    let messaging = Harness::start().await;
    for kind in ["stream", "queue"] {
        messaging.topic("phoenix", kind, &json!({})).await;
        messaging.publish("phoenix", "old").await;
        messaging.take("phoenix", "&group=g").await;
        messaging.publish("phoenix", "old too").await;
        messaging.client().delete("/topics/phoenix").await.expect(204);
        messaging.topic("phoenix", kind, &json!({})).await;
        messaging.publish("phoenix", "new").await;
        assert_eq!(messaging.take("phoenix", "&group=g").await["payload"], "new");
        messaging.client().delete("/topics/phoenix").await.expect(204);
    }
    messaging.stop().await;
}

#[tokio::test]
async fn a_deleted_topic_takes_no_message_and_leaves_nothing_at_the_broker() {
    let messaging = Harness::start().await;
    for kind in ["stream", "queue", "broadcast"] {
        messaging.topic(kind, kind, &json!({})).await;
        messaging.publish(kind, 1).await;
        messaging.client().delete(&format!("/topics/{kind}")).await.expect(204);
        let answer = messaging.client().post("/publish", &json!({ "topic": kind, "payload": 1 })).await;
        answer.expect_problem(404, "unknown_topic");
        messaging.client().get(&format!("/subscribe/{kind}?group=g")).await.expect_problem(404, "unknown_topic");
    }
    let pool = messaging.database.pool("kronos_messaging").await;
    wait_up_to(PATIENCE, "the brokers have deleted everything", async || {
        let left: i64 = sqlx::query_scalar("select count(*) from retired_objects").fetch_one(&pool).await.unwrap();
        left == 0
    })
    .await;
    messaging.stop().await;
}

#[tokio::test]
async fn the_streams_of_a_deleted_topic_end_at_every_instance() {
    let messaging = Harness::start().await;
    let another = messaging.another().await;
    for kind in ["stream", "queue", "broadcast"] {
        messaging.topic(kind, kind, &json!({})).await;
        let mut subscribers = Vec::new();
        for client in [messaging.client(), messaging.client_at(&another)] {
            subscribers.push(Sse::open(&client, kind, "group=g").await);
            subscribers.push(Sse::open(&client, kind, "").await);
        }
        messaging.client().delete(&format!("/topics/{kind}")).await.expect(204);
        for mut subscriber in subscribers {
            while subscriber.next().await.is_some() {}
        }
    }
    another.stop().await;
    messaging.stop().await;
}

#[tokio::test]
async fn a_queue_is_made_watched_and_deleted_by_its_id() {
    let messaging = Harness::start().await;
    let client = messaging.client();
    let made =
        client.post("/queues/create", &json!({ "name": "orders", "priorityLevels": 3 })).await.expect(201).json();
    client.post("/queues/create", &json!({ "name": "orders" })).await.expect_problem(409, "topic_exists");
    for n in 0..5 {
        messaging.publish("orders", n).await;
    }
    let mut last = json!(null);
    let queue = async || client.get("/queues").await.expect(200).json()["items"][0].clone();
    wait_up_to(PATIENCE, "five messages wait", async || {
        last = queue().await;
        last["depth"] == 5
    })
    .await;
    assert_eq!((&last["queueId"], &last["degraded"]), (&made["queueId"], &json!(false)));
    let mut subscriber = Sse::open(&client, "orders", "max=2").await;
    subscriber.messages(2).await;
    wait_up_to(PATIENCE, "two are held, three wait", async || {
        last = queue().await;
        (&last["depth"], &last["inFlight"], &last["consumers"]) == (&json!(3), &json!(2), &json!(1))
    })
    .await;
    assert!(last["oldestAgeMs"].as_i64().unwrap() > 0, "{last}");
    drop(subscriber);
    wait_up_to(PATIENCE, "nobody consumes", async || queue().await["consumers"] == 0).await;
    let path = format!("/queues/{}", made["queueId"].as_str().unwrap());
    client.delete(&path).await.expect(204);
    client.delete(&path).await.expect_problem(404, "unknown_topic");
    assert_eq!(client.get("/queues").await.expect(200).json()["items"], json!([]));
    messaging.stop().await;
}

#[tokio::test]
async fn only_a_queue_is_deleted_as_a_queue() {
    let messaging = Harness::start().await;
    let made = messaging.topic("all", "broadcast", &json!({})).await;
    let client = messaging.client();
    let path = format!("/queues/{}", made["topicId"].as_str().unwrap());
    client.delete(&path).await.expect_problem(404, "unknown_topic");
    client.get("/topics/all").await.expect(200);
    messaging.stop().await;
}
