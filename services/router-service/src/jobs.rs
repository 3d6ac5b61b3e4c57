//! Loops: following the stored routes, tidying the limits. They end on the shutdown token.

use std::{sync::Arc, time::Duration};

use kronos_common::service::Context;
use sqlx::postgres::PgListener;
use tokio::time;

use crate::{
    limit::Limiter,
    live::Live,
    quota::Quotas,
    store::{CHANNEL, Store},
};

/// Days for which the use of quotas is kept.
const KEPT_DAYS: u64 = 400;
/// How long to wait for the database before listening to it again.
const PAUSE: Duration = Duration::from_secs(1);

/// Keeps the table as new as the stored one: a notification wakes, a poll makes up for lost ones.
pub fn follow_table(store: Store, live: Arc<Live>, poll: Duration, context: &Context) {
    let (wake, woken) = (Arc::new(tokio::sync::Notify::new()), context.shutdown.clone());
    let listener = (store.clone(), Arc::clone(&wake), context.shutdown.clone());
    context.spawn("route-notifications", async move {
        let (store, wake, shutdown) = listener;
        tokio::select! { () = shutdown.cancelled() => {}, () = listen(&store, &wake) => {} }
    });
    context.spawn("route-table", async move {
        let follow = async {
            loop {
                // A poll that finds nothing new costs one small query.
                let _ = time::timeout(poll, wake.notified()).await;
                if let Err(error) = refresh(&store, &live).await {
                    tracing::debug!(error = format!("{error:#}"), "routes can't be read now");
                }
            }
        };
        tokio::select! { () = woken.cancelled() => {}, () = follow => {} }
    });
}

/// Takes over what is stored, if it is newer.
///
/// # Errors
/// A database that is away, or routes that do not compile.
pub async fn refresh(store: &Store, live: &Arc<Live>) -> anyhow::Result<()> {
    if store.version().await? > live.table().version {
        let snapshot = store.snapshot().await?;
        let live = Arc::clone(live);
        let applied = tokio::task::spawn_blocking(move || live.apply(&snapshot)).await?;
        if let Err(error) = applied {
            tracing::error!(error = format!("{error:#}"), "stored routes are refused, the table stays");
        }
    }
    Ok(())
}

async fn listen(store: &Store, wake: &tokio::sync::Notify) {
    loop {
        let heard = async {
            let mut listener = PgListener::connect_with(store.pool()).await?;
            listener.listen(CHANNEL).await?;
            // What changed before it listened was told to nobody here.
            wake.notify_one();
            loop {
                // Also after a reconnection, which may have lost some.
                listener.try_recv().await?;
                wake.notify_one();
            }
        };
        let ended: Result<(), sqlx::Error> = heard.await;
        if let Err(error) = ended {
            tracing::debug!(%error, "not listening for routes now, polling");
        }
        time::sleep(PAUSE).await;
    }
}

/// Gives unspent leave of quotas back, at the drain all of it, and forgets old periods.
pub fn sweep_quotas(quotas: Arc<Quotas>, store: Store, context: &Context) {
    let shutdown = context.shutdown.clone();
    context.spawn("quota-sweep", async move {
        let mut tick = time::interval(Duration::from_secs(10));
        let mut forget = time::interval(Duration::from_secs(3600));
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return quotas.give_back(true).await,
                _ = tick.tick() => quotas.give_back(false).await,
                _ = forget.tick() => {
                    let old = chrono::Utc::now().date_naive() - chrono::Days::new(KEPT_DAYS);
                    if let Err(error) = store.forget_quota_use(old).await {
                        tracing::debug!(%error, "old use of quotas can't be forgotten now");
                    }
                }
            }
        }
    });
}

/// Gives unspent tokens back.
pub fn sweep_limits(limiter: Arc<Limiter>, context: &Context) {
    let shutdown = context.shutdown.clone();
    context.spawn("rate-limit-sweep", async move {
        let mut tick = time::interval(Duration::from_millis(500));
        loop {
            tokio::select! { () = shutdown.cancelled() => return, _ = tick.tick() => limiter.sweep() }
        }
    });
}
