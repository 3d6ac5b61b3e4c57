//! Redis: a bounded pool with a deadline on everything. Redis may be away, at the start too: what depends on it degrades,
//! and the pool opens new connections when it is back. Each key begins with the configured prefix; [`RedisStore::key`]
//! makes one.

use std::{sync::Arc, time::Duration};

use deadpool_redis::{Manager, Pool, Runtime};
use futures::FutureExt as _;
use redis::AsyncConnectionConfig;
use secrecy::ExposeSecret as _;

use crate::{
    config,
    service::{Context, Criticality},
};

/// A pool and the prefix of every key.
#[derive(Clone)]
pub struct RedisStore {
    /// Connections; each is multiplexed, but the pool hands it to one borrower at a time.
    pub pool: Pool,
    /// Such as `kronos:`.
    pub prefix: Arc<str>,
}

/// Opens the pool, whose connections are made at first use, and shows it in `/ready` as something that may be away.
///
/// # Errors
/// A malformed URL.
pub async fn connect(config: &config::Redis, context: &Context) -> anyhow::Result<RedisStore> {
    let store = RedisStore::open(config)?;
    let checked = store.clone();
    context.depends_on("redis", Criticality::Degraded, move || {
        let store = checked.clone();
        async move { store.ping().await }.boxed()
    });
    Ok(store)
}

impl RedisStore {
    /// The same pool, not shown by `/ready`.
    ///
    /// # Errors
    /// A malformed URL.
    pub fn open(config: &config::Redis) -> anyhow::Result<Self> {
        let timeout = Duration::from_millis(config.timeout_ms);
        let connection =
            AsyncConnectionConfig::new().set_connection_timeout(Some(timeout)).set_response_timeout(Some(timeout));
        // The driver's own message may repeat the URL, and with it the password.
        let manager = Manager::new_with_config(config.url.expose_secret(), connection)
            .map_err(|_| anyhow::anyhow!("configuration key `redis.url` is not a redis:// or rediss:// URL"))?;
        let pool = Pool::builder(manager)
            .max_size(config.max_connections)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(timeout))
            .create_timeout(Some(timeout))
            .recycle_timeout(Some(timeout))
            .build()?;
        Ok(Self { pool, prefix: config.prefix.as_str().into() })
    }

    /// A connection of the pool.
    ///
    /// # Errors
    /// Redis is away, or every connection was in use for the whole `timeout_ms`.
    pub async fn connection(&self) -> Result<deadpool_redis::Connection, deadpool_redis::PoolError> {
        self.pool.get().await
    }

    /// `name` with the prefix.
    pub fn key(&self, name: impl std::fmt::Display) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Asks the server for a sign of life.
    ///
    /// # Errors
    /// It gave none in time.
    pub async fn ping(&self) -> anyhow::Result<()> {
        let mut connection = self.connection().await?;
        redis::cmd("PING").query_async::<()>(&mut connection).await?;
        Ok(())
    }
}
