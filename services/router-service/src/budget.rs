//! The retry budget of an upstream: retries are paid from a part of its requests, so that failing instances are not asked
//! ever more often.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

/// Retries that can be saved up, in thousandths.
const CAP: i64 = 100_000;

#[derive(Debug)]
pub struct Budget {
    balance: AtomicI64,
}

impl Default for Budget {
    fn default() -> Self {
        Self { balance: AtomicI64::new(CAP) }
    }
}

impl Budget {
    /// Each first attempt pays in.
    pub fn deposit(&self, retry_percent: u32) {
        if self.balance.load(Relaxed) < CAP {
            self.balance.fetch_add(i64::from(retry_percent) * 10, Relaxed);
        }
    }

    /// Retries that could be paid for now.
    pub fn left(&self) -> u64 {
        u64::try_from(self.balance.load(Relaxed) / 1000).unwrap_or(0)
    }

    /// Whether one retry may be made; it is paid for.
    pub fn withdraw(&self) -> bool {
        self.balance.fetch_update(Relaxed, Relaxed, |balance| (balance >= 1000).then(|| balance - 1000)).is_ok()
    }
}
