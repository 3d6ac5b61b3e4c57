//! Bytes flow through as they come: events, both ways, upgrades, HTTP/2.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt as _;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;

use crate::harness::{Gateway, Instance};

#[tokio::test]
async fn events_arrive_at_once() {
    let echo = Instance::start("a");
    let (_world, gateway) = Gateway::with_echo(&[&echo]).await;
    let begun = Instant::now();
    let answer = gateway.client.get("/echo/events?ms=5000").stream().await;
    assert_eq!(answer.status(), 200);
    let mut events = answer.bytes_stream();
    assert_eq!(events.next().await.unwrap().unwrap(), "data: first\n\n");
    assert!(begun.elapsed() < Duration::from_secs(5), "it was not held back: {:?}", begun.elapsed());
    assert_eq!(events.next().await.unwrap().unwrap(), "data: second\n\n");
    assert!(begun.elapsed() >= Duration::from_secs(5));
}

#[tokio::test]
async fn an_event_stream_ends_when_the_gateway_drains() {
    let echo = Instance::start("a");
    let (_world, gateway) = Gateway::with_echo(&[&echo]).await;
    let mut events = gateway.client.get("/echo/events").stream().await.bytes_stream();
    events.next().await.unwrap().unwrap();
    let begun = Instant::now();
    gateway.running.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let rest: Vec<_> = events.collect().await;
    assert!(rest.iter().all(Result::is_ok), "its end is a proper one: {rest:?}");
}

#[tokio::test]
async fn a_body_flows_both_ways_at_the_same_time() {
    let echo = Instance::start("a");
    let (_world, gateway) = Gateway::with_echo(&[&echo]).await;
    let mut socket = gateway.socket().await;
    socket.send("POST /echo/stream HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nping\r\n").await;
    let answer = socket.read_until("ping").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("4\r\nping\r\n"), "{answer}");
    socket.send("4\r\npong\r\n").await;
    assert_eq!(socket.read_until("pong").await.trim(), "4\r\npong");
    socket.send("0\r\n\r\n").await;
    assert!(socket.read_until("0\r\n\r\n").await.contains("0\r\n\r\n"));
}

#[tokio::test]
async fn a_large_body_is_not_collected() {
    let echo = Instance::start("a");
    let (_world, gateway) = Gateway::with_echo(&[&echo]).await;
    gateway
        .route(json!({"name": "large", "match": {"path": {"prefix": "/large"}}, "upstream": "echo", "authentication": ["none"],
                      "bodyLimitBytes": 200_000_000}))
        .await;
    let chunk = Bytes::from(vec![b'x'; 1 << 16]);
    let chunks = futures::stream::iter((0..800).map(move |_| Ok::<_, std::io::Error>(chunk.clone())));
    let post = gateway.client.request(axum::http::Method::POST, "/large").body(reqwest::Body::wrap_stream(chunks));
    assert_eq!(post.await.expect(200).json()["bytes"], 800 << 16);
}

/// A WebSocket by hand: one masked text frame.
#[tokio::test]
async fn a_websocket_passes_through() {
    let echo = Instance::start("a");
    let (_world, gateway) = Gateway::with_echo(&[&echo]).await;
    let mut socket = gateway.socket().await;
    socket
        .send(
            "GET /echo/socket HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )
        .await;
    let head = socket.read_until("\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert!(head.to_ascii_lowercase().contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{head}");
    for text in ["hello", "again"] {
        let mask = [1, 2, 3, 4];
        let mut frame = vec![0x81, 0x80 | u8::try_from(text.len()).unwrap()];
        frame.extend(mask);
        frame.extend(text.bytes().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        socket.send(&frame).await;
        let back = socket.read_until(text).await;
        assert!(back.ends_with(text), "{back:?}");
    }
    // A drain ends it in time.
    let begun = Instant::now();
    gateway.running.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    socket.read_to_end().await;
}

#[tokio::test]
async fn an_upgrade_that_an_instance_refuses_is_a_plain_answer() {
    let echo = Instance::start("a");
    let (_world, gateway) = Gateway::with_echo(&[&echo]).await;
    let mut socket = gateway.socket().await;
    socket.send("GET /echo/plain HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    let answer = socket.read_until("\"query\":null}").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // The connection is no tunnel: what comes next is a request like any other.
    socket.send("GET /nowhere HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(socket.read_to_end().await.contains("not_found"));
}

#[tokio::test]
async fn http2_without_tls_is_spoken() {
    let echo = Instance::start("a");
    let (_world, gateway) = Gateway::with_echo(&[&echo]).await;
    let io = TokioIo::new(gateway.socket().await.0);
    let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    let driver = tokio::spawn(connection);
    let base = format!("http://{}", gateway.running.api);
    let get = async |path: &str| {
        let request = http::Request::get(format!("{base}{path}")).body(Empty::<Bytes>::new()).unwrap();
        let answer = sender.clone().send_request(request).await.unwrap();
        let (parts, body) = answer.into_parts();
        (parts, body.collect().await.unwrap().to_bytes())
    };
    let (parts, body) = get("/echo/h2").await;
    assert_eq!((parts.status.as_u16(), parts.version), (200, http::Version::HTTP_2));
    let seen: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(seen["headers"]["x-forwarded-host"], json!([gateway.running.api.to_string()]));
    let (parts, body) = get("/nowhere").await;
    assert_eq!(parts.status, 404);
    assert!(String::from_utf8_lossy(&body).contains("not_found"));
    let together = futures::future::join_all((0..50).map(|_| get("/echo/slow/500")));
    let begun = Instant::now();
    assert!(together.await.iter().all(|(parts, _)| parts.status == 200));
    assert!(begun.elapsed() < Duration::from_secs(10), "streams run side by side: {:?}", begun.elapsed());
    drop(sender);
    gateway.running.stop().await;
    let _ = driver.await.unwrap();
}
