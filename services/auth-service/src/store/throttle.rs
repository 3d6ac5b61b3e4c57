//! Counts failed logins by account and network, and by network, in Redis; while Redis is away, each instance by itself. Only
//! failures count, so nobody who logs in correctly is slowed down, and no stranger can lock an account for another network.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use kronos_common::redis::RedisStore;
use redis::Script;
use sha2::{Digest as _, Sha256};

use crate::{config, network::Network};

/// Counters that an instance keeps by itself at most.
const MOST_LOCAL: usize = 20_000;

/// `KEYS`: counters. `ARGV`: window in milliseconds. Counts each once; the window begins with the first failure.
const COUNT: &str = r"
for _, key in ipairs(KEYS) do
  if redis.call('INCR', key) == 1 then
    redis.call('PEXPIRE', key, ARGV[1])
  end
end
";

/// The counters; cheap to clone.
#[derive(Clone)]
pub(crate) struct Throttle(Arc<Inner>);

struct Inner {
    redis: RedisStore,
    count: Script,
    local: Mutex<HashMap<String, Local>>,
    account_network_failures: u64,
    network_failures: u64,
    window: Duration,
}

struct Local {
    failures: u64,
    until: Instant,
}

/// Who tries to log in, as the counters know it.
pub(crate) struct Attempt {
    account_network: String,
    network: String,
}

impl Throttle {
    pub(crate) fn new(redis: RedisStore, config: &config::Throttle) -> Self {
        Self(Arc::new(Inner {
            redis,
            count: Script::new(COUNT),
            local: Mutex::default(),
            account_network_failures: config.account_network_failures,
            network_failures: config.network_failures,
            window: Duration::from_secs(config.window_seconds),
        }))
    }

    /// The counters of an attempt. The name is hashed: what is typed there may be a password.
    pub(crate) fn attempt(&self, username_key: &str, network: Network) -> Attempt {
        let name: String = Sha256::digest(username_key).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        let redis = &self.0.redis;
        Attempt {
            account_network: redis.key(format_args!("auth:failures:{name}:{network}")),
            network: redis.key(format_args!("auth:failures:{network}")),
        }
    }

    /// How long the attempt must wait, if it must.
    pub(crate) async fn must_wait(&self, attempt: &Attempt) -> Option<Duration> {
        let limits =
            [(&attempt.account_network, self.0.account_network_failures), (&attempt.network, self.0.network_failures)];
        match self.read(attempt).await {
            Ok(counts) => limits
                .iter()
                .zip(counts)
                .filter(|((_, limit), (failures, _))| failures >= limit)
                .map(|(_, (_, wait))| wait)
                .max(),
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "failed logins are counted on this instance alone");
                let local = self.0.local.lock().unwrap_or_else(PoisonError::into_inner);
                let now = Instant::now();
                limits
                    .iter()
                    .filter_map(|(key, limit)| local.get(*key).filter(|found| found.failures >= *limit))
                    .map(|found| found.until.saturating_duration_since(now))
                    .filter(|wait| !wait.is_zero())
                    .max()
            }
        }
    }

    /// Counts a failure.
    pub(crate) async fn failed(&self, attempt: &Attempt) {
        self.count_locally([&attempt.account_network, &attempt.network]);
        let counted = async {
            let mut connection = self.0.redis.connection().await?;
            let mut call = self.0.count.key(&attempt.account_network);
            call.key(&attempt.network).arg(millis(self.0.window));
            call.invoke_async::<()>(&mut connection).await?;
            anyhow::Ok(())
        };
        if let Err(error) = counted.await {
            tracing::warn!(error = format!("{error:#}"), "a failed login is counted on this instance alone");
        }
    }

    /// Forgets the account's failures from this network; the network's own stay, or one good account would hide many guesses.
    pub(crate) async fn succeeded(&self, attempt: &Attempt) {
        self.0.local.lock().unwrap_or_else(PoisonError::into_inner).remove(&attempt.account_network);
        let forgotten = async {
            let mut connection = self.0.redis.connection().await?;
            redis::cmd("DEL").arg(&attempt.account_network).query_async::<()>(&mut connection).await?;
            anyhow::Ok(())
        };
        if let Err(error) = forgotten.await {
            tracing::debug!(error = format!("{error:#}"), "failed logins stay counted until their window ends");
        }
    }

    async fn read(&self, attempt: &Attempt) -> anyhow::Result<[(u64, Duration); 2]> {
        let mut connection = self.0.redis.connection().await?;
        let mut pipeline = redis::pipe();
        for key in [&attempt.account_network, &attempt.network] {
            pipeline.cmd("GET").arg(key).cmd("PTTL").arg(key);
        }
        let (account, account_ms, network, network_ms): (Option<u64>, i64, Option<u64>, i64) =
            pipeline.query_async(&mut connection).await?;
        let wait = |ms: i64| Duration::from_millis(u64::try_from(ms).unwrap_or(0).max(1));
        Ok([(account.unwrap_or(0), wait(account_ms)), (network.unwrap_or(0), wait(network_ms))])
    }

    fn count_locally(&self, keys: [&String; 2]) {
        let now = Instant::now();
        let mut local = self.0.local.lock().unwrap_or_else(PoisonError::into_inner);
        if local.len() + keys.len() > MOST_LOCAL {
            local.retain(|_, found| found.until > now);
        }
        let room = local.len() + keys.len() <= MOST_LOCAL;
        for key in keys {
            match local.get_mut(key) {
                Some(found) if found.until > now => found.failures += 1,
                Some(found) => *found = Local { failures: 1, until: now + self.0.window },
                None if room => {
                    local.insert(key.clone(), Local { failures: 1, until: now + self.0.window });
                }
                None => {}
            }
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
