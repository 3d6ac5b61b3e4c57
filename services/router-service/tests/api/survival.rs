//! Stores that are away, starts, drains, cores.

use std::time::{Duration, Instant};

use futures::future::join_all;
use kronos_testkit::{Proxy, http, wait_until};
use router_service::{
    live::Live,
    outlier::Rules,
    table::{Defaults, Snapshot},
    telemetry::Metrics,
};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use crate::harness::{Gateway, Instance, World, context};

fn file() -> String {
    std::env::temp_dir().join(format!("{}.json", kronos_testkit::unique("table"))).to_str().unwrap().to_owned()
}

#[tokio::test]
async fn without_postgres_the_last_good_table_is_served() {
    let echo = Instance::start("a");
    let mut world = World::new().await;
    let (proxy, url) = Proxy::in_front_of(world.config.postgres.url.expose_secret()).await;
    world.config.postgres.url = url.into();
    world.config.postgres.acquire_timeout_ms = 3000;
    world.config.gateway.table_path = file();
    let gateway = world.start().await;
    gateway.echo(&[&echo]).await;
    proxy.block();
    // Away while it runs.
    for _ in 0..5 {
        gateway.client.get("/echo").await.expect(200);
    }
    let answer = gateway.admin.get("/routes").await.expect_problem(503, "store_unavailable");
    assert!(answer.header("retry-after").is_some());
    let ready = http(gateway.running.operations).get("/ready").await.expect(200).json();
    let postgres = ready["dependencies"].as_array().unwrap().iter().find(|one| one["name"] == "postgres").unwrap();
    assert_eq!((&postgres["up"], &postgres["required"]), (&json!(false), &json!(false)));
    gateway.running.stop().await;

    // Away when it starts.
    let gateway = world.start().await;
    gateway.client.get("/echo").await.expect(200);
    gateway.client.get("/users").await.expect_problem(401, "token_missing");

    // And back: changes are possible and followed again.
    proxy.restore();
    let new =
        json!({"name": "new", "match": {"path": {"prefix": "/new"}}, "upstream": "echo", "authentication": ["none"]});
    wait_until("routes can be made again", async || gateway.admin.post("/routes", &new).await.status == 201).await;
    gateway.client.get("/new").await.expect(200);
    std::fs::remove_file(&world.config.gateway.table_path).unwrap();
}

#[tokio::test]
async fn without_postgres_and_without_a_table_there_is_no_start() {
    let mut world = World::new().await;
    let (proxy, url) = Proxy::in_front_of(world.config.postgres.url.expose_secret()).await;
    world.config.postgres.url = url.into();
    world.config.postgres.acquire_timeout_ms = 3000;
    proxy.block();
    let starting = world.start();
    tokio::pin!(starting);
    let early = tokio::time::timeout(Duration::from_secs(1), &mut starting).await;
    assert!(early.is_err(), "it waits");
    proxy.restore();
    let gateway = tokio::time::timeout(Duration::from_secs(30), starting).await.unwrap();
    gateway.admin.get("/routes").await.expect(200);
}

#[tokio::test]
async fn a_table_that_does_not_compile_is_refused_whole() {
    let path = file();
    let rules = Rules { failures: 5, base_us: 1000, max_us: 1000, panic_percent: 20 };
    let defaults = Defaults { timeout: Duration::from_secs(1), body_limit: 1000, rules };
    let live = Live::new(defaults, Metrics::new(&context()), &path);
    let snapshot = |version: i64, upstream: &str| -> Snapshot {
        serde_json::from_value(json!({"version": version,
            "upstreams": [{"id": uuid::Uuid::now_v7(), "spec": {"name": "echo", "instances": [{"url": "http://a:1"}]}}],
            "routes": [{"id": uuid::Uuid::now_v7(), "spec": {"name": "r", "match": {"path": {"prefix": "/r"}}, "upstream": upstream}}]}))
        .unwrap()
    };
    assert!(live.apply(&snapshot(3, "echo")).unwrap());
    assert!(live.apply(&snapshot(4, "nowhere")).is_err());
    assert_eq!(live.table().version, 3, "the good one stays");
    assert!(!live.apply(&snapshot(2, "echo")).unwrap(), "an older one is no news");
    let kept: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(kept["version"], 3);
    let again = Live::new(defaults, Metrics::new(&context()), &path);
    assert!(again.restore());
    assert!(again.apply(&snapshot(1, "echo")).unwrap(), "anything stored is newer than what was on disk");
    std::fs::write(&path, "{").unwrap();
    assert!(!Live::new(defaults, Metrics::new(&context()), &path).restore());
    std::fs::remove_file(path).unwrap();
}

#[tokio::test]
async fn requests_under_way_are_finished_at_the_end() {
    let echo = Instance::start("a");
    let (_world, gateway) = Gateway::with_echo(&[&echo]).await;
    let slow = tokio::spawn(gateway.client.get("/echo/slow/600").into_future());
    let mut idle = gateway.socket().await;
    idle.send("GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n").await;
    idle.read_until("not_found").await;
    wait_until("the slow one is under way", async || echo.requests() == 1).await;
    let address = gateway.running.api;
    let begun = Instant::now();
    gateway.running.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    slow.await.unwrap().expect(200);
    idle.read_to_end().await;
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn several_cores_serve_one_port() {
    let echo = Instance::start("a");
    let mut world = World::new().await;
    world.config.gateway.workers = 3;
    let gateway = world.start().await;
    gateway.echo(&[&echo]).await;
    let answers = join_all((0..60).map(async |_| {
        let mut socket = gateway.socket().await;
        socket.send("GET /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
        socket.read_to_end().await
    }));
    assert!(answers.await.iter().all(|answer| answer.starts_with("HTTP/1.1 200")));
    gateway.running.stop().await;
}

#[tokio::test]
async fn routes_change_under_load_without_a_failed_request() {
    let echo = Instance::start("a");
    let (_world, gateway) = Gateway::with_echo(&[&echo]).await;
    let made = gateway
        .route(json!({"name": "other", "match": {"path": {"prefix": "/other"}}, "upstream": "echo", "authentication": ["none"]}))
        .await;
    let path = format!("/routes/{}", made["id"].as_str().unwrap());
    let change = async {
        for priority in 0..20 {
            let route = json!({"name": "other", "match": {"path": {"prefix": "/other"}}, "upstream": "echo",
                               "authentication": ["none"], "priority": priority});
            gateway.admin.put(&path, &route).await.expect(200);
        }
    };
    let load = async {
        for _ in 0..60 {
            let answers = join_all((0..8).map(async |_| gateway.client.get("/other").await)).await;
            assert!(answers.iter().all(|answer| answer.status == 200));
        }
    };
    tokio::join!(change, load);
}

/// Serves every route for `time` while PostgreSQL and Redis are both away.
async fn serve_without_stores(time: Duration) {
    let echo = Instance::start("a");
    let mut world = World::new().await;
    let (postgres, url) = Proxy::in_front_of(world.config.postgres.url.expose_secret()).await;
    world.config.postgres.url = url.into();
    let (redis, url) = Proxy::in_front_of(world.config.redis.url.expose_secret()).await;
    world.config.redis.url = url.into();
    let gateway = world.start().await;
    gateway.echo(&[&echo]).await;
    let limits = json!([{"by": ["token"], "requests": 1_000_000, "perSeconds": 60}]);
    for (name, policies) in [
        ("limited", json!({"limits": limits})),
        ("kept", json!({"cache": {"defaultSeconds": 1}, "authentication": ["none"]})),
        ("guarded", json!({"permission": "robots:read"})),
    ] {
        let mut route = json!({"name": name, "match": {"path": {"prefix": format!("/{name}")}}, "upstream": "echo"});
        route.as_object_mut().unwrap().extend(policies.as_object().unwrap().clone());
        gateway.route(route).await;
    }
    let token = world.issuer.token("user", &["robots:read"]);
    gateway.client.get("/guarded").bearer(&token).await.expect(200);
    postgres.block();
    redis.block();
    let (begun, mut asked) = (Instant::now(), 0);
    while begun.elapsed() < time {
        for path in ["/echo", "/limited", "/kept", "/guarded"] {
            gateway.client.get(path).bearer(&token).await.expect(200);
            asked += 1;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(asked > 40, "{asked}");
}

#[tokio::test]
async fn without_postgres_and_redis_every_route_is_served() {
    serve_without_stores(Duration::from_secs(4)).await;
}

#[tokio::test]
#[ignore = "slow"]
async fn without_postgres_and_redis_every_route_is_served_for_a_minute() {
    serve_without_stores(Duration::from_secs(62)).await;
}
