//! The outbox: an event is a row written in the transaction of the change that it tells of, and leaves when the broker has
//! confirmed it. At least once, never exactly once; order is that of the rows as long as one instance relays.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use lapin::{BasicProperties, Channel};
use prometheus::{IntCounter, IntGauge};
use sqlx::{PgConnection, PgPool};
use tokio::sync::Notify;

use crate::{
    event::{CONTENT_TYPE, EXCHANGE, Event},
    rabbit::{self, Message},
    service::Context,
    telemetry,
};

/// Rows that are claimed, published and deleted together.
const BATCH: i64 = 200;
/// How often the relay looks without being woken: rows of an instance that died, and of one whose wake-up was lost.
const POLL: Duration = Duration::from_secs(1);
/// Longest pause while the broker or the database is away.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Largest event, in bytes: a larger one would close the channel for all that wait behind it.
const LARGEST: usize = 1 << 20;
/// Longest routing key that AMQP has.
const LONGEST_KEY: usize = 255;

/// Writes `event` in the caller's transaction.
///
/// # Errors
/// Those of the statement; an event of more than 1 MiB or with a type of more than 255 bytes is an `Encode` error.
pub async fn insert(connection: &mut PgConnection, event: &Event) -> Result<(), sqlx::Error> {
    insert_all(connection, std::slice::from_ref(event)).await
}

/// Writes many events in the caller's transaction, with one statement for each thousand.
///
/// # Errors
/// As [`insert`].
pub async fn insert_all(connection: &mut PgConnection, events: &[Event]) -> Result<(), sqlx::Error> {
    for chunk in events.chunks(1_000) {
        let mut keys = Vec::with_capacity(chunk.len());
        let mut encoded = Vec::with_capacity(chunk.len());
        for event in chunk {
            let text = event.encode();
            if text.len() > LARGEST || event.type_.len() > LONGEST_KEY {
                let refused = format!("event {} is too large for the broker", event.type_);
                return Err(sqlx::Error::Encode(refused.into()));
            }
            keys.push(event.type_.as_str());
            encoded.push(text);
        }
        sqlx::query("insert into outbox (routing_key, event) select * from unnest($1::text[], $2::text[])")
            .bind(keys)
            .bind(encoded)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// The task that empties the outbox; clones share it.
#[derive(Clone)]
pub struct Relay {
    woken: Arc<Notify>,
}

impl Relay {
    /// Starts the relay. It waits out a broker or a database that is away, and ends at shutdown.
    pub fn start(pool: PgPool, rabbit: rabbit::Connection, context: &Context) -> Self {
        let woken = Arc::new(Notify::new());
        let worker = Worker { pool, rabbit, channel: None, metrics: Metrics::register(&context.metrics) };
        context.spawn("outbox-relay", worker.run(woken.clone(), context.shutdown.clone()));
        Self { woken }
    }

    /// Says that a transaction with events has been committed; never blocks.
    pub fn wake(&self) {
        self.woken.notify_one();
    }
}

struct Metrics {
    relayed: IntCounter,
    pending: IntGauge,
}

impl Metrics {
    fn register(registry: &prometheus::Registry) -> Self {
        let metrics = Self {
            relayed: IntCounter::new(telemetry::OUTBOX_RELAYED, "Events that the broker has confirmed").expect("valid"),
            pending: IntGauge::new(telemetry::OUTBOX_PENDING, "Events that wait for the broker").expect("valid"),
        };
        // A second relay in one process counts for itself only; there is none outside tests.
        let _ = registry.register(Box::new(metrics.relayed.clone()));
        let _ = registry.register(Box::new(metrics.pending.clone()));
        metrics
    }
}

struct Worker {
    pool: PgPool,
    rabbit: rabbit::Connection,
    channel: Option<Channel>,
    metrics: Metrics,
}

#[derive(sqlx::FromRow)]
struct Row {
    sequence: i64,
    routing_key: String,
    event: String,
}

impl Worker {
    async fn run(mut self, woken: Arc<Notify>, shutdown: tokio_util::sync::CancellationToken) {
        let mut pause = POLL;
        loop {
            tokio::select! {
                () = woken.notified() => {}
                () = tokio::time::sleep(pause) => {}
                () = shutdown.cancelled() => break,
            }
            match self.drain().await {
                Ok(()) => pause = POLL,
                Err(error) => {
                    self.channel = None;
                    if pause == POLL {
                        tracing::warn!(error = format!("{error:#}"), "outbox waits");
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
        // What was committed last leaves now if it can; else it waits for the next start.
        let _ = tokio::time::timeout(POLL, self.drain()).await;
    }

    async fn drain(&mut self) -> anyhow::Result<()> {
        loop {
            let taken = self.relay_batch().await?;
            if taken < BATCH {
                let pending =
                    sqlx::query_scalar::<_, i64>("select count(*) from (select 1 from outbox limit 100000) waiting")
                        .fetch_one(&self.pool)
                        .await?;
                self.metrics.pending.set(pending);
                return Ok(());
            }
        }
    }

    /// Publishes up to a batch and deletes what was confirmed; returns how many rows it took on.
    async fn relay_batch(&mut self) -> anyhow::Result<i64> {
        let mut transaction = self.pool.begin().await.context("open transaction")?;
        let rows = sqlx::query_as::<_, Row>(
            "select sequence, routing_key, event from outbox order by sequence limit $1 for update skip locked",
        )
        .bind(BATCH)
        .fetch_all(&mut *transaction)
        .await
        .context("claim events")?;
        if rows.is_empty() {
            return Ok(0);
        }
        let channel = self.channel().await?;
        let (done, failure) = self.publish(&channel, &rows).await;
        if !done.is_empty() {
            // Not flushed for its own sake: a delete that is lost tells an event twice, which consumers do not notice.
            sqlx::query(
                "delete from outbox using (select set_config('synchronous_commit', 'off', true)) as relaxed
                 where sequence = any($1)",
            )
            .bind(&done)
            .execute(&mut *transaction)
            .await
            .context("delete confirmed events")?;
        }
        transaction.commit().await.context("commit")?;
        self.metrics.relayed.inc_by(done.len() as u64);
        match failure {
            Some(error) => Err(error.into()),
            None => Ok(i64::try_from(rows.len()).unwrap_or(BATCH)),
        }
    }

    async fn publish(&self, channel: &Channel, rows: &[Row]) -> (Vec<i64>, Option<rabbit::PublishError>) {
        let deadline = tokio::time::Instant::now() + self.rabbit.confirm_timeout();
        let mut sent = Vec::with_capacity(rows.len());
        let mut failure = None;
        for row in rows {
            let properties = BasicProperties::default().with_content_type(CONTENT_TYPE.into());
            let message = Message {
                exchange: EXCHANGE,
                routing_key: &row.routing_key,
                // Nobody need listen to a domain event.
                mandatory: false,
                payload: row.event.as_bytes(),
                properties,
            };
            match tokio::time::timeout_at(deadline, message.send(channel)).await {
                Ok(Ok(confirm)) => sent.push((row.sequence, confirm)),
                Ok(Err(error)) => failure = Some(rabbit::PublishError::Broken(error)),
                Err(_) => failure = Some(rabbit::PublishError::Unconfirmed),
            }
            if failure.is_some() {
                break;
            }
        }
        let mut done = Vec::with_capacity(sent.len());
        for (sequence, confirm) in sent {
            let answer = tokio::time::timeout_at(deadline, confirm).await;
            match answer.map_or(Err(rabbit::PublishError::Unconfirmed), rabbit::confirmed) {
                Ok(()) => done.push(sequence),
                Err(error) => failure = Some(error),
            }
        }
        (done, failure)
    }

    async fn channel(&mut self) -> anyhow::Result<Channel> {
        if let Some(channel) = self.channel.as_ref().filter(|channel| channel.status().connected()) {
            return Ok(channel.clone());
        }
        let channel = self.rabbit.confirming_channel().await?;
        self.channel = Some(channel.clone());
        Ok(channel)
    }
}
