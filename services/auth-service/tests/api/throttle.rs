//! Failed logins are slowed down: by account and network, and by network; never for who logs in correctly, nor elsewhere.

use kronos_testkit::{Proxy, TestResponse};
use serde_json::json;

use crate::harness::{PASSWORD, TestAuth};

async fn login_from(auth: &TestAuth, address: &str, username: &str, password: &str) -> TestResponse {
    let body = json!({ "username": username, "password": password });
    auth.client.post("/auth/login", &body).header("x-forwarded-for", address).await
}

#[tokio::test]
async fn guesses_are_stopped_for_one_account_from_one_network() {
    let auth = TestAuth::start_with(|config| config.throttle.account_network_failures = 3).await;
    let (victim, other) = (auth.user(&[]).await, auth.user(&[]).await);
    for _ in 0..3 {
        login_from(&auth, "203.0.113.7", &victim.username, "guess").await.expect(401);
    }
    let refused = login_from(&auth, "203.0.113.99", &victim.username, PASSWORD).await;
    refused.clone().expect_problem(429, "rate_limited");
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=300).contains(&wait), "{wait}");
    // The owner, elsewhere, is not locked out; nor are the stranger's neighbours.
    login_from(&auth, "198.51.100.7", &victim.username, PASSWORD).await.expect(200);
    login_from(&auth, "203.0.113.7", &other.username, PASSWORD).await.expect(200);
    // What the attacker writes before the proxy's own entry changes nothing.
    login_from(&auth, "198.51.100.7, 203.0.113.7", &victim.username, PASSWORD).await.expect(429);
}

#[tokio::test]
async fn an_account_that_does_not_exist_is_throttled_the_same() {
    let auth = TestAuth::start_with(|config| config.throttle.account_network_failures = 2).await;
    for _ in 0..2 {
        auth.try_login("nobody", "guess").await.expect(401);
    }
    auth.try_login("Nobody ", "guess").await.expect_problem(429, "rate_limited");
}

#[tokio::test]
async fn guesses_over_many_accounts_stop_their_network() {
    let auth = TestAuth::start_with(|config| config.throttle.network_failures = 5).await;
    let user = auth.user(&[]).await;
    for index in 0..5 {
        login_from(&auth, "2001:db8:1:1ff::1", &format!("name-{index}"), "guess").await.expect(401);
    }
    login_from(&auth, "2001:db8:1:100::2", &user.username, PASSWORD).await.expect(429);
    login_from(&auth, "2001:db8:1:200::1", &user.username, PASSWORD).await.expect(200);
}

#[tokio::test]
async fn a_hundred_right_logins_are_never_slowed_down() {
    let auth = TestAuth::start().await;
    let user = auth.user(&[]).await;
    for _ in 0..10 {
        let logins = (0..10).map(|_| auth.try_login(&user.username, PASSWORD));
        for answer in futures::future::join_all(logins).await {
            answer.expect(200);
        }
    }
}

#[tokio::test]
async fn a_right_login_forgets_the_typing_mistakes_before_it() {
    let auth = TestAuth::start_with(|config| config.throttle.account_network_failures = 3).await;
    let user = auth.user(&[]).await;
    for _ in 0..3 {
        for _ in 0..2 {
            auth.try_login(&user.username, "typo").await.expect(401);
        }
        auth.login(&user).await;
    }
}

#[tokio::test]
async fn the_window_ends() {
    let auth = TestAuth::start_with(|config| {
        config.throttle.account_network_failures = 1;
        config.throttle.window_seconds = 1;
    })
    .await;
    let user = auth.user(&[]).await;
    auth.try_login(&user.username, "guess").await.expect(401);
    auth.try_login(&user.username, PASSWORD).await.expect(429);
    kronos_testkit::wait_until("the window ends", async || {
        auth.try_login(&user.username, PASSWORD).await.status == 200
    })
    .await;
}

#[tokio::test]
async fn while_redis_is_away_failures_still_count() {
    let redis = kronos_testkit::test_redis();
    let (proxy, url) = Proxy::in_front_of(secrecy::ExposeSecret::expose_secret(&redis.url)).await;
    let auth = TestAuth::start_with(|config| {
        config.redis.url = url.into();
        config.redis.timeout_ms = 100;
        config.throttle.account_network_failures = 3;
    })
    .await;
    let user = auth.user(&[]).await;
    proxy.block();
    auth.login(&user).await;
    for _ in 0..3 {
        auth.try_login(&user.username, "guess").await.expect(401);
    }
    auth.try_login(&user.username, PASSWORD).await.expect_problem(429, "rate_limited");
    proxy.restore();
}
