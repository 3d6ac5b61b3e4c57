//! Clients that mean no good, or are very slow: many at once, while others are served as if they were not there. And what an
//! error tells them.

use std::time::{Duration, Instant};

use futures::future::join_all;
use kronos_testkit::{wait_until, wait_up_to};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::harness::{Gateway, Instance, Socket, World};

const EACH: usize = 60;

#[tokio::test]
async fn slow_and_silent_clients_by_the_hundred_keep_nobody_out() {
    let echo = Instance::start("a");
    let mut world = World::new().await;
    let limits = &mut world.config.gateway;
    (limits.first_byte_timeout_ms, limits.header_timeout_ms, limits.body_idle_timeout_ms) = (15_000, 15_000, 15_000);
    let gateway = world.start().await;
    gateway.echo(&[&echo]).await;
    let mut held = Vec::new();
    for _ in 0..EACH {
        // Silence, a head that drips, a body that stops, a preface that is none, a body in chunks without end.
        for begin in [
            "",
            "GET /echo HTTP/1.1\r\nHost: a\r\nX-",
            "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nx",
            "PRI * HTTP/2.0\r\n\r\nS",
            "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n",
        ] {
            let mut socket = gateway.socket().await;
            socket.send(begin).await;
            held.push(socket);
        }
    }
    let mut slowest = Duration::ZERO;
    for _ in 0..50 {
        let begun = Instant::now();
        gateway.client.get("/echo/others").await.expect(200);
        slowest = slowest.max(begun.elapsed());
    }
    assert!(slowest < Duration::from_secs(10), "{slowest:?}");
    join_all(held.iter_mut().map(Socket::read_to_end)).await;
    let counted = gateway.metric("kronos_gateway_connections_cut_total", &[]).await;
    assert!(counted >= 3.0 * EACH as f64, "{counted}");
}

#[tokio::test]
async fn a_body_that_drips_is_cut() {
    let echo = Instance::start("a");
    let mut world = World::new().await;
    world.config.gateway.body_idle_timeout_ms = 400;
    world.config.gateway.min_body_bytes_per_second = 1000;
    let gateway = world.start().await;
    gateway.echo(&[&echo]).await;
    let drip = async |kind: &str| {
        let mut socket = gateway.socket().await;
        let head = format!("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Type: {kind}\r\nContent-Length: 12\r\n\r\n");
        socket.send(head).await;
        for _ in 0..12 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            // It may be closed already.
            let _ = socket.0.write_all(b"x").await;
        }
        socket.read_until("}").await
    };
    let (plain, grpc) = tokio::join!(drip("text/plain"), drip("application/grpc"));
    assert!(plain.starts_with("HTTP/1.1 408") && plain.contains("body_timeout"), "{plain}");
    assert!(grpc.starts_with("HTTP/1.1 200"), "a stream of messages may be quiet: {grpc}");
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_its_answer_is_cut() {
    let endless = axum::routing::get(async || {
        let chunk = bytes::Bytes::from(vec![b'x'; 1 << 16]);
        axum::body::Body::from_stream(futures::stream::repeat_with(move || Ok::<_, std::io::Error>(chunk.clone())))
    });
    let flood = Instance::serve("flood", axum::Router::new().route("/echo/endless", endless));
    let mut world = World::new().await;
    world.config.gateway.write_timeout_ms = 500;
    let gateway = world.start().await;
    gateway.echo(&[&flood]).await;
    let mut socket = gateway.socket().await;
    socket.send("GET /echo/endless HTTP/1.1\r\nHost: a\r\n\r\n").await;
    wait_up_to(Duration::from_secs(15), "it is cut", async || {
        gateway.metric("kronos_gateway_connections_cut_total", &["write"]).await == 1.0
    })
    .await;
    gateway.client.get("/echo/others").await.expect(200);
}

#[tokio::test]
async fn a_flood_of_headers_by_http2_is_refused() {
    let echo = Instance::start("a");
    let (_world, gateway) = Gateway::with_echo(&[&echo]).await;
    let io = hyper_util::rt::TokioIo::new(gateway.socket().await.0);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    let driver = tokio::spawn(connection);
    let url = format!("http://{}/echo", gateway.running.api);
    let empty = http_body_util::Empty::<bytes::Bytes>::new;
    for (count, length) in [(150, 5), (40, 1000), (3, 60_000)] {
        let mut request = http::Request::get(&url);
        for index in 0..count {
            request = request.header(format!("x-{index}"), "y".repeat(length));
        }
        let request = request.body(empty()).unwrap();
        match sender.send_request(request).await {
            Ok(answer) => assert_eq!(answer.status(), 431, "{count} of {length}"),
            // Or it is reset before it was read whole.
            Err(error) => assert!(!error.is_timeout(), "{error}"),
        }
    }
    assert_eq!(echo.requests(), 0);
    driver.abort();
    gateway.client.get("/echo/others").await.expect(200);
}

#[tokio::test]
async fn who_expects_to_be_told_to_go_on_is_told_only_if_the_body_is_wanted() {
    let echo = Instance::start("a");
    let (_world, gateway) = Gateway::with_echo(&[&echo]).await;
    gateway.route(json!({"name": "closed", "match": {"path": {"prefix": "/closed"}}, "upstream": "echo"})).await;
    let ask = async |path: &str, length: u64| {
        let mut socket = gateway.socket().await;
        let head =
            format!("POST {path} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n");
        socket.send(head).await;
        let first = socket.read_until("\r\n\r\n").await;
        (socket, first)
    };
    let (mut socket, first) = ask("/echo", 5).await;
    assert_eq!(first, "HTTP/1.1 100 Continue\r\n\r\n");
    socket.send("hello").await;
    let answer = socket.read_until("\"query\":null}").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"bytes\":5"), "{answer}");
    assert!(!answer.contains("\"expect\""), "between gateway and instance there is nothing to wait for: {answer}");
    let before = echo.requests();
    for (path, length, status) in [("/closed", 5, "401"), ("/nowhere", 5, "404"), ("/echo", 1 << 40, "413")] {
        let (_, first) = ask(path, length).await;
        assert!(first.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {first}");
    }
    assert_eq!(echo.requests(), before);
}

#[tokio::test]
async fn an_error_tells_nothing_of_the_inside() {
    let (away, broken, late) = ("http://127.0.0.1:1", Instance::start("b"), Instance::start("late"));
    let world = World::new().await;
    let gateway = world.start().await;
    let url = broken.url();
    broken.kill();
    for (name, url, more) in [
        ("away", away.to_owned(), json!({})),
        ("gone", url.clone(), json!({})),
        ("late", late.url(), json!({"timeoutMs": 1, "rewrite": {"prefix": "/echo/slow/500"}})),
    ] {
        let upstream = json!({"name": name, "instances": [{"url": url}]});
        gateway.admin.post("/upstreams", &upstream).await.expect(201);
        let mut route = json!({"name": name, "match": {"path": {"prefix": format!("/{name}")}}, "upstream": name,
                               "authentication": ["none"]});
        route.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        gateway.route(route).await;
    }
    let inside = ["127.0.0.1", "refused", "os error", "hyper", "tokio", "src/", "postgres", "panick"];
    for path in ["/away", "/gone", "/late", "/nowhere", "/routes", "/upstreams/x", "/echo/%zz"] {
        let answer = gateway.client.get(path).await;
        assert!(answer.status >= 400, "{path}: {}", answer.status);
        assert!(answer.header("server").is_none() && answer.header("via").is_none());
        let text = answer.text();
        let found: Vec<&&str> = inside.iter().filter(|word| text.to_lowercase().contains(**word)).collect();
        assert!(found.is_empty(), "{path} tells of {found:?}: {text}");
        assert!(answer.json()["code"].is_string(), "{path}: {text}");
    }
}

#[tokio::test]
async fn a_crowd_of_attackers_costs_the_others_nothing_but_time() {
    let echo = Instance::start("a");
    let mut world = World::new().await;
    world.config.gateway.max_connections_per_address = 0;
    let gateway = world.start().await;
    gateway.echo(&[&echo]).await;
    let attack = async |index: usize| {
        let mut socket = gateway.socket().await;
        let bytes: Vec<u8> = match index % 5 {
            0 => (0..4096_usize).map(|at| u8::try_from(at * 31 % 251).unwrap_or_default()).collect(),
            1 => format!("GET /echo HTTP/1.1\r\nHost: a\r\n{}", "X: y\r\n".repeat(3000)).into_bytes(),
            2 => b"GET /echo HTTP/1.1\r\n\r\n".repeat(100),
            3 => [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &[0xff; 2000]].concat(),
            _ => b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\nxx".to_vec(),
        };
        // It may be cut while it still sends.
        let _ = socket.0.write_all(&bytes).await;
        let _ = tokio::time::timeout(Duration::from_millis(50), socket.0.read(&mut [0; 512])).await;
    };
    let attackers = join_all((0..200).map(attack));
    let others = async {
        for _ in 0..100 {
            gateway.client.get("/echo/others").await.expect(200);
        }
    };
    tokio::join!(attackers, others);
    wait_until("their connections are closed", async || {
        gateway.metric("kronos_gateway_connections ", &[]).await < 100.0
    })
    .await;
}
