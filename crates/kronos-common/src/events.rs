//! Consuming domain events: a durable queue, bound to the events exchange, whose handler runs in one Postgres transaction
//! with the inbox row that makes a second delivery harmless. A handler that fails gets the event again after a back-off; the
//! wait is a queue of the broker's, so that it survives us. After the last attempt the event is in `<queue>.dead`.
//!
//! Delivered at least once, handled at most once as far as the handler's own transaction goes: other effects of a handler
//! must bear repeating.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use futures::{StreamExt as _, future::BoxFuture};
use lapin::{
    BasicProperties, Channel,
    message::Delivery,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable, ShortString},
};
use sqlx::{PgConnection, PgPool};
use tokio::sync::watch;
use tracing::Instrument as _;

use crate::{
    event::{EXCHANGE, Event},
    postgres,
    rabbit::{self, Message},
    service::Context,
    telemetry, trace,
};

/// Deliveries that wait in our memory.
const PREFETCH: u16 = 32;
/// Redeliveries without an answer (crashes, cut connections) after which an event is poison, whatever its attempts.
const POISON_DELIVERIES: u32 = 20;
/// The first back-off; each further one is four times as long, up to the longest.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(300);
/// Pauses while broker or database are away.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// How long a handled event is remembered: longer than any queue holds a copy of it.
const REMEMBERED: &str = "7 days";
const FORGET_EVERY: Duration = Duration::from_secs(3600);

/// How often the event was tried, counting from 1.
const ATTEMPT: &str = "kronos-attempt";
/// Why the last attempt failed; for whoever reads the dead letters.
const ERROR: &str = "kronos-error";

/// What a handler is: given the transaction and the event, its effect is committed with the inbox row or not at all.
pub type Handler = Arc<dyn for<'c> Fn(&'c mut PgConnection, Event) -> BoxFuture<'c, anyhow::Result<()>> + Send + Sync>;

/// Which events go where.
#[derive(Clone)]
pub struct Subscription {
    /// The durable queue that instances of a service share, such as `auth-service.rights`.
    pub queue: String,
    /// Binding keys on the events exchange, such as `kronos.user.*`.
    pub bindings: &'static [&'static str],
    /// Attempts before the event goes to the dead letters.
    pub max_attempts: u32,
    /// The first back-off.
    pub backoff: Duration,
    /// The effect.
    pub handler: Handler,
}

impl Subscription {
    /// Five attempts, 1 s, 4 s, 16 s and 64 s apart. Write the handler as `|connection, event| Box::pin(async move { … })`.
    pub fn new<H>(queue: impl Into<String>, bindings: &'static [&'static str], handler: H) -> Self
    where
        H: for<'c> Fn(&'c mut PgConnection, Event) -> BoxFuture<'c, anyhow::Result<()>> + Send + Sync + 'static,
    {
        Self { queue: queue.into(), bindings, max_attempts: 5, backoff: FIRST_BACKOFF, handler: Arc::new(handler) }
    }

    /// The wait after attempt `attempt` failed.
    fn backoff_after(&self, attempt: u32) -> Duration {
        let factor = 4_u32.saturating_pow(attempt.saturating_sub(1));
        self.backoff.saturating_mul(factor).min(LONGEST_BACKOFF)
    }

    /// The name says the wait, since a queue's wait can never be changed.
    fn retry_queue(&self, wait: Duration) -> String {
        format!("{}.retry.{}", self.queue, wait.as_millis())
    }

    fn dead_queue(&self) -> String {
        format!("{}.dead", self.queue)
    }
}

/// A running consumer.
#[derive(Clone)]
pub struct Consumer {
    bound: watch::Receiver<bool>,
}

impl Consumer {
    /// Waits until the queue exists and is bound: an event published before is not delivered. Ends also at shutdown.
    pub async fn bound(&self) {
        let _ = self.bound.clone().wait_for(|bound| *bound).await;
    }
}

/// Starts consuming. It waits out a broker or a database that is away, and ends at shutdown after the event under way.
pub fn consume(rabbit: rabbit::Connection, pool: PgPool, subscription: Subscription, context: &Context) -> Consumer {
    let (sender, bound) = watch::channel(false);
    let labels = |result: &str| {
        let opts = prometheus::Opts::new(telemetry::EVENTS_CONSUMED, "Events that a queue's handler has finished with")
            .const_label("queue", &subscription.queue)
            .const_label("result", result);
        let counter = prometheus::IntCounter::with_opts(opts).expect("valid name");
        let _ = context.metrics.register(Box::new(counter.clone()));
        counter
    };
    let counters = Counters {
        handled: labels("handled"),
        duplicate: labels("duplicate"),
        retried: labels("retried"),
        dead: labels("dead"),
    };
    let worker = Worker { rabbit, pool: pool.clone(), subscription, bound: sender, counters };
    context.spawn("events-consumer", worker.run(context.shutdown.clone()));
    context.spawn("inbox-forget", forget(pool, context.shutdown.clone()));
    Consumer { bound }
}

struct Counters {
    handled: prometheus::IntCounter,
    duplicate: prometheus::IntCounter,
    retried: prometheus::IntCounter,
    dead: prometheus::IntCounter,
}

struct Worker {
    rabbit: rabbit::Connection,
    pool: PgPool,
    subscription: Subscription,
    bound: watch::Sender<bool>,
    counters: Counters,
}

enum Outcome {
    Handled,
    Duplicate,
    Failed(anyhow::Error),
}

impl Worker {
    async fn run(self, shutdown: tokio_util::sync::CancellationToken) {
        let mut pause = PAUSE.0;
        loop {
            tokio::select! {
                () = self.rabbit.connected() => {}
                () = shutdown.cancelled() => return,
            }
            match self.session(&shutdown).await {
                Ok(()) => return,
                Err(error) => {
                    let error = format!("{error:#}");
                    tracing::warn!(queue = self.subscription.queue, error, "consumer starts again");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE.1),
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// One channel's life; `Ok` is the end of the service.
    async fn session(&self, shutdown: &tokio_util::sync::CancellationToken) -> anyhow::Result<()> {
        let channel = self.rabbit.confirming_channel().await?;
        self.declare(&channel).await?;
        self.bound.send_replace(true);
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
        let queue = short(&self.subscription.queue)?;
        let options = BasicConsumeOptions::default();
        let mut deliveries = channel.basic_consume(queue, "".into(), options, FieldTable::default()).await?;
        loop {
            let delivery = tokio::select! {
                delivery = deliveries.next() => delivery.context("the broker ended the consumer")??,
                () = shutdown.cancelled() => return Ok(()),
            };
            if !self.take(&channel, delivery, shutdown).await? {
                return Ok(());
            }
        }
    }

    async fn declare(&self, channel: &Channel) -> anyhow::Result<()> {
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        let queue = short(&self.subscription.queue)?;
        channel.queue_declare(queue.clone(), durable, quorum()).await.context("declare queue")?;
        for binding in self.subscription.bindings {
            let (exchange, key) = (EXCHANGE.into(), short(binding)?);
            let options = QueueBindOptions::default();
            channel
                .queue_bind(queue.clone(), exchange, key, options, FieldTable::default())
                .await
                .context("bind queue")?;
        }
        for attempt in 1..self.subscription.max_attempts {
            let wait = self.subscription.backoff_after(attempt);
            let mut arguments = quorum();
            let milliseconds = i64::try_from(wait.as_millis())?;
            arguments.insert("x-message-ttl".into(), AMQPValue::LongLongInt(milliseconds));
            arguments.insert("x-dead-letter-exchange".into(), text(""));
            arguments.insert("x-dead-letter-routing-key".into(), text(&self.subscription.queue));
            // Without these two the broker may drop an event on its way back.
            arguments.insert("x-dead-letter-strategy".into(), text("at-least-once"));
            arguments.insert("x-overflow".into(), text("reject-publish"));
            let name = short(&self.subscription.retry_queue(wait))?;
            channel.queue_declare(name, durable, arguments).await.context("declare retry queue")?;
        }
        let dead = short(&self.subscription.dead_queue())?;
        channel.queue_declare(dead, durable, quorum()).await.context("declare dead letter queue")?;
        Ok(())
    }

    /// Deals with one delivery and answers for it; `false` if the service ends and the broker shall keep it.
    async fn take(
        &self,
        channel: &Channel,
        delivery: Delivery,
        shutdown: &tokio_util::sync::CancellationToken,
    ) -> anyhow::Result<bool> {
        let attempt = header(&delivery, ATTEMPT).unwrap_or(1).max(1);
        let deliveries = header(&delivery, "x-delivery-count").unwrap_or(0);
        let event = match Event::decode(&delivery.data) {
            Ok(_) if deliveries >= POISON_DELIVERIES => {
                let error = format!("delivered {deliveries} times without an answer");
                return self.bury(channel, &delivery, attempt, &error).await.map(|()| true);
            }
            Ok(event) => event,
            Err(error) => {
                return self.bury(channel, &delivery, attempt, &format!("{error:#}")).await.map(|()| true);
            }
        };
        let span = tracing::info_span!("request", event = event.type_, id = event.id, queue = self.subscription.queue);
        let context = telemetry::adopt(&span, event.trace());
        let mut pause = PAUSE.0;
        loop {
            let outcome = trace::scope(context, self.handle(event.clone())).instrument(span.clone()).await;
            match outcome {
                Ok(Outcome::Handled) => self.counters.handled.inc(),
                Ok(Outcome::Duplicate) => self.counters.duplicate.inc(),
                Ok(Outcome::Failed(error)) => {
                    let error = format!("{error:#}");
                    if attempt >= self.subscription.max_attempts {
                        tracing::error!(parent: &span, attempt, error, "event goes to the dead letters");
                        self.bury(channel, &delivery, attempt, &error).await?;
                    } else {
                        tracing::warn!(parent: &span, attempt, error, "event will be tried again");
                        self.postpone(channel, &delivery, attempt, &error).await?;
                    }
                    return Ok(true);
                }
                // The database is away: not the event's fault, so that it costs no attempt.
                Err(error) => {
                    tracing::warn!(parent: &span, error = format!("{error:#}"), "event waits for the database");
                    tokio::select! {
                        () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE.1),
                        () = shutdown.cancelled() => return Ok(false),
                    }
                    anyhow::ensure!(channel.status().connected(), "the channel broke while an event waited");
                    continue;
                }
            }
            delivery.ack(BasicAckOptions::default()).await?;
            return Ok(true);
        }
    }

    /// Runs the handler in a transaction with its inbox row; an error is the database's absence.
    async fn handle(&self, event: Event) -> anyhow::Result<Outcome> {
        let mut transaction = self.pool.begin().await?;
        let first = sqlx::query("insert into inbox (queue, source, id) values ($1, $2, $3) on conflict do nothing")
            .bind(&self.subscription.queue)
            .bind(&event.source)
            .bind(&event.id)
            .execute(&mut *transaction)
            .await?
            .rows_affected();
        if first == 0 {
            return Ok(Outcome::Duplicate);
        }
        match (self.subscription.handler)(&mut transaction, event).await {
            Ok(()) => {
                transaction.commit().await?;
                Ok(Outcome::Handled)
            }
            Err(error) => {
                let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<sqlx::Error>());
                if causes.any(postgres::is_unavailable) { Err(error) } else { Ok(Outcome::Failed(error)) }
            }
        }
    }

    async fn postpone(&self, channel: &Channel, delivery: &Delivery, attempt: u32, error: &str) -> anyhow::Result<()> {
        let queue = self.subscription.retry_queue(self.subscription.backoff_after(attempt));
        self.move_to(channel, delivery, &queue, attempt + 1, error).await?;
        self.counters.retried.inc();
        Ok(())
    }

    async fn bury(&self, channel: &Channel, delivery: &Delivery, attempt: u32, error: &str) -> anyhow::Result<()> {
        self.move_to(channel, delivery, &self.subscription.dead_queue(), attempt, error).await?;
        self.counters.dead.inc();
        Ok(())
    }

    /// First the copy, confirmed, then the ack: a crash between leaves two, never none.
    async fn move_to(
        &self,
        channel: &Channel,
        delivery: &Delivery,
        queue: &str,
        attempt: u32,
        error: &str,
    ) -> anyhow::Result<()> {
        let mut headers = FieldTable::default();
        headers.insert(ATTEMPT.into(), AMQPValue::LongUInt(attempt));
        headers.insert(ERROR.into(), text(&error.chars().take(500).collect::<String>()));
        let mut properties = BasicProperties::default().with_headers(headers);
        if let Some(content_type) = delivery.properties.content_type() {
            properties = properties.with_content_type(content_type.clone());
        }
        let message =
            Message { exchange: "", routing_key: queue, mandatory: true, payload: &delivery.data, properties };
        self.rabbit.publish(channel, message).await.with_context(|| format!("move event to {queue}"))?;
        delivery.ack(BasicAckOptions::default()).await?;
        Ok(())
    }
}

/// Deletes inbox rows that are too old to meet their like again.
async fn forget(pool: PgPool, shutdown: tokio_util::sync::CancellationToken) {
    loop {
        let deleted = sqlx::query("delete from inbox where received_at < now() - $1::text::interval")
            .bind(REMEMBERED)
            .execute(&pool)
            .await;
        if let Err(error) = deleted {
            tracing::warn!(%error, "old inbox rows stay for now");
        }
        tokio::select! {
            () = tokio::time::sleep(FORGET_EVERY) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

fn quorum() -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text("quorum"));
    arguments
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

fn short(text: &str) -> anyhow::Result<ShortString> {
    ShortString::try_new(text).with_context(|| format!("name {text}"))
}

fn header(delivery: &Delivery, name: &str) -> Option<u32> {
    let value = delivery.properties.headers().as_ref()?.inner().get(name)?;
    match value {
        AMQPValue::LongUInt(value) => Some(*value),
        AMQPValue::LongInt(value) => u32::try_from(*value).ok(),
        AMQPValue::LongLongInt(value) => u32::try_from(*value).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backoff_grows_and_is_bounded() {
        let subscription = Subscription::new("q", &["a"], |_, _| Box::pin(async { Ok(()) }));
        let waits: Vec<u64> = (1..8).map(|attempt| subscription.backoff_after(attempt).as_secs()).collect();
        assert_eq!(waits, [1, 4, 16, 64, 256, 300, 300]);
        assert_eq!(subscription.backoff_after(u32::MAX), LONGEST_BACKOFF);
        assert_eq!(subscription.retry_queue(Duration::from_secs(4)), "q.retry.4000");
    }
}
