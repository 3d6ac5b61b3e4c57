//! Heads that are broken, ambiguous, too large, too slow.

use std::time::{Duration, Instant};

use crate::harness::{Gateway, Instance, World};

async fn refused(gateway: &Gateway, head: &str, status: &str, code: &str) {
    let mut socket = gateway.socket().await;
    socket.send(head).await;
    let answer = socket.read_to_end().await;
    assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{head:?}: {answer}");
    assert!(answer.contains(code), "{head:?}: {answer}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "nothing after it is read as a request: {answer}");
}

#[tokio::test]
async fn what_two_servers_could_read_in_two_ways_is_refused() {
    let echo = Instance::start("a");
    let (_world, gateway) = Gateway::with_echo(&[&echo]).await;
    let smuggled = "GET /echo/smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    for (head, code) in [
        (
            "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "ambiguous_length",
        ),
        (
            "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
            "ambiguous_length",
        ),
        (
            "POST /echo HTTP/1.1\r\nHost: a\r\ncontent-length: 0\r\nTRANSFER-ENCODING: chunked\r\n\r\n0\r\n\r\n",
            "ambiguous_length",
        ),
        ("GET /echo HTTP/1.1\r\n\r\n", "invalid_host"),
        ("GET /echo HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "invalid_host"),
        ("GET /echo HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "invalid_host"),
        ("GET /echo HTTP/1.1\r\nHost: a b\r\n\r\n", "invalid_host"),
        ("GET /echo HTTP/1.1\r\nHost: x@a\r\n\r\n", "invalid_host"),
        ("GET /echo HTTP/1.1\r\nHost:\r\n\r\n", "invalid_host"),
        ("GET http://b/echo HTTP/1.1\r\nHost: a\r\n\r\n", "invalid_host"),
        ("GET /echo HTTP/1.1\nHost: a\n\n", "invalid_head"),
        ("GET /echo HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", "invalid_head"),
    ] {
        refused(&gateway, &format!("{head}{smuggled}"), "400", code).await;
    }
    // hyper itself refuses these, without a document.
    for head in [
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello",
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\nhello",
        "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\nhello",
        "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "POST /echo HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET /echo HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n",
        "GET /echo HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET /echo HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
        "GET /ec ho HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /echo HTTP/9.9\r\nHost: a\r\n\r\n",
        "rubbish\r\n\r\n",
    ] {
        refused(&gateway, &format!("{head}{smuggled}"), "400", "").await;
    }
    assert_eq!(echo.requests(), 0, "nothing of this reached an instance");
}

#[tokio::test]
async fn a_broken_chunk_reaches_nobody_as_a_whole_request() {
    let echo = Instance::start("a");
    let (_world, gateway) = Gateway::with_echo(&[&echo]).await;
    for chunk in [
        "zz\r\nhello\r\n0\r\n\r\n",
        "5\r\nhelloX\r\n0\r\n\r\n",
        "-5\r\nhello\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nhello\r\n",
    ] {
        let mut socket = gateway.socket().await;
        socket.send(format!("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}")).await;
        let answer = socket.read_to_end().await;
        assert!(answer.starts_with("HTTP/1.1 400") || answer.is_empty(), "{chunk:?}: {answer}");
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let echo = Instance::start("a");
    let (_world, gateway) = Gateway::with_echo(&[&echo]).await;
    let mut socket = gateway.socket().await;
    let get = |path: &str| format!("GET /echo/{path} HTTP/1.1\r\nHost: a\r\n\r\n");
    socket
        .send(format!(
            "{}{}{}",
            get("one"),
            get("two"),
            "GET /echo/three HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        ))
        .await;
    let answer = socket.read_to_end().await;
    let at = |path: &str| answer.find(&format!("/echo/{path}\"")).unwrap_or_else(|| panic!("{path}: {answer}"));
    assert!(at("one") < at("two") && at("two") < at("three"));
    // After a body the next one is looked at again.
    let mut socket = gateway.socket().await;
    socket.send("POST /echo/a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi").await;
    assert!(socket.read_until("\"query\":null}").await.starts_with("HTTP/1.1 200"));
    socket.send("POST /echo/b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n").await;
    assert!(socket.read_until("\"query\":null}").await.starts_with("HTTP/1.1 200"));
    socket
        .send("POST /echo/c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n")
        .await;
    assert!(socket.read_to_end().await.contains("ambiguous_length"));
}

#[tokio::test]
async fn heads_that_are_too_large_are_problems() {
    let echo = Instance::start("a");
    let mut world = World::new().await;
    world.config.gateway.max_headers = 80;
    let gateway = world.start().await;
    gateway.echo(&[&echo]).await;
    let lines: String = (0..90).map(|index| format!("X-{index}: y\r\n")).collect();
    for (head, status, code) in [
        (format!("GET /echo HTTP/1.1\r\nHost: a\r\n{lines}\r\n"), 431, "headers_too_large"),
        (format!("GET /echo HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "y".repeat(33_000)), 431, "headers_too_large"),
        (format!("GET /echo/{} HTTP/1.1\r\nHost: a\r\n\r\n", "y".repeat(9000)), 414, "target_too_long"),
    ] {
        let mut socket = gateway.socket().await;
        socket.send(&head).await;
        let answer = socket.read_until(code).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains("application/problem+json"),
            "{answer}"
        );
    }
    let mut socket = gateway.socket().await;
    socket.send(format!("GET /echo HTTP/1.1\r\nHost: a\r\nX: {}", "y".repeat(200_000))).await;
    assert!(socket.read_to_end().await.starts_with("HTTP/1.1 431"), "whoever sends no end is cut");
    // So many are not even counted.
    let mut socket = gateway.socket().await;
    socket.send(format!("GET /echo HTTP/1.1\r\nHost: a\r\n{lines}{lines}\r\n")).await;
    assert!(socket.read_to_end().await.starts_with("HTTP/1.1 431"));
    assert_eq!(echo.requests(), 0);
}

#[tokio::test]
async fn silent_and_slow_clients_are_cut() {
    let echo = Instance::start("a");
    let mut world = World::new().await;
    world.config.gateway.first_byte_timeout_ms = 2000;
    world.config.gateway.header_timeout_ms = 2500;
    world.config.gateway.keep_alive_timeout_ms = 3000;
    world.config.gateway.body_idle_timeout_ms = 2500;
    world.config.gateway.min_body_bytes_per_second = 1;
    let gateway = world.start().await;
    gateway.echo(&[&echo]).await;
    let cut = async |bytes: &str, least: u64| {
        let mut socket = gateway.socket().await;
        socket.send(bytes).await;
        let begun = Instant::now();
        let answer = socket.read_to_end().await;
        let took = begun.elapsed();
        assert!(took > Duration::from_millis(least) && took < Duration::from_secs(30), "{bytes:?}: {took:?}");
        answer
    };
    assert_eq!(cut("", 1900).await, "");
    assert_eq!(cut("PRI * HTTP/2", 2400).await, "");
    assert_eq!(cut("GET /echo HTTP/1.1\r\nHost: a\r\nX-Slow: ", 2400).await, "");
    assert!(cut("GET /echo HTTP/1.1\r\nHost: a\r\n\r\n", 2900).await.starts_with("HTTP/1.1 200"), "idle");
    let answer = cut("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhel", 2400).await;
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("body_timeout"), "{answer}");
    // A head that drips does not get more time with each drop.
    let mut socket = gateway.socket().await;
    let begun = Instant::now();
    socket.send("GET /echo HTTP/1.1\r\n").await;
    let ended = loop {
        tokio::time::sleep(Duration::from_millis(50)).await;
        use tokio::io::AsyncWriteExt as _;
        if socket.0.write_all(b"X: y\r\n").await.is_err() {
            break begun.elapsed();
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "it is cut");
    };
    assert!(ended > Duration::from_millis(2400), "{ended:?}");
    // A slow but steady body is served.
    let mut socket = gateway.socket().await;
    socket.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\nConnection: close\r\n\r\n").await;
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        socket.send("x").await;
    }
    assert!(socket.read_to_end().await.starts_with("HTTP/1.1 200"));
    // And a long answer on a connection that has nothing else to do.
    gateway.client.get("/echo/slow/4000").await.expect(200);
}

#[tokio::test]
async fn one_connection_too_many_is_told_so() {
    let echo = Instance::start("a");
    let mut world = World::new().await;
    world.config.gateway.max_connections = 2;
    let gateway = world.start().await;
    let (mut one, mut two) = (gateway.socket().await, gateway.socket().await);
    for socket in [&mut one, &mut two] {
        socket.send("GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(socket.read_until("not_found").await.starts_with("HTTP/1.1 404"));
    }
    let mut three = gateway.socket().await;
    assert!(three.read_to_end().await.starts_with("HTTP/1.1 503"));
    drop(one);
    drop(two);
    kronos_testkit::wait_until("seats are free again", async || {
        let mut socket = gateway.socket().await;
        socket.send("GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n").await;
        socket.read_until("not_found").await.starts_with("HTTP/1.1 404")
    })
    .await;
    drop(echo);
}

#[tokio::test]
async fn what_is_left_of_a_body_is_no_request() {
    let echo = Instance::start("a");
    let (_world, gateway) = Gateway::with_echo(&[&echo]).await;
    // Refused before its body came; whatever follows is at most dropped.
    let mut socket = gateway.socket().await;
    socket.send("POST /routes HTTP/1.1\r\nHost: a\r\nContent-Length: 70\r\n\r\n").await;
    assert!(socket.read_until("token_missing").await.starts_with("HTTP/1.1 401"));
    use tokio::io::AsyncWriteExt as _;
    // The other side may be closed already.
    let _ = socket.0.write_all(b"GET /echo/smuggled HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let rest = socket.read_until("smuggled").await;
    assert!(!rest.contains("HTTP/1.1 200"), "{rest}");
    assert_eq!(echo.requests(), 0);
}
