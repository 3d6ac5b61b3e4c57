//! Chooses an instance: power of two choices over peak EWMA latency × requests under way, without those that were ejected
//! for failing, and says whether a retry may be afforded. The state belongs to the instance (its address), so routes and
//! upstreams share it and a new table keeps it. No I/O, no clock: `now` is microseconds on any monotonic clock.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering::Relaxed},
};

use http::uri::Authority;

/// Among measurements, an old one counts less at this rate.
const DECAY_US: f64 = 10_000_000.0;
/// Without measurements what is known is forgotten faster: an instance that was slow once is tried again soon.
const FORGET_US: f64 = 1_000_000.0;
/// No instance counts as faster than this, so that requests under way weigh from the start.
const FLOOR_US: f64 = 100.0;
/// What a failure counts as: failing fast must not attract requests.
const PENALTY_US: f64 = 250_000.0;
/// Retries that can be saved up, in thousandths.
const BUDGET_CAP: i64 = 100_000;

/// When an instance is left out, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    pub failures: u32,
    pub base_us: u64,
    pub max_us: u64,
    /// Below this percentage of instances that are left, all are used.
    pub panic_percent: u32,
}

/// One address, and what is known of it.
#[derive(Debug)]
pub struct Instance {
    /// Tells instances apart for as long as the process lives.
    pub id: u64,
    pub authority: Authority,
    in_flight: AtomicU32,
    /// `f64` bits.
    latency_us: AtomicU64,
    measured_us: AtomicU64,
    failures: AtomicU32,
    ejections: AtomicU32,
    ejected_until_us: AtomicU64,
    /// After an ejection one request at a time, until one succeeds.
    probation: AtomicBool,
}

impl Instance {
    pub fn new(authority: Authority) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        Self {
            id: COUNT.fetch_add(1, Relaxed),
            authority,
            in_flight: AtomicU32::new(0),
            latency_us: AtomicU64::new(0),
            measured_us: AtomicU64::new(0),
            failures: AtomicU32::new(0),
            ejections: AtomicU32::new(0),
            ejected_until_us: AtomicU64::new(0),
            probation: AtomicBool::new(false),
        }
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
        self.latency(now).max(FLOOR_US) * f64::from(self.in_flight() + 1)
    }

    /// Whether it is not ejected at `now`.
    pub fn is_available(&self, now: u64) -> bool {
        now >= self.ejected_until_us.load(Relaxed) && !(self.probation.load(Relaxed) && self.in_flight() > 0)
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

/// Retries are paid from a part of the requests, so that failing instances are not asked ever more often.
#[derive(Debug)]
pub struct Budget {
    balance: AtomicI64,
}

impl Default for Budget {
    fn default() -> Self {
        Self { balance: AtomicI64::new(BUDGET_CAP) }
    }
}

impl Budget {
    /// Each first attempt pays in.
    pub fn deposit(&self, retry_percent: u32) {
        if self.balance.load(Relaxed) < BUDGET_CAP {
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

/// An upstream's instance and its part of the requests.
#[derive(Debug, Clone)]
pub struct Member {
    pub weight: u32,
    pub instance: Arc<Instance>,
}

/// Chooses among `members`, all of which have a weight above zero; never `except`. `random` is called for numbers below
/// its argument, which is at least one.
pub fn pick<'a>(
    members: &'a [Member],
    except: Option<&Instance>,
    now: u64,
    rules: &Rules,
    mut random: impl FnMut(u32) -> u32,
) -> Option<&'a Arc<Instance>> {
    let is_excepted = |instance: &Instance| except.is_some_and(|except| std::ptr::eq(except, instance));
    let usable = |member: &Member| !is_excepted(&member.instance) && member.instance.is_available(now);
    match members {
        [] => return None,
        [only] => return (!is_excepted(&only.instance)).then_some(&only.instance),
        _ => {}
    }
    let (a, b) = two(members, |member| member.weight, &mut random);
    if usable(a) && usable(b) {
        return Some(cheaper(a, b, now));
    }
    let mut left: Vec<&Member> = members.iter().filter(|member| usable(member)).collect();
    let healthy = left.len() + usize::from(except.is_some_and(|except| except.is_available(now)));
    if left.is_empty() || healthy * 100 < rules.panic_percent as usize * members.len() {
        left = members.iter().filter(|member| !is_excepted(&member.instance)).collect();
    }
    match left.as_slice() {
        [] => None,
        [only] => Some(&only.instance),
        several => {
            let (a, b) = two(several, |member| member.weight, &mut random);
            Some(cheaper(a, b, now))
        }
    }
}

fn cheaper<'a>(a: &'a Member, b: &'a Member, now: u64) -> &'a Arc<Instance> {
    if b.instance.cost(now) < a.instance.cost(now) { &b.instance } else { &a.instance }
}

/// Two to choose from: different ones if all weigh the same; else each by weight, perhaps the same one twice, so that a
/// heavy one is not only as likely as its neighbour.
fn two<'a, T>(list: &'a [T], weight: impl Fn(&T) -> u32, random: &mut impl FnMut(u32) -> u32) -> (&'a T, &'a T) {
    let count = u32::try_from(list.len()).expect("an upstream has at most 256 instances");
    let first_weight = weight(&list[0]);
    if list.iter().all(|item| weight(item) == first_weight) {
        let a = random(count);
        let b = (a + 1 + random(count - 1)) % count;
        return (&list[a as usize], &list[b as usize]);
    }
    let total: u32 = list.iter().map(&weight).sum();
    let mut by_weight = || {
        let mut at = random(total.max(1));
        list.iter().find(|item| at.checked_sub(weight(item)).map(|rest| at = rest).is_none()).unwrap_or(&list[0])
    };
    (by_weight(), by_weight())
}
