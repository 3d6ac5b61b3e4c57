//! What is known of one instance: its latency, the requests under way, whether it is left out for failing, whether its
//! health checks fail, and for how long it has been taking requests. The state belongs to the address, so routes and
//! upstreams share it and a new table keeps it. No I/O, no clock: `now` is microseconds on any monotonic clock.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
};

use http::uri::Authority;

use crate::{hash, outlier::Rules, upstream_spec::Address};

/// Among measurements, an old one counts less at this rate.
const DECAY_US: f64 = 10_000_000.0;
/// Without measurements what is known is forgotten faster: an instance that was slow once is tried again soon.
const FORGET_US: f64 = 1_000_000.0;
/// No instance counts as faster than this, so that requests under way weigh from the start.
const FLOOR_US: f64 = 100.0;
/// What a failure counts as, for failing fast must not attract requests; and what a first answer that is awaited counts as.
const PENALTY_US: f64 = 250_000.0;
/// An instance that has just begun gets at least this part of its share.
const SLOWEST_START: f64 = 0.1;

/// One address, and what is known of it.
#[derive(Debug)]
pub struct Instance {
    /// Tells instances apart for as long as the process lives.
    pub id: u64,
    pub authority: Authority,
    /// Spoken to through TLS.
    pub is_tls: bool,
    /// The same at every gateway.
    pub hash: u64,
    in_flight: AtomicU32,
    /// `f64` bits.
    latency_us: AtomicU64,
    measured_us: AtomicU64,
    failures: AtomicU32,
    ejections: AtomicU32,
    ejected_until_us: AtomicU64,
    /// After an ejection one request at a time, until one succeeds.
    probation: AtomicBool,
    /// Health checks that say that it is not well.
    complaints: AtomicU32,
    /// Since when it has been taking requests; zero: it has not begun.
    since_us: AtomicU64,
}

impl Instance {
    pub fn new(address: Address) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let Address { authority, is_tls } = address;
        Self {
            id: COUNT.fetch_add(1, Relaxed),
            hash: hash::of(authority.as_str().to_ascii_lowercase().as_bytes()),
            authority,
            is_tls,
            in_flight: AtomicU32::new(0),
            latency_us: AtomicU64::new(0),
            measured_us: AtomicU64::new(0),
            failures: AtomicU32::new(0),
            ejections: AtomicU32::new(0),
            ejected_until_us: AtomicU64::new(0),
            probation: AtomicBool::new(false),
            complaints: AtomicU32::new(0),
            since_us: AtomicU64::new(0),
        }
    }

    /// Such as `http://10.0.0.5:9000`.
    pub fn url(&self) -> String {
        format!("{}://{}", if self.is_tls { "https" } else { "http" }, self.authority)
    }

    /// Counts a request until the guard is dropped.
    pub fn enter(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Relaxed);
        InFlight(Arc::clone(self))
    }

    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// Expected cost of one more request.
    pub fn cost(&self, now: u64) -> f64 {
        let in_flight = self.in_flight();
        // What is forgotten is tried with one request; until that is answered it counts as it was known.
        let expected = match f64::from_bits(self.latency_us.load(Relaxed)) {
            _ if in_flight == 0 => self.latency(now),
            known if known < 1.0 => PENALTY_US,
            known => known,
        };
        expected.max(FLOOR_US) * f64::from(in_flight + 1)
    }

    /// Whether it is neither ejected nor unhealthy at `now`.
    pub fn is_available(&self, now: u64) -> bool {
        now >= self.ejected_until_us.load(Relaxed)
            && !(self.probation.load(Relaxed) && self.in_flight() > 0)
            && self.is_healthy()
    }

    /// Whether no health check says otherwise.
    pub fn is_healthy(&self) -> bool {
        self.complaints.load(Relaxed) == 0
    }

    /// A health check finds it unwell until the guard is dropped; then it begins anew.
    pub fn complain(self: &Arc<Self>) -> Complaint {
        self.complaints.fetch_add(1, Relaxed);
        Complaint(Arc::clone(self))
    }

    /// An answer came after `took_us`.
    pub fn succeeded(&self, now: u64, took_us: u64) {
        self.measure(now, took_us as f64);
        // Mostly nothing changes: reading keeps the cache line shared between cores.
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
        }
        if self.probation.load(Relaxed) {
            self.probation.store(false, Relaxed);
            self.ejected_until_us.store(0, Relaxed);
            self.since_us.store(now, Relaxed);
            let ejections = self.ejections.load(Relaxed);
            self.ejections.store(ejections / 2, Relaxed);
        }
    }

    /// No answer, or one that says that the instance is not well. True if this ejected it.
    pub fn failed(&self, now: u64, rules: &Rules) -> bool {
        self.measure(now, (self.latency(now) * 2.0).max(PENALTY_US));
        let failures = self.failures.fetch_add(1, Relaxed) + 1;
        let due = failures >= rules.failures || self.probation.load(Relaxed);
        if !due || now < self.ejected_until_us.load(Relaxed) {
            return false;
        }
        let before = self.ejections.fetch_add(1, Relaxed);
        let pause = rules.base_us.saturating_mul(1 << before.min(20)).min(rules.max_us);
        self.ejected_until_us.store(now + pause, Relaxed);
        self.probation.store(true, Relaxed);
        // The pause is the penalty: after it the instance is to be tried, not avoided.
        self.latency_us.store(0, Relaxed);
        true
    }

    /// What an answer is expected to take, in microseconds; 0 if nothing is known.
    pub fn latency(&self, now: u64) -> f64 {
        let age = now.saturating_sub(self.measured_us.load(Relaxed)) as f64;
        f64::from_bits(self.latency_us.load(Relaxed)) * (-age / FORGET_US).exp()
    }

    /// The part of its share that it is to get: it grows to 1 in the first `slow_us` that it takes requests.
    pub fn readiness(&self, now: u64, slow_us: u64) -> f64 {
        if slow_us == 0 {
            return 1.0;
        }
        // The first to ask is the first to be able to choose it.
        let since = match self.since_us.compare_exchange(0, now.max(1), Relaxed, Relaxed) {
            Ok(_) => now,
            Err(since) => since,
        };
        let age = now.saturating_sub(since);
        if age >= slow_us { 1.0 } else { (age as f64 / slow_us as f64).max(SLOWEST_START) }
    }

    /// A rise counts at once, a fall slowly. Two cores at once may lose one of two measurements, which does no harm.
    fn measure(&self, now: u64, took_us: f64) {
        let age = now.saturating_sub(self.measured_us.load(Relaxed)) as f64;
        let weight = (-age / DECAY_US).exp();
        let known = f64::from_bits(self.latency_us.load(Relaxed));
        let next = if took_us > known * weight { took_us } else { known * weight + took_us * (1.0 - weight) };
        self.latency_us.store(next.to_bits(), Relaxed);
        self.measured_us.store(now, Relaxed);
    }
}

/// A request under way at an instance.
#[derive(Debug)]
pub struct InFlight(Arc<Instance>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

/// A failing health check.
#[derive(Debug)]
pub struct Complaint(Arc<Instance>);

impl Drop for Complaint {
    fn drop(&mut self) {
        self.0.since_us.store(0, Relaxed);
        self.0.complaints.fetch_sub(1, Relaxed);
    }
}
