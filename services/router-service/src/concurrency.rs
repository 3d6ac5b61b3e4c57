//! How many requests an upstream may have under way, at each gateway: a fixed number, or one that follows the upstream's
//! latency. The policy `maxConcurrent`. What is one too many is refused at once, so that it does not wait where others wait.
//!
//! Adaptive: the algorithm of `Gradient2Limit` in Netflix's concurrency-limits
//! (<https://github.com/Netflix/concurrency-limits>): the limit shrinks as the present latency rises above the long-term
//! one, and grows by a small queue while it does not.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU32, Ordering::Relaxed},
};

use kronos_common::problem::FieldError;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The long-term latency follows over so many answers.
const LONG: f64 = 600.0;
/// The latency may rise so far before the limit shrinks.
const TOLERANCE: f64 = 1.5;
/// The limit moves by so much of the way at a time.
const SMOOTHING: f64 = 0.2;
/// Requests that may wait at the upstream.
const QUEUE: f64 = 4.0;

/// At most so many requests under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum MaxConcurrent {
    /// This many.
    Fixed(u32),
    /// As many as the upstream bears without growing slower.
    Adaptive(Adaptive),
}

/// Bounds of a limit that follows the latency.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Adaptive {
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub min: u32,
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub max: u32,
}

impl MaxConcurrent {
    /// Everything that is wrong with it.
    pub fn check(&self, errors: &mut Vec<FieldError>) {
        let mut within = |field: &str, value: u32, least: u32| {
            if !(least..=1_000_000).contains(&value) {
                let detail = format!("from {least} to 1000000");
                errors.push(FieldError::new(format!("/maxConcurrent{field}"), "out_of_range", detail));
            }
        };
        match self {
            Self::Fixed(most) => within("", *most, 1),
            Self::Adaptive(Adaptive { min, max }) => {
                within("/min", *min, 1);
                within("/max", *max, *min);
            }
        }
    }
}

#[derive(Debug)]
struct Gradient {
    limit: f64,
    long_us: f64,
    answers: f64,
}

/// The seats of one upstream.
#[derive(Debug)]
pub struct Concurrency {
    pub spec: MaxConcurrent,
    taken: AtomicU32,
    most: AtomicU32,
    gradient: Mutex<Gradient>,
}

/// A request under way.
#[derive(Debug)]
pub struct Seat(Arc<Concurrency>);

impl Concurrency {
    pub fn new(spec: MaxConcurrent) -> Self {
        let first = match &spec {
            MaxConcurrent::Fixed(most) => *most,
            MaxConcurrent::Adaptive(Adaptive { min, max }) => (*max).min(20).max(*min),
        };
        let gradient = Mutex::new(Gradient { limit: first.into(), long_us: 0.0, answers: 0.0 });
        Self { spec, taken: AtomicU32::new(0), most: AtomicU32::new(first), gradient }
    }

    /// Requests that may be under way now.
    pub fn most(&self) -> u32 {
        self.most.load(Relaxed)
    }

    pub fn taken(&self) -> u32 {
        self.taken.load(Relaxed)
    }

    /// A seat, if one is free.
    pub fn enter(self: &Arc<Self>) -> Option<Seat> {
        if self.taken.fetch_add(1, Relaxed) >= self.most() {
            self.taken.fetch_sub(1, Relaxed);
            return None;
        }
        Some(Seat(Arc::clone(self)))
    }

    /// An answer began after `took_us`.
    pub fn answered(&self, took_us: u64) {
        let MaxConcurrent::Adaptive(Adaptive { min, max }) = &self.spec else { return };
        // Another core is counting: one answer more or less changes nothing.
        let Ok(mut gradient) = self.gradient.try_lock() else { return };
        let (took, taken) = ((took_us as f64).max(1.0), f64::from(self.taken()));
        gradient.answers = (gradient.answers + 1.0).min(LONG);
        gradient.long_us += (took - gradient.long_us) / gradient.answers;
        // After a long slow time the long-term latency comes down faster.
        if gradient.long_us / took > 2.0 {
            gradient.long_us *= 0.95;
        }
        // Who does not use the limit tells nothing about it.
        if taken < gradient.limit / 2.0 {
            return;
        }
        let slope = (TOLERANCE * gradient.long_us / took).clamp(0.5, 1.0);
        let wanted = gradient.limit * slope + QUEUE;
        let next = gradient.limit * (1.0 - SMOOTHING) + wanted * SMOOTHING;
        gradient.limit = next.clamp((*min).into(), (*max).into());
        self.most.store(gradient.limit as u32, Relaxed);
    }
}

impl Seat {
    /// An answer began after `took_us`.
    pub fn answered(&self, took_us: u64) {
        self.0.answered(took_us);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Relaxed);
    }
}
