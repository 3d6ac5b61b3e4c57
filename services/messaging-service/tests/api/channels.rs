//! The ecosystem's channels: domain events for HTTP subscribers, by permission.

use kronos_common::{event::Event, outbox};
use kronos_testkit::wait_up_to;
use serde_json::json;

use crate::harness::{ALL, Harness, PATIENCE, Sse, text};

#[tokio::test]
async fn domain_events_reach_http_subscribers_who_may_read_them() {
    let messaging = Harness::start_with(|config| config.channels.enabled = true).await;
    let another = messaging.another().await;
    let permissions = [&ALL[..], &["users:read"]].concat();
    let reader = messaging.client_as("desk", &permissions);
    wait_up_to(PATIENCE, "the channels are made", async || {
        reader.get("/topics?limit=200").await.json()["items"].as_array().unwrap().len() == 7
    })
    .await;
    let client = messaging.client();
    for path in [
        "/subscribe/kronos.events.user",
        "/subscribe/kronos.events.user?mode=poll&group=g",
        "/dead-letters?topic=kronos.events.user",
    ] {
        client.get(path).await.expect_problem(403, "permission_denied");
    }
    client.delete("/topics/kronos.events.user").await.expect_problem(403, "permission_denied");
    let forged = json!({ "topic": "kronos.events.user", "payload": 1 });
    client.post("/publish", &forged).await.expect_problem(403, "permission_denied");
    client.post("/publish", &json!({ "topic": "kronos.events.gaia", "payload": "fire" })).await.expect(201);

    let mut listener = Sse::open(&reader, "kronos.events.user", "").await;
    let mut group = Sse::open(&reader, "kronos.events.user", "group=desk").await;
    // As a service tells it, and one with a secret that stays inside. The first may come before the bridge's queue is bound.
    let pool = messaging.database.pool("kronos_messaging").await;
    let relay = {
        let context = kronos_common::service::Context::detached("teller");
        let rabbit = kronos_common::rabbit::Connection::open(&messaging.config.rabbit, &context).await.unwrap();
        outbox::Relay::start(pool.clone(), rabbit, &context)
    };
    let tell = async |type_: &str| {
        let event = Event::new(type_, "u-1", json!({ "name": "Ada" }));
        outbox::insert(&mut pool.acquire().await.unwrap(), &event).await.unwrap();
        relay.wake();
        event
    };
    wait_up_to(PATIENCE, "the bridge listens", async || {
        tell("kronos.user.created").await;
        !listener.is_quiet(std::time::Duration::from_secs(2)).await
    })
    .await;
    while !listener.is_quiet(std::time::Duration::from_millis(1500)).await {}
    while !group.is_quiet(std::time::Duration::from_millis(100)).await {}
    tell("kronos.auth.mail-requested").await;
    let event = tell("kronos.role.created").await;
    for subscriber in [&mut listener, &mut group] {
        let message = subscriber.message().await;
        assert_eq!((text(&message, "messageId"), &message["payload"]), (event.id.as_str(), &json!({ "name": "Ada" })));
        assert_eq!((&message["headers"]["ce-type"], &message["key"]), (&json!("kronos.role.created"), &json!("u-1")));
    }
    assert!(listener.is_quiet(std::time::Duration::from_millis(1500)).await, "once, whatever the number of instances");
    let everything = messaging.client_as("root", &["*:*"]);
    let auth = everything.get("/topics/kronos.events.auth/ledger").await.expect(200).json();
    assert_eq!(auth["accepted"], 0, "no mail is told");
    another.stop().await;
    messaging.running.stop().await;
}
