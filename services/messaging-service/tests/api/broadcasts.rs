//! Broadcasts: every subscriber that listens, and groups that keep what came while nobody did.

use kronos_testkit::Proxy;
use secrecy::ExposeSecret as _;
use serde_json::json;

use crate::harness::{Harness, Sse, text};

#[tokio::test]
async fn every_subscriber_of_a_broadcast_gets_every_message() {
    let messaging = Harness::start().await;
    messaging.topic("news", "broadcast", &json!({})).await;
    // Nobody listens: that is no error.
    messaging.publish("news", "unheard").await;
    let another = messaging.another().await;
    let mut subscribers = Vec::new();
    for client in [messaging.client(), messaging.client(), messaging.client_at(&another)] {
        subscribers.push(Sse::open(&client, "news", "").await);
    }
    for n in 0..5 {
        messaging.publish("news", n).await;
    }
    for subscriber in &mut subscribers {
        for n in 0..5 {
            assert_eq!(subscriber.message().await["payload"], n);
        }
    }
    another.stop().await;
    messaging.stop().await;
}

#[tokio::test]
async fn a_group_keeps_what_was_broadcast_while_it_was_away() {
    let messaging = Harness::start().await;
    messaging.topic("news", "broadcast", &json!({ "maxAttempts": 2 })).await;
    messaging.nothing_comes("news", "&group=kept", 100).await;
    messaging.publish("news", "kept").await;
    let taken = messaging.take("news", "&group=kept").await;
    assert_eq!((&taken["payload"], &taken["group"]), (&json!("kept"), &json!("kept")));
    let client = messaging.client();
    client.post(&format!("/retry/{}", text(&taken, "deliveryId")), &json!({ "delayMs": 0 })).await.expect(202);
    assert_eq!(messaging.take("news", "&group=kept").await["attempt"], 2);
    messaging.stop().await;
}

#[tokio::test]
async fn a_listener_misses_nothing_when_its_broker_was_away() {
    let (proxy, url) = {
        let rabbit = kronos_testkit::test_rabbit().await;
        Proxy::in_front_of(rabbit.url.expose_secret()).await
    };
    let messaging = Harness::start_with(|config| config.rabbit.url = url.into()).await;
    messaging.topic("news", "broadcast", &json!({})).await;
    let mut subscriber = Sse::open(&messaging.client(), "news", "").await;
    messaging.publish("news", "before").await;
    assert_eq!(subscriber.message().await["payload"], "before");
    proxy.block();
    // It waits in the outbox.
    messaging.publish("news", "meanwhile").await;
    proxy.restore();
    assert_eq!(subscriber.message().await["payload"], "meanwhile");
    messaging.publish("news", "after").await;
    assert_eq!(subscriber.message().await["payload"], "after");
    messaging.stop().await;
}
