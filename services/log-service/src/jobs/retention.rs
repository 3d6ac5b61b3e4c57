//! Makes the partitions of the days to come, and drops days that are older than what is kept, in both stores.

use std::{sync::Arc, time::Duration};

use chrono::{Days, Utc};
use kronos_common::service::Context;
use tokio::time;

use super::writer::Shared;
use crate::{
    config,
    store::{elastic::Elastic, index_state},
};

const EVERY: Duration = Duration::from_secs(600);
const AGAIN: Duration = Duration::from_secs(10);

/// Starts the loop.
pub fn start(config: config::Retention, shared: Arc<Shared>, elastic: Arc<Elastic>, context: &Context) {
    let shutdown = context.shutdown.clone();
    context.spawn("retention", async move {
        loop {
            let wait = match run(&config, &shared, &elastic).await {
                Ok(()) => EVERY,
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "retention will be tried again");
                    AGAIN
                }
            };
            tokio::select! {
                () = time::sleep(wait) => {}
                () = shutdown.cancelled() => return,
            }
        }
    });
}

/// Once.
///
/// # Errors
/// Of either store; what was done before stays done.
pub async fn run(config: &config::Retention, shared: &Shared, elastic: &Elastic) -> anyhow::Result<()> {
    let now = Utc::now();
    let today = now.date_naive();
    let lines = &shared.lines;
    lines.days.ensure(&lines.pool, (0..=config.days_ahead).map(|ahead| today + Days::new(ahead.into()))).await?;
    let oldest = today - Days::new(u64::from(config.days) - 1);
    let partitions = lines.days.drop_before(&lines.pool, oldest).await?;
    index_state::forget_quarantine(&shared.lines.pool, now - Days::new(config.days.into())).await?;
    let indices = elastic.drop_before(oldest).await?;
    if partitions + indices > 0 {
        tracing::info!(%oldest, partitions, indices, "dropped old days");
    }
    Ok(())
}
