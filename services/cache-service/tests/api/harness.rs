//! Starts the service in this process, with a Redis prefix and an issuer of its own.

use std::collections::HashMap;

use cache_service::{Config, DEFAULTS};
use kronos_common::{
    config::{self, Redis},
    service::Running,
};
use kronos_testkit::{Issuer, TestClient, TestRequest, http, test_redis};
use secrecy::ExposeSecret as _;

pub(crate) struct Service {
    pub(crate) running: Running,
    pub(crate) issuer: Issuer,
    pub(crate) redis: Redis,
    /// May read and write.
    pub(crate) client: TestClient,
}

impl Service {
    pub(crate) async fn start() -> Self {
        Self::start_on(test_redis()).await
    }

    pub(crate) async fn start_on(redis: Redis) -> Self {
        let issuer = Issuer::start().await;
        let mut config: Config = config::load(DEFAULTS, None, &HashMap::new()).unwrap();
        config.http.bind = "127.0.0.1:0".parse().unwrap();
        config.http.operations_bind = config.http.bind;
        config.redis = redis.clone();
        config.identity = issuer.config();
        let running = cache_service::start(config).await.unwrap();
        let client = http(running.api).bearer(issuer.token("robot", &["cache:read", "cache:write"]));
        Self { running, issuer, redis, client }
    }

    /// A PUT of bytes.
    pub(crate) fn put(&self, path: &str, value: impl Into<Vec<u8>>) -> TestRequest {
        self.client.request(axum::http::Method::PUT, path).body(value.into())
    }

    /// A connection of the test's own.
    pub(crate) async fn connection(&self) -> redis::aio::MultiplexedConnection {
        let client = redis::Client::open(self.redis.url.expose_secret()).unwrap();
        client.get_multiplexed_async_connection().await.unwrap()
    }

    /// The hash of a namespace's tags.
    pub(crate) fn tags_key(&self, namespace: &str) -> String {
        format!("{}cache:{{{namespace}}}:tags", self.redis.prefix)
    }
}
