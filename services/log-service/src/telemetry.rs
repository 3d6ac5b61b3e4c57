//! The metrics of log-service. Their help texts are their documentation.

use kronos_common::service::Context;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts};

/// Lines by `way` (http, otlp, kafka, event) and `outcome` (new, duplicate, spilled, rejected).
pub const LINES: &str = "kronos_logs_lines_total";
/// Bytes that wait in the spill, because PostgreSQL is or was away.
pub const SPILL_BYTES: &str = "kronos_logs_spill_bytes";
/// Lines indexed by this instance.
pub const INDEXED: &str = "kronos_logs_indexed_total";
/// Lines that Elasticsearch refused for good; they are in the table `quarantine`.
pub const QUARANTINED: &str = "kronos_logs_quarantined_total";
/// Live tails that are open.
pub const TAILS: &str = "kronos_logs_tails";
/// Lines that slow tails missed, and were told so.
pub const TAIL_DROPPED: &str = "kronos_logs_tail_dropped_total";
/// Searches by `backend` (elasticsearch, postgres, none).
pub const SEARCHES: &str = "kronos_logs_searches_total";

/// All of them.
#[derive(Debug, Clone)]
pub struct Metrics {
    pub lines: IntCounterVec,
    pub spill_bytes: IntGauge,
    pub indexed: IntCounter,
    pub quarantined: IntCounter,
    pub tails: IntGauge,
    pub tail_dropped: IntCounter,
    pub searches: IntCounterVec,
}

impl Metrics {
    pub fn new(context: &Context) -> Self {
        let counter = |name, help| context.register(IntCounter::new(name, help).expect("a valid name"));
        let gauge = |name, help| context.register(IntGauge::new(name, help).expect("a valid name"));
        let counters = |name, help, labels: &[&str]| {
            context.register(IntCounterVec::new(Opts::new(name, help), labels).expect("a valid name"))
        };
        Self {
            lines: counters(LINES, "Log lines by way in and outcome", &["way", "outcome"]),
            spill_bytes: gauge(SPILL_BYTES, "Bytes that wait in the spill for PostgreSQL"),
            indexed: counter(INDEXED, "Log lines that this instance indexed"),
            quarantined: counter(QUARANTINED, "Log lines that Elasticsearch refused for good"),
            tails: gauge(TAILS, "Live tails that are open"),
            tail_dropped: counter(TAIL_DROPPED, "Log lines that slow tails missed"),
            searches: counters(SEARCHES, "Searches by what answered them", &["backend"]),
        }
    }
}
