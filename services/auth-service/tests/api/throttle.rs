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

#[tokio::test]
async fn a_burst_of_guesses_gets_no_further_than_the_limit() {
    let auth = TestAuth::start_with(|config| {
        config.throttle.account_network_failures = 5;
        config.passwords.memory_kib = 2048;
    })
    .await;
    let second = auth.second().await;
    let user = auth.user(&[]).await;
    let guesses = (0..60).map(|index| {
        let instance = if index % 2 == 0 { &auth } else { &second };
        instance.try_login(&user.username, "guess")
    });
    let answers = futures::future::join_all(guesses).await;
    let judged = answers.iter().filter(|answer| answer.status == 401).count();
    assert_eq!(judged, 5, "so many were hashed");
    assert!(answers.iter().all(|answer| [401, 429].contains(&answer.status)));
}

#[tokio::test]
async fn guesses_from_many_networks_delay_only_who_is_not_known() {
    let auth = TestAuth::start_with(|config| {
        config.throttle.account_failures = 6;
        config.throttle.pressed_network_failures = 1;
        config.throttle.account_delay_ms = 2_000;
        config.throttle.account_longest_delay_ms = 4_000;
    })
    .await;
    let user = auth.user(&[]).await;
    // The owner has logged in from here before.
    login_from(&auth, "198.51.100.7", &user.username, PASSWORD).await.expect(200);
    for network in 0..6 {
        login_from(&auth, &format!("203.0.{network}.7"), &user.username, "guess").await.expect(401);
    }
    let timed = async |address: &str, password: &str| {
        let begun = std::time::Instant::now();
        let answer = login_from(&auth, address, &user.username, password).await;
        (answer.status, begun.elapsed())
    };
    let (status, took) = timed("198.51.100.99", PASSWORD).await;
    assert!(status == 200 && took.as_millis() < 2_000, "from a known network: {status} after {took:?}");
    let (status, took) = timed("203.0.77.7", "guess").await;
    assert!(status == 401 && took.as_millis() >= 2_000, "a stranger: {status} after {took:?}");
    let (status, _) = timed("203.0.77.8", "guess").await;
    assert_eq!(status, 429, "a second guess from there");
    let (status, took) = timed("192.0.2.1", PASSWORD).await;
    assert!(
        status == 200 && took.as_millis() >= 2_000,
        "the owner elsewhere is late, not locked out: {status} {took:?}"
    );
    let (status, took) = timed("192.0.2.1", PASSWORD).await;
    assert!(status == 200 && took.as_millis() < 2_000, "and is known there now: {status} {took:?}");
}

#[tokio::test]
async fn who_finds_no_room_for_the_hash_has_not_failed() {
    let auth = TestAuth::start_with(|config| {
        config.passwords.memory_kib = 8192;
        config.passwords.iterations = 8;
        config.passwords.threads = 1;
        config.passwords.queue = 1;
        config.throttle.account_network_failures = 3;
    })
    .await;
    let user = auth.user(&[]).await;
    for _ in 0..3 {
        futures::future::join_all((0..12).map(|_| auth.try_login(&user.username, PASSWORD))).await;
    }
    kronos_testkit::wait_until("there is room again", async || {
        auth.try_login(&user.username, PASSWORD).await.status == 200
    })
    .await;
}
