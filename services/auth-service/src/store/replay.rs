//! What may come once only: ids of proofs and assertions, in Redis for all instances, and in memory while Redis is away.

use std::time::Duration;

use kronos_common::redis::RedisStore;
use moka::sync::Cache;

const MOST: u64 = 100_000;
const REMEMBER: Duration = Duration::from_secs(900);

/// Remembers them.
pub(crate) struct Replay {
    redis: RedisStore,
    memory: Cache<String, ()>,
}

impl Replay {
    pub(crate) fn new(redis: RedisStore) -> Self {
        Self { redis, memory: Cache::builder().max_capacity(MOST).time_to_live(REMEMBER).build() }
    }

    /// Whether this comes for the first time within `seconds`; at most 900.
    pub(crate) async fn is_first(&self, kind: &str, fingerprint: &[u8], seconds: i64) -> bool {
        let name: String = fingerprint.iter().map(|byte| format!("{byte:02x}")).collect();
        let key = self.redis.key(format_args!("once:{kind}:{name}"));
        if !self.memory.entry(key.clone()).or_insert(()).is_fresh() {
            return false;
        }
        match self.set(&key, seconds).await {
            Ok(first) => first,
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "replays are seen by this instance alone");
                true
            }
        }
    }

    async fn set(&self, key: &str, seconds: i64) -> anyhow::Result<bool> {
        let mut connection = self.redis.connection().await?;
        let set: Option<String> = redis::cmd("SET")
            .arg(key)
            .arg(1)
            .arg("NX")
            .arg("EX")
            .arg(seconds.max(1))
            .query_async(&mut connection)
            .await?;
        Ok(set.is_some())
    }
}
