//! Feeds Elasticsearch from PostgreSQL, in the order of seq. One instance at a time holds the turn; the checkpoint is in
//! PostgreSQL and moves after the bulk request, so a crash repeats lines, which the index recognises by their id.

use std::{sync::Arc, time::Duration};

use kronos_common::service::Context;
use sqlx::PgPool;
use tokio::{sync::watch, time};

use crate::{
    config,
    store::{elastic::Elastic, index_state},
    telemetry::Metrics,
};

const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));
/// How often the cluster is asked who it is.
const ASK_EVERY: Duration = Duration::from_secs(2);

/// What the indexer needs.
pub struct Indexer {
    pub pool: PgPool,
    pub elastic: Arc<Elastic>,
    pub config: config::Elasticsearch,
    pub metrics: Metrics,
    pub committed: watch::Receiver<u64>,
}

/// The cluster that has our template, and when it was asked last.
type Known = Option<(String, time::Instant)>;

impl Indexer {
    /// Starts the loop.
    pub fn start(mut self, context: &Context) {
        let shutdown = context.shutdown.clone();
        context.spawn("indexer", async move {
            let mut known = None;
            let mut pause = PAUSE.0;
            let mut failing = false;
            while !shutdown.is_cancelled() {
                self.committed.borrow_and_update();
                match self.step(&mut known).await {
                    Ok(more) => {
                        if std::mem::take(&mut failing) {
                            tracing::info!("indexing goes on");
                        }
                        pause = PAUSE.0;
                        if more {
                            continue;
                        }
                        tokio::select! {
                            _ = self.committed.changed() => {}
                            () = time::sleep(Duration::from_millis(self.config.poll_ms)) => {}
                            () = shutdown.cancelled() => {}
                        }
                    }
                    Err(error) => {
                        known = None;
                        if !std::mem::replace(&mut failing, true) {
                            tracing::warn!(
                                error = format!("{error:#}"),
                                "indexing waits, searches are answered by PostgreSQL"
                            );
                        }
                        tokio::select! { () = time::sleep(pause) => {}, () = shutdown.cancelled() => {} }
                        pause = (pause * 2).min(PAUSE.1);
                    }
                }
            }
        });
    }

    /// One batch; whether there may be more at once.
    async fn step(&self, known: &mut Known) -> anyhow::Result<bool> {
        let cluster = self.cluster(known).await?;
        let Some(mut turn) = index_state::take_turn(&self.pool, &cluster).await? else { return Ok(false) };
        let lines = turn.next(self.config.bulk_lines).await?;
        let Some(last) = lines.last().map(|line| line.seq) else {
            turn.end().await?;
            return Ok(false);
        };
        let bulk = self.elastic.bulk(&lines).await?;
        if let Some(reason) = bulk.failed {
            anyhow::bail!("Elasticsearch does not take lines now: {reason}");
        }
        if let Some((seq, reason)) = bulk.refused.first() {
            tracing::warn!(count = bulk.refused.len(), seq, reason, "Elasticsearch refused lines for good");
        }
        turn.finish(last, &bulk.refused).await?;
        self.metrics.quarantined.inc_by(bulk.refused.len() as u64);
        self.metrics.indexed.inc_by((lines.len() - bulk.refused.len()) as u64);
        Ok(true)
    }

    async fn cluster(&self, known: &mut Known) -> anyhow::Result<String> {
        if let Some((cluster, asked)) = known
            && asked.elapsed() < ASK_EVERY
        {
            return Ok(cluster.clone());
        }
        let cluster = self.elastic.cluster().await?;
        if known.as_ref().is_none_or(|(before, _)| *before != cluster) {
            self.elastic.put_template().await?;
        }
        *known = Some((cluster.clone(), time::Instant::now()));
        Ok(cluster)
    }
}
