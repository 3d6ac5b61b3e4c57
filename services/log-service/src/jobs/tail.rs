//! Live tails: one loop follows the table by seq, whichever instance wrote the lines, matches each line once for each
//! distinct filter, and hands it to all who wait for it. It rests while nobody does. Memory is bounded: who is too slow
//! misses lines and learns how many.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use kronos_common::service::Context;
use tokio::{
    sync::{Notify, broadcast, watch},
    time,
};

use super::writer::Shared;
use crate::{config, line::Line, query::Filter, telemetry::Metrics};

/// Lines read at once.
const PAGE: i64 = 500;
const PAUSE: Duration = Duration::from_secs(1);

/// All live tails of this instance.
#[derive(Debug, Clone)]
pub struct Tails(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    config: config::Tail,
    groups: Mutex<Groups>,
    wanted: Notify,
    /// The seq up to which the follower has read; none while it rests.
    position: watch::Sender<Option<i64>>,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct Groups {
    by_filter: HashMap<Filter, broadcast::Sender<Arc<Line>>>,
    subscribers: usize,
}

/// One reader's place.
#[derive(Debug)]
pub struct Subscription {
    /// New lines that fit.
    pub lines: broadcast::Receiver<Arc<Line>>,
    /// Lines after this one come by themselves.
    pub position: i64,
    _counted: Counted,
}

#[derive(Debug)]
struct Counted(Tails);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.groups().subscribers -= 1;
        self.0.0.metrics.tails.dec();
    }
}

/// There are too many tails.
#[derive(Debug)]
pub struct TooMany;

impl Tails {
    /// Starts the follower.
    pub fn start(config: config::Tail, shared: Arc<Shared>, metrics: Metrics, context: &Context) -> Self {
        let committed = shared.committed.subscribe();
        let tails = Self(Arc::new(Inner {
            shared,
            config,
            groups: Mutex::default(),
            wanted: Notify::new(),
            position: watch::Sender::new(None),
            metrics,
        }));
        let (follower, shutdown) = (tails.clone(), context.shutdown.clone());
        context.spawn("tail", async move {
            tokio::select! {
                () = follower.follow(committed) => {}
                () = shutdown.cancelled() => {}
            }
        });
        tails
    }

    /// Joins; every line that is committed after this returns will come.
    ///
    /// # Errors
    /// Too many.
    pub async fn subscribe(&self, filter: Filter) -> Result<Subscription, TooMany> {
        let (lines, counted) = {
            let mut groups = self.groups();
            if groups.subscribers >= self.0.config.max_tails {
                return Err(TooMany);
            }
            groups.subscribers += 1;
            self.0.metrics.tails.inc();
            let buffer = self.0.config.buffer_lines;
            let sender = groups.by_filter.entry(filter).or_insert_with(|| broadcast::Sender::new(buffer));
            (sender.subscribe(), Counted(self.clone()))
        };
        self.0.wanted.notify_one();
        let mut position = self.0.position.subscribe();
        // The sender lives in `self`, so the wait ends only with a position.
        let position = position.wait_for(Option::is_some).await.ok().and_then(|position| *position).unwrap_or(0);
        Ok(Subscription { lines, position, _counted: counted })
    }

    /// Lines after `seq` and up to `until` that fit, and how many were left out, because they are too many.
    ///
    /// # Errors
    /// Of the database.
    pub async fn replay(&self, filter: &Filter, seq: i64, until: i64) -> sqlx::Result<(i64, Vec<Line>)> {
        let first = seq.max(until.saturating_sub(self.0.config.max_replay)).max(0);
        let mut found = Vec::new();
        let mut at = first;
        while at < until {
            let page = self.0.shared.lines.after(at, PAGE).await?;
            let Some(last) = page.last() else { break };
            at = last.seq;
            found.extend(page.into_iter().filter(|line| line.seq <= until && filter.matches(line)));
        }
        Ok((first - seq.clamp(0, first), found))
    }

    /// Counts what a slow reader missed.
    pub fn count_dropped(&self, count: u64) {
        self.0.metrics.tail_dropped.inc_by(count);
    }

    async fn follow(&self, mut committed: watch::Receiver<u64>) {
        let poll = Duration::from_millis(self.0.config.poll_ms);
        loop {
            if self.rests() {
                self.0.wanted.notified().await;
                continue;
            }
            committed.borrow_and_update();
            match self.step().await {
                Ok(true) => {}
                Ok(false) => {
                    tokio::select! {
                        _ = committed.changed() => {}
                        () = self.0.wanted.notified() => {}
                        () = time::sleep(poll) => {}
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "tails wait for PostgreSQL");
                    time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Forgets filters that nobody waits for; true if none is left.
    fn rests(&self) -> bool {
        let mut groups = self.groups();
        groups.by_filter.retain(|_, sender| sender.receiver_count() > 0);
        if groups.by_filter.is_empty() {
            // Under the lock, so that nobody who joins takes the old position for one that moves.
            self.0.position.send_replace(None);
        }
        groups.by_filter.is_empty()
    }

    /// Reads a page and hands it out; whether there may be more.
    async fn step(&self) -> sqlx::Result<bool> {
        let position = *self.0.position.borrow();
        let Some(position) = position else {
            let last = self.0.shared.lines.last_seq().await?;
            self.0.position.send_replace(Some(last));
            return Ok(false);
        };
        let page = self.0.shared.lines.after(position, PAGE).await?;
        let Some(last) = page.last().map(|line| line.seq) else { return Ok(false) };
        // Under the lock: who joins is either in the group by now, or at the new position.
        let groups = self.groups();
        self.0.position.send_replace(Some(last));
        for line in page {
            let fitting: Vec<_> = groups.by_filter.iter().filter(|(filter, _)| filter.matches(&line)).collect();
            if !fitting.is_empty() {
                let line = Arc::new(line);
                for (_, sender) in fitting {
                    let _ = sender.send(line.clone());
                }
            }
        }
        Ok(true)
    }

    fn groups(&self) -> MutexGuard<'_, Groups> {
        self.0.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
