//! Which requests get a log line. All of them while there are few; of many that went well, so many in a second, so that a flood
//! of requests is no flood of lines. Metrics count every request; the gateway's audit trail names every one.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// A request that takes longer always has its line.
const SLOW: Duration = Duration::from_secs(1);

/// The lines of the second under way.
#[derive(Debug)]
pub struct RequestLines {
    per_second: u32,
    begun: Instant,
    /// The second in the upper half, the lines that were written in it in the lower.
    written: AtomicU64,
    unwritten: AtomicU64,
}

impl RequestLines {
    /// `per_second` lines about requests that went well.
    pub fn new(per_second: u32) -> Self {
        Self { per_second, begun: Instant::now(), written: AtomicU64::new(0), unwritten: AtomicU64::new(0) }
    }

    /// Whether this request has a line: the number of those that had none since the last line, or nothing.
    pub fn admit(&self, status: u16, duration: Duration) -> Option<u64> {
        self.admit_in(self.begun.elapsed().as_secs(), status, duration)
    }

    fn admit_in(&self, second: u64, status: u16, duration: Duration) -> Option<u64> {
        let is_news = status >= 500 || duration >= SLOW;
        if is_news || self.takes_one_of(second) {
            return Some(self.unwritten.swap(0, Ordering::Relaxed));
        }
        self.unwritten.fetch_add(1, Ordering::Relaxed);
        None
    }

    fn takes_one_of(&self, second: u64) -> bool {
        let taken = self.written.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |written| {
            let (current, lines) = (written >> 32, written & u64::from(u32::MAX));
            let lines = if current == second { lines } else { 0 };
            (lines < u64::from(self.per_second)).then_some((second << 32) | (lines + 1))
        });
        taken.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(1);

    #[test]
    fn each_second_has_its_lines_and_the_next_line_says_how_many_requests_had_none() {
        let lines = RequestLines::new(2);
        assert_eq!([0; 5].map(|second| lines.admit_in(second, 200, SOON)), [Some(0), Some(0), None, None, None]);
        assert_eq!([1; 3].map(|second| lines.admit_in(second, 404, SOON)), [Some(3), Some(0), None]);
    }

    #[test]
    fn a_failure_and_a_slow_request_always_have_a_line() {
        let lines = RequestLines::new(0);
        assert_eq!(lines.admit_in(0, 200, SOON), None);
        assert_eq!(lines.admit_in(0, 503, SOON), Some(1));
        assert_eq!(lines.admit_in(0, 200, SLOW), Some(0));
    }
}
