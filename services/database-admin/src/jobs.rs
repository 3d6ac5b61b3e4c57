//! What runs by itself: the backup that was asked for, the watch over backups whose process died, and the end of old
//! records.

use std::{
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::{self, MissedTickBehavior};
use uuid::Uuid;

use crate::{
    App, dump,
    migrate::SERVICES,
    store::{audit, backups},
};

/// How often a running backup says how far it is.
const PROGRESS: Duration = Duration::from_millis(250);
/// How often dead backups are looked for.
const WATCH: Duration = Duration::from_secs(3);
/// How often old records are deleted.
const TIDY: Duration = Duration::from_secs(3600);

/// Starts the jobs that run as long as the service.
pub fn start(app: &App) {
    let watched = app.clone();
    app.context.spawn("backup watch", async move {
        let shutdown = watched.context.shutdown.clone();
        let mut ticks = time::interval(WATCH);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = ticks.tick() => {}
            }
            if let Err(error) = fail_dead(&watched).await {
                tracing::warn!(%error, "can't look for dead backups");
            }
        }
    });
    let tidied = app.clone();
    app.context.spawn("audit retention", async move {
        let shutdown = tidied.context.shutdown.clone();
        let mut ticks = time::interval(TIDY);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = ticks.tick() => {}
            }
            match audit::delete_old(&tidied.pool, tidied.config.query.audit_days).await {
                Ok(0) => {}
                Ok(deleted) => tracing::info!(deleted, "old records of queries deleted"),
                Err(error) => tracing::warn!(%error, "can't delete old records of queries"),
            }
        }
    });
}

/// Marks the backup of a dead process failed, and takes its unfinished file away.
///
/// # Errors
/// The database is away.
pub async fn fail_dead(app: &App) -> sqlx::Result<()> {
    for id in backups::fail_dead(&app.pool).await? {
        tracing::error!(%id, "a backup's process ended before it did");
        app.metrics.backups_failed.inc();
        remove_unfinished(&app.config.backup.directory, id);
    }
    let last = backups::last_good(&app.pool).await?.and_then(|row| row.finished_at);
    app.metrics.last_backup.set(last.map_or(0, |at| at.timestamp()));
    Ok(())
}

/// Runs the backup `id`, whose row has been made.
pub async fn back_up(app: App, id: Uuid) {
    let shutdown = app.context.shutdown.clone();
    let deadline = Duration::from_secs(app.config.backup.deadline_seconds);
    let ended = tokio::select! {
        ended = time::timeout(deadline, run(&app, id)) => {
            ended.unwrap_or_else(|_| Err(anyhow::anyhow!("it took longer than {} s", deadline.as_secs())))
        }
        () = shutdown.cancelled() => Err(anyhow::anyhow!("the service was stopped")),
    };
    let Err(error) = ended else { return };
    tracing::error!(%id, error = format!("{error:#}"), "backup failed");
    app.metrics.backups_failed.inc();
    remove_unfinished(&app.config.backup.directory, id);
    // The pool may be the reason; then the next process marks it.
    if let Err(error) = backups::fail(&app.pool, id, &format!("{error:#}")).await {
        tracing::error!(%id, %error, "can't mark the backup failed");
    }
}

async fn run(app: &App, id: Uuid) -> anyhow::Result<()> {
    let schemas = SERVICES.map(|service| service.schema);
    let tables = i32::try_from(backups::count_tables(&app.pool, &schemas).await?)?;
    let progress = Arc::new(dump::Progress::default());
    let mut ticks = time::interval(PROGRESS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut dumping = std::pin::pin!(dump::run(&app.config.backup, id, app.keyring.clone(), Arc::clone(&progress)));
    let finished = loop {
        tokio::select! {
            finished = &mut dumping => break finished?,
            _ = ticks.tick() => {
                let done = progress.tables_done.load(Ordering::Relaxed).min(tables);
                let bytes = i64::try_from(progress.bytes.load(Ordering::Relaxed))?;
                let alive = backups::progress(&app.pool, id, done, tables, bytes).await;
                // One missed sign of life is not death.
                anyhow::ensure!(alive.unwrap_or(true), "another process held this one for dead");
            }
        }
    };
    let bytes = i64::try_from(finished.bytes)?;
    let recorded = backups::complete(&app.pool, id, tables, bytes, &finished.sha256, &finished.file).await?;
    anyhow::ensure!(recorded, "another process held this one for dead");
    app.metrics.last_backup.set(chrono::Utc::now().timestamp());
    tracing::info!(%id, bytes, tables, "backup done");
    Ok(())
}

fn remove_unfinished(directory: &Path, id: Uuid) {
    // There may be none, or it lies on another machine.
    let _ = std::fs::remove_file(directory.join(dump::unfinished_name(id)));
}
