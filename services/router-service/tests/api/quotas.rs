//! Quotas by day and month: counted exactly, by every gateway together, and not forgotten.

use chrono::{TimeZone as _, Utc};
use kronos_testkit::wait_until;
use router_service::quota::Per;
use serde_json::{Value, json};

use crate::harness::{Gateway, Instance, World};

async fn limited(world: &World, echo: &Instance, quota: Value) -> (Gateway, String) {
    let gateway = world.start().await;
    gateway.upstream("echo", &[echo]).await;
    for name in ["counted", "free"] {
        gateway
            .route(json!({"name": name, "match": {"path": {"prefix": format!("/{name}")}}, "upstream": "echo",
                          "authentication": ["jwt", "none"]}))
            .await;
    }
    let made = gateway.admin.post("/quotas", &quota).await.expect(201).json();
    (gateway, made["id"].as_str().unwrap().to_owned())
}

fn daily(requests: u32, by: &str) -> Value {
    json!({"name": "daily", "routes": ["counted"], "by": [by], "requests": requests, "per": "day"})
}

#[tokio::test]
async fn a_quota_is_spent_and_says_when_it_begins_anew() {
    let (world, echo) = (World::new().await, Instance::start("a"));
    let (gateway, id) = limited(&world, &echo, daily(5, "token")).await;
    let (one, other) = (world.issuer.token("one", &[]), world.issuer.token("other", &[]));
    for _ in 0..5 {
        gateway.client.get("/counted").bearer(&one).await.expect(200);
    }
    let refused = gateway.client.get("/counted").bearer(&one).await.expect_problem(429, "quota_exhausted");
    let wait: i64 = refused.header("retry-after").unwrap().parse().unwrap();
    let left = (Per::Day.end(Utc::now()) - Utc::now()).num_seconds();
    assert!((left - 5..=left + 5).contains(&wait), "{wait} s, until midnight {left} s");
    gateway.client.get("/free").bearer(&one).await.expect(200);
    gateway.client.get("/counted").bearer(&other).await.expect(200);
    let used = gateway.admin.get(&format!("/quotas/{id}/use")).await.expect(200).json();
    let of = |client: &str| used["items"].as_array().unwrap().iter().find(|item| item["client"] == client).cloned();
    assert_eq!((&of("sub:one").unwrap()["used"], &of("sub:one").unwrap()["left"]), (&json!(5), &json!(0)));
    assert_eq!(of("sub:other").unwrap()["used"], 1);
    // Raised, it goes on.
    gateway.admin.put(&format!("/quotas/{id}"), &daily(7, "token")).await.expect(200);
    for _ in 0..2 {
        gateway.client.get("/counted").bearer(&one).await.expect(200);
    }
    gateway.client.get("/counted").bearer(&one).await.expect_problem(429, "quota_exhausted");
    gateway.admin.delete(&format!("/quotas/{id}")).await.expect(204);
    gateway.client.get("/counted").bearer(&one).await.expect(200);
}

#[tokio::test]
async fn a_quota_is_one_for_all_gateways_and_survives_a_restart() {
    let (world, echo) = (World::new().await, Instance::start("a"));
    let (first, id) = limited(&world, &echo, daily(1000, "route")).await;
    let second = world.start().await;
    wait_until("the other one has the quota", async || {
        second.client.get("/counted").await;
        let used = first.admin.get(&format!("/quotas/{id}/use")).await.json();
        used["items"][0]["used"].as_i64().unwrap_or(0) > 0
    })
    .await;
    let before = echo.requests();
    for _ in 0..60 {
        first.client.get("/counted").await.expect(200);
    }
    first.running.stop().await;
    second.running.stop().await;
    let third = world.start().await;
    let used = third.admin.get(&format!("/quotas/{id}/use")).await.expect(200).json();
    let spent = used["items"][0]["used"].as_u64().unwrap();
    assert!(spent >= echo.requests() - before, "nothing is forgotten: {spent}");
    assert!(spent <= echo.requests(), "what was not spent came back: {spent} of {}", echo.requests());
    let mut admitted = spent;
    while third.client.get("/counted").await.status == 200 {
        admitted += 1;
        assert!(admitted <= 1000, "more than the quota");
    }
    assert_eq!(admitted, 1000, "and no less");
}

#[tokio::test]
async fn bad_quotas_are_refused_and_changes_are_remembered() {
    let (world, echo) = (World::new().await, Instance::start("a"));
    let (gateway, id) = limited(&world, &echo, daily(5, "token")).await;
    let bad = json!({"name": "bad", "by": ["ip", "ip"], "requests": 0, "per": "day", "routes": []});
    let answer = gateway.admin.post("/quotas", &bad).await.expect_problem(422, "invalid_request").json();
    let named: Vec<&str> =
        answer["errors"].as_array().unwrap().iter().map(|e| e["pointer"].as_str().unwrap()).collect();
    for pointer in ["/by", "/requests", "/routes"] {
        assert!(named.contains(&pointer), "{pointer} is missing in {named:?}");
    }
    gateway.admin.post("/quotas", &daily(9, "ip")).await.expect_problem(409, "name_taken");
    gateway.client.get("/quotas").await.expect_problem(401, "token_missing");
    let version = gateway.admin.get("/routes/history?limit=1").await.expect(200).json()["items"][0].clone();
    assert_eq!((&version["changes"][0]["kind"], &version["changes"][0]["name"]), (&json!("quota"), &json!("daily")));
    gateway.admin.delete(&format!("/quotas/{id}")).await.expect(204);
    gateway.admin.get(&format!("/quotas/{id}")).await.expect(404);
    gateway.admin.post("/routes/rollback", &json!({"version": version["version"]})).await.expect(200);
    assert_eq!(gateway.admin.get(&format!("/quotas/{id}")).await.expect(200).json()["requests"], 5);
}

#[test]
fn periods_begin_and_end_at_midnight_utc() {
    let now = Utc.with_ymd_and_hms(2026, 12, 31, 23, 59, 59).unwrap();
    assert_eq!(Per::Day.begin(now).to_string(), "2026-12-31");
    assert_eq!(Per::Month.begin(now).to_string(), "2026-12-01");
    let new_year = Utc.with_ymd_and_hms(2027, 1, 1, 0, 0, 0).unwrap();
    assert_eq!((Per::Day.end(now), Per::Month.end(now)), (new_year, new_year));
    assert_eq!(Per::Month.end(new_year).to_rfc3339(), "2027-02-01T00:00:00+00:00");
}
