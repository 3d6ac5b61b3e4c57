//! The end of a gateway, as its clients see it; and how soon a change is everywhere.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use proptest::prelude::*;
use router_service::tunnel::Frames;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::harness::{Gateway, Instance, Socket, World};

async fn websocket(gateway: &Gateway) -> Socket {
    let mut socket = gateway.socket().await;
    socket
        .send(
            "GET /echo/socket HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )
        .await;
    assert!(socket.read_until("\r\n\r\n").await.starts_with("HTTP/1.1 101"));
    socket
}

#[tokio::test]
async fn a_websocket_is_told_1001_at_the_drain() {
    let echo = Instance::start("a");
    let (_world, gateway) = Gateway::with_echo(&[&echo]).await;
    let mut socket = websocket(&gateway).await;
    // A masked text frame, whose echo shows that the tunnel stands.
    socket.send([0x81, 0x82, 0, 0, 0, 0, b'h', b'i']).await;
    assert!(socket.read_until("hi").await.ends_with("hi"));
    let stop = tokio::spawn(gateway.running.stop());
    let mut seen = Vec::new();
    let read = tokio::io::AsyncReadExt::read_to_end(&mut socket.0, &mut seen);
    tokio::time::timeout(Duration::from_secs(5), read).await.unwrap().unwrap();
    assert_eq!(seen, [0x88, 0x02, 0x03, 0xe9], "close, going away");
    stop.await.unwrap();
}

proptest! {
    /// However the bytes are cut, a boundary is seen where one is, and only there.
    #[test]
    fn frames_are_followed_however_they_are_cut(
        sizes in prop::collection::vec((0..70_000_usize, any::<bool>()), 1..6),
        cut in 1..5000_usize,
    ) {
        let mut bytes = Vec::new();
        let mut ends = vec![0];
        for (size, masked) in sizes {
            bytes.push(0x82);
            let mask = if masked { 0x80 } else { 0 };
            match size {
                0..126 => bytes.push(mask | u8::try_from(size).unwrap()),
                126..65_536 => {
                    bytes.push(mask | 126);
                    bytes.extend(u16::try_from(size).unwrap().to_be_bytes());
                }
                _ => {
                    bytes.push(mask | 127);
                    bytes.extend((size as u64).to_be_bytes());
                }
            }
            bytes.extend(vec![7; if masked { 4 } else { 0 } + size]);
            ends.push(bytes.len());
        }
        let (mut frames, mut at) = (Frames::default(), 0);
        for part in bytes.chunks(cut) {
            frames.feed(part);
            at += part.len();
            prop_assert_eq!(frames.is_between(), ends.contains(&at), "at {}", at);
        }
    }
}

#[tokio::test]
async fn http2_clients_are_told_to_go_away_and_lose_nothing() {
    let echo = Instance::start("a");
    let (_world, gateway) = Gateway::with_echo(&[&echo]).await;
    let io = TokioIo::new(gateway.socket().await.0);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    let driver = tokio::spawn(connection);
    let url = format!("http://{}/echo/slow/600", gateway.running.api);
    let request = http::Request::get(&url).body(Empty::<Bytes>::new()).unwrap();
    let asked = tokio::spawn(sender.send_request(request));
    kronos_testkit::wait_until("the request is under way", async || echo.requests() == 1).await;
    let stop = tokio::spawn(gateway.running.stop());
    let answer = asked.await.unwrap().unwrap();
    assert_eq!(answer.status(), 200, "what is under way is finished");
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "a");
    // GOAWAY without an error ends the connection by itself.
    driver.await.unwrap().unwrap();
    assert!(sender.ready().await.is_err());
    stop.await.unwrap();
}

#[tokio::test]
async fn http1_clients_are_told_to_close_and_lose_nothing() {
    let echo = Instance::start("a");
    let (_world, gateway) = Gateway::with_echo(&[&echo]).await;
    let mut socket = gateway.socket().await;
    socket.send("GET /echo/slow/600 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    kronos_testkit::wait_until("the request is under way", async || echo.requests() == 1).await;
    let stop = tokio::spawn(gateway.running.stop());
    let answer = socket.read_to_end().await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.to_ascii_lowercase().contains("\r\nconnection: close\r\n"), "{answer}");
    stop.await.unwrap();
}

/// With `--nocapture` it prints how long changes took.
#[tokio::test]
async fn a_change_is_at_the_other_gateway_before_the_poll_would_bring_it_and_fails_nobody() {
    const CHANGES: usize = 100;
    let (mut world, echo) = (World::new().await, Instance::start("a"));
    // The poll could not bring it within this test.
    world.config.gateway.poll_interval_ms = 60_000;
    let (first, second) = (world.start().await, world.start().await);
    first.echo(&[&echo]).await;
    kronos_testkit::wait_until("both have the route", async || second.client.get("/echo").await.status == 200).await;
    let ending = CancellationToken::new();
    let load = async |gateway: &Gateway| {
        let mut served = 0;
        while !ending.is_cancelled() {
            gateway.client.get("/echo/load").await.expect(200);
            served += 1;
        }
        served
    };
    let changes = async {
        let mut took = Vec::new();
        for index in 0..CHANGES {
            let path = format!("/changed-{index}");
            let route = json!({"name": format!("changed-{index}"), "match": {"path": {"exact": path}},
                               "upstream": "echo", "authentication": ["none"]});
            first.route(route).await;
            let begun = Instant::now();
            while second.client.get(&path).await.status != 200 {
                assert!(begun.elapsed() < Duration::from_secs(10), "it came by notification");
            }
            took.push(begun.elapsed());
        }
        ending.cancel();
        took.sort();
        took
    };
    let (took, one, two) = tokio::join!(changes, load(&first), load(&second));
    let (median, p99) = (took[CHANGES / 2], took[CHANGES * 99 / 100]);
    #[expect(clippy::print_stdout, reason = "a figure to read")]
    {
        println!(
            "{CHANGES} changes at the other gateway: median {median:?}, p99 {p99:?}; {} requests, none failed",
            one + two
        );
    }
    // Generous for a machine that does other things; the poll alone would take a thousand times as long.
    assert!(median < Duration::from_millis(500), "{took:?}");
}
