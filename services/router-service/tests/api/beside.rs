//! Canaries, mirrors and hedges: where else requests go.

use std::time::{Duration, Instant as Clock};

use futures::future::join_all;
use kronos_testkit::wait_until;
use serde_json::{Value, json};

use crate::harness::{Gateway, Instance, World};

/// The route `/echo` to the upstream `a`, with more; and the upstream `b`.
async fn serve(gateway: &Gateway, a: &[&Instance], b: &[&Instance], more: Value) {
    gateway.upstream("a", a).await;
    gateway.upstream("b", b).await;
    let mut route = json!({"name": "echo", "match": {"path": {"prefix": "/echo"}}, "upstream": "a",
                           "authentication": ["jwt", "none"]});
    route.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    gateway.route(route).await;
}

#[tokio::test]
async fn a_part_of_the_callers_sees_the_canary_and_goes_on_seeing_it() {
    let (a, b) = (Instance::start("a"), Instance::start("b"));
    let world = World::new().await;
    let (gateway, twin) = (world.start().await, world.start().await);
    serve(&gateway, &[&a], &[&b], json!({"canary": {"upstream": "b", "percent": 30}})).await;
    wait_until("the twin knows it", async || twin.client.get("/echo").await.status == 200).await;
    let mut seen = 0;
    for user in 0..60 {
        let token = world.issuer.token(&format!("user-{user}"), &[]);
        let ask = async |gateway: &Gateway| {
            gateway.client.get("/echo").bearer(&token).await.expect(200).json()["instance"].clone()
        };
        let first = ask(&gateway).await;
        assert_eq!((&first, &first), (&ask(&gateway).await, &ask(&twin).await), "user {user}");
        seen += u32::from(first == "b");
    }
    assert!((8..=30).contains(&seen), "{seen} of 60");
}

#[tokio::test]
async fn a_header_leads_to_the_canary_and_explain_says_so() {
    let (a, b) = (Instance::start("a"), Instance::start("b"));
    let world = World::new().await;
    let gateway = world.start().await;
    let canary =
        json!({"canary": {"upstream": "b", "header": {"name": "x-canary", "value": "always"}, "stickyBy": "ip"}});
    serve(&gateway, &[&a], &[&b], canary).await;
    assert_eq!(gateway.client.get("/echo").await.expect(200).json()["instance"], "a");
    assert_eq!(gateway.client.get("/echo").header("x-canary", "always").await.expect(200).json()["instance"], "b");
    assert_eq!(gateway.client.get("/echo").header("x-canary", "never").await.expect(200).json()["instance"], "a");
    let described = json!({"path": "/echo", "headers": {"x-canary": "always"}});
    let explained = gateway.admin.post("/routes/explain", &described).await.expect(200).json();
    assert_eq!((&explained["route"]["upstream"], &explained["route"]["isCanary"]), (&json!("b"), &json!(true)));
}

#[tokio::test]
async fn a_mirror_gets_a_copy_and_holds_up_nobody() {
    let (a, b) = (Instance::start("a"), Instance::start("b"));
    let world = World::new().await;
    let gateway = world.start().await;
    serve(&gateway, &[&a], &[&b], json!({"mirror": {"upstream": "b", "bodyLimitBytes": 100}})).await;
    let answer = gateway.client.post("/echo/x?y=1", &json!({"robot": 7})).await.expect(200).json();
    assert_eq!(answer["instance"], "a");
    wait_until("the copy arrives", async || b.requests() == 1).await;
    let big = json!({"robot": "x".repeat(200)});
    gateway.client.post("/echo", &big).await.expect(200);
    let count = async |outcome: &str| gateway.metric("kronos_gateway_mirrored_total", &["\"b\"", outcome]).await;
    wait_until("what is too large is counted", async || count("dropped").await == 1.0).await;
    wait_until("the copy is counted", async || count("sent").await == 1.0).await;
    assert_eq!((a.requests(), b.requests()), (2, 1));
}

#[tokio::test]
async fn a_mirror_that_hangs_or_is_away_is_not_felt() {
    let (a, b) = (Instance::start("a"), Instance::start("b"));
    let world = World::new().await;
    let gateway = world.start().await;
    serve(&gateway, &[&a], &[&b], json!({"mirror": {"upstream": "b"}})).await;
    let begun = Clock::now();
    // The mirror is as slow: the answers are not.
    join_all((0..100).map(async |_| gateway.client.get("/echo/slow/300").await.expect(200))).await;
    assert!(begun.elapsed() < Duration::from_secs(20));
    b.kill();
    for _ in 0..20 {
        gateway.client.get("/echo").await.expect(200);
    }
    let dropped = gateway.metric("kronos_gateway_mirrored_total", &["\"b\"", "dropped"]).await;
    assert!(dropped > 0.0, "no more than some are under way at a time");
}

#[tokio::test]
async fn a_slow_instance_is_overtaken_by_a_second_one() {
    let slow = {
        let wait = axum::routing::any(async || tokio::time::sleep(Duration::from_secs(30)).await);
        Instance::serve("slow", axum::Router::new().route("/echo/x", wait))
    };
    let fast = {
        let answer = axum::routing::any(async || "fast");
        Instance::serve("fast", axum::Router::new().route("/echo/x", answer))
    };
    let world = World::new().await;
    let gateway = world.start().await;
    serve(&gateway, &[&slow, &fast], &[&fast], json!({"hedgeAfterMs": 50})).await;
    let begun = Clock::now();
    for _ in 0..10 {
        assert_eq!(gateway.client.get("/echo/x").await.expect(200).text(), "fast");
    }
    assert!(begun.elapsed() < Duration::from_secs(20));
    wait_until("it was counted", async || gateway.metric("kronos_gateway_hedges_total", &["\"a\""]).await >= 1.0).await;
}

#[tokio::test]
async fn a_copy_asks_the_breaker_and_the_bound_and_leaves_the_retry_budget_alone() {
    let a = Instance::start("a");
    let failing = {
        let fail = axum::routing::any(async || axum::http::StatusCode::SERVICE_UNAVAILABLE);
        Instance::serve("b", axum::Router::new().route("/echo/x", fail))
    };
    let world = World::new().await;
    let gateway = world.start().await;
    let upstream = json!({"name": "guarded", "instances": [{"url": failing.url()}], "maxConcurrent": 2,
                          "breaker": {"minRequests": 5, "failurePercent": 50, "openMs": 600_000}});
    gateway.admin.post("/upstreams", &upstream).await.expect(201);
    serve(&gateway, &[&a], &[&failing], json!({"mirror": {"upstream": "guarded"}})).await;
    let state = async || {
        let all = gateway.admin.get("/upstreams?limit=200").await.expect(200).json();
        let one = all["items"].as_array().unwrap().iter().find(|one| one["name"] == "guarded").unwrap().clone();
        one["state"].clone()
    };
    let budget = state().await["retriesLeft"].clone();
    wait_until("failing copies open the breaker", async || {
        gateway.client.get("/echo/x").await.expect(200);
        state().await["breaker"] == "open"
    })
    .await;
    let count = async |outcome: &str| gateway.metric("kronos_gateway_mirrored_total", &["\"guarded\"", outcome]).await;
    let (before, sent) = (count("dropped").await, count("sent").await);
    for _ in 0..10 {
        gateway.client.get("/echo/x").await.expect(200);
    }
    wait_until("copies for an open breaker are dropped", async || count("dropped").await >= before + 10.0).await;
    assert_eq!(count("sent").await, sent);
    assert_eq!(state().await["retriesLeft"], budget, "nothing was paid in, nothing taken out");
    assert!(gateway.metric("kronos_gateway_upstream_failures_total", &["\"guarded\"", "status"]).await >= 5.0);
}
