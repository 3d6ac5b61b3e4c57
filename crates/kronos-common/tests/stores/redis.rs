//! The pool of Redis connections: it may be made while Redis is away, and says so soon.

use std::time::Instant;

use kronos_common::{redis, service::Context};
use kronos_testkit::{Proxy, test_redis, wait_until};

#[tokio::test]
async fn a_pool_can_be_made_while_redis_is_away_and_works_when_it_is_back() {
    let mut config = test_redis();
    let (proxy, url) = Proxy::in_front_of(secrecy::ExposeSecret::expose_secret(&config.url)).await;
    proxy.block();
    config.url = url.into();
    config.timeout_ms = 300;
    let store = redis::connect(&config, &Context::detached("test")).await.unwrap();
    let start = Instant::now();
    assert!(store.ping().await.is_err());
    assert!(start.elapsed().as_secs() < 10, "a caller learns it soon");
    proxy.restore();
    wait_until("Redis is back", async || store.ping().await.is_ok()).await;
    proxy.cut();
    wait_until("a cut connection is replaced", async || store.ping().await.is_ok()).await;
}

#[tokio::test]
async fn every_key_begins_with_the_prefix() {
    let config = test_redis();
    let store = redis::connect(&config, &Context::detached("test")).await.unwrap();
    assert_eq!(store.key("sessions:1"), format!("{}sessions:1", config.prefix));
}
