//! Rate limits. The whole allowance is kept in Redis by the generic cell rate algorithm (GCRA); every instance leases a few
//! tokens of it at a time and spends them here, so that most requests ask nobody and several gateways keep one limit. While
//! Redis is away each instance keeps its own share. The Redis side is `lease`.

use std::{
    hash::BuildHasher as _,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use foldhash::quality::RandomState;
use hashbrown::HashTable;
use http::HeaderValue;

use crate::lease::{Leases, Order};

const SHARDS: usize = 64;
/// After Redis failed it is left alone for so long.
const REST_US: u64 = 1_000_000;
/// Unspent tokens are given back after so long.
const IDLE_US: u64 = 1_000_000;
/// Tokens that come faster than this are leased in larger numbers.
const HURRY_US: u64 = 200_000;
const MAX_LEASE: u32 = 256;

/// At most `requests` in `period_us`, spread or, up to `burst`, in one go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Quota {
    pub requests: u32,
    pub period_us: u64,
    /// At most so many in one go.
    pub burst: u32,
}

/// The theoretical arrival time of the next request, in nanoseconds on any clock that begins after zero.
#[derive(Debug, Clone, Copy, Default)]
pub struct Gcra {
    arrival_ns: u128,
}

impl Gcra {
    /// Takes one token at `now_us`. In any span of time no more are taken than the quota's burst in one go and those
    /// that the span brings back at the quota's rate.
    ///
    /// # Errors
    /// How long to wait for the next one, in microseconds.
    pub fn take(&mut self, quota: Quota, now_us: u64) -> Result<(), u64> {
        let (now, step) = (u128::from(now_us) * 1000, step_ns(quota));
        let latest = now + step * u128::from(quota.burst);
        let next = self.arrival_ns.max(now) + step;
        if next > latest {
            return Err(u64::try_from((next - latest).div_ceil(1000)).unwrap_or(u64::MAX));
        }
        self.arrival_ns = next;
        Ok(())
    }

    /// Tokens that could be taken at `now_us`.
    pub fn remaining(&self, quota: Quota, now_us: u64) -> u32 {
        let (now, step) = (u128::from(now_us) * 1000, step_ns(quota));
        let latest = now + step * u128::from(quota.burst);
        u32::try_from(latest.saturating_sub(self.arrival_ns.max(now)) / step).unwrap_or(u32::MAX)
    }
}

/// Between two tokens; rounded up, so that rounding never admits more.
fn step_ns(quota: Quota) -> u128 {
    (u128::from(quota.period_us) * 1000).div_ceil(u128::from(quota.requests.max(1))).max(1)
}

/// Whom a limit counts: everyone, or whoever has all of these. IPv6 addresses are cut to their /64 before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Client<'a> {
    pub address: Option<IpAddr>,
    pub subject: Option<&'a str>,
    pub client_id: Option<&'a str>,
}

/// The same, kept.
#[derive(Debug)]
struct Kept {
    address: Option<IpAddr>,
    subject: Option<Box<str>>,
    client_id: Option<Box<str>>,
}

impl Kept {
    fn client(&self) -> Client<'_> {
        let Self { address, subject, client_id } = self;
        Client { address: *address, subject: subject.as_deref(), client_id: client_id.as_deref() }
    }
}

impl From<Client<'_>> for Kept {
    fn from(Client { address, subject, client_id }: Client<'_>) -> Self {
        Self { address, subject: subject.map(Into::into), client_id: client_id.map(Into::into) }
    }
}

/// As a part of the Redis key.
impl std::fmt::Display for Client<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(address) = self.address {
            write!(f, "ip:{address};")?;
        }
        if let Some(client_id) = self.client_id {
            write!(f, "client:{client_id};")?;
        }
        if let Some(subject) = self.subject {
            write!(f, "sub:{subject}")?;
        }
        Ok(())
    }
}

/// The address as limits count it: IPv4 as it is, IPv6 by its /64.
pub fn counted(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6([a, b, c, d, 0, 0, 0, 0].into())
        }
    }
}

/// One limit of one route.
#[derive(Debug)]
pub struct Rule {
    /// The same in every instance and table as long as the limit is the same: part of the Redis key.
    id: Box<str>,
    /// Name in the `RateLimit` headers.
    label: Box<str>,
    pub quota: Quota,
    /// The header `RateLimit-Policy`.
    pub policy: HeaderValue,
}

impl Rule {
    pub fn new(id: String, label: &str, quota: Quota) -> Self {
        let policy = format!("\"{label}\";q={};w={}", quota.requests, quota.period_us / 1_000_000);
        let policy = HeaderValue::try_from(policy).expect("a label and numbers are visible ASCII");
        Self { id: id.into(), label: label.into(), quota, policy }
    }

    /// The header `RateLimit`.
    pub fn state(&self, decision: &Decision) -> HeaderValue {
        let seconds = decision.wait.as_secs() + u64::from(decision.wait.subsec_nanos() > 0);
        let mut text = Vec::with_capacity(40);
        text.push(b'"');
        text.extend_from_slice(self.label.as_bytes());
        text.extend_from_slice(b"\";r=");
        text.extend_from_slice(itoa::Buffer::new().format(decision.remaining).as_bytes());
        text.extend_from_slice(b";t=");
        text.extend_from_slice(itoa::Buffer::new().format(seconds).as_bytes());
        HeaderValue::from_maybe_shared(bytes::Bytes::from(text)).expect("a label and numbers are visible ASCII")
    }
}

/// What became of a request, and what its client should know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    pub allowed: bool,
    /// Tokens left, as far as this instance knows.
    pub remaining: u32,
    /// If refused: until one token is there. Else: until the allowance is whole again.
    pub wait: Duration,
}

#[derive(Debug, Default)]
struct State {
    tokens: u32,
    /// Left in Redis after our last lease.
    pooled: u32,
    whole_at_us: u64,
    refused_until_us: u64,
    leased_us: u64,
    lease: u32,
    used_us: u64,
    refilling: bool,
    local: Gcra,
}

/// What is left to one client of one limit.
#[derive(Debug)]
pub struct Bucket {
    rule: Arc<Rule>,
    client: Kept,
    state: Mutex<State>,
    /// Held while tokens are fetched, so that one fetches for all who wait.
    refill: tokio::sync::Mutex<()>,
}

type Shard = Mutex<HashTable<Arc<Bucket>>>;

/// All limits of this process.
#[derive(Debug)]
pub struct Limiter {
    shards: Vec<Shard>,
    hasher: RandomState,
    max_per_shard: usize,
    leases: Leases,
    epoch: Instant,
    /// Redis is left alone until then.
    rest_until_us: AtomicU64,
}

impl Limiter {
    pub fn new(leases: Leases, max_clients: usize, epoch: Instant) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            hasher: RandomState::default(),
            max_per_shard: (max_clients / SHARDS).max(1),
            leases,
            epoch,
            rest_until_us: AtomicU64::new(0),
        }
    }

    /// What `rule` leaves to `client`.
    pub fn bucket(&self, rule: &Arc<Rule>, client: Client<'_>) -> Arc<Bucket> {
        let hash = self.hasher.hash_one((&*rule.id, client));
        let is = |bucket: &Bucket, client| bucket.rule.id == rule.id && bucket.client.client() == client;
        let shard = &self.shards[usize::try_from(hash >> 32).unwrap_or(0) % SHARDS];
        let mut shard = lock(shard);
        if let Some(bucket) = shard.find(hash, |bucket| is(bucket, client)) {
            return Arc::clone(bucket);
        }
        let (client, hash) = if shard.len() < self.max_per_shard {
            (client, hash)
        } else {
            (Client::default(), self.hasher.hash_one((&*rule.id, Client::default())))
        };
        if let Some(bucket) = shard.find(hash, |bucket| is(bucket, client)) {
            return Arc::clone(bucket);
        }
        let bucket = Arc::new(Bucket {
            rule: Arc::clone(rule),
            client: client.into(),
            state: Mutex::new(State { lease: 1, ..State::default() }),
            refill: tokio::sync::Mutex::default(),
        });
        let rehash = |bucket: &Arc<Bucket>| self.hasher.hash_one((&*bucket.rule.id, bucket.client.client()));
        Arc::clone(shard.insert_unique(hash, bucket, rehash).get())
    }

    /// Takes one token.
    pub async fn take(&self, bucket: &Arc<Bucket>) -> Decision {
        if let Some(decision) = self.spend(bucket) {
            return decision;
        }
        let _turn = bucket.refill.lock().await;
        if let Some(decision) = self.spend(bucket) {
            return decision;
        }
        self.refill(bucket).await;
        match self.spend(bucket) {
            Some(decision) => decision,
            // Redis went away just now.
            None => self.share(bucket),
        }
    }

    /// Puts one token back: another limit refused the request.
    pub fn give_back(bucket: &Bucket) {
        lock(&bucket.state).tokens += 1;
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Decides from what is here; `None` if Redis must be asked.
    fn spend(&self, bucket: &Arc<Bucket>) -> Option<Decision> {
        let now = self.now_us();
        let mut state = lock(&bucket.state);
        state.used_us = now;
        if state.tokens > 0 {
            state.tokens -= 1;
            let low = state.tokens <= state.lease / 2 && state.lease > 1 && state.pooled > 0;
            let refill = low && !state.refilling && now >= self.rest_until_us.load(Relaxed);
            state.refilling |= refill;
            let remaining = state.tokens.saturating_add(state.pooled);
            let decision = Decision { allowed: true, remaining, wait: until(now, state.whole_at_us) };
            let want = state.lease;
            // An order that finds no room is told so at once, and takes the lock for it.
            drop(state);
            if refill {
                self.leases.order_later(self.order(bucket, want));
            }
            return Some(decision);
        }
        if now < state.refused_until_us {
            return Some(Decision { allowed: false, remaining: 0, wait: until(now, state.refused_until_us) });
        }
        drop(state);
        (now < self.rest_until_us.load(Relaxed)).then(|| self.share(bucket))
    }

    /// This instance's part of the allowance, kept by itself.
    fn share(&self, bucket: &Bucket) -> Decision {
        let now = self.now_us();
        let whole = bucket.rule.quota;
        let part = |whole: u32| (whole / self.leases.instances()).max(1);
        let quota = Quota { requests: part(whole.requests), burst: part(whole.burst), ..whole };
        let mut state = lock(&bucket.state);
        let taken = state.local.take(quota, now);
        let remaining = state.local.remaining(quota, now);
        match taken {
            Ok(()) => Decision { allowed: true, remaining, wait: Duration::from_micros(whole.period_us) },
            Err(wait) => Decision { allowed: false, remaining, wait: Duration::from_micros(wait) },
        }
    }

    fn order(&self, bucket: &Arc<Bucket>, want: u32) -> Order {
        let (key, quota) = (key(bucket), bucket.rule.quota);
        Order { key, quota, want, back: 0, answer: None, later: Some(self.later(bucket)) }
    }

    /// What a lease that nobody waits for does when it comes.
    fn later(&self, bucket: &Arc<Bucket>) -> Box<dyn FnOnce(Option<crate::lease::Granted>) + Send> {
        let (bucket, epoch) = (Arc::clone(bucket), self.epoch);
        Box::new(move |granted| {
            let now = u64::try_from(epoch.elapsed().as_micros()).unwrap_or(u64::MAX);
            let mut state = lock(&bucket.state);
            state.refilling = false;
            if let Some(granted) = granted {
                state.take_in(&bucket.rule, &granted, now);
            }
        })
    }

    async fn refill(&self, bucket: &Arc<Bucket>) {
        let now = self.now_us();
        let rest = self.rest_until_us.load(Relaxed);
        if rest != 0 {
            // Redis was away: one request tries, the others go on with the share meanwhile.
            let claim = self.rest_until_us.compare_exchange(rest, now + REST_US, Relaxed, Relaxed);
            if claim.is_err() {
                return;
            }
        }
        let want = lock(&bucket.state).lease.max(1);
        let granted = self.leases.order(key(bucket), bucket.rule.quota, want).await;
        let now = self.now_us();
        match granted {
            Some(granted) => {
                self.rest_until_us.store(0, Relaxed);
                lock(&bucket.state).take_in(&bucket.rule, &granted, now);
            }
            None => self.rest_until_us.store(now + REST_US, Relaxed),
        }
    }

    /// Gives unspent tokens back and forgets clients that are gone. To be called about twice a second.
    pub fn sweep(&self) {
        let now = self.now_us();
        for shard in &self.shards {
            lock(shard).retain(|bucket| {
                if Arc::strong_count(bucket) > 1 {
                    return true;
                }
                let mut state = lock(&bucket.state);
                let idle = now.saturating_sub(state.used_us);
                if idle > IDLE_US && state.tokens > 0 {
                    let back = std::mem::take(&mut state.tokens);
                    state.lease = 1;
                    let quota = bucket.rule.quota;
                    self.leases.order_later(Order {
                        key: key(bucket),
                        quota,
                        want: 0,
                        back,
                        answer: None,
                        later: None,
                    });
                }
                idle < bucket.rule.quota.period_us.max(10_000_000)
            });
        }
    }
}

impl State {
    fn take_in(&mut self, rule: &Rule, granted: &crate::lease::Granted, now: u64) {
        self.tokens += granted.tokens;
        self.pooled = granted.remaining;
        self.whole_at_us = now + granted.whole_us;
        if granted.tokens == 0 {
            self.refused_until_us = now + granted.wait_us;
            self.lease = 1;
            return;
        }
        self.refused_until_us = 0;
        let largest = (rule.quota.requests.min(rule.quota.burst) / 20).clamp(1, MAX_LEASE);
        self.lease = if now.saturating_sub(self.leased_us) < HURRY_US { (self.lease * 2).min(largest) } else { 1 };
        self.leased_us = now;
    }
}

fn key(bucket: &Bucket) -> String {
    format!("{}:{}", bucket.rule.id, bucket.client.client())
}

fn until(now_us: u64, then_us: u64) -> Duration {
    Duration::from_micros(then_us.saturating_sub(now_us))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
