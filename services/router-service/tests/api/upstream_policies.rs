//! Balancing, health checks, breakers, bounds and retries, through a real gateway.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant as Clock},
};

use axum::{Router, http::StatusCode, routing::get};
use futures::{StreamExt as _, future::join_all, stream};
use kronos_testkit::{wait_until, wait_up_to};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::harness::{Gateway, Instance, World};

/// An upstream with policies, and the anonymous route `/NAME` to it.
async fn serve(gateway: &Gateway, name: &str, instances: &[String], policies: Value, route: Value) {
    let instances: Vec<Value> = instances.iter().map(|url| json!({"url": url})).collect();
    let mut upstream = json!({"name": name, "instances": instances});
    upstream.as_object_mut().unwrap().extend(policies.as_object().unwrap().clone());
    gateway.admin.post("/upstreams", &upstream).await.expect(201);
    let mut spec = json!({"name": name, "match": {"path": {"prefix": format!("/{name}")}}, "upstream": name,
                          "authentication": ["none"], "rewrite": {"prefix": "/"}});
    spec.as_object_mut().unwrap().extend(route.as_object().unwrap().clone());
    gateway.route(spec).await;
}

async fn state(gateway: &Gateway, name: &str) -> Value {
    let all = gateway.admin.get("/upstreams?limit=200").await.expect(200).json();
    let upstream = all["items"].as_array().unwrap().iter().find(|one| one["name"] == name).unwrap();
    upstream["state"].clone()
}

/// Answers `/` after `ms`, `/health` as told.
fn worker(ms: u64, well: &Arc<AtomicBool>) -> Instance {
    let well = Arc::clone(well);
    let health = move || async move {
        if well.load(Ordering::SeqCst) { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
    };
    let work = move || async move { tokio::time::sleep(Duration::from_millis(ms)).await };
    Instance::serve("worker", Router::new().route("/", get(work)).route("/health", get(health)))
}

/// Takes requests and hangs up; counts them.
async fn hanging_up() -> (String, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let count = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        use tokio::io::AsyncReadExt as _;
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            let _ = stream.read(&mut [0; 1024]).await;
        }
    });
    (url, count)
}

fn p99(mut took: Vec<Duration>) -> Duration {
    took.sort();
    took[took.len() * 99 / 100]
}

#[tokio::test]
async fn a_slow_instance_among_ten_does_not_slow_down_the_slowest_percent() {
    let world = World::new().await;
    let gateway = world.start().await;
    let well = Arc::new(AtomicBool::new(true));
    let instances: Vec<Instance> = (0..10).map(|index| worker(if index == 0 { 300 } else { 30 }, &well)).collect();
    let urls: Vec<String> = instances.iter().map(Instance::url).collect();
    serve(&gateway, "turns", &urls, json!({"balance": "round_robin"}), json!({})).await;
    serve(&gateway, "choice", &urls, json!({"balance": "p2c"}), json!({})).await;
    let measure = async |path: &str| {
        let ask = async |_| {
            let begun = Clock::now();
            gateway.client.get(path).await.expect(200);
            begun.elapsed()
        };
        // What is found out about the instances at first is not what is compared.
        stream::iter(0..100).map(ask).buffer_unordered(20).count().await;
        p99(stream::iter(0..1000).map(ask).buffer_unordered(20).collect().await)
    };
    let (turns, choice) = (measure("/turns").await, measure("/choice").await);
    assert!(choice * 2 <= turns, "two choices {choice:?}, round robin {turns:?}");
}

#[tokio::test]
async fn an_instance_whose_health_check_fails_gets_nothing_until_it_is_well() {
    let world = World::new().await;
    let gateway = world.start().await;
    let (well, ill) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
    let (a, b) = (worker(0, &well), worker(0, &ill));
    let check = json!({"healthCheck": {"path": "/health", "intervalMs": 50, "healthy": 2, "unhealthy": 2},
                       "balance": "round_robin"});
    serve(&gateway, "checked", &[a.url(), b.url()], check, json!({})).await;
    let healthy = async |index: usize| state(&gateway, "checked").await["instances"][index]["healthy"] == true;
    wait_until("the ill one is found out", async || !healthy(1).await).await;
    assert!(healthy(0).await);
    for _ in 0..20 {
        gateway.client.get("/checked/echo").await.expect(200);
    }
    assert_eq!((a.requests(), b.requests()), (20, 0));
    ill.store(true, Ordering::SeqCst);
    wait_until("it is back", async || healthy(1).await).await;
    gateway.client.get("/checked/echo").await.expect(200);
    gateway.client.get("/checked/echo").await.expect(200);
    assert_eq!(b.requests(), 1);
    assert!(gateway.metric("kronos_gateway_health_check_failures_total", &["checked"]).await >= 2.0);
}

#[tokio::test]
async fn an_upstream_says_when_its_instances_are_left_out() {
    let world = World::new().await;
    let gateway = world.start().await;
    let (broken, count) = hanging_up().await;
    let a = Instance::start("a");
    let outlier = json!({"outlier": {"consecutiveFailures": 2, "baseMs": 600_000, "maxMs": 600_000},
                         "balance": "round_robin"});
    serve(&gateway, "strict", &[broken, a.url()], outlier, json!({})).await;
    for _ in 0..20 {
        gateway.client.get("/strict/echo").await.expect(200);
    }
    assert_eq!(count.load(Ordering::SeqCst), 2);
    assert_eq!(state(&gateway, "strict").await["instances"][0]["available"], false);
}

#[tokio::test]
async fn without_panic_an_upstream_whose_instances_all_fail_is_away() {
    let world = World::new().await;
    let gateway = world.start().await;
    let ((one, first), (two, second)) = (hanging_up().await, hanging_up().await);
    let outlier =
        json!({"outlier": {"consecutiveFailures": 1, "baseMs": 600_000, "maxMs": 600_000, "panicPercent": 0}});
    serve(&gateway, "calm", &[one, two], outlier, json!({"retries": 0})).await;
    for _ in 0..2 {
        gateway.client.get("/calm").await.expect_problem(502, "upstream_failed");
    }
    for _ in 0..5 {
        gateway.client.get("/calm").await.expect_problem(503, "upstream_unavailable");
    }
    assert_eq!((first.load(Ordering::SeqCst), second.load(Ordering::SeqCst)), (1, 1));
}

#[tokio::test]
async fn a_breaker_opens_answers_at_once_and_closes_again() {
    let world = World::new().await;
    let gateway = world.start().await;
    let well = Arc::new(AtomicBool::new(false));
    let a = worker(0, &well);
    let breaker = json!({"breaker": {"failurePercent": 50, "minRequests": 10, "openMs": 300, "trials": 1}});
    serve(&gateway, "fragile", &[a.url()], breaker, json!({})).await;
    for _ in 0..10 {
        gateway.client.get("/fragile/health").await.expect(503);
    }
    let refused = gateway.client.get("/fragile/health").await.expect_problem(503, "upstream_broken");
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(state(&gateway, "fragile").await["breaker"], "open");
    let explained = gateway.admin.post("/routes/explain", &json!({"path": "/fragile"})).await.expect(200).json();
    assert_eq!(explained["route"]["breaker"], "open");
    well.store(true, Ordering::SeqCst);
    wait_until("it is tried and closes", async || gateway.client.get("/fragile/health").await.status == 200).await;
    assert_eq!(state(&gateway, "fragile").await["breaker"], "closed");
    assert_eq!(gateway.metric("kronos_gateway_breakers_opened_total", &["fragile"]).await, 1.0);
    assert!(gateway.metric("kronos_gateway_shed_total", &["fragile", "breaker"]).await >= 1.0);
}

#[tokio::test]
async fn what_is_one_too_many_for_an_upstream_is_refused_at_once() {
    let world = World::new().await;
    let gateway = world.start().await;
    let a = Instance::start("a");
    serve(&gateway, "narrow", &[a.url()], json!({"maxConcurrent": 2}), json!({})).await;
    let slow: Vec<_> =
        (0..2).map(|_| tokio::spawn(gateway.client.get("/narrow/echo/slow/10000").into_future())).collect();
    wait_until("two are under way", async || a.requests() == 2).await;
    let begun = Clock::now();
    let refused = gateway.client.get("/narrow/echo").await.expect_problem(503, "upstream_full");
    assert!(begun.elapsed() < Duration::from_secs(10), "it did not wait for the others");
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(state(&gateway, "narrow").await["concurrent"], 2);
    for slow in slow {
        slow.await.unwrap().expect(200);
    }
    gateway.client.get("/narrow/echo").await.expect(200);
    assert_eq!(state(&gateway, "narrow").await["concurrent"], 0);
}

#[tokio::test]
async fn an_adaptive_bound_is_found_and_told() {
    let world = World::new().await;
    let gateway = world.start().await;
    let well = Arc::new(AtomicBool::new(true));
    let a = worker(5, &well);
    let bound = json!({"maxConcurrent": {"min": 4, "max": 500}});
    serve(&gateway, "elastic", &[a.url()], bound, json!({})).await;
    assert_eq!(state(&gateway, "elastic").await["maxConcurrent"], 20);
    wait_up_to(Duration::from_secs(20), "the bound grows under load", async || {
        join_all((0..40).map(async |_| gateway.client.get("/elastic").await)).await;
        state(&gateway, "elastic").await["maxConcurrent"].as_u64().unwrap() > 25
    })
    .await;
}

#[tokio::test]
async fn all_upstreams_failing_are_asked_at_most_a_fifth_more_often_than_requests_came() {
    let world = World::new().await;
    let gateway = world.start().await;
    let failing = [hanging_up().await, hanging_up().await, hanging_up().await];
    let urls: Vec<String> = failing.iter().map(|(url, _)| url.clone()).collect();
    serve(&gateway, "down", &urls, json!({}), json!({"retries": 3})).await;
    let offered = 600;
    for _ in 0..offered / 30 {
        let answers = join_all((0..30).map(async |_| gateway.client.get("/down").await)).await;
        assert!(answers.iter().all(|answer| matches!(answer.status, 502 | 503)));
    }
    let attempts: u64 = failing.iter().map(|(_, count)| count.load(Ordering::SeqCst)).sum();
    assert!(attempts * 10 <= offered * 12, "{attempts} attempts for {offered} requests");
}

#[tokio::test]
async fn a_route_says_how_often_a_request_is_tried_again() {
    let world = World::new().await;
    let gateway = world.start().await;
    let ((one, first), (two, second)) = (hanging_up().await, hanging_up().await);
    let a = Instance::start("a");
    let policies = json!({"balance": "round_robin", "outlier": {"consecutiveFailures": 1000}});
    let urls = [one, two, a.url()];
    serve(&gateway, "twice", &urls, policies.clone(), json!({"retries": 2})).await;
    serve(&gateway, "never", &urls, policies, json!({"retries": 0})).await;
    for _ in 0..6 {
        gateway.client.get("/twice/echo").await.expect(200);
    }
    assert_eq!(a.requests(), 6, "the third is asked last or first");
    assert!(first.load(Ordering::SeqCst) > 0 && second.load(Ordering::SeqCst) > 0);
    let answers = join_all((0..6).map(async |_| gateway.client.get("/never/echo").await.status)).await;
    assert_eq!(answers.iter().filter(|status| **status == 502).count(), 4, "{answers:?}");
}

#[tokio::test]
async fn the_same_caller_stays_with_the_same_instance() {
    let world = World::new().await;
    let gateway = world.start().await;
    let names = ["a", "b", "c"];
    let instances: Vec<Instance> = names.iter().map(|name| Instance::start(name)).collect();
    let urls: Vec<String> = instances.iter().map(Instance::url).collect();
    serve(&gateway, "sticky", &urls, json!({"balance": "hash", "hash": {"header": "x-robot"}}), json!({})).await;
    let ask = async |robot: u32| {
        let answer = gateway.client.get("/sticky/echo").header("x-robot", robot.to_string()).await;
        answer.expect(200).json()["instance"].as_str().unwrap().to_owned()
    };
    let mut seen = std::collections::HashSet::new();
    for robot in 0..20 {
        let first = ask(robot).await;
        assert_eq!(ask(robot).await, first);
        seen.insert(first);
    }
    assert_eq!(seen.len(), 3, "and all have some");
}

#[tokio::test]
async fn every_wrong_field_of_a_policy_is_named() {
    let world = World::new().await;
    let gateway = world.start().await;
    let upstream = json!({"name": "bad", "instances": [{"url": "http://127.0.0.1:1"}], "protocol": "h2", "balance": "p2c",
        "hash": {"header": "a b"}, "slowStartMs": 0, "healthCheck": {"path": "health", "intervalMs": 1, "timeoutMs": 0,
        "healthy": 0, "unhealthy": 0}, "outlier": {"consecutiveFailures": 0, "baseMs": 0, "maxMs": 0, "panicPercent": 101},
        "breaker": {"failurePercent": 0, "minRequests": 0, "windowMs": 1, "openMs": 1, "trials": 0},
        "maxConcurrent": {"min": 0, "max": 0}});
    let problem = gateway.admin.post("/upstreams", &upstream).await.expect_problem(422, "invalid_request").json();
    let pointers: Vec<&str> =
        problem["errors"].as_array().unwrap().iter().map(|error| error["pointer"].as_str().unwrap()).collect();
    for pointer in [
        "/instances/0/url",
        "/hash",
        "/slowStartMs",
        "/healthCheck/path",
        "/healthCheck/intervalMs",
        "/healthCheck/timeoutMs",
        "/healthCheck/healthy",
        "/healthCheck/unhealthy",
        "/outlier/consecutiveFailures",
        "/outlier/baseMs",
        "/outlier/maxMs",
        "/outlier/panicPercent",
        "/breaker/failurePercent",
        "/breaker/minRequests",
        "/breaker/windowMs",
        "/breaker/openMs",
        "/breaker/trials",
        "/maxConcurrent/min",
    ] {
        assert!(pointers.contains(&pointer), "{pointer} in {pointers:?}");
    }
    let route = json!({"name": "bad", "match": {"path": {"prefix": "/bad"}}, "upstream": "auth-service", "retries": 6,
        "hedgeAfterMs": 0, "canary": {"upstream": "nowhere", "percent": 101, "header": {"name": "a b", "value": ""}},
        "mirror": {"upstream": "nowhere", "percent": 0, "bodyLimitBytes": 2_000_000}});
    let problem = gateway.admin.post("/routes", &route).await.expect_problem(422, "invalid_request").json();
    let pointers: Vec<&str> =
        problem["errors"].as_array().unwrap().iter().map(|error| error["pointer"].as_str().unwrap()).collect();
    for pointer in [
        "/retries",
        "/hedgeAfterMs",
        "/canary/percent",
        "/canary/header/name",
        "/canary/header/value",
        "/mirror/percent",
        "/mirror/bodyLimitBytes",
    ] {
        assert!(pointers.contains(&pointer), "{pointer} in {pointers:?}");
    }
    let route = json!({"name": "bad", "match": {"path": {"prefix": "/bad"}}, "upstream": "auth-service",
        "canary": {"upstream": "nowhere"}, "mirror": {"upstream": "nowhere"}});
    let problem = gateway.admin.post("/routes", &route).await.expect_problem(422, "invalid_request").json();
    let pointers: Vec<&str> =
        problem["errors"].as_array().unwrap().iter().map(|error| error["pointer"].as_str().unwrap()).collect();
    assert_eq!(pointers, ["/canary/upstream", "/mirror/upstream"]);
}
