//! The circuit breaker of an upstream: closed, open while too many of its requests fail, and half open while a few try
//! whether it is well again. The policy `breaker`. No I/O, no clock: `now` is microseconds on any monotonic clock.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use kronos_common::problem::FieldError;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Parts of the window that are counted apart; the oldest is forgotten as a whole.
const PARTS: u64 = 10;

/// When an upstream is left alone because its requests fail (no connection, a broken answer, a timeout, 502 to 504).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BreakerSpec {
    /// It opens when this percentage of the window's attempts failed. Default: 50.
    #[serde(default = "half")]
    #[schema(minimum = 1, maximum = 100)]
    pub failure_percent: u32,
    /// It stays closed while the window has fewer attempts than this. Default: 20.
    #[serde(default = "twenty")]
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub min_requests: u32,
    /// How far back it looks, in milliseconds. Default: 10000.
    #[serde(default = "ten_seconds")]
    #[schema(minimum = 100, maximum = 600_000)]
    pub window_ms: u64,
    /// For how long it stays open before it tries again, in milliseconds. Default: 5000.
    #[serde(default = "five_seconds")]
    #[schema(minimum = 10, maximum = 600_000)]
    pub open_ms: u64,
    /// Requests that try it at a time while it is half open; so many must succeed. Default: 3.
    #[serde(default = "three")]
    #[schema(minimum = 1, maximum = 100)]
    pub trials: u32,
}

fn half() -> u32 {
    50
}

fn twenty() -> u32 {
    20
}

fn ten_seconds() -> u64 {
    10_000
}

fn five_seconds() -> u64 {
    5_000
}

fn three() -> u32 {
    3
}

impl BreakerSpec {
    /// Everything that is wrong with it.
    pub fn check(&self, errors: &mut Vec<FieldError>) {
        let mut within = |field: &str, value: u64, least: u64, most: u64| {
            if !(least..=most).contains(&value) {
                let detail = format!("from {least} to {most}");
                errors.push(FieldError::new(format!("/breaker/{field}"), "out_of_range", detail));
            }
        };
        within("failurePercent", self.failure_percent.into(), 1, 100);
        within("minRequests", self.min_requests.into(), 1, 1_000_000);
        within("windowMs", self.window_ms, 100, 600_000);
        within("openMs", self.open_ms, 10, 600_000);
        within("trials", self.trials.into(), 1, 100);
    }
}

/// What it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum Position {
    /// Requests pass.
    Closed,
    /// Requests are refused.
    Open,
    /// A few requests pass, to try.
    HalfOpen,
}

#[derive(Debug, Default)]
struct Part {
    /// Which part of the time it counts.
    epoch: AtomicU64,
    attempts: AtomicU32,
    failures: AtomicU32,
}

/// What is counted. Cores write without a lock: one of two events at the very turn of a part may be lost, which does no
/// harm.
#[derive(Debug)]
pub struct Breaker {
    pub spec: BreakerSpec,
    /// Zero: closed.
    open_until_us: AtomicU64,
    trying: AtomicU32,
    succeeded: AtomicU32,
    parts: [Part; PARTS as usize],
}

/// A request that passes; it ends with the guard.
#[derive(Debug)]
pub struct Pass {
    breaker: Arc<Breaker>,
    is_trial: bool,
}

impl Breaker {
    pub fn new(spec: BreakerSpec) -> Self {
        Self {
            spec,
            open_until_us: AtomicU64::new(0),
            trying: AtomicU32::new(0),
            succeeded: AtomicU32::new(0),
            parts: Default::default(),
        }
    }

    pub fn position(&self, now: u64) -> Position {
        match self.open_until_us.load(Relaxed) {
            0 => Position::Closed,
            until if now < until => Position::Open,
            _ => Position::HalfOpen,
        }
    }

    /// Lets a request pass.
    ///
    /// # Errors
    /// How long to wait.
    pub fn enter(self: &Arc<Self>, now: u64) -> Result<Pass, Duration> {
        let until = self.open_until_us.load(Relaxed);
        if until == 0 {
            return Ok(Pass { breaker: Arc::clone(self), is_trial: false });
        }
        if now < until {
            return Err(Duration::from_micros(until - now));
        }
        if self.trying.fetch_add(1, Relaxed) >= self.spec.trials {
            self.trying.fetch_sub(1, Relaxed);
            return Err(Duration::from_secs(1));
        }
        Ok(Pass { breaker: Arc::clone(self), is_trial: true })
    }

    fn part_us(&self) -> u64 {
        (self.spec.window_ms * 1000 / PARTS).max(1)
    }

    fn count(&self, now: u64, failed: bool) {
        let epoch = now / self.part_us() + 1;
        let part = &self.parts[(epoch % PARTS) as usize];
        if part.epoch.swap(epoch, Relaxed) != epoch {
            part.attempts.store(0, Relaxed);
            part.failures.store(0, Relaxed);
        }
        part.attempts.fetch_add(1, Relaxed);
        if failed {
            part.failures.fetch_add(1, Relaxed);
        }
    }

    /// Attempts and failures in the window.
    pub fn counted(&self, now: u64) -> (u64, u64) {
        let epoch = now / self.part_us() + 1;
        let fresh = self.parts.iter().filter(|part| part.epoch.load(Relaxed) + PARTS > epoch);
        fresh.fold((0, 0), |(attempts, failures), part| {
            (attempts + u64::from(part.attempts.load(Relaxed)), failures + u64::from(part.failures.load(Relaxed)))
        })
    }

    fn open(&self, now: u64) {
        self.succeeded.store(0, Relaxed);
        self.open_until_us.store(now + self.spec.open_ms * 1000, Relaxed);
    }

    fn close(&self) {
        self.parts.iter().for_each(|part| part.epoch.store(0, Relaxed));
        self.succeeded.store(0, Relaxed);
        self.open_until_us.store(0, Relaxed);
    }
}

impl Pass {
    /// An attempt ended. True if this opened the breaker.
    pub fn note(&self, now: u64, failed: bool) -> bool {
        let breaker = &self.breaker;
        match (self.is_trial, failed) {
            (true, true) => {
                breaker.open(now);
                true
            }
            (true, false) => {
                if breaker.succeeded.fetch_add(1, Relaxed) + 1 >= breaker.spec.trials {
                    breaker.close();
                }
                false
            }
            (false, _) => {
                breaker.count(now, failed);
                if !failed || breaker.open_until_us.load(Relaxed) != 0 {
                    return false;
                }
                let (attempts, failures) = breaker.counted(now);
                let opens = attempts >= u64::from(breaker.spec.min_requests)
                    && failures * 100 >= attempts * u64::from(breaker.spec.failure_percent);
                if opens {
                    breaker.open(now);
                }
                opens
            }
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.is_trial {
            self.breaker.trying.fetch_sub(1, Relaxed);
        }
    }
}
