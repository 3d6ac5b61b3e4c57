//! Subscribers without group: they see what comes from now on, acknowledge nothing, and leave no trace. One consumer for each
//! topic at this instance, whatever the number of its subscribers; one that lags behind is told of a gap.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use futures::StreamExt as _;
use kronos_common::{
    problem::{Problem, Result},
    service::Context,
};
use lapin::options::BasicAckOptions;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    catalog::Catalog,
    kafka::{self, Kafka},
    rabbit::{self, Rabbit},
    telemetry::Metrics,
    topic::{Kind, Topic},
};

/// How long a subscriber waits for the broker to be listened to.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often a tail looks whether anybody listens.
const LOOK: Duration = Duration::from_secs(5);
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// Messages on their way to one subscriber that reads a stream from its beginning.
const AHEAD: usize = 64;

/// What such a subscriber gets.
#[derive(Debug, Clone)]
pub(crate) enum Tailed {
    /// A message, as JSON.
    Message(Arc<str>),
    /// Some messages, of unknown number, may be missing here.
    Gap,
}

/// Listens for a topic.
#[derive(Debug)]
pub(crate) enum Listener {
    /// To what comes.
    Live(broadcast::Receiver<Tailed>),
    /// From the beginning of a stream.
    Replay(mpsc::Receiver<Tailed>),
}

impl Listener {
    /// The next one. `None`: the topic is gone, or the service ends.
    pub(crate) async fn next(&mut self) -> Option<Tailed> {
        match self {
            Self::Replay(receiver) => receiver.recv().await,
            Self::Live(receiver) => match receiver.recv().await {
                Ok(tailed) => Some(tailed),
                Err(broadcast::error::RecvError::Lagged(_)) => Some(Tailed::Gap),
                Err(broadcast::error::RecvError::Closed) => None,
            },
        }
    }
}

/// All tails of this instance; clones share them.
#[derive(Clone)]
pub(crate) struct Tails {
    catalog: Catalog,
    rabbit: Rabbit,
    kafka: Kafka,
    lag: usize,
    metrics: Metrics,
    context: Context,
    tails: Arc<Mutex<HashMap<Uuid, Tail>>>,
}

struct Tail {
    topic: String,
    ended: CancellationToken,
    // Weak, so that the channel closes when the task ends.
    sender: broadcast::WeakSender<Tailed>,
    listening: watch::Receiver<bool>,
}

impl Tails {
    pub(crate) fn new(
        catalog: Catalog,
        (rabbit, kafka): (Rabbit, Kafka),
        lag: usize,
        metrics: Metrics,
        context: &Context,
    ) -> Self {
        Self { catalog, rabbit, kafka, lag, metrics, context: context.clone(), tails: Arc::default() }
    }

    /// Listens from now on: what is published after this returns is seen.
    ///
    /// # Errors
    /// 503 if the broker is not there.
    pub(crate) async fn listen(&self, topic: &Arc<Topic>) -> Result<Listener> {
        let (receiver, mut listening) = self.join(topic);
        let away = || Problem::unavailable("message broker", Duration::from_secs(2));
        match tokio::time::timeout(PATIENCE, listening.wait_for(|listening| *listening)).await {
            Ok(Ok(_)) => Ok(Listener::Live(receiver)),
            Ok(Err(_)) | Err(_) => Err(away()),
        }
    }

    /// Reads a stream from its beginning, and goes on with what comes.
    ///
    /// # Errors
    /// 500 if the client refuses.
    pub(crate) fn replay(&self, topic: &Arc<Topic>) -> Result<Listener> {
        let consumer = self.kafka.reader(topic, &[]).map_err(Problem::internal)?;
        let (sender, receiver) = mpsc::channel(AHEAD);
        let (topic, shutdown, metrics) = (topic.clone(), self.context.shutdown.clone(), self.metrics.clone());
        self.context.spawn("replay", async move {
            loop {
                let record = tokio::select! {
                    record = consumer.recv() => record,
                    () = sender.closed() => return,
                    () = shutdown.cancelled() => return,
                };
                let tailed = match record {
                    Ok(record) => Tailed::Message(kafka::incoming(&record).for_all(&topic.name).into()),
                    Err(error) if is_fatal(&error) => return,
                    Err(_) => continue,
                };
                metrics.delivered.with_label_values(&[topic.kind.as_str()]).inc();
                tokio::select! {
                    sent = sender.send(tailed) => if sent.is_err() { return },
                    () = shutdown.cancelled() => return,
                }
            }
        });
        Ok(Listener::Replay(receiver))
    }

    /// A topic was deleted: its listeners' streams end.
    pub(crate) fn forget(&self, topic: &str) {
        let mut tails = self.tails.lock().unwrap_or_else(PoisonError::into_inner);
        tails.retain(|_, tail| {
            let stays = tail.topic != topic;
            if !stays {
                tail.ended.cancel();
            }
            stays
        });
    }

    fn join(&self, topic: &Arc<Topic>) -> (broadcast::Receiver<Tailed>, watch::Receiver<bool>) {
        let mut tails = self.tails.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tail) = tails.get(&topic.topic_id)
            && let Some(sender) = tail.sender.upgrade()
        {
            return (sender.subscribe(), tail.listening.clone());
        }
        let (sender, receiver) = broadcast::channel(self.lag);
        let (listening, watched) = watch::channel(false);
        let ended = self.context.shutdown.child_token();
        let tail = Tail {
            topic: topic.name.clone(),
            ended: ended.clone(),
            sender: sender.downgrade(),
            listening: watched.clone(),
        };
        tails.insert(topic.topic_id, tail);
        let (tails, topic) = (self.clone(), topic.clone());
        self.context.spawn("tail", async move {
            tokio::select! {
                () = tails.run(&topic, &sender, &listening) => {}
                () = ended.cancelled() => {}
            }
        });
        (receiver, watched)
    }

    async fn run(&self, topic: &Topic, sender: &broadcast::Sender<Tailed>, listening: &watch::Sender<bool>) {
        let mut pause = PAUSE.0;
        loop {
            let result = match topic.kind {
                Kind::Stream => self.tail_stream(topic, sender, listening).await,
                _ => self.tail_broadcast(topic, sender, listening).await,
            };
            match result {
                Ok(()) => return,
                Err(error) => tracing::info!(topic = topic.name, error = format!("{error:#}"), "listening begins anew"),
            }
            if self.leave(topic, sender) {
                return;
            }
            if listening.send_replace(false) {
                pause = PAUSE.0;
                // What is published until the next consumer is there is missed.
                let _ = sender.send(Tailed::Gap);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// Ends the tail if nobody listens.
    fn leave(&self, topic: &Topic, sender: &broadcast::Sender<Tailed>) -> bool {
        let mut tails = self.tails.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = sender.receiver_count() == 0;
        if idle {
            tails.remove(&topic.topic_id);
        }
        idle
    }

    /// Whether the topic was deleted, should nobody have said so.
    async fn is_gone(&self, topic: &Topic) -> bool {
        match self.catalog.find(&topic.name).await {
            Ok(current) => current.topic_id != topic.topic_id,
            Err(problem) => problem.status() == axum::http::StatusCode::NOT_FOUND,
        }
    }

    fn pass_on(&self, topic: &Topic, sender: &broadcast::Sender<Tailed>, json: String) {
        if let Ok(receivers) = sender.send(Tailed::Message(json.into())) {
            self.metrics.delivered.with_label_values(&[topic.kind.as_str()]).inc_by(receivers as u64);
        }
    }

    async fn tail_stream(
        &self,
        topic: &Topic,
        sender: &broadcast::Sender<Tailed>,
        listening: &watch::Sender<bool>,
    ) -> anyhow::Result<()> {
        let ends = self.kafka.ends(topic).await?;
        let consumer = self.kafka.reader(topic, &ends)?;
        listening.send_replace(true);
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                record = consumer.recv() => match record {
                    Ok(record) => self.pass_on(topic, sender, kafka::incoming(&record).for_all(&topic.name)),
                    Err(error) if is_fatal(&error) => return Ok(()),
                    Err(error) => tracing::debug!(topic = topic.name, %error, "stream stutters"),
                },
                _ = look.tick() => if self.leave(topic, sender) || self.is_gone(topic).await { return Ok(()) },
            }
        }
    }

    async fn tail_broadcast(
        &self,
        topic: &Topic,
        sender: &broadcast::Sender<Tailed>,
        listening: &watch::Sender<bool>,
    ) -> anyhow::Result<()> {
        let connected = tokio::time::timeout(LOOK, self.rabbit.connected()).await;
        connected.context("the broker is away")?;
        let (_channel, mut consumer) = self.rabbit.listen(topic).await?;
        listening.send_replace(true);
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                delivery = consumer.next() => {
                    let delivery = delivery.context("the consumer ended")??;
                    self.pass_on(topic, sender, rabbit::incoming(&delivery).for_all(&topic.name));
                    delivery.acker.ack(BasicAckOptions::default()).await?;
                }
                _ = look.tick() => if self.leave(topic, sender) || self.is_gone(topic).await { return Ok(()) },
            }
        }
    }
}

fn is_fatal(error: &KafkaError) -> bool {
    matches!(
        error,
        KafkaError::MessageConsumption(RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownTopicOrPartition)
    )
}
