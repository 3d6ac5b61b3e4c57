//! What an instance sees of a request, and a client of an answer.

use kronos_common::trace::TraceContext;
use serde_json::{Value, json};

use crate::harness::{Gateway, Instance, World};

fn one<'a>(seen: &'a Value, header: &str) -> &'a str {
    let values = seen["headers"][header].as_array().unwrap_or_else(|| panic!("no {header} in {seen}"));
    assert_eq!(values.len(), 1, "{header} in {seen}");
    values[0].as_str().unwrap()
}

#[tokio::test]
async fn the_gateway_alone_says_who_calls() {
    let echo = Instance::start("a");
    let (_world, gateway) = Gateway::with_echo(&[&echo]).await;
    let seen = gateway
        .client
        .get("/echo")
        .header("host", "robots.example")
        .header("x-forwarded-for", "6.6.6.6")
        .header("x-forwarded-proto", "https")
        .header("x-forwarded-host", "evil")
        .header("x-forwarded-prefix", "/evil")
        .header("forwarded", "for=6.6.6.6")
        .header("x-real-ip", "6.6.6.6")
        .header("x-kronos-subject", "admin")
        .header("x_forwarded_for", "6.6.6.6")
        .header("x-own", "kept")
        .await
        .expect(200)
        .json();
    assert_eq!(one(&seen, "x-forwarded-for"), "127.0.0.1");
    assert_eq!(one(&seen, "x-forwarded-proto"), "http");
    assert_eq!(one(&seen, "x-forwarded-host"), "robots.example");
    assert_eq!(one(&seen, "host"), echo.address.to_string());
    assert_eq!(one(&seen, "x-own"), "kept");
    for gone in ["forwarded", "x-real-ip", "x-kronos-subject", "x_forwarded_for", "x-forwarded-prefix"] {
        assert!(seen["headers"][gone].is_null(), "{gone}: {seen}");
    }
}

#[tokio::test]
async fn a_trusted_proxy_is_believed_and_its_client_limited() {
    let echo = Instance::start("a");
    let mut world = World::new().await;
    world.config.gateway.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    let gateway = world.start().await;
    gateway.upstream("echo", &[&echo]).await;
    gateway
        .route(json!({"name": "echo", "match": {"path": {"prefix": "/echo"}}, "upstream": "echo", "authentication": ["none"],
                      "limits": [{"by": ["ip"], "requests": 1, "perSeconds": 60}]}))
        .await;
    let get = |address: &'static str| {
        gateway.client.get("/echo").header("x-forwarded-for", address).header("x-forwarded-proto", "https")
    };
    let seen = get("6.6.6.6, 203.0.113.9").await.expect(200).json();
    assert_eq!(one(&seen, "x-forwarded-for"), "203.0.113.9, 127.0.0.1");
    assert_eq!(one(&seen, "x-forwarded-proto"), "https");
    get("7.7.7.7, 203.0.113.9").await.expect_problem(429, "rate_limited");
    get("203.0.113.10").await.expect(200);
}

#[tokio::test]
async fn hop_by_hop_headers_end_here() {
    let echo = Instance::start("a");
    let (_world, gateway) = Gateway::with_echo(&[&echo]).await;
    let mut socket = gateway.socket().await;
    socket
        .send(
            "GET /echo HTTP/1.1\r\nHost: a\r\nConnection: close, X-Mine, X-Forwarded-For, X-Request-Id\r\nX-Mine: 1\r\n\
             Keep-Alive: timeout=5\r\nProxy-Authorization: Basic x\r\nTE: trailers, deflate\r\nUpgrade: h2c\r\n\
             Proxy-Connection: keep-alive\r\n\r\n",
        )
        .await;
    let answer = socket.read_to_end().await;
    let seen: Value = serde_json::from_str(&answer[answer.find('{').unwrap()..=answer.rfind('}').unwrap()]).unwrap();
    for gone in ["x-mine", "keep-alive", "proxy-authorization", "proxy-connection", "upgrade", "connection"] {
        assert!(seen["headers"][gone].is_null(), "{gone}: {seen}");
    }
    assert_eq!(one(&seen, "te"), "trailers");
    assert_eq!(one(&seen, "x-forwarded-for"), "127.0.0.1", "Connection can't take a trusted header away");
    one(&seen, "x-request-id");

    let answer = gateway.client.get("/echo/headers").await.expect(200);
    for gone in ["server", "x-powered-by", "x-inner", "keep-alive"] {
        assert_eq!(answer.header(gone), None, "{gone}");
    }
}

#[tokio::test]
async fn every_answer_carries_the_headers_that_protect_a_browser() {
    let echo = Instance::start("a");
    let (_world, gateway) = Gateway::with_echo(&[&echo]).await;
    for path in ["/echo", "/nothing", "/routes", "/openapi.json"] {
        let answer = gateway.client.get(path).await;
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(answer.header("referrer-policy"), Some("no-referrer"), "{path}");
        assert_eq!(answer.header("x-frame-options"), Some("DENY"), "{path}");
        assert!(answer.header("content-security-policy").unwrap().contains("default-src 'none'"), "{path}");
        assert!(answer.header("x-request-id").is_some(), "{path}");
    }
    let own = gateway.client.get("/echo/headers").await.expect(200);
    assert_eq!(own.header("x-frame-options"), Some("SAMEORIGIN"), "an instance may say it otherwise");
}

#[tokio::test]
async fn a_request_has_one_id_from_end_to_end() {
    let echo = Instance::start("a");
    let (_world, gateway) = Gateway::with_echo(&[&echo]).await;
    let answer = gateway.client.get("/echo").header("x-request-id", "robot-42.a_b").await.expect(200);
    assert_eq!(answer.header("x-request-id"), Some("robot-42.a_b"));
    assert_eq!(one(&answer.json(), "x-request-id"), "robot-42.a_b");
    for bad in ["", "a b", "a\"b", &"x".repeat(129)] {
        let answer = gateway.client.get("/echo").header("x-request-id", bad).await.expect(200);
        let id = answer.header("x-request-id").unwrap().to_owned();
        assert!(uuid::Uuid::parse_str(&id).is_ok(), "{id}");
        assert_eq!(one(&answer.json(), "x-request-id"), id);
    }
}

#[tokio::test]
async fn a_trace_goes_through_and_a_bad_one_is_begun_anew() {
    let echo = Instance::start("a");
    let (_world, gateway) = Gateway::with_echo(&[&echo]).await;
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let get = |traceparent: &'static str| {
        gateway.client.get("/echo").header("traceparent", traceparent).header("tracestate", "a=b")
    };
    let seen = get(parent).await.expect(200).json();
    let (hop, before) = (TraceContext::parse(one(&seen, "traceparent")).unwrap(), TraceContext::parse(parent).unwrap());
    assert_eq!((hop.trace_id, hop.sampled), (before.trace_id, true));
    assert_ne!(hop.span_id, before.span_id);
    assert_eq!(one(&seen, "tracestate"), "a=b");
    for bad in ["00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", "rubbish", ""] {
        let seen = get(bad).await.expect(200).json();
        let fresh = TraceContext::parse(one(&seen, "traceparent")).unwrap();
        assert_ne!(fresh.trace_id, before.trace_id);
        assert!(seen["headers"]["tracestate"].is_null(), "the state of a trace that is not ours");
    }
    let problem = gateway.client.get("/nothing").header("traceparent", parent).await.expect(404).json();
    assert_eq!(problem["traceId"], "0af7651916cd43dd8448eb211c80319c");
}

#[tokio::test]
async fn a_wrong_method_names_the_right_ones() {
    let echo = Instance::start("a");
    let (_world, gateway) = Gateway::with_echo(&[&echo]).await;
    gateway
        .route(json!({"name": "reads", "match": {"path": {"prefix": "/reads"}, "methods": ["GET"]}, "upstream": "echo",
                      "authentication": ["none"]}))
        .await;
    let answer = gateway.client.post("/reads", &json!({})).await.expect_problem(405, "method_not_allowed");
    assert_eq!(answer.header("allow"), Some("GET, HEAD"));
    gateway.client.request(axum::http::Method::HEAD, "/reads").await.expect(200);
    gateway.client.request(axum::http::Method::TRACE, "/reads").await.expect_problem(405, "method_not_allowed");
    gateway.client.get("/nowhere").await.expect_problem(404, "not_found");
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused() {
    let echo = Instance::start("a");
    let world = World::new().await;
    let gateway = world.start().await;
    gateway.upstream("echo", &[&echo]).await;
    gateway
        .route(json!({"name": "echo", "match": {"path": {"prefix": "/echo"}}, "upstream": "echo", "authentication": ["none"],
                      "bodyLimitBytes": 1000}))
        .await;
    let post = |size: usize| gateway.client.request(axum::http::Method::POST, "/echo").body(vec![b'x'; size]);
    assert_eq!(post(1000).await.expect(200).json()["bytes"], 1000);
    post(1001).await.expect_problem(413, "body_too_large");
    let before = echo.requests();
    let chunks = futures::stream::iter((0..20).map(|_| Ok::<_, std::io::Error>(vec![b'x'; 100])));
    let chunked = gateway.client.request(axum::http::Method::POST, "/echo").body(reqwest::Body::wrap_stream(chunks));
    chunked.await.expect_problem(413, "body_too_large");
    let chunks = futures::stream::iter((0..10).map(|_| Ok::<_, std::io::Error>(vec![b'x'; 100])));
    let chunked = gateway.client.request(axum::http::Method::POST, "/echo").body(reqwest::Body::wrap_stream(chunks));
    assert_eq!(chunked.await.expect(200).json()["bytes"], 1000);
    assert!(echo.requests() >= before);
}

#[tokio::test]
async fn requests_are_counted_by_bounded_labels() {
    let echo = Instance::start("a");
    let (_world, gateway) = Gateway::with_echo(&[&echo]).await;
    for index in 0..20 {
        gateway.client.get(&format!("/echo/{index}?secret={index}")).await.expect(200);
        gateway.client.get(&format!("/nowhere/{index}")).await.expect(404);
        let method = axum::http::Method::from_bytes(format!("M{index}").as_bytes()).unwrap();
        gateway.client.request(method, "/echo").await.expect(200);
    }
    let name = "kronos_gateway_request_seconds_count";
    kronos_testkit::wait_until("all are counted", async || {
        gateway.metric(name, &["route=\"echo\"", "method=\"GET\"", "status=\"2xx\""]).await >= 20.0
            && gateway.metric(name, &["route=\"unmatched\"", "status=\"4xx\""]).await >= 20.0
            && gateway.metric(name, &["route=\"echo\"", "method=\"other\""]).await >= 20.0
    })
    .await;
    let text = gateway.metrics().await;
    assert!(!text.contains("secret") && !text.contains("M7"), "nothing of a caller's own in a label");
    assert!(text.lines().filter(|line| line.starts_with(name)).count() < 20);
}
