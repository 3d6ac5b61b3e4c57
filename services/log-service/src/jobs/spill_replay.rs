//! Brings spilled lines into PostgreSQL when it is back, and tells the writer that it is.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::Context as _;
use kronos_common::service::Context;
use tokio::time;

use super::writer::{Fate, Shared, write_isolating};
use crate::telemetry::Metrics;

const EVERY: Duration = Duration::from_millis(500);
const PROBE: Duration = Duration::from_secs(1);
const BATCH: Duration = Duration::from_secs(30);

/// Starts the loop.
pub fn start(shared: Arc<Shared>, metrics: Metrics, context: &Context) {
    let shutdown = context.shutdown.clone();
    context.spawn("spill-replay", async move {
        loop {
            let waiting = shared.spill.bytes();
            metrics.spill_bytes.set(i64::try_from(waiting).unwrap_or(i64::MAX));
            let away = shared.away.load(Ordering::Relaxed);
            if (away || waiting > 0) && answers(&shared).await {
                if shared.away.swap(false, Ordering::Relaxed) {
                    tracing::info!(waiting_bytes = waiting, "PostgreSQL is back");
                }
                if let Err(error) = replay(&shared).await {
                    tracing::warn!(error = format!("{error:#}"), "spilled lines wait further");
                }
            }
            tokio::select! {
                () = time::sleep(EVERY) => {}
                () = shutdown.cancelled() => return,
            }
        }
    });
}

async fn answers(shared: &Shared) -> bool {
    let probe = sqlx::query("select 1").execute(&shared.lines.pool);
    matches!(time::timeout(PROBE, probe).await, Ok(Ok(_)))
}

async fn replay(shared: &Arc<Shared>) -> anyhow::Result<()> {
    loop {
        let taking = shared.clone();
        let taken = tokio::task::spawn_blocking(move || taking.spill.take()).await.context("take a spill file")??;
        let Some(segment) = taken else { return Ok(()) };
        let (mut new, mut known) = (0, 0);
        for batch in &segment.batches {
            let fates = time::timeout(BATCH, write_isolating(&shared.lines, batch, true)).await??;
            new += fates.iter().filter(|fate| **fate == Fate::New).count();
            known += fates.iter().filter(|fate| **fate == Fate::Duplicate).count();
        }
        let removing = shared.clone();
        tokio::task::spawn_blocking(move || removing.spill.remove(&segment)).await.context("remove a spill file")??;
        shared.tick();
        tracing::info!(new, known, "spilled lines are in PostgreSQL");
    }
}
