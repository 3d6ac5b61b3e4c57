//! The metrics that are database-admin's own; those of every service are in `kronos_common::telemetry`.

use kronos_common::service::Context;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts};

/// Queries of `/db/query` by outcome: answered, cached, refused, failed.
pub const QUERIES: &str = "kronos_db_queries_total";
/// When the newest good backup ended, in Unix seconds; 0 if there is none.
pub const LAST_BACKUP: &str = "kronos_db_last_backup_timestamp_seconds";
/// Backups that failed.
pub const BACKUPS_FAILED: &str = "kronos_db_backups_failed_total";

/// The metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    pub queries: IntCounterVec,
    pub last_backup: IntGauge,
    pub backups_failed: IntCounter,
}

impl Metrics {
    /// Registers them.
    pub fn new(context: &Context) -> Self {
        let valid = "the names and labels are valid";
        let queries = Opts::new(QUERIES, "Queries by outcome");
        Self {
            queries: context.register(IntCounterVec::new(queries, &["outcome"]).expect(valid)),
            last_backup: context
                .register(IntGauge::new(LAST_BACKUP, "When the newest good backup ended, Unix seconds").expect(valid)),
            backups_failed: context.register(IntCounter::new(BACKUPS_FAILED, "Backups that failed").expect(valid)),
        }
    }
}
