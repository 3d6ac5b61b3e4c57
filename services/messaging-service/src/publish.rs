//! Publishing: to the broker and wait for its confirm, or else into the outbox under the same id; and the relay that empties
//! the outbox. Messages of one key keep their order across both ways: while one of them waits in the outbox, the later ones
//! wait behind it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::http::StatusCode;
use futures::future::join_all;
use kronos_common::problem::{Problem, Result};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::{
    batch::Batcher,
    broker::{SendError, Suspicion},
    catalog::{self, Catalog},
    counts::{Happened, Step},
    fullness::Fullness,
    kafka::Kafka,
    message::Message,
    rabbit::Rabbit,
    store::Store,
    telemetry::Metrics,
    topic::{Broker, Kind, Topic},
};

/// Rows of one statement on the outbox.
const LARGEST_BATCH: usize = 500;

/// A message on its way.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    pub(crate) topic: Arc<Topic>,
    pub(crate) message: Message,
    /// Publish it so many milliseconds from now.
    pub(crate) delay_ms: Option<i64>,
}

/// Where a message is safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accepted {
    /// At the broker.
    Confirmed,
    /// In the outbox.
    Waiting,
}

/// The publisher; clones share everything.
#[derive(Clone)]
pub(crate) struct Publisher {
    pub(crate) store: Store,
    pub(crate) rabbit: Rabbit,
    pub(crate) kafka: Kafka,
    pub(crate) metrics: Metrics,
    catalog: Catalog,
    barrier: Batcher<(Uuid, String), bool>,
    outbox: Batcher<Outgoing, ()>,
    fullness: Fullness,
    /// Messages in the outbox that may wait for one broker.
    pub(crate) most_pending: i64,
    pending: Arc<[AtomicI64; 2]>,
    suspicions: [Suspicion; 2],
    woken: [Arc<Notify>; 2],
}

impl Publisher {
    pub(crate) fn new(
        (store, rabbit, kafka): (Store, Rabbit, Kafka),
        catalog: Catalog,
        metrics: Metrics,
        most_pending: i64,
    ) -> Self {
        let asked = store.clone();
        let barrier = Batcher::start(LARGEST_BATCH, move |keys: Vec<(Uuid, String)>| {
            let store = asked.clone();
            async move {
                let barred = store.barred(&keys).await?;
                Ok(keys.iter().map(|key| barred.contains(key)).collect())
            }
        });
        let asked = store.clone();
        let outbox = Batcher::start(LARGEST_BATCH, move |items: Vec<Outgoing>| {
            let store = asked.clone();
            async move {
                let rows: Vec<_> = items.iter().map(|item| (&*item.topic, &item.message, item.delay_ms)).collect();
                store.insert_pending(&rows).await?;
                Ok(vec![(); items.len()])
            }
        });
        let (suspicions, woken) = Default::default();
        let (fullness, pending) = Default::default();
        Self {
            store,
            rabbit,
            kafka,
            metrics,
            catalog,
            barrier,
            outbox,
            fullness,
            most_pending,
            pending,
            suspicions,
            woken,
        }
    }

    /// Publishes messages, in their order; a result for each.
    pub(crate) async fn publish(&self, items: Vec<Outgoing>) -> Vec<Result<Accepted>> {
        let begun = Instant::now();
        let direct = join_all(items.iter().map(|item| self.may_go_direct(item))).await;
        let wants_rabbit = items
            .iter()
            .zip(&direct)
            .any(|(item, direct)| matches!(direct, Ok(true)) && item.topic.kind.broker() == Broker::Rabbit);
        let channel = if wants_rabbit { Some(self.rabbit.channel().await) } else { None };
        // Polled in their order, and each is handed to its broker's client when first polled.
        let sent = join_all(items.into_iter().zip(direct).map(|(item, direct)| async {
            let (topic, kind) = (item.topic.clone(), item.topic.kind);
            let result = match direct {
                Ok(true) => self.send_or_accept(item, channel.as_ref()).await,
                Ok(false) => self.accept(item).await,
                Err(problem) => Err(problem),
            };
            let outcome = match &result {
                Ok(Accepted::Confirmed) => "confirmed",
                Ok(Accepted::Waiting) => "accepted",
                Err(_) => "refused",
            };
            let topic = (topic.topic_id, topic.name.as_str());
            self.metrics.counts.add(topic, Happened::Accepted, u64::from(result.is_ok()));
            self.metrics.counts.add(topic, Happened::Confirmed, u64::from(outcome == "confirmed"));
            self.metrics.published.with_label_values(&[kind.as_str(), outcome]).inc();
            let seconds = begun.elapsed().as_secs_f64();
            self.metrics.publish_seconds.with_label_values(&[kind.as_str(), outcome]).observe(seconds);
            if outcome == "confirmed" {
                self.metrics.counts.took(topic.1, Step::Confirmed, seconds);
            }
            result
        }));
        sent.await
    }

    /// Hands a message to its broker, whatever waits. For Rabbit with a channel from [`Rabbit::channel`].
    pub(crate) async fn send(
        &self,
        topic: &Topic,
        message: &Message,
        channel: Option<&std::result::Result<lapin::Channel, SendError>>,
    ) -> std::result::Result<(), SendError> {
        match (topic.kind, channel) {
            (Kind::Stream, _) => self.kafka.send(topic, message).await,
            (_, Some(Ok(channel))) => self.rabbit.send(channel, topic, message).await,
            (_, Some(Err(error))) => Err(SendError::Away(error.to_string())),
            (_, None) => Err(SendError::Away("no channel".to_owned())),
        }
    }

    /// What the relay of a broker waits for.
    pub(crate) fn woken(&self, broker: Broker) -> &Notify {
        &self.woken[broker as usize]
    }

    /// Whether the broker let a publish wait in vain.
    pub(crate) fn suspicion(&self, broker: Broker) -> &Suspicion {
        &self.suspicions[broker as usize]
    }

    /// How many messages wait in the outbox for a broker.
    pub(crate) fn set_pending(&self, broker: Broker, waiting: i64) {
        self.pending[broker as usize].store(waiting, Ordering::Relaxed);
    }

    async fn may_go_direct(&self, item: &Outgoing) -> Result<bool> {
        if let (Kind::Queue, Some(most)) = (item.topic.kind, item.topic.max_length)
            && !self.fullness.admit(&item.topic, most, (&self.store, &self.rabbit)).await?
        {
            return Err(full());
        }
        if item.delay_ms.is_some() || self.suspicion(item.topic.kind.broker()).is_raised() {
            return Ok(false);
        }
        match &item.message.key {
            None => Ok(true),
            Some(key) => Ok(!self.barrier.ask((item.topic.topic_id, key.clone())).await?),
        }
    }

    async fn send_or_accept(
        &self,
        item: Outgoing,
        channel: Option<&std::result::Result<lapin::Channel, SendError>>,
    ) -> Result<Accepted> {
        let error = match self.send(&item.topic, &item.message, channel).await {
            Ok(()) => return Ok(Accepted::Confirmed),
            Err(error) => error,
        };
        let broker = item.topic.kind.broker();
        match &error {
            SendError::TooLarge => {
                let detail = "the broker takes no message of this size: send a smaller payload";
                return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", detail));
            }
            SendError::Full => return Err(full()),
            SendError::Unconfirmed(_) => self.suspicion(broker).raise(),
            SendError::Unroutable => {
                self.catalog.forget(&item.topic.name);
                let current = self.catalog.find(&item.topic.name).await?;
                if current.topic_id != item.topic.topic_id {
                    return Err(catalog::unknown());
                }
                if let Err(error) = self.declare(&item.topic).await {
                    tracing::warn!(topic = item.topic.name, error = format!("{error:#}"), "topology can't be restored");
                }
            }
            SendError::Away(_) => {}
        }
        tracing::debug!(broker = broker.as_str(), %error, "publish goes to the outbox");
        self.accept(item).await.map_err(|problem| match error {
            SendError::Unconfirmed(_) if problem.status().is_server_error() => Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "publish_unconfirmed",
                "neither broker nor database confirmed the message, it may or may not arrive: \
                 publish it again, best with an Idempotency-Key",
            )
            .with_retry_after(Duration::from_secs(1))
            .caused_by(problem),
            _ => problem,
        })
    }

    async fn accept(&self, item: Outgoing) -> Result<Accepted> {
        let broker = item.topic.kind.broker();
        if self.pending[broker as usize].load(Ordering::Relaxed) > self.most_pending {
            let detail = "the broker is away and the outbox has all the messages that it takes: publish again later";
            return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "outbox_full", detail)
                .with_retry_after(Duration::from_secs(5)));
        }
        self.outbox.ask(item).await?;
        self.woken(broker).notify_one();
        Ok(Accepted::Waiting)
    }

    /// Somebody else has put a message into the outbox.
    pub(crate) fn accepted_in_outbox(&self, topic: &Topic) {
        self.metrics.counts.add((topic.topic_id, &topic.name), Happened::Accepted, 1);
        self.woken(topic.kind.broker()).notify_one();
    }

    /// Creates at the broker what stands for a topic.
    pub(crate) async fn declare(&self, topic: &Topic) -> anyhow::Result<()> {
        match topic.kind.broker() {
            Broker::Kafka => self.kafka.declare(topic).await,
            Broker::Rabbit => self.rabbit.declare(topic).await,
        }
    }
}

fn full() -> Problem {
    let detail = "as many messages wait in this queue as may (maxLength): publish again when some were taken";
    Problem::new(StatusCode::TOO_MANY_REQUESTS, "queue_full", detail).with_retry_after(Duration::from_secs(1))
}
