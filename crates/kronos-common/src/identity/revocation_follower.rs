//! Keeps the maps of `revocation` true: one dedicated connection that waits for news on the stream, and reads the snapshot
//! when it is new or has missed something.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use prometheus::{
    Gauge,
    core::{Collector, Desc},
    proto::MetricFamily,
};
use redis::{
    AsyncConnectionConfig,
    aio::MultiplexedConnection,
    streams::{StreamId, StreamReadReply},
};
use tokio::sync::watch;

use super::revocation::{Keys, Revocation, Revocations, unix_now};

/// How long a read waits for news: the age of the maps stays below this while all is well.
const BLOCK: Duration = Duration::from_secs(1);
const PRUNE_EVERY: Duration = Duration::from_secs(30);
const READ_AT_MOST: usize = 500;

/// Where the follower stands in the stream.
#[derive(Debug, PartialEq, Eq)]
struct Position {
    generation: String,
    seq: u64,
}

pub(super) struct Follower {
    pub(super) revocations: Revocations,
    pub(super) client: redis::Client,
    /// Longest wait for a connection, or for an answer beyond the time that a read may block.
    pub(super) timeout: Duration,
    pub(super) keys: Keys,
    /// Becomes true with the first snapshot.
    pub(super) first: watch::Sender<bool>,
}

impl Follower {
    /// Follows until it is dropped.
    pub(super) async fn run(self) {
        let mut delay = Duration::from_millis(50);
        let mut away = false;
        let mut pruned = Instant::now();
        loop {
            let before = Instant::now();
            if let Err(error) = self.session(&mut away, &mut pruned).await
                && !away
            {
                tracing::warn!(error = format!("{error:#}"), "revocations can't be followed, the last known hold");
                away = true;
            }
            self.prune_if_due(&mut pruned);
            delay = if before.elapsed() > BLOCK { Duration::from_millis(50) } else { (delay * 2).min(BLOCK) };
            tokio::time::sleep(delay.mul_f64(rand::random_range(0.5..1.0))).await;
        }
    }

    /// One connection's life; ends by an error only.
    async fn session(&self, away: &mut bool, pruned: &mut Instant) -> anyhow::Result<()> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.timeout))
            .set_response_timeout(Some(BLOCK + self.timeout));
        let mut connection =
            self.client.get_multiplexed_async_connection_with_config(&config).await.context("connect to Redis")?;
        let mut position = self.read_snapshot(&mut connection).await?;
        if std::mem::take(away) {
            tracing::info!("revocations are followed again");
        }
        self.first.send_replace(true);
        loop {
            if !self.read_news(&mut connection, &mut position).await? {
                tracing::info!(seq = position.seq, "gap in the revocations, reading the snapshot");
                position = self.read_snapshot(&mut connection).await?;
            }
            self.prune_if_due(pruned);
        }
    }

    /// Waits for news and takes them; `false` says that some were missed.
    async fn read_news(&self, connection: &mut MultiplexedConnection, position: &mut Position) -> anyhow::Result<bool> {
        let block = u64::try_from(BLOCK.as_millis()).unwrap_or(1_000);
        let (news, generation): (Option<StreamReadReply>, Option<String>) = redis::pipe()
            .cmd("XREAD")
            .arg("COUNT")
            .arg(READ_AT_MOST)
            .arg("BLOCK")
            .arg(block)
            .arg("STREAMS")
            .arg(&self.keys.stream)
            .arg(format!("{}-0", position.seq))
            .cmd("GET")
            .arg(&self.keys.generation)
            .query_async(connection)
            .await
            .context("read the revocations")?;
        self.revocations.touch();
        let mut complete = generation.as_deref() == Some(position.generation.as_str());
        for entry in news.into_iter().flat_map(|news| news.keys).flat_map(|key| key.ids) {
            let Some(seq) = entry.id.strip_suffix("-0").and_then(|seq| seq.parse().ok()) else {
                anyhow::bail!("the stream of revocations has a foreign entry");
            };
            complete &= seq == position.seq + 1;
            position.seq = seq;
            match read_entry(&entry) {
                Some(revocation) => self.revocations.apply(&revocation),
                // A newer publisher's kind: it does not concern what this version knows.
                None => tracing::debug!(seq, "unknown kind of revocation"),
            }
        }
        Ok(complete)
    }

    /// Takes all that is in force, and says where the stream goes on. Makes the generation if there is none.
    async fn read_snapshot(&self, connection: &mut MultiplexedConnection) -> anyhow::Result<Position> {
        type Snapshot = (Option<String>, Option<u64>, HashMap<String, i64>, Vec<(String, i64)>);
        let candidate = uuid::Uuid::now_v7().to_string();
        let (generation, seq, epochs, expiries): Snapshot = redis::pipe()
            .atomic()
            .cmd("SET")
            .arg(&self.keys.generation)
            .arg(candidate)
            .arg("NX")
            .ignore()
            .cmd("GET")
            .arg(&self.keys.generation)
            .cmd("GET")
            .arg(&self.keys.seq)
            .cmd("HGETALL")
            .arg(&self.keys.subjects)
            .cmd("ZRANGE")
            .arg(&self.keys.expiries)
            .arg(0)
            .arg(-1)
            .arg("WITHSCORES")
            .query_async(connection)
            .await
            .context("read the snapshot of the revocations")?;
        for (member, expiry) in expiries {
            let Some((kind, name)) = member.split_once(':') else {
                continue;
            };
            let value = if kind == "session" { Some(expiry) } else { epochs.get(&member).copied() };
            if let Some(revocation) = value.and_then(|value| Revocation::from_parts(kind, name, value)) {
                self.revocations.take(&revocation, expiry);
            }
        }
        self.revocations.touch();
        let generation = generation.context("the generation of the revocations vanished")?;
        Ok(Position { generation, seq: seq.unwrap_or(0) })
    }

    fn prune_if_due(&self, pruned: &mut Instant) {
        if pruned.elapsed() >= PRUNE_EVERY {
            *pruned = Instant::now();
            self.revocations.prune(unix_now());
        }
    }
}

fn read_entry(entry: &StreamId) -> Option<Revocation> {
    let kind: String = entry.get("kind")?;
    let name: String = entry.get("name")?;
    Revocation::from_parts(&kind, &name, entry.get("value")?)
}

/// The age of the maps, computed when it is asked for.
pub(super) struct Age {
    gauge: Gauge,
    revocations: Revocations,
}

impl Age {
    pub(super) fn new(revocations: Revocations) -> anyhow::Result<Self> {
        let help = "Seconds since Redis last confirmed the revocation maps.";
        Ok(Self { gauge: Gauge::new("kronos_revocations_age_seconds", help)?, revocations })
    }
}

impl Collector for Age {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.gauge.set(self.revocations.age().as_secs_f64());
        self.gauge.collect()
    }
}
