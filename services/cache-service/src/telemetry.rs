//! The metrics that are cache-service's own; those of every service are in `kronos_common::telemetry`.

use kronos_common::service::Context;
use prometheus::{IntCounterVec, Opts};

/// Reads by outcome: hit, miss (never there or expired), invalidated (by a tag).
pub const READS: &str = "kronos_cache_reads_total";

/// The metrics.
#[derive(Debug)]
pub struct Metrics {
    pub reads: IntCounterVec,
}

impl Metrics {
    /// Registers them.
    pub fn new(context: &Context) -> Self {
        let reads = IntCounterVec::new(Opts::new(READS, "Reads by outcome"), &["outcome"]);
        Self { reads: context.register(reads.expect("the name and labels are valid")) }
    }
}
