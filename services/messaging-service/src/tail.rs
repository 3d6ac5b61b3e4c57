//! Subscribers without group: they see what comes from now on, or from where they were, and acknowledge nothing. One consumer
//! for each topic at this instance, whatever the number of its subscribers that are up to date; one for each that is not. A
//! broadcast's recent messages are kept by the broker in a log, so that it can be resumed as a stream can.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use chrono::Utc;
use futures::StreamExt as _;
use kronos_common::{
    problem::{Problem, Result},
    service::Context,
};
use lapin::options::BasicAckOptions;
use rdkafka::{
    Message as _,
    consumer::StreamConsumer,
    error::{KafkaError, RDKafkaErrorCode},
};
use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    catalog::Catalog,
    counts::Happened,
    kafka::{self, Kafka},
    listener::{Listener, Source, Tailed},
    rabbit::{self, From, LOG_AGE, Rabbit},
    resume::Place,
    store::Position,
    telemetry::Metrics,
    topic::{Kind, Topic},
    vault::Vault,
};

/// How long a subscriber waits for the broker to be listened to.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often a tail looks whether anybody listens.
const LOOK: Duration = Duration::from_secs(5);
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// Messages on their way to one subscriber that reads for itself.
const AHEAD: usize = 64;
/// How much earlier than it was told a broadcast's reader begins: clocks differ.
const CLOCKS: Duration = Duration::from_secs(2);

/// All tails of this instance; clones share them.
#[derive(Clone)]
pub(crate) struct Tails {
    catalog: Catalog,
    rabbit: Rabbit,
    kafka: Kafka,
    lag: usize,
    metrics: Metrics,
    vault: Vault,
    context: Context,
    tails: Arc<Mutex<HashMap<Uuid, Tail>>>,
}

struct Tail {
    topic: String,
    ended: CancellationToken,
    // Weak, so that the channel closes when the task ends.
    sender: broadcast::WeakSender<Tailed>,
    /// Where it is; `None`: it does not listen.
    place: watch::Receiver<Option<Place>>,
}

/// What a tail's task has: to whom it tells, and where it is.
struct Telling<'a> {
    topic: &'a Topic,
    sender: &'a broadcast::Sender<Tailed>,
    place: &'a watch::Sender<Option<Place>>,
}

/// Whom a log is told.
enum To<'a> {
    /// Everybody who is up to date.
    All(&'a Telling<'a>),
    One(&'a mpsc::Sender<Tailed>),
}

impl Tails {
    pub(crate) fn new(
        catalog: Catalog,
        (rabbit, kafka): (Rabbit, Kafka),
        lag: usize,
        (metrics, vault): (Metrics, Vault),
        context: &Context,
    ) -> Self {
        Self { catalog, rabbit, kafka, lag, metrics, vault, context: context.clone(), tails: Arc::default() }
    }

    /// Listens from now on: what is published after this returns is seen.
    ///
    /// # Errors
    /// 503 if the broker is not there.
    pub(crate) async fn listen(&self, topic: &Arc<Topic>) -> Result<Listener> {
        let (receiver, before, mut place) = self.join(topic);
        let begins = match before {
            Some(before) => before,
            None => match tokio::time::timeout(PATIENCE, place.wait_for(Option::is_some)).await {
                Ok(Ok(place)) => place.clone().ok_or_else(away)?,
                Ok(Err(_)) | Err(_) => return Err(away()),
            },
        };
        Ok(Listener { begins: begins.encode(topic.topic_id), source: Source::Live(receiver) })
    }

    /// Reads a stream from its beginning, and goes on with what comes.
    ///
    /// # Errors
    /// 503 if the broker is not there.
    pub(crate) async fn replay(&self, topic: &Arc<Topic>) -> Result<Listener> {
        let begins = self.kafka.beginnings(topic).await.map_err(|error| away().caused_by(error))?;
        self.read_stream(topic, begins, false)
    }

    /// Goes on where a token says, and tells of a gap if that is not possible.
    ///
    /// # Errors
    /// 503 if the broker is not there.
    pub(crate) async fn resume(&self, topic: &Arc<Topic>, token: &str) -> Result<Listener> {
        match (topic.kind, Place::decode(token, topic.topic_id)) {
            (Kind::Stream, Some(Place::Offsets(offsets))) => {
                let begins = self.kafka.beginnings(topic).await.map_err(|error| away().caused_by(error))?;
                let mut gap = offsets.len() != begins.len();
                let wanted = begins.into_iter().enumerate().map(|(index, begin)| {
                    let next_offset = offsets.get(index).copied().unwrap_or(begin.next_offset);
                    gap |= next_offset < begin.next_offset;
                    Position { next_offset: next_offset.max(begin.next_offset), ..begin }
                });
                let wanted = wanted.collect();
                self.read_stream(topic, wanted, gap)
            }
            (Kind::Broadcast, Some(place @ (Place::Offset(_) | Place::Since(_)))) => self.read_log(topic, place).await,
            // What was missed since an unknown place can't be known.
            _ => {
                let Listener { begins, source } = self.listen(topic).await?;
                let (sender, receiver) = mpsc::channel(AHEAD);
                let mut listener = Listener { begins: begins.clone(), source };
                self.context.spawn("gap", async move {
                    let mut next = Some(Tailed::Gap);
                    while let Some(tailed) = next {
                        if sender.send(tailed).await.is_err() {
                            return;
                        }
                        next = tokio::select! { next = listener.next() => next, () = sender.closed() => None };
                    }
                });
                Ok(Listener { begins, source: Source::Own(receiver) })
            }
        }
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

    fn read_stream(&self, topic: &Arc<Topic>, from: Vec<Position>, gap: bool) -> Result<Listener> {
        let consumer = self.kafka.reader(topic, &from).map_err(Problem::internal)?;
        let mut offsets: Vec<i64> = from.iter().map(|position| position.next_offset).collect();
        let begins = Place::Offsets(offsets.clone()).encode(topic.topic_id);
        let (sender, receiver) = mpsc::channel(AHEAD);
        let (tails, topic) = (self.clone(), topic.clone());
        self.context.spawn("replay", async move {
            let reading = async {
                if gap && sender.send(Tailed::Gap).await.is_err() {
                    return;
                }
                loop {
                    let tailed = match tails.next_of_stream(&topic, &consumer, &mut offsets).await {
                        Ok(tailed) => tailed,
                        Err(error) if is_fatal(&error) => return,
                        Err(_) => continue,
                    };
                    tails.count(&topic, 1);
                    if sender.send(tailed).await.is_err() {
                        return;
                    }
                }
            };
            tokio::select! { () = reading => {}, () = sender.closed() => {}, () = tails.ended(&topic) => {} }
        });
        Ok(Listener { begins, source: Source::Own(receiver) })
    }

    async fn read_log(&self, topic: &Arc<Topic>, place: Place) -> Result<Listener> {
        let begins = place.encode(topic.topic_id);
        let opened = tokio::time::timeout(PATIENCE, self.rabbit.listen(topic, start(&place))).await;
        let first = opened.map_err(|_| away())?.map_err(|error| away().caused_by(error))?;
        let (sender, receiver) = mpsc::channel(AHEAD);
        let (tails, topic) = (self.clone(), topic.clone());
        self.context.spawn("replay", async move {
            let reading = async {
                let mut next = place;
                let mut opened = Some(first);
                loop {
                    let read = async {
                        let log = match opened.take() {
                            Some(log) => log,
                            None => {
                                connected(&tails.rabbit).await?;
                                tails.rabbit.listen(&topic, start(&next)).await?
                            }
                        };
                        tails.follow_log(&topic, log, &mut next, To::One(&sender)).await
                    };
                    match read.await {
                        Ok(()) => return,
                        Err(error) => tracing::debug!(topic = topic.name, error = format!("{error:#}"), "read anew"),
                    }
                    tokio::time::sleep(PAUSE.1).await;
                }
            };
            tokio::select! { () = reading => {}, () = sender.closed() => {}, () = tails.ended(&topic) => {} }
        });
        Ok(Listener { begins, source: Source::Own(receiver) })
    }

    /// The service ends, or the topic is gone.
    async fn ended(&self, topic: &Topic) {
        let shutdown = self.context.shutdown.clone();
        let gone = async {
            loop {
                tokio::time::sleep(LOOK).await;
                if self.is_gone(topic).await {
                    return;
                }
            }
        };
        tokio::select! { () = shutdown.cancelled() => {}, () = gone => {} }
    }

    /// What comes from now on; where the tail was before that; and where it is.
    fn join(&self, topic: &Arc<Topic>) -> (broadcast::Receiver<Tailed>, Option<Place>, watch::Receiver<Option<Place>>) {
        let mut tails = self.tails.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tail) = tails.get(&topic.topic_id)
            && let Some(sender) = tail.sender.upgrade()
        {
            let before = tail.place.borrow().clone();
            return (sender.subscribe(), before, tail.place.clone());
        }
        let (sender, receiver) = broadcast::channel(self.lag);
        let (place, watched) = watch::channel(None);
        let ended = self.context.shutdown.child_token();
        let tail = Tail {
            topic: topic.name.clone(),
            ended: ended.clone(),
            sender: sender.downgrade(),
            place: watched.clone(),
        };
        tails.insert(topic.topic_id, tail);
        let (tails, topic) = (self.clone(), topic.clone());
        self.context.spawn("tail", async move {
            let telling = Telling { topic: &topic, sender: &sender, place: &place };
            tokio::select! {
                () = tails.run(&telling) => {}
                () = ended.cancelled() => {}
            }
        });
        (receiver, None, watched)
    }

    async fn run(&self, telling: &Telling<'_>) {
        let topic = telling.topic;
        let mut pause = PAUSE.0;
        let mut reached = None;
        loop {
            let result = match topic.kind {
                Kind::Stream => self.tail_stream(telling, &mut reached).await,
                _ => self.tail_broadcast(telling, &mut reached).await,
            };
            match result {
                Ok(()) => return,
                Err(error) => tracing::info!(topic = topic.name, error = format!("{error:#}"), "listening begins anew"),
            }
            if self.leave(telling) {
                return;
            }
            if telling.place.send_replace(None).is_some() {
                pause = PAUSE.0;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// Ends the tail if nobody listens.
    fn leave(&self, telling: &Telling<'_>) -> bool {
        let mut tails = self.tails.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = telling.sender.receiver_count() == 0;
        if idle {
            tails.remove(&telling.topic.topic_id);
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

    fn count(&self, topic: &Topic, messages: u64) {
        self.metrics.delivered.with_label_values(&[topic.kind.as_str()]).inc_by(messages);
        self.metrics.counts.add((topic.topic_id, &topic.name), Happened::Delivered, messages);
    }

    fn pass_on(&self, telling: &Telling<'_>, tailed: Tailed, place: Place) {
        let counts = matches!(tailed, Tailed::Message { .. });
        if let Ok(receivers) = telling.sender.send(tailed)
            && counts
        {
            self.count(telling.topic, receivers as u64);
        }
        telling.place.send_replace(Some(place));
    }

    /// False: nobody listens.
    async fn tell(&self, topic: &Topic, to: &To<'_>, tailed: Tailed, place: &Place) -> bool {
        match to {
            To::All(telling) => {
                self.pass_on(telling, tailed, place.clone());
                true
            }
            To::One(sender) => {
                self.count(topic, u64::from(matches!(tailed, Tailed::Message { .. })));
                sender.send(tailed).await.is_ok()
            }
        }
    }

    async fn tail_stream(&self, telling: &Telling<'_>, reached: &mut Option<Place>) -> anyhow::Result<()> {
        let topic = telling.topic;
        let mut positions = self.kafka.ends(topic).await?;
        if let Some(Place::Offsets(offsets)) = reached {
            // After a failure it goes on where it was.
            for (position, offset) in positions.iter_mut().zip(offsets) {
                position.next_offset = *offset;
            }
        }
        let consumer = self.kafka.reader(topic, &positions)?;
        let mut offsets: Vec<i64> = positions.iter().map(|position| position.next_offset).collect();
        telling.place.send_replace(Some(Place::Offsets(offsets.clone())));
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                next = self.next_of_stream(topic, &consumer, &mut offsets) => match next {
                    Ok(tailed) => {
                        *reached = Some(Place::Offsets(offsets.clone()));
                        self.pass_on(telling, tailed, Place::Offsets(offsets.clone()));
                    }
                    Err(error) if is_fatal(&error) => return Ok(()),
                    Err(error) => tracing::debug!(topic = topic.name, %error, "stream stutters"),
                },
                _ = look.tick() => if self.leave(telling) || self.is_gone(topic).await { return Ok(()) },
            }
        }
    }

    async fn tail_broadcast(&self, telling: &Telling<'_>, reached: &mut Option<Place>) -> anyhow::Result<()> {
        let topic = telling.topic;
        connected(&self.rabbit).await?;
        let from = reached.as_ref().map_or(From::Now, start);
        let log = self.rabbit.listen(topic, from).await?;
        let next = reached.get_or_insert_with(|| Place::Since(Utc::now().timestamp_millis()));
        telling.place.send_replace(Some(next.clone()));
        let mut look = tokio::time::interval(LOOK);
        let mut followed = std::pin::pin!(self.follow_log(topic, log, next, To::All(telling)));
        loop {
            tokio::select! {
                ended = &mut followed => return ended,
                _ = look.tick() => if self.leave(telling) || self.is_gone(topic).await { return Ok(()) },
            }
        }
    }

    async fn next_of_stream(
        &self,
        topic: &Topic,
        consumer: &StreamConsumer,
        offsets: &mut [i64],
    ) -> std::result::Result<Tailed, KafkaError> {
        let record = consumer.recv().await?;
        if let Some(offset) = usize::try_from(record.partition()).ok().and_then(|partition| offsets.get_mut(partition))
        {
            *offset = record.offset() + 1;
        }
        let json = self.vault.opened(kafka::incoming(&record)).for_all(&topic.name).into();
        Ok(Tailed::Message { json, token: Some(Place::Offsets(offsets.to_vec()).encode(topic.topic_id).into()) })
    }

    /// Tells what a broadcast's log has, until nobody listens.
    async fn follow_log(
        &self,
        topic: &Topic,
        (_channel, mut consumer): (lapin::Channel, lapin::Consumer),
        next: &mut Place,
        to: To<'_>,
    ) -> anyhow::Result<()> {
        if let Place::Since(ms) = *next
            && Utc::now().timestamp_millis() - ms > i64::try_from(LOG_AGE.as_millis()).unwrap_or(i64::MAX)
            && !self.tell(topic, &to, Tailed::Gap, next).await
        {
            return Ok(());
        }
        loop {
            let delivery = consumer.next().await.context("the consumer ended")??;
            let offset = rabbit::offset(&delivery).context("a message of a log has no offset")?;
            let (known, missing) = match *next {
                Place::Offset(wanted) => (offset < wanted, offset > wanted),
                _ => (false, false),
            };
            if !known {
                *next = Place::Offset(offset + 1);
                if missing && !self.tell(topic, &to, Tailed::Gap, next).await {
                    return Ok(());
                }
                let json = self.vault.opened(rabbit::incoming(&delivery)).for_all(&topic.name).into();
                let token = Some(next.encode(topic.topic_id).into());
                if !self.tell(topic, &to, Tailed::Message { json, token }, next).await {
                    return Ok(());
                }
            }
            delivery.acker.ack(BasicAckOptions::default()).await?;
        }
    }
}

/// Waits for the broker, not for ever.
async fn connected(rabbit: &Rabbit) -> anyhow::Result<()> {
    tokio::time::timeout(LOOK, rabbit.connected()).await.context("the broker is away")
}

fn start(place: &Place) -> From {
    match place {
        Place::Offset(offset) => From::Offset(*offset),
        Place::Since(ms) => From::Second((ms / 1000 - CLOCKS.as_secs().cast_signed()).max(0).unsigned_abs()),
        Place::Offsets(_) => From::Now,
    }
}

fn away() -> Problem {
    Problem::unavailable("message broker", Duration::from_secs(2))
}

fn is_fatal(error: &KafkaError) -> bool {
    matches!(
        error,
        KafkaError::MessageConsumption(RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownTopicOrPartition)
    )
}
