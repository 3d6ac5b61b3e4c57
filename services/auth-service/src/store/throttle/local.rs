//! The counters of one instance, used while Redis is away. Bounded; nothing here outlives the window.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{Limits, Reservation};

/// Counters that an instance keeps by itself at most.
const MOST: usize = 20_000;

#[derive(Default)]
pub(super) struct Local(Mutex<HashMap<String, Counter>>);

struct Counter {
    failures: u64,
    reserved: u64,
    until: Instant,
}

impl Local {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Counter>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The keys are those of the scripts: failures of account and network, of the network, of the account, …
    pub(super) fn reserve(&self, keys: &[String; 6], limits: Limits) -> Reservation {
        let now = Instant::now();
        let mut counters = self.lock();
        let found = |key: &String| {
            counters.get(key).map_or((0, 0, Duration::ZERO), |counter| {
                let wait = counter.until.saturating_duration_since(now);
                (if wait.is_zero() { 0 } else { counter.failures }, counter.reserved, wait)
            })
        };
        let excess = (found(&keys[2]).0 + 1).saturating_sub(limits.account);
        let of_account = if excess > 0 { limits.pressed } else { limits.account_network };
        let both = [(found(&keys[0]), of_account), (found(&keys[1]), limits.network)];
        let refused = both.iter().filter(|((failures, _, _), limit)| failures >= limit).map(|((_, _, wait), _)| *wait);
        if let Some(wait) = refused.max() {
            return Reservation::Refused(wait);
        }
        if both.iter().any(|((failures, reserved, _), limit)| failures + reserved >= *limit) {
            return Reservation::Busy;
        }
        for key in keys.iter().take(2) {
            if counters.len() < MOST || counters.contains_key(key) {
                let counter = counters.entry(key.clone()).or_insert(Counter { failures: 0, reserved: 0, until: now });
                counter.reserved += 1;
            }
        }
        Reservation::Made { excess }
    }

    pub(super) fn release(&self, keys: &[String; 6]) {
        let mut counters = self.lock();
        for key in keys.iter().take(2) {
            if let Some(counter) = counters.get_mut(key) {
                counter.reserved = counter.reserved.saturating_sub(1);
            }
        }
    }

    pub(super) fn count(&self, keys: &[String; 6], window: Duration) {
        let now = Instant::now();
        let mut counters = self.lock();
        if counters.len() + 3 > MOST {
            counters.retain(|_, counter| counter.until > now || counter.reserved > 0);
        }
        let room = counters.len() + 3 <= MOST;
        for key in keys.iter().take(3) {
            match counters.get_mut(key) {
                Some(counter) if counter.until > now => counter.failures += 1,
                Some(counter) => (counter.failures, counter.until) = (1, now + window),
                None if room => {
                    counters.insert(key.clone(), Counter { failures: 1, reserved: 0, until: now + window });
                }
                None => {}
            }
        }
    }

    pub(super) fn forget(&self, keys: &[String; 6]) {
        if let Some(counter) = self.lock().get_mut(&keys[0]) {
            counter.failures = 0;
        }
    }
}
