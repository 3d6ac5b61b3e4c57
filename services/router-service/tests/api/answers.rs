//! What instances answer, byte by byte: how the end of a body is found, what is refused, which connections are used again.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::BytesMut;
use http::{Method, StatusCode};
use proptest::prelude::*;
use router_service::upstream::wire::{Chunks, Framing, Piece, head};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use crate::harness::{Gateway, World};

/// An instance that reads a head and says `answer`, as often as it is asked; then it closes if `close`.
struct Scripted {
    url: String,
    connections: Arc<AtomicU64>,
}

impl Scripted {
    async fn start(answer: &'static [&'static str], close: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let connections = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    let mut seen = Vec::new();
                    loop {
                        let mut buffer = [0; 1024];
                        match stream.read(&mut buffer).await {
                            Ok(0) | Err(_) => return,
                            Ok(count) => seen.extend_from_slice(&buffer[..count]),
                        }
                        if !seen.windows(4).any(|end| end == b"\r\n\r\n") {
                            continue;
                        }
                        seen.clear();
                        for part in answer {
                            if stream.write_all(part.as_bytes()).await.is_err() {
                                return;
                            }
                            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                        }
                        if close {
                            return;
                        }
                    }
                });
            }
        });
        Self { url, connections }
    }

    async fn gateway(&self) -> (World, Gateway) {
        let world = World::new().await;
        let gateway = world.start().await;
        let upstream = json!({"name": "echo", "instances": [{"url": self.url}]});
        gateway.admin.post("/upstreams", &upstream).await.expect(201);
        gateway
            .route(json!({"name": "echo", "match": {"path": {"prefix": "/echo"}}, "upstream": "echo",
                          "authentication": ["none"]}))
            .await;
        (world, gateway)
    }

    fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn a_body_ends_where_its_head_says() {
    for (answer, body) in [
        (&["HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"][..], "hello"),
        (&["HTTP/1.1 200 OK\r\nContent-Le", "ngth: 5\r\n", "\r\nhe", "llo"], "hello"),
        (&["HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello"], "hello"),
        (&["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nhel\r", "\n2\r\nlo\r\n0\r\n\r\n"], "hello"),
        (
            &[
                "HTTP/1.1 100 Continue\r\n\r\n",
                "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
            ],
            "hi",
        ),
        (&["HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"], ""),
    ] {
        let instance = Scripted::start(answer, false).await;
        let (_world, gateway) = instance.gateway().await;
        for _ in 0..3 {
            assert_eq!(gateway.client.get("/echo").await.expect(200).text(), body, "{answer:?}");
        }
        assert_eq!(instance.connections(), 1, "one connection serves all: {answer:?}");
    }
}

#[tokio::test]
async fn a_body_without_a_length_ends_with_its_connection() {
    let instance = Scripted::start(&["HTTP/1.1 200 OK\r\n\r\nhel", "lo"], true).await;
    let (_world, gateway) = instance.gateway().await;
    for _ in 0..2 {
        assert_eq!(gateway.client.get("/echo").await.expect(200).text(), "hello");
    }
    assert_eq!(instance.connections(), 2);
    let old = Scripted::start(&["HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi"], false).await;
    let (_world, gateway) = old.gateway().await;
    for _ in 0..2 {
        assert_eq!(gateway.client.get("/echo").await.expect(200).text(), "hi");
    }
    assert_eq!(old.connections(), 2, "HTTP/1.0 closes unless it says otherwise");
}

#[tokio::test]
async fn an_answer_that_could_be_read_in_two_ways_is_passed_on_to_nobody() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 099 Odd\r\nContent-Length: 0\r\n\r\n",
        "rubbish\r\n\r\n",
    ] {
        let answers: &'static [&'static str] = Box::leak(Box::new([answer]));
        let instance = Scripted::start(answers, false).await;
        let (_world, gateway) = instance.gateway().await;
        gateway.client.get("/echo").await.expect_problem(502, "upstream_failed");
    }
}

#[tokio::test]
async fn a_broken_body_is_not_made_whole() {
    for answer in [
        &["HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello"][..],
        &["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"],
        &["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloX\r\n0\r\n\r\n"],
    ] {
        let instance = Scripted::start(answer, true).await;
        let (_world, gateway) = instance.gateway().await;
        let mut socket = gateway.socket().await;
        socket.send("GET /echo HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let got = socket.read_to_end().await;
        // The head may be lost with what comes after it.
        let begun = got.is_empty() || got.starts_with("HTTP/1.1 200");
        assert!(begun && !got.ends_with("0\r\n\r\n"), "{answer:?}: {got}");
    }
}

#[tokio::test]
async fn bytes_that_nobody_asked_for_are_given_to_nobody() {
    let answer = &["HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"];
    let instance = Scripted::start(answer, false).await;
    let (_world, gateway) = instance.gateway().await;
    for _ in 0..3 {
        assert_eq!(gateway.client.get("/echo").await.expect(200).text(), "hi");
    }
    assert_eq!(instance.connections(), 3);
}

#[tokio::test]
async fn a_connection_that_its_instance_has_closed_fails_nobody() {
    let instance = Scripted::start(&["HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"], true).await;
    let (_world, gateway) = instance.gateway().await;
    for round in 0..10 {
        // Not repeatable: the closed connection must be noticed before it is used.
        let answer = gateway.client.post("/echo", &json!({ "round": round })).await;
        assert_eq!(answer.expect(200).text(), "hi");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(instance.connections(), 10);
}

#[tokio::test]
async fn an_answer_to_head_has_a_length_and_no_body() {
    let instance = Scripted::start(&["HTTP/1.1 200 OK\r\nContent-Length: 1234\r\nX-Own: yes\r\n\r\n"], false).await;
    let (_world, gateway) = instance.gateway().await;
    let mut socket = gateway.socket().await;
    for _ in 0..2 {
        socket.send("HEAD /echo HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let head = socket.read_until("\r\n\r\n").await.to_ascii_lowercase();
        assert!(head.contains("content-length: 1234") && head.contains("x-own: yes"), "{head}");
    }
    assert_eq!(instance.connections(), 1);
}

#[tokio::test]
async fn an_answer_may_come_before_the_request_is_complete() {
    let instance = Scripted::start(&["HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno"], false).await;
    let (_world, gateway) = instance.gateway().await;
    let mut socket = gateway.socket().await;
    socket.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nbegin").await;
    let answer = socket.read_until("no").await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
}

const HEADS: &str = "HTTP/1.1 103 Early\r\nA: b\r\n\r\nHTTP/1.1 206 Part\r\nConnection: x-inner, keep-alive\r\n\
                     Keep-Alive: timeout=5\r\nX-Inner: hop\r\nServer: secret\r\nX-Own: kept\r\nContent-Length: 7\r\n\r\n";

proptest! {
    #[test]
    fn a_head_is_the_same_however_it_is_cut(cuts in prop::collection::vec(1..30_usize, 0..20)) {
        let (mut input, mut rest, mut found) = (BytesMut::new(), HEADS.as_bytes(), None);
        for cut in cuts.into_iter().chain([HEADS.len()]) {
            let (now, later) = rest.split_at(cut.min(rest.len()));
            input.extend_from_slice(now);
            rest = later;
            if !input.is_empty() && found.is_none() {
                found = head(&mut input, &Method::GET).unwrap();
            }
        }
        let head = found.unwrap();
        prop_assert_eq!(head.status, StatusCode::PARTIAL_CONTENT);
        prop_assert!(head.keep && head.framing == Framing::Length(7));
        let names: Vec<_> = head.headers.keys().map(|name| name.as_str().to_owned()).collect();
        prop_assert_eq!(names, ["x-own", "content-length"]);
    }

    #[test]
    fn chunks_are_the_same_however_they_are_cut(
        data in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6),
        cuts in prop::collection::vec(1..20_usize, 0..40),
    ) {
        let mut coded = Vec::new();
        for chunk in &data {
            coded.extend_from_slice(format!("{:X};a=b\r\n", chunk.len()).as_bytes());
            coded.extend_from_slice(chunk);
            coded.extend_from_slice(b"\r\n");
        }
        coded.extend_from_slice(b"0\r\nX-Sum: 7\r\nContent-Length: 9\r\n\r\nrest");
        let (mut chunks, mut input, mut rest) = (Chunks::default(), BytesMut::new(), &coded[..]);
        let (mut got, mut ended) = (Vec::new(), None);
        for cut in cuts.into_iter().chain([coded.len()]) {
            let (now, later) = rest.split_at(cut.min(rest.len()));
            input.extend_from_slice(now);
            rest = later;
            while ended.is_none() {
                match chunks.take(&mut input).unwrap() {
                    Some(Piece::Data(data)) => got.extend_from_slice(&data),
                    Some(Piece::End(trailers)) => ended = Some(trailers),
                    None => break,
                }
            }
        }
        prop_assert_eq!(got, data.concat());
        let trailers = ended.unwrap().unwrap();
        prop_assert_eq!(trailers.len(), 1, "framing is no trailer");
        prop_assert_eq!(trailers["x-sum"].as_bytes(), b"7");
        prop_assert_eq!(&input[..], b"rest");
    }

    #[test]
    fn no_answer_makes_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), begin in any::<bool>()) {
        let start: &[u8] = if begin { b"HTTP/1.1 200 OK\r\n" } else { b"" };
        let mut input = BytesMut::from(start);
        input.extend_from_slice(&bytes);
        let _ = head(&mut input.clone(), &Method::GET);
        let mut chunks = Chunks::default();
        for _ in 0..500 {
            match chunks.take(&mut input) {
                Ok(Some(Piece::Data(_))) => {}
                _ => break,
            }
        }
    }
}
