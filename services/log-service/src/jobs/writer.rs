//! Group commit: what many requests bring is written in one transaction, and each is answered when it is committed. While
//! PostgreSQL is away, batches go to the spill, which is as durable. Never both refused and kept.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
    time,
};

use crate::{
    config,
    line::Line,
    store::{
        lines::{Lines, is_away},
        spill::{Spill, SpillError},
    },
    telemetry::Metrics,
};

/// Batches of requests that may wait in the queue; their bytes are bounded apart.
const QUEUE: usize = 4096;
const KIB: usize = 1024;

/// The way to the writer.
#[derive(Debug, Clone)]
pub struct Ingest {
    queue: mpsc::Sender<Job>,
    /// In KiB.
    budget: Arc<Semaphore>,
    budget_kib: usize,
    metrics: Metrics,
}

/// What became of the lines of one request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Receipt {
    /// Kept, and not known before.
    pub new: usize,
    /// Known before by service and id.
    pub duplicates: usize,
    /// Places of lines that the database refused though they looked good.
    pub refused: Vec<usize>,
    /// They wait in the spill: duplicates will show when they are written.
    pub spilled: bool,
}

/// Why nothing was kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IngestError {
    /// Too much waits to be written.
    #[error("too many lines wait to be written")]
    Busy,
    /// PostgreSQL is away, and the spill is full.
    #[error("neither PostgreSQL nor the spill takes lines now")]
    Unavailable,
}

struct Job {
    lines: Vec<Line>,
    reply: oneshot::Sender<Result<Receipt, IngestError>>,
    _budget: OwnedSemaphorePermit,
}

/// What writer and replay share.
#[derive(Debug)]
pub struct Shared {
    pub lines: Lines,
    pub spill: Spill,
    /// PostgreSQL failed; the replay finds out when it is back.
    pub away: AtomicBool,
    /// Ticks after each commit.
    pub committed: watch::Sender<u64>,
}

impl Shared {
    /// Tells followers that there are new lines.
    pub fn tick(&self) {
        self.committed.send_modify(|tick| *tick = tick.wrapping_add(1));
    }
}

/// Starts the writer; it ends when every `Ingest` is gone and all is written.
pub fn start(
    config: &config::Ingest,
    shared: Arc<Shared>,
    metrics: &Metrics,
    context: &kronos_common::service::Context,
) -> Ingest {
    let (queue, jobs) = mpsc::channel(QUEUE);
    let budget_kib = (config.queue_bytes / KIB).clamp(1, Semaphore::MAX_PERMITS);
    let writer = Writer {
        shared,
        batch_lines: config.batch_lines,
        linger: Duration::from_millis(config.linger_ms),
        patience: Duration::from_millis(config.patience_ms),
    };
    context.spawn("writer", writer.run(jobs));
    Ingest { queue, budget: Arc::new(Semaphore::new(budget_kib)), budget_kib, metrics: metrics.clone() }
}

impl Ingest {
    /// Keeps the lines; returns when they are durable.
    ///
    /// # Errors
    /// See [`IngestError`]; nothing was kept then.
    pub async fn write(&self, way: &'static str, lines: Vec<Line>) -> Result<Receipt, IngestError> {
        let budget = self.budget.clone().try_acquire_many_owned(self.cost(&lines));
        self.submit(way, lines, budget.map_err(|_| IngestError::Busy)?).await
    }

    /// As [`Self::write`], but waits while too much waits to be written; for sources that can wait.
    ///
    /// # Errors
    /// [`IngestError::Unavailable`]
    pub async fn write_patiently(&self, way: &'static str, lines: Vec<Line>) -> Result<Receipt, IngestError> {
        let budget = self.budget.clone().acquire_many_owned(self.cost(&lines)).await;
        self.submit(way, lines, budget.map_err(|_| IngestError::Unavailable)?).await
    }

    /// Counts lines that were refused before they came here.
    pub fn count_rejected(&self, way: &'static str, count: usize) {
        self.count(way, "rejected", count);
    }

    async fn submit(
        &self,
        way: &'static str,
        lines: Vec<Line>,
        budget: OwnedSemaphorePermit,
    ) -> Result<Receipt, IngestError> {
        if lines.is_empty() {
            return Ok(Receipt::default());
        }
        let (reply, answer) = oneshot::channel();
        let job = Job { lines, reply, _budget: budget };
        self.queue.send(job).await.map_err(|_| IngestError::Unavailable)?;
        let receipt = answer.await.map_err(|_| IngestError::Unavailable)??;
        self.count(way, if receipt.spilled { "spilled" } else { "new" }, receipt.new);
        self.count(way, "duplicate", receipt.duplicates);
        self.count(way, "rejected", receipt.refused.len());
        Ok(receipt)
    }

    fn cost(&self, lines: &[Line]) -> u32 {
        let bytes: usize = lines.iter().map(Line::weight).sum();
        u32::try_from((bytes / KIB + 1).min(self.budget_kib)).unwrap_or(u32::MAX)
    }

    fn count(&self, way: &str, outcome: &str, count: usize) {
        self.metrics.lines.with_label_values(&[way, outcome]).inc_by(count as u64);
    }
}

struct Writer {
    shared: Arc<Shared>,
    batch_lines: usize,
    linger: Duration,
    patience: Duration,
}

impl Writer {
    async fn run(self, mut jobs: mpsc::Receiver<Job>) {
        while let Some(first) = jobs.recv().await {
            let deadline = time::Instant::now() + self.linger;
            let mut count = first.lines.len();
            let mut batch = vec![first];
            while count < self.batch_lines {
                match time::timeout_at(deadline, jobs.recv()).await {
                    Ok(Some(job)) => {
                        count += job.lines.len();
                        batch.push(job);
                    }
                    Ok(None) | Err(_) => break,
                }
            }
            self.write(batch).await;
        }
    }

    async fn write(&self, mut jobs: Vec<Job>) {
        let counts: Vec<usize> = jobs.iter().map(|job| job.lines.len()).collect();
        let lines: Vec<Line> = jobs.iter_mut().flat_map(|job| std::mem::take(&mut job.lines)).collect();
        let lines = Arc::new(lines);
        let mut start = 0;
        match self.keep(&lines).await {
            Ok(Kept::Written(fates)) => {
                for (job, count) in jobs.into_iter().zip(counts) {
                    let _ = job.reply.send(Ok(receipt(&fates[start..start + count])));
                    start += count;
                }
            }
            Ok(Kept::Spilled) => {
                for (job, new) in jobs.into_iter().zip(counts) {
                    let _ = job.reply.send(Ok(Receipt { new, spilled: true, ..Receipt::default() }));
                }
            }
            Err(error) => {
                for job in jobs {
                    let _ = job.reply.send(Err(error));
                }
            }
        }
    }

    async fn keep(&self, lines: &Arc<Vec<Line>>) -> Result<Kept, IngestError> {
        if !self.shared.away.load(Ordering::Relaxed) {
            match time::timeout(self.patience, write_isolating(&self.shared.lines, lines, false)).await {
                Ok(Ok(fates)) => {
                    self.shared.tick();
                    return Ok(Kept::Written(fates));
                }
                Ok(Err(error)) => tracing::warn!(%error, "PostgreSQL does not take lines, they go to the spill"),
                Err(_) => tracing::warn!("PostgreSQL takes too long, lines go to the spill"),
            }
            // What happened to a commit that was cut off shows when the spill is replayed: keys are unique.
            self.shared.away.store(true, Ordering::Relaxed);
        }
        let (shared, lines) = (self.shared.clone(), lines.clone());
        let spilled = tokio::task::spawn_blocking(move || shared.spill.append(&lines)).await;
        match spilled {
            Ok(Ok(())) => Ok(Kept::Spilled),
            Ok(Err(SpillError::Full)) => Err(IngestError::Unavailable),
            Ok(Err(error)) => {
                tracing::error!(error = format!("{:#}", anyhow::Error::new(error)), "the spill can't be written");
                Err(IngestError::Unavailable)
            }
            Err(_) => Err(IngestError::Unavailable),
        }
    }
}

enum Kept {
    Written(Vec<Fate>),
    Spilled,
}

/// What became of one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    New,
    Duplicate,
    Refused,
}

/// Writes the lines; if the database refuses one of them, the others are written without it.
///
/// # Errors
/// The database is away.
pub async fn write_isolating(lines: &Lines, batch: &[Line], check_all: bool) -> sqlx::Result<Vec<Fate>> {
    match lines.write(batch, check_all).await {
        Ok(new) => Ok(new.into_iter().map(|new| if new { Fate::New } else { Fate::Duplicate }).collect()),
        Err(error) if is_away(&error) => Err(error),
        Err(error) => match batch {
            [line] => {
                tracing::error!(%error, id = line.id, service = line.service, "the database refuses a log line");
                Ok(vec![Fate::Refused])
            }
            _ => {
                let (left, right) = batch.split_at(batch.len() / 2);
                let mut fates = Box::pin(write_isolating(lines, left, check_all)).await?;
                fates.extend(Box::pin(write_isolating(lines, right, check_all)).await?);
                Ok(fates)
            }
        },
    }
}

fn receipt(fates: &[Fate]) -> Receipt {
    let mut receipt = Receipt::default();
    for (place, fate) in fates.iter().enumerate() {
        match fate {
            Fate::New => receipt.new += 1,
            Fate::Duplicate => receipt.duplicates += 1,
            Fate::Refused => receipt.refused.push(place),
        }
    }
    receipt
}
