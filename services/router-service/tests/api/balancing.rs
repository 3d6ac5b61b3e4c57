//! Several instances: some slow, some failing, some gone.

use std::time::{Duration, Instant as Clock};

use futures::future::join_all;
use kronos_testkit::{wait_until, wait_up_to};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{Gateway, Instance, World};

#[tokio::test]
async fn requests_go_to_all_instances() {
    let (a, b) = (Instance::start("a"), Instance::start("b"));
    let (_world, gateway) = Gateway::with_echo(&[&a, &b]).await;
    // A slow first answer may keep one of them waiting for its share.
    wait_up_to(Duration::from_secs(20), "both have had their share", async || {
        join_all((0..20).map(async |_| gateway.client.get("/echo").await.expect(200))).await;
        a.requests() > 10 && b.requests() > 10
    })
    .await;
}

#[tokio::test]
async fn the_loss_of_one_of_two_instances_fails_no_idempotent_request() {
    let (a, b) = (Instance::start("a"), Instance::start("b"));
    let (_world, gateway) = Gateway::with_echo(&[&a, &b]).await;
    let (begun, mut doomed) = (Clock::now(), Some(a));
    let mut served = 0;
    while begun.elapsed() < Duration::from_millis(1500) {
        if begun.elapsed() > Duration::from_millis(400)
            && let Some(a) = doomed.take()
        {
            assert!(a.requests() > 0);
            // In the midst of requests.
            let kill = async {
                tokio::time::sleep(Duration::from_millis(3)).await;
                a.kill();
            };
            let asked = join_all((0..30).map(async |_| gateway.client.get("/echo/slow/10").await));
            let (_, answers) = tokio::join!(kill, asked);
            assert!(answers.iter().all(|answer| answer.status == 200), "the retry hides it");
        }
        let answers = join_all((0..8).map(async |_| gateway.client.get("/echo").await)).await;
        for answer in answers {
            answer.expect(200);
            served += 1;
        }
    }
    assert!(served > 100);
    assert!(gateway.metric("kronos_gateway_retries_total", &["echo"]).await >= 1.0);
    // The one that is left is asked however it fails, until it has failed often enough to be left out.
    b.kill();
    wait_until("an instance that fails is left out", async || {
        gateway.client.get("/echo").await;
        gateway.metric("kronos_gateway_ejections_total", &["echo"]).await >= 1.0
    })
    .await;
}

#[tokio::test]
async fn an_instance_that_is_back_is_used_again() {
    let (a, b) = (Instance::start("a"), Instance::start("b"));
    let mut world = World::new().await;
    world.config.balance.ejection_base_ms = 100;
    let gateway = world.start().await;
    gateway.echo(&[&a, &b]).await;
    let address = a.address;
    a.kill();
    for _ in 0..50 {
        gateway.client.get("/echo").await.expect(200);
    }
    let before = b.requests();
    assert_eq!(before, 50);
    let back = tokio::time::timeout(Duration::from_secs(5), async {
        loop {
            match TcpListener::bind(address).await {
                Ok(listener) => break listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    });
    let router = axum::Router::new().fallback(async || "back");
    let listener = back.await.unwrap();
    let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    wait_up_to(Duration::from_secs(20), "the first instance is asked again", async || {
        gateway.client.get("/echo").await.expect(200).text() == "back"
    })
    .await;
    server.abort();
}

#[tokio::test]
async fn a_request_that_may_have_been_carried_out_is_not_repeated() {
    // Takes the request and hangs up.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (counted, mut count) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        use tokio::io::AsyncReadExt as _;
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = [0; 1024];
            let _ = stream.read(&mut buffer).await;
            counted.send(()).unwrap();
        }
    });
    let world = World::new().await;
    let gateway = world.start().await;
    let instances = json!([{"url": format!("http://{address}")}]);
    gateway.admin.post("/upstreams", &json!({"name": "echo", "instances": instances})).await.expect(201);
    gateway
        .route(json!({"name": "echo", "match": {"path": {"prefix": "/echo"}}, "upstream": "echo", "authentication": ["none"]}))
        .await;
    gateway.client.post("/echo", &json!({})).await.expect_problem(502, "upstream_failed");
    assert!(count.recv().await.is_some() && count.try_recv().is_err(), "once");
    gateway.client.get("/echo").await.expect_problem(502, "upstream_failed");
    assert!(count.recv().await.is_some() && count.recv().await.is_some(), "twice, for a GET may be repeated");
    assert!(count.try_recv().is_err(), "and not more");
}

#[tokio::test]
async fn a_post_that_was_never_sent_is_repeated_elsewhere() {
    let (a, b) = (Instance::start("a"), Instance::start("b"));
    let (_world, gateway) = Gateway::with_echo(&[&a, &b]).await;
    let address = a.address;
    a.kill();
    wait_until("nobody is connected to it any more", async || TcpStream::connect(address).await.is_err()).await;
    for index in 0..20 {
        let seen = gateway.client.post("/echo", &json!({"index": index})).await.expect(200).json();
        assert_eq!(seen["instance"], "b");
        assert!(seen["body"].as_str().unwrap().contains(&index.to_string()), "the body is whole");
    }
    assert_eq!(b.requests(), 20);
}

#[tokio::test]
async fn with_all_instances_away_the_client_is_told_when_to_come_back() {
    let a = Instance::start("a");
    let (_world, gateway) = Gateway::with_echo(&[&a]).await;
    a.kill();
    let answer = gateway.client.get("/echo").await.expect_problem(503, "upstream_unavailable");
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert!(!answer.text().contains("127.0.0.1"), "nothing of the inside: {answer}");
    gateway.client.post("/echo", &json!({})).await.expect_problem(503, "upstream_unavailable");
}

#[tokio::test]
async fn an_upstream_that_takes_no_traffic_is_away() {
    let a = Instance::start("a");
    let world = World::new().await;
    let gateway = world.start().await;
    let upstream = json!({"name": "echo", "instances": [{"url": a.url(), "weight": 0}]});
    gateway.admin.post("/upstreams", &upstream).await.expect(201);
    gateway
        .route(json!({"name": "echo", "match": {"path": {"prefix": "/echo"}}, "upstream": "echo", "authentication": ["none"]}))
        .await;
    gateway.client.get("/echo").await.expect_problem(503, "upstream_unavailable");
}

#[tokio::test]
async fn an_instance_that_is_too_slow_is_a_timeout() {
    let a = Instance::start("a");
    let world = World::new().await;
    let gateway = world.start().await;
    gateway.upstream("echo", &[&a]).await;
    gateway
        .route(json!({"name": "echo", "match": {"path": {"prefix": "/echo"}}, "upstream": "echo", "authentication": ["none"],
                      "timeoutMs": 1000}))
        .await;
    let begun = Clock::now();
    gateway.client.get("/echo/slow/20000").await.expect_problem(504, "upstream_timeout");
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert_eq!(a.requests(), 1, "it may be working on it: no second one");
    gateway.client.get("/echo/slow/10").await.expect(200);
}

#[tokio::test]
async fn all_failing_instances_together_are_asked_little_more_than_once() {
    let (a, b) = (Instance::start("a"), Instance::start("b"));
    let (_world, gateway) = Gateway::with_echo(&[&a, &b]).await;
    let (a_address, b_address) = (a.address, b.address);
    a.kill();
    b.kill();
    for _ in 0..10 {
        let answers = join_all((0..100).map(async |_| gateway.client.get("/echo").await)).await;
        assert!(answers.iter().all(|answer| answer.status == 503), "{a_address} {b_address}");
    }
    let retries = gateway.metric("kronos_gateway_retries_total", &["echo"]).await;
    assert!(retries <= 310.0, "a fifth of a thousand, and what was saved up: {retries}");
}

#[tokio::test]
async fn an_answer_is_passed_on_whatever_it_says() {
    let a = Instance::start("a");
    let (_world, gateway) = Gateway::with_echo(&[&a]).await;
    for status in [204, 304, 404, 418, 500, 503] {
        gateway.client.get(&format!("/echo/status/{status}")).await.expect(status);
    }
    assert_eq!(a.requests(), 6);
}
