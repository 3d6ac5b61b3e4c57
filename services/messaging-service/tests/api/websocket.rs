//! A subscription over a WebSocket: messages, acknowledgements, retries, extensions and credit on one socket; and stalled
//! subscribers, which hold up nobody.

use std::{collections::HashSet, time::Duration};

use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message as Frame, client::IntoClientRequest as _},
};

use crate::harness::{ALL, Harness, PATIENCE, Sse, text};

struct Socket(WebSocketStream<TcpStream>);

impl Socket {
    async fn open(messaging: &Harness, topic: &str, query: &str) -> Self {
        let address = messaging.running.api;
        let mut request = format!("ws://{address}/subscribe/{topic}?{query}").into_client_request().unwrap();
        let token = format!("Bearer {}", messaging.issuer.token("tester", &ALL));
        request.headers_mut().insert("authorization", token.parse().unwrap());
        let stream = TcpStream::connect(address).await.unwrap();
        let (socket, response) = client_async(request, stream).await.unwrap();
        assert_eq!(response.status(), 101);
        let mut socket = Self(socket);
        assert_eq!(socket.next().await["type"], "subscribed");
        socket
    }

    async fn send(&mut self, said: &Value) {
        self.0.send(Frame::text(said.to_string())).await.unwrap();
    }

    async fn next(&mut self) -> Value {
        loop {
            let frame = tokio::time::timeout(PATIENCE, self.0.next()).await.expect("something comes").unwrap().unwrap();
            match frame {
                Frame::Text(text) => return serde_json::from_str(&text).unwrap(),
                Frame::Close(frame) => return json!({ "closed": frame.map(|frame| u16::from(frame.code)) }),
                _ => {}
            }
        }
    }

    async fn is_quiet(&mut self, time: Duration) -> bool {
        tokio::time::timeout(time, self.next()).await.is_err()
    }
}

#[tokio::test]
async fn messages_are_acknowledged_retried_and_extended_on_the_socket_that_brought_them() {
    let messaging = Harness::start().await;
    messaging.topic("q", "queue", &json!({ "maxAttempts": 3 })).await;
    let mut socket = Socket::open(&messaging, "q", "").await;
    messaging.publish("q", json!({ "n": 1 })).await;
    let message = socket.next().await;
    assert_eq!(
        (&message["type"], &message["payload"], &message["attempt"]),
        (&json!("message"), &json!({ "n": 1 }), &json!(1))
    );
    let id = message["deliveryId"].clone();
    socket.send(&json!({ "type": "extend", "id": id, "leaseMs": 600_000 })).await;
    let extended = socket.next().await;
    assert_eq!((&extended["type"], &extended["id"]), (&json!("extended"), &id));
    assert!(text(&extended, "leaseExpiresAt") > text(&message, "leaseExpiresAt"));
    socket.send(&json!({ "type": "retry", "id": id, "delayMs": 0, "reason": "no steel" })).await;
    let (first, second) = (socket.next().await, socket.next().await);
    let (retried, again) = if first["type"] == "retried" { (first, second) } else { (second, first) };
    assert_eq!((&retried["type"], &retried["status"]), (&json!("retried"), &json!("scheduled")));
    assert_eq!((&again["type"], &again["attempt"]), (&json!("message"), &json!(2)));
    // The former hand-out is over.
    socket.send(&json!({ "type": "ack", "id": id })).await;
    let refused = socket.next().await;
    assert_eq!((&refused["type"], &refused["problem"]["code"]), (&json!("error"), &json!("stale_delivery")));
    socket.send(&json!({ "type": "ack", "id": again["messageId"] })).await;
    assert_eq!(socket.next().await, json!({ "type": "acked", "id": again["messageId"] }));
    for nonsense in [
        json!(1),
        json!({ "type": "shout" }),
        json!({ "type": "ack" }),
        json!({ "type": "retry", "id": "x", "delayMs": -1 }),
    ] {
        socket.send(&nonsense).await;
        assert_eq!(socket.next().await["type"], "error", "{nonsense}");
    }
    messaging.publish("q", 2).await;
    assert_eq!(socket.next().await["payload"], 2, "it goes on after nonsense");
    messaging.stop().await;
}

#[tokio::test]
async fn a_subscriber_gets_no_more_than_its_credit() {
    let messaging = Harness::start().await;
    for kind in ["queue", "stream"] {
        messaging.topic(kind, kind, &json!({})).await;
        let group = if kind == "queue" { "credit=2" } else { "credit=2&group=g" };
        let mut socket = Socket::open(&messaging, kind, group).await;
        for n in 0..5 {
            messaging.publish(kind, n).await;
        }
        socket.next().await;
        socket.next().await;
        assert!(socket.is_quiet(Duration::from_millis(500)).await, "its credit is used up");
        socket.send(&json!({ "type": "credit", "messages": 1 })).await;
        assert_eq!(socket.next().await["type"], "message");
        assert!(socket.is_quiet(Duration::from_millis(300)).await);
    }
    messaging.stop().await;
}

#[tokio::test]
async fn a_socket_without_group_resumes_and_is_closed_when_the_topic_goes() {
    let messaging = Harness::start().await;
    messaging.topic("news", "broadcast", &json!({})).await;
    let mut socket = Socket::open(&messaging, "news", "").await;
    messaging.publish("news", 1).await;
    let first = socket.next().await;
    drop(socket);
    messaging.publish("news", 2).await;
    let mut socket = Socket::open(&messaging, "news", &format!("lastEventId={}", text(&first, "resume"))).await;
    assert_eq!(socket.next().await["payload"], 2);
    messaging.client().delete("/topics/news").await.expect(204);
    assert_eq!(socket.next().await, json!({ "closed": 1001 }));
    messaging.stop().await;
}

#[tokio::test]
async fn fifty_stalled_subscribers_hold_up_nobody() {
    let messaging = Harness::start_with(|config| config.deliver.window = 4).await;
    messaging.topic("q", "queue", &json!({})).await;
    messaging.topic("s", "stream", &json!({})).await;
    let mut stalled = Vec::new();
    for n in 0..50 {
        // None of them ever reads.
        let query = if n % 2 == 0 { "max=1" } else { "max=2" };
        stalled.push(Socket::open(&messaging, "q", query).await);
        stalled.push(Socket::open(&messaging, "s", if n % 2 == 0 { "group=slow" } else { "" }).await);
    }
    let client = messaging.client();
    let mut stream = Sse::open(&client, "s", "group=quick&max=100").await;
    let mut queue = Sse::open(&client, "q", "max=100").await;
    let batch = |topic: &str| -> Vec<Value> {
        (0..300).map(|n| json!({ "topic": topic, "payload": [n, "x".repeat(1000)] })).collect()
    };
    for topic in ["q", "s"] {
        client.post("/publish/batch", &json!({ "messages": batch(topic) })).await.expect(207);
    }
    // The stalled ones hold 75 of the queue at most, whatever comes.
    let mut seen = HashSet::new();
    for (subscriber, count) in [(&mut stream, 300), (&mut queue, 225)] {
        seen.clear();
        while seen.len() < count {
            let message = subscriber.message().await;
            seen.insert(text(&message, "messageId").to_owned());
            client.post(&format!("/ack/{}", text(&message, "deliveryId")), &json!(null)).await.expect(204);
        }
    }
    assert_eq!(stalled.len(), 100);
    messaging.stop().await;
}
