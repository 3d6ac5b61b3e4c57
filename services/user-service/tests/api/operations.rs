//! The operations listener, and what `/ready` says of the stores.

use kronos_testkit::{Proxy, http, wait_until};

use crate::harness::{Fixture, Platform};

#[tokio::test]
async fn a_service_with_all_its_stores_is_ready() {
    let fixture = Fixture::new().await;
    let operations = http(fixture.running.operations);
    wait_until("it is ready", async || operations.get("/ready").await.status == 200).await;
    operations.get("/live").await.expect(200);
    let metrics = operations.get("/metrics").await.expect(200).text();
    assert!(metrics.contains("kronos_outbox_pending"), "{metrics}");
}

#[tokio::test]
async fn without_its_database_it_is_not_ready_and_says_so_and_comes_back() {
    let platform = Platform::new().await;
    let (proxy, url) = Proxy::in_front_of(&platform.database.url("kronos_users")).await;
    let mut config = platform.config();
    config.postgres.url = url.into();
    config.postgres.acquire_timeout_ms = 2000;
    let running = user_service::start(config).await.unwrap();
    let (operations, client) = (http(running.operations), platform.caller(&running, "test", &["*:*"]));
    client.get("/users").await.expect(200);
    proxy.block();
    wait_until("it is not ready", async || operations.get("/ready").await.status == 503).await;
    let refused = client.get("/users").await.expect_problem(503, "store_unavailable");
    assert!(refused.header("retry-after").is_some());
    proxy.restore();
    wait_until("it is ready again", async || operations.get("/ready").await.status == 200).await;
    client.get("/users").await.expect(200);
}

#[tokio::test]
async fn without_redis_and_the_broker_rights_still_change_and_are_told_later() {
    let platform = Platform::new().await;
    let expose = |secret: &secrecy::SecretString| secrecy::ExposeSecret::expose_secret(secret).to_owned();
    let (redis, redis_url) = Proxy::in_front_of(&expose(&platform.redis.url)).await;
    let (rabbit, rabbit_url) = Proxy::in_front_of(&expose(&platform.rabbit.url)).await;
    let mut config = platform.config();
    config.redis.url = redis_url.into();
    config.rabbit.url = rabbit_url.into();
    let running = user_service::start(config).await.unwrap();
    let admin = platform.caller(&running, "test", &["*:*"]);
    let fixture = Fixture { platform, running, admin };
    fixture.role("customer", &["robots:use"], &[]).await;
    let user = fixture.user("camille").await;
    let mut events = fixture.listen("kronos.user.rights-changed").await;
    redis.block();
    rabbit.block();
    let epoch = fixture.give(&user, "customer", serde_json::json!({})).await;
    assert_eq!(fixture.access(&user, "permission=robots:use").await["allowed"], true);
    redis.restore();
    rabbit.restore();
    assert_eq!(events.next().await.data["epoch"].as_i64(), Some(epoch));
    let old = fixture.platform.issuer.build(&user).permissions(&["users:read"]).epoch(epoch - 1).sign();
    let old = http(fixture.running.api).bearer(old);
    wait_until("the old token is refused", async || old.get("/users").await.code() == "token_revoked").await;
}
