//! Counts failed logins by account and network, by network, and by account, in Redis; while Redis is away, each instance by
//! itself. An attempt reserves its place before any password is hashed, so that no burst of guesses gets further than the limit;
//! only failures stay counted, so nobody who logs in correctly is slowed down. What strangers do to an account elsewhere delays
//! a login from a network that the account is not known from; it never refuses one.

mod local;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

use kronos_common::redis::RedisStore;
use redis::Script;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;
use uuid::Uuid;

use self::local::Local;
use crate::{config, network::Network};

/// A reservation whose instance died is given back so long after.
const RESERVED: Duration = Duration::from_secs(15);
/// How long an attempt waits for others of its account and network to be decided, before it is told to come again.
const BUSY: Duration = Duration::from_secs(3);
const LOOK_AGAIN: Duration = Duration::from_millis(25);
const BUSY_RETRY_AFTER: Duration = Duration::from_secs(1);
/// How many attempts may be delayed at once, over all accounts.
const MOST_DELAYED: usize = 1_000;
/// How long an account is known from a network after a login there.
const KNOWN: Duration = Duration::from_secs(90 * 86_400);

/// `KEYS`: failures of account and network, of the network, of the account; whether the account is known there; reservations of
/// account and network, and of the network. `ARGV`: limits of the three, the first limit while the account is pressed, id, life
/// of a reservation. Answers {0 reserved, excess}, {1 refused, wait}, {2 busy, 0}.
const RESERVE: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function count(key) return tonumber(redis.call('GET', key) or '0') end
local excess = count(KEYS[3]) - tonumber(ARGV[3]) + 1
local pressed = excess > 0 and redis.call('EXISTS', KEYS[4]) == 0
local limits = { tonumber(pressed and ARGV[4] or ARGV[1]), tonumber(ARGV[2]) }
local wait, busy = 0, false
for i = 1, 2 do
  local failed = count(KEYS[i])
  redis.call('ZREMRANGEBYSCORE', KEYS[4 + i], '-inf', now)
  if failed >= limits[i] then
    wait = math.max(wait, redis.call('PTTL', KEYS[i]), 1)
  elseif failed + redis.call('ZCARD', KEYS[4 + i]) >= limits[i] then
    busy = true
  end
end
if wait > 0 then return { 1, wait } end
if busy then return { 2, 0 } end
for i = 5, 6 do
  redis.call('ZADD', KEYS[i], now + ARGV[6], ARGV[5])
  redis.call('PEXPIRE', KEYS[i], ARGV[6])
end
return { 0, pressed and excess or 0 }
";

/// `KEYS` as above. `ARGV`: id, window. The window begins with the first failure.
const FAIL: &str = r"
redis.call('ZREM', KEYS[5], ARGV[1])
redis.call('ZREM', KEYS[6], ARGV[1])
for i = 1, 3 do
  if redis.call('INCR', KEYS[i]) == 1 then redis.call('PEXPIRE', KEYS[i], ARGV[2]) end
end
";

/// `ARGV`: id, how long the account is known from this network. The network's own failures stay, and the account's elsewhere:
/// one good account would hide many guesses.
const SUCCEED: &str = r"
redis.call('ZREM', KEYS[5], ARGV[1])
redis.call('ZREM', KEYS[6], ARGV[1])
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[4], '1', 'PX', ARGV[2])
";

const RELEASE: &str = r"
redis.call('ZREM', KEYS[5], ARGV[1])
redis.call('ZREM', KEYS[6], ARGV[1])
";

/// The counters; cheap to clone.
#[derive(Clone)]
pub(crate) struct Throttle(Arc<Inner>);

struct Inner {
    redis: RedisStore,
    scripts: [Script; 4],
    local: Local,
    limits: Limits,
    window: Duration,
    delay: Duration,
    longest_delay: Duration,
    delayed: Semaphore,
}

/// How many failures there may be.
#[derive(Clone, Copy)]
struct Limits {
    account_network: u64,
    /// Instead of that while the account is pressed from elsewhere.
    pressed: u64,
    network: u64,
    account: u64,
}

#[derive(Clone, Copy)]
enum Call {
    Reserve,
    Fail,
    Succeed,
    Release,
}

enum Reservation {
    /// With by how much the account's failures exceed its limit, if this attempt is to feel it.
    Made {
        excess: u64,
    },
    Refused(Duration),
    Busy,
}

/// Who tries to log in, as the counters know it. Dropped without an outcome, its reservation is given back.
pub(crate) struct Attempt {
    throttle: Throttle,
    id: String,
    keys: [String; 6],
    state: AtomicU8,
}

const IDLE: u8 = 0;
const IN_REDIS: u8 = 1;
const HERE: u8 = 2;

impl Throttle {
    pub(crate) fn new(redis: RedisStore, config: &config::Throttle) -> Self {
        Self(Arc::new(Inner {
            redis,
            scripts: [RESERVE, FAIL, SUCCEED, RELEASE].map(Script::new),
            local: Local::default(),
            limits: Limits {
                account_network: config.account_network_failures,
                pressed: config.account_network_failures.min(config.pressed_network_failures),
                network: config.network_failures,
                account: config.account_failures,
            },
            window: Duration::from_secs(config.window_seconds),
            delay: Duration::from_millis(config.account_delay_ms),
            longest_delay: Duration::from_millis(config.account_longest_delay_ms),
            delayed: Semaphore::new(MOST_DELAYED),
        }))
    }

    /// The counters of an attempt. The name is hashed: what is typed there may be a password.
    pub(crate) fn attempt(&self, username_key: &str, network: Network) -> Attempt {
        let name: String = Sha256::digest(username_key).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        let key = |rest: String| self.0.redis.key(format_args!("auth:{rest}"));
        let site = network.site();
        Attempt {
            throttle: self.clone(),
            id: Uuid::new_v4().simple().to_string(),
            keys: [
                key(format!("failures:{name}:{network}")),
                key(format!("failures:{site}")),
                key(format!("failures:{name}")),
                key(format!("known:{name}:{network}")),
                key(format!("reserved:{name}:{network}")),
                key(format!("reserved:{site}")),
            ],
            state: AtomicU8::new(IDLE),
        }
    }

    /// Reserves the attempt's place, perhaps after a delay; or says how long it must wait.
    pub(crate) async fn must_wait(&self, attempt: &Attempt) -> Option<Duration> {
        let since = Instant::now();
        loop {
            match self.reserve(attempt).await {
                Reservation::Made { excess: 0 } => return None,
                Reservation::Made { excess } => {
                    let Ok(_place) = self.0.delayed.try_acquire() else { return Some(BUSY_RETRY_AFTER) };
                    let factor = u32::try_from(excess).unwrap_or(u32::MAX);
                    tokio::time::sleep(self.0.delay.saturating_mul(factor).min(self.0.longest_delay)).await;
                    return None;
                }
                Reservation::Refused(wait) => return Some(wait),
                Reservation::Busy if since.elapsed() > BUSY => return Some(BUSY_RETRY_AFTER),
                Reservation::Busy => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    }

    async fn reserve(&self, attempt: &Attempt) -> Reservation {
        let limits = self.0.limits;
        let arguments = [limits.account_network, limits.network, limits.account, limits.pressed]
            .map(|limit| limit.to_string())
            .into_iter()
            .chain([attempt.id.clone(), millis(RESERVED)]);
        match self.call::<(u8, u64)>(Call::Reserve, &attempt.keys, arguments).await {
            Ok((0, excess)) => {
                attempt.state.store(IN_REDIS, Ordering::Relaxed);
                Reservation::Made { excess }
            }
            Ok((1, wait)) => Reservation::Refused(Duration::from_millis(wait)),
            Ok(_) => Reservation::Busy,
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "failed logins are counted on this instance alone");
                let reservation = self.0.local.reserve(&attempt.keys, limits);
                if matches!(reservation, Reservation::Made { .. }) {
                    attempt.state.store(HERE, Ordering::Relaxed);
                }
                reservation
            }
        }
    }

    /// Counts a failure.
    pub(crate) async fn failed(&self, attempt: &Attempt) {
        self.release_here(attempt.state.swap(IDLE, Ordering::Relaxed), &attempt.keys);
        self.0.local.count(&attempt.keys, self.0.window);
        let arguments = [attempt.id.clone(), millis(self.0.window)];
        if let Err(error) = self.call::<()>(Call::Fail, &attempt.keys, arguments).await {
            tracing::warn!(error = format!("{error:#}"), "a failed login is counted on this instance alone");
        }
    }

    /// Forgets the account's failures from this network, and knows it from there from now on.
    pub(crate) async fn succeeded(&self, attempt: &Attempt) {
        self.release_here(attempt.state.swap(IDLE, Ordering::Relaxed), &attempt.keys);
        self.0.local.forget(&attempt.keys);
        let arguments = [attempt.id.clone(), millis(KNOWN)];
        if let Err(error) = self.call::<()>(Call::Succeed, &attempt.keys, arguments).await {
            tracing::debug!(error = format!("{error:#}"), "failed logins stay counted until their window ends");
        }
    }

    fn release_here(&self, state: u8, keys: &[String; 6]) {
        if state == HERE {
            self.0.local.release(keys);
        }
    }

    async fn call<T: redis::FromRedisValue>(
        &self,
        call: Call,
        keys: &[String; 6],
        arguments: impl IntoIterator<Item = String>,
    ) -> anyhow::Result<T> {
        let mut connection = self.0.redis.connection().await?;
        let mut prepared = self.0.scripts[call as usize].prepare_invoke();
        for key in keys {
            prepared.key(key);
        }
        for argument in arguments {
            prepared.arg(argument);
        }
        Ok(prepared.invoke_async(&mut connection).await?)
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let state = self.state.swap(IDLE, Ordering::Relaxed);
        self.throttle.release_here(state, &self.keys);
        if state == IN_REDIS
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let (throttle, id, keys) = (self.throttle.clone(), self.id.clone(), self.keys.clone());
            // If that fails, the reservation ends by itself.
            runtime.spawn(async move { throttle.call::<()>(Call::Release, &keys, [id]).await });
        }
    }
}

fn millis(duration: Duration) -> String {
    duration.as_millis().to_string()
}
