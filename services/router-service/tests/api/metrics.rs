//! Metrics: bounded however many paths are asked and however often routes change, and enough to see rate, errors, latency and
//! saturation by route.

use std::collections::BTreeSet;

use futures::future::join_all;
use kronos_testkit::wait_until;
use serde_json::json;

use crate::harness::{Gateway, Instance, World};

const SECONDS: &str = "kronos_gateway_request_seconds";

async fn series(gateway: &Gateway, prefix: &str) -> BTreeSet<String> {
    let text = gateway.metrics().await;
    let names = text.lines().filter(|line| line.starts_with(prefix)).filter_map(|line| line.rsplit_once(' '));
    names.map(|(name, _)| name.to_owned()).collect()
}

#[tokio::test]
async fn many_paths_and_many_routes_that_went_leave_no_series_behind() {
    let echo = Instance::start("a");
    let (_world, gateway) = Gateway::with_echo(&[&echo]).await;
    let ask = async |from: usize| {
        let asked = (from..from + 100).map(async |index| {
            gateway
                .client
                .get(&format!("/echo/{index}?q={index}"))
                .header("x-own", index.to_string())
                .await
                .expect(200);
            gateway.client.get(&format!("/nowhere/{index}")).await.expect(404);
        });
        join_all(asked).await;
    };
    ask(0).await;
    wait_until("all are counted", async || {
        gateway.metric(&format!("{SECONDS}_count"), &["route=\"unmatched\""]).await >= 100.0
    })
    .await;
    let before = series(&gateway, "kronos_gateway_").await;
    ask(1000).await;
    for index in 0..10 {
        let name = format!("passing-{index}");
        // Nobody is there: every counter of an upstream gets a sample.
        let upstream = gateway
            .admin
            .post(
                "/upstreams",
                &json!({"name": name, "instances": [{"url": "http://127.0.0.1:1"}],
                "breaker": {"minRequests": 1, "failurePercent": 1}, "healthCheck": {"path": "/", "intervalMs": 50}}),
            )
            .await
            .expect(201)
            .json();
        let route = gateway
            .route(json!({"name": name, "match": {"path": {"prefix": format!("/{name}")}}, "upstream": name,
                "authentication": ["none"], "mirror": {"upstream": name}, "filter": {"presets": ["script"]},
                "limits": [{"by": ["ip"], "requests": 2, "perSeconds": 60}]}))
            .await;
        for _ in 0..3 {
            gateway.client.get(&format!("/{name}/<script>")).await;
        }
        assert!(series(&gateway, "kronos_gateway_").await.iter().any(|one| one.contains(&name)));
        for path in [
            format!("/routes/{}", route["id"].as_str().unwrap()),
            format!("/upstreams/{}", upstream["id"].as_str().unwrap()),
        ] {
            gateway.admin.delete(&path).await.expect(204);
        }
    }
    let gone = |one: &String| one.contains("passing-");
    wait_until("what is gone is told of no more", async || !series(&gateway, "kronos_gateway_").await.iter().any(gone))
        .await;
    let added: Vec<String> = series(&gateway, "kronos_gateway_").await.difference(&before).cloned().collect();
    // The gateway's own endpoints were used with further methods.
    assert!(added.iter().all(|one| one.contains("route=\"gateway\"")), "{added:?}");
}

#[tokio::test]
async fn rate_errors_latency_and_saturation_are_told_by_route_and_upstream() {
    let (one, two) = (Instance::start("a"), Instance::start("b"));
    let world = World::new().await;
    let gateway = world.start().await;
    gateway
        .admin
        .post(
            "/upstreams",
            &json!({"name": "echo", "instances": [{"url": one.url()}, {"url": two.url()}], "maxConcurrent": 8}),
        )
        .await
        .expect(201);
    gateway
        .route(json!({"name": "echo", "match": {"path": {"prefix": "/echo"}}, "upstream": "echo", "authentication": ["none"]}))
        .await;
    for _ in 0..20 {
        gateway.client.get("/echo/slow/30").await.expect(200);
    }
    gateway.client.get("/echo/status/500").await.expect(500);
    let count = async |labels: &[&str]| gateway.metric(&format!("{SECONDS}_count"), labels).await;
    wait_until("all are counted", async || count(&["route=\"echo\""]).await == 21.0).await;
    assert_eq!(count(&["route=\"echo\"", "status=\"5xx\""]).await, 1.0);
    // The median lies between the bounds of a bucket, as do p95 and p99.
    let below = async |bound: &str| {
        gateway
            .metric(&format!("{SECONDS}_bucket"), &["route=\"echo\"", "status=\"2xx\"", &format!("le=\"{bound}\"")])
            .await
    };
    assert!(below("0.025").await < 10.0 && below("+Inf").await == 20.0);
    // Requests under way, against the bound; the sum of seconds per second is the same for a route.
    let busy = join_all((0..5).map(async |_| gateway.client.get("/echo/slow/4000").await.expect(200)));
    let seen = wait_until("five are under way", async || {
        gateway.metric("kronos_gateway_upstream_in_flight", &["\"echo\""]).await == 5.0
    });
    tokio::join!(busy, seen);
    assert_eq!(gateway.metric("kronos_gateway_upstream_most_in_flight", &["\"echo\""]).await, 8.0);
    assert_eq!(gateway.metric("kronos_gateway_upstream_instances", &["\"echo\"", "\"available\""]).await, 2.0);
}
