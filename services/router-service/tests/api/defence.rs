//! Clients that take more than their part: connections from one address, requests that are given up at once.

use std::time::Duration;

use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kronos_testkit::wait_until;

use crate::harness::{Instance, World};

#[tokio::test]
async fn one_address_has_so_many_connections() {
    let (world, echo) = (World::new().await, Instance::start("a"));
    let mut config = world.config.clone();
    config.gateway.max_connections_per_address = 3;
    let gateway = world.start_with(config).await;
    // The client that makes the route keeps a connection for itself.
    gateway.echo(&[&echo]).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut socket = gateway.socket().await;
        socket.send("GET /echo/x HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(socket.read_until("\"query\":null}").await.starts_with("HTTP/1.1 200"));
        held.push(socket);
    }
    let mut socket = gateway.socket().await;
    socket.send("GET /echo/x HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(socket.read_to_end().await.starts_with("HTTP/1.1 503"));
    drop(held.pop());
    wait_until("the place is free again", async || {
        let mut socket = gateway.socket().await;
        socket.send("GET /echo/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
        socket.read_to_end().await.starts_with("HTTP/1.1 200")
    })
    .await;
}

#[tokio::test]
async fn a_client_that_resets_rapidly_is_cut() {
    let (world, echo) = (World::new().await, Instance::start("a"));
    let mut config = world.config.clone();
    config.gateway.max_resets = 20;
    let gateway = world.start_with(config).await;
    gateway.echo(&[&echo]).await;
    let io = TokioIo::new(gateway.socket().await.0);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    let driver = tokio::spawn(connection);
    let url = format!("http://{}/echo/slow/2000", gateway.running.api);
    for _ in 0..100 {
        let request = http::Request::get(&url).body(Empty::<bytes::Bytes>::new()).unwrap();
        if sender.ready().await.is_err() {
            break;
        }
        let asked = sender.send_request(request);
        // Long enough to be sent, too short for an answer; dropped, it is reset.
        let _ = tokio::time::timeout(Duration::from_millis(5), asked).await;
    }
    wait_until("the connection is cut", async || driver.is_finished()).await;
    assert_eq!(gateway.metric("kronos_gateway_connections_cut_total", &["resets"]).await, 1.0);
    // Others are served.
    gateway.client.get("/echo/x").await.expect(200);
}
