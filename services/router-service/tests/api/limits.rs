//! Rate limits: alone, together, without Redis.

use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use futures::future::join_all;
use kronos_testkit::{Proxy, wait_until};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use crate::harness::{Gateway, Instance, World};

fn limited(limits: Value) -> Value {
    json!({"name": "echo", "match": {"path": {"prefix": "/echo"}}, "upstream": "echo", "authentication": ["jwt", "none"],
           "limits": limits})
}

async fn admitted(gateway: &Gateway, count: usize) -> usize {
    let answers = join_all((0..count).map(async |_| gateway.client.get("/echo").await)).await;
    assert!(answers.iter().all(|answer| [200, 429].contains(&answer.status)), "never a 5xx");
    answers.iter().filter(|answer| answer.status == 200).count()
}

#[tokio::test]
async fn whoever_asks_too_fast_is_told_when_to_come_back() {
    let echo = Instance::start("a");
    let world = World::new().await;
    let gateway = world.start().await;
    gateway.upstream("echo", &[&echo]).await;
    gateway.route(limited(json!([{"by": ["ip"], "requests": 3, "perSeconds": 2}]))).await;
    for left in [2, 1, 0] {
        let answer = gateway.client.get("/echo").await.expect(200);
        assert_eq!(answer.header("ratelimit-policy"), Some("\"ip\";q=3;w=2"));
        assert!(
            answer.header("ratelimit").unwrap().starts_with(&format!("\"ip\";r={left};t=")),
            "{:?}",
            answer.headers
        );
    }
    let answer = gateway.client.get("/echo").await.expect_problem(429, "rate_limited");
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(answer.header("ratelimit"), Some("\"ip\";r=0;t=1"));
    assert_eq!(echo.requests(), 3);
    assert!(gateway.metric("kronos_gateway_limited_total", &["route=\"echo\""]).await >= 1.0);
    let begun = Instant::now();
    wait_until("a token is back", async || gateway.client.get("/echo").await.status == 200).await;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn each_caller_has_an_allowance_of_its_own() {
    let echo = Instance::start("a");
    let world = World::new().await;
    let gateway = world.start().await;
    gateway.upstream("echo", &[&echo]).await;
    gateway.route(limited(json!([{"by": ["token"], "requests": 2, "perSeconds": 60}]))).await;
    let as_user = |user: &str| gateway.client.get("/echo").bearer(world.issuer.token(user, &[]));
    for _ in 0..2 {
        as_user("one").await.expect(200);
    }
    as_user("one").await.expect_problem(429, "rate_limited");
    as_user("two").await.expect(200);
    gateway.client.get("/echo").await.expect(200);
    // A bad token is a 401 before it costs anything.
    gateway.client.get("/echo").bearer(world.issuer.forged("two", &[])).await.expect_problem(401, "token_invalid");
    as_user("two").await.expect(200);
    as_user("two").await.expect_problem(429, "rate_limited");
}

#[tokio::test]
async fn a_request_that_one_limit_refuses_costs_nothing_in_the_other() {
    let echo = Instance::start("a");
    let world = World::new().await;
    let gateway = world.start().await;
    gateway.upstream("echo", &[&echo]).await;
    let limits =
        json!([{"by": ["ip"], "requests": 5, "perSeconds": 600}, {"by": ["ip"], "requests": 2, "perSeconds": 1}]);
    gateway.route(limited(limits)).await;
    let mut served = 0;
    let begun = Instant::now();
    while served < 5 && begun.elapsed() < Duration::from_secs(10) {
        let answer = gateway.client.get("/echo").await;
        served += usize::from(answer.status == 200);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(served, 5, "refusals took nothing from the long limit");
}

#[tokio::test]
async fn a_limit_for_everything_can_be_configured() {
    let echo = Instance::start("a");
    let mut world = World::new().await;
    let gateway = world.start().await;
    gateway.echo(&[&echo]).await;
    world.config.limits.default_requests = 3;
    world.config.limits.default_per_seconds = 60;
    let strict = world.start().await;
    for path in ["/echo", "/nowhere", "/routes"] {
        assert_ne!(strict.client.get(path).await.status, 429);
    }
    let answer = strict.client.get("/openapi.json").await.expect_problem(429, "rate_limited");
    assert_eq!(answer.header("ratelimit-policy"), Some("\"default\";q=3;w=60"));
}

#[tokio::test]
async fn two_gateways_keep_one_limit() {
    let echo = Instance::start("a");
    let world = World::new().await;
    let (one, two) = (world.start().await, world.start().await);
    one.upstream("echo", &[&echo]).await;
    one.route(limited(json!([{"by": ["ip"], "requests": 20, "perSeconds": 600}]))).await;
    wait_until("both have the route", async || two.client.get("/echo/x").await.status != 404).await;
    let before = usize::try_from(echo.requests()).unwrap();
    let mut served = before;
    for _ in 0..15 {
        served += admitted(&one, 1).await + admitted(&two, 1).await;
    }
    assert_eq!(served, 20);
}

#[tokio::test]
async fn two_gateways_keep_a_large_limit_too() {
    let echo = Instance::start("a");
    let world = World::new().await;
    let (one, two) = (world.start().await, world.start().await);
    one.upstream("echo", &[&echo]).await;
    one.route(limited(json!([{"by": ["ip"], "requests": 400, "perSeconds": 6000}]))).await;
    wait_until("both have the route", async || two.client.get("/echo/x").await.status != 404).await;
    // Leases that were not spent come back, so that in the end all are.
    wait_until("the whole allowance is spent", async || {
        let (a, b) = tokio::join!(admitted(&one, 60), admitted(&two, 60));
        a + b == 0 && echo.requests() >= 400
    })
    .await;
    let served = echo.requests();
    assert!((400..=402).contains(&served), "{served}");
}

#[tokio::test]
async fn without_redis_each_gateway_keeps_its_share() {
    let echo = Instance::start("a");
    let mut world = World::new().await;
    let (proxy, url) = Proxy::in_front_of(world.config.redis.url.expose_secret()).await;
    world.config.redis.url = url.into();
    world.config.limits.redis_timeout_ms = 500;
    let (one, two) = (world.start().await, world.start().await);
    one.upstream("echo", &[&echo]).await;
    // Both have said that they are there before Redis goes away.
    tokio::time::sleep(Duration::from_millis(5500)).await;
    proxy.block();
    one.route(limited(json!([{"by": ["ip"], "requests": 20, "perSeconds": 600}]))).await;
    wait_until("both have the route", async || two.client.get("/echo/x").await.status != 404).await;
    let before = usize::try_from(echo.requests()).unwrap();
    assert_eq!(admitted(&one, 30).await, 10, "half of it, for there are two");
    assert_eq!(before + admitted(&two, 30).await, 10);
    proxy.restore();
    wait_until("the limit is shared again", async || one.client.get("/echo").await.status == 200).await;
}

struct Redis {
    child: Child,
    port: u16,
}

impl Redis {
    fn start() -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        Self { child, port }
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn a_frozen_and_a_dead_redis_cost_no_request() {
    let echo = Instance::start("a");
    let mut world = World::new().await;
    let mut redis = Redis::start();
    world.config.redis.url = format!("redis://127.0.0.1:{}", redis.port).into();
    world.config.limits.redis_timeout_ms = 100;
    wait_until("redis listens", async || std::net::TcpStream::connect(("127.0.0.1", redis.port)).is_ok()).await;
    let gateway = world.start().await;
    gateway.upstream("echo", &[&echo]).await;
    gateway.route(limited(json!([{"by": ["ip"], "requests": 1000, "perSeconds": 6000}]))).await;
    assert_eq!(admitted(&gateway, 50).await, 50);
    redis.signal("-STOP");
    let begun = Instant::now();
    for _ in 0..10 {
        assert_eq!(admitted(&gateway, 20).await, 20);
    }
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    redis.signal("-CONT");
    redis.child.kill().unwrap();
    redis.child.wait().unwrap();
    for _ in 0..10 {
        assert_eq!(admitted(&gateway, 20).await, 20);
    }
    let over = admitted(&gateway, 1500).await;
    assert!(over < 1500, "the limit is kept here: {over}");
}

#[tokio::test]
async fn a_client_and_a_route_have_allowances_too() {
    let echo = Instance::start("a");
    let world = World::new().await;
    let gateway = world.start().await;
    gateway.upstream("echo", &[&echo]).await;
    gateway
        .route(limited(json!([{"by": ["client"], "requests": 3, "perSeconds": 60},
                              {"by": ["route"], "requests": 5, "perSeconds": 60}])))
        .await;
    let ask = async |user: &str, client: &str| {
        let token = world.issuer.build(user).client_id(client).sign();
        gateway.client.get("/echo").bearer(token).await
    };
    for user in ["ada", "bob", "eve"] {
        ask(user, "web").await.expect(200);
    }
    let answer = ask("ada", "web").await.expect_problem(429, "rate_limited");
    assert_eq!(answer.header("ratelimit-policy"), Some("\"client\";q=3;w=60"));
    for _ in 0..2 {
        ask("ada", "desk").await.expect(200);
    }
    let answer = ask("ada", "phone").await.expect_problem(429, "rate_limited");
    assert_eq!(answer.header("ratelimit-policy"), Some("\"route\";q=5;w=60"));
}

#[tokio::test]
async fn a_burst_is_less_than_the_allowance() {
    let echo = Instance::start("a");
    let world = World::new().await;
    let gateway = world.start().await;
    gateway.upstream("echo", &[&echo]).await;
    let bad = limited(json!([{"by": ["ip"], "requests": 10, "perSeconds": 1, "burst": 11}]));
    gateway.admin.post("/routes", &bad).await.expect_problem(422, "invalid_request");
    gateway.route(limited(json!([{"by": ["ip"], "requests": 60, "perSeconds": 60, "burst": 2}]))).await;
    for _ in 0..2 {
        gateway.client.get("/echo").await.expect(200);
    }
    let answer = gateway.client.get("/echo").await.expect_problem(429, "rate_limited");
    assert_eq!(answer.header("retry-after"), Some("1"), "and not a minute");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    gateway.client.get("/echo").await.expect(200);
    gateway.client.get("/echo").await.expect_problem(429, "rate_limited");
}
