//! Moves a group's messages from the broker to Postgres: store, commit, then let the broker forget. It reads only as far as
//! the inventory has room, so a backlog stays at the broker. A second copy of a message is not stored again.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use futures::{FutureExt as _, StreamExt as _, future::join_all};
use lapin::options::BasicAckOptions;
use rdkafka::{
    Message as _,
    error::{KafkaError, RDKafkaErrorCode},
};
use uuid::Uuid;

use crate::{
    config::Deliver,
    hub::{Hub, Hubs},
    kafka::{self, Kafka},
    message::Message,
    rabbit::{self, PREFETCH, Rabbit},
    store::{Position, Store},
    topic::Kind,
};

/// Messages and bytes of one transaction.
const BATCH: usize = 500;
const BATCH_BYTES: usize = 4 << 20;
/// A stream is read by one instance for a group; how long it may be silent, and how often it says that it lives.
const READING_LEASE_MS: i64 = 3000;
const READING_RENEWAL: Duration = Duration::from_millis(1000);
/// How often another one asks whether it may read.
const READING_RETRY: Duration = Duration::from_millis(500);
/// With a full inventory, how often it is counted again.
const ROOM_RETRY: Duration = Duration::from_millis(100);
/// Pauses after failures.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// The reader of one group at one instance.
pub(crate) struct Reader {
    pub(crate) instance: Uuid,
    pub(crate) store: Store,
    pub(crate) rabbit: Rabbit,
    pub(crate) kafka: Kafka,
    pub(crate) deliver: Deliver,
    pub(crate) hubs: Hubs,
    pub(crate) hub: Arc<Hub>,
}

/// What is read: a stream, or one of the broker's queues, of one priority level and the highest one.
enum Source {
    Stream,
    Queue(String, Option<(i16, i16)>),
}

/// How much more may be read: what was counted last, less what was stored since.
struct Room {
    level: Option<(i16, i16)>,
    rows: i64,
    bytes: i64,
}

impl Room {
    fn new(level: Option<(i16, i16)>) -> Self {
        Self { level, rows: 0, bytes: 0 }
    }

    fn take(&mut self, batch: &[Message]) {
        self.rows -= i64::try_from(batch.len()).unwrap_or(i64::MAX);
        self.bytes -=
            i64::try_from(batch.iter().map(|message| message.payload.len()).sum::<usize>()).unwrap_or(i64::MAX);
    }

    fn is_left(&self) -> bool {
        self.rows > 0 && self.bytes > 0
    }

    fn batch(&self) -> usize {
        usize::try_from(self.rows).unwrap_or(0).clamp(1, BATCH)
    }
}

impl Reader {
    /// Reads until the hub ends; survives whatever happens to broker and database.
    pub(crate) async fn run(self) {
        let topic = self.hub.topic.clone();
        match topic.kind {
            Kind::Stream => {
                self.keep_trying(&Source::Stream).await;
                if let Err(error) = self.store.release_reading(self.hub.group.group_id, self.instance).await {
                    tracing::debug!(%error, "reading is released later");
                }
            }
            Kind::Queue => {
                let top = topic.priority_levels - 1;
                let sources: Vec<Source> = topic
                    .levels()
                    .map(|level| Source::Queue(topic.level_queue(level), (top > 0).then_some((level, top))))
                    .collect();
                join_all(sources.iter().map(|source| self.keep_trying(source))).await;
            }
            Kind::Broadcast => {
                self.keep_trying(&Source::Queue(topic.group_queue(self.hub.group.group_id), None)).await;
            }
        }
        // Only a topic that is gone ends the reading before the hub.
        self.hubs.end(&self.hub);
    }

    async fn keep_trying(&self, source: &Source) {
        let mut pause = PAUSE.0;
        while !self.hub.ended.is_cancelled() {
            let begun = Instant::now();
            let read = match source {
                Source::Stream => self.read_stream().await,
                Source::Queue(queue, level) => self.read_queue(queue, *level).await,
            };
            let Err(error) = read else { return };
            if begun.elapsed() > PAUSE.1 {
                pause = PAUSE.0;
            }
            match self.store.topic_by_id(self.hub.topic.topic_id).await {
                Ok(None) => return,
                Ok(Some(_)) if self.hub.topic.kind != Kind::Stream => {
                    // What was lost at the broker is made again; refused if it is away.
                    let restored = match self.hub.topic.kind {
                        Kind::Broadcast => self.rabbit.declare_group(&self.hub.topic, &self.hub.group).await,
                        _ => self.rabbit.declare(&self.hub.topic).await,
                    };
                    tracing::debug!(topic = self.hub.topic.name, restored = restored.is_ok(), "topology looked after");
                }
                _ => {}
            }
            tracing::info!(topic = self.hub.topic.name, error = format!("{error:#}"), "reading begins anew");
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE.1),
                () = self.hub.ended.cancelled() => return,
            }
        }
    }

    /// One queue of the broker's: its messages are dealt out to all instances that consume it.
    async fn read_queue(&self, queue: &str, level: Option<(i16, i16)>) -> anyhow::Result<()> {
        let ended = &self.hub.ended;
        tokio::select! { () = self.rabbit.connected() => {}, () = ended.cancelled() => return Ok(()) }
        let (channel, mut consumer) = self.rabbit.consume(queue).await?;
        let read = tokio::select! {
            read = self.read_consumer(&mut consumer, level) => read,
            () = ended.cancelled() => Ok(()),
        };
        // Before the consumer is dropped, which cancels it: the broker would make the next consumer of a strict queue the active
        // one, and give it what comes after the messages that this one still holds.
        let _ = tokio::time::timeout(PAUSE.1, channel.close(200, "reading ends".into())).await;
        read
    }

    async fn read_consumer(&self, consumer: &mut lapin::Consumer, level: Option<(i16, i16)>) -> anyhow::Result<()> {
        let mut room = Room::new(level);
        loop {
            self.wait_for_room(&mut room).await?;
            let mut next = consumer.next().await;
            let mut batch = Vec::new();
            let mut bytes = 0;
            let mut last = None;
            let mut fresh = 0;
            while let Some(delivery) = next {
                let delivery = delivery.context("consume")?;
                fresh += u64::from(!delivery.redelivered);
                let message = rabbit::incoming(&delivery);
                bytes += message.payload.len();
                batch.push(message);
                last = Some(delivery.acker);
                if batch.len() >= room.batch().min(usize::from(PREFETCH)) || bytes >= BATCH_BYTES {
                    break;
                }
                next = match consumer.next().now_or_never() {
                    Some(next) => next,
                    None => break,
                };
            }
            let last = last.context("the consumer ended")?;
            let ordered = self.hub.topic.is_strict();
            // A second copy that was published has arrived too; one that the broker redelivers has not arrived again.
            let arrived = self.store.insert_deliveries(self.hub.group.group_id, ordered, &batch, fresh).await?;
            self.hubs.arrived(&self.hub, arrived);
            room.take(&batch);
            last.ack(BasicAckOptions { multiple: true }).await?;
        }
    }

    /// A stream: all partitions, as the one reader of this group.
    async fn read_stream(&self) -> anyhow::Result<()> {
        let group_id = self.hub.group.group_id;
        let ended = &self.hub.ended;
        loop {
            match self.store.claim_reading(group_id, self.instance, READING_LEASE_MS).await? {
                None => return Ok(()),
                Some(true) => break,
                Some(false) => tokio::select! {
                    () = tokio::time::sleep(READING_RETRY) => {}
                    () = ended.cancelled() => return Ok(()),
                },
            }
        }
        let positions = self.store.positions(group_id).await?;
        let consumer = self.kafka.reader(&self.hub.topic, &positions)?;
        let mut room = Room::new(None);
        let mut renewed = Instant::now();
        loop {
            if renewed.elapsed() >= READING_RENEWAL {
                let claimed = self.store.claim_reading(group_id, self.instance, READING_LEASE_MS).await?;
                anyhow::ensure!(claimed == Some(true), "another instance reads");
                renewed = Instant::now();
            }
            let waiting = tokio::time::timeout(READING_RENEWAL, async {
                self.wait_for_room(&mut room).await?;
                anyhow::Ok(consumer.recv().await)
            });
            let mut next = tokio::select! {
                // Time to say that this instance lives.
                waited = waiting => match waited { Ok(next) => next?, Err(_) => continue },
                () = ended.cancelled() => return Ok(()),
            };
            let mut batch = Vec::new();
            let mut bytes = 0;
            let mut reached: Vec<Position> = Vec::new();
            loop {
                match next {
                    Ok(record) => {
                        let position = Position { partition: record.partition(), next_offset: record.offset() + 1 };
                        reached.retain(|known| known.partition != position.partition);
                        reached.push(position);
                        let message = kafka::incoming(&record);
                        bytes += message.payload.len();
                        batch.push(message);
                    }
                    Err(KafkaError::MessageConsumption(
                        code @ (RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownTopicOrPartition),
                    )) => anyhow::bail!("the broker does not know the topic: {code}"),
                    // The client goes on by itself.
                    Err(error) => tracing::debug!(topic = self.hub.topic.name, %error, "stream stutters"),
                }
                if batch.len() >= room.batch() || bytes >= BATCH_BYTES {
                    break;
                }
                next = match consumer.recv().now_or_never() {
                    Some(next) => next,
                    None => break,
                };
            }
            if batch.is_empty() {
                continue;
            }
            let ordered = self.hub.topic.is_strict();
            let stored = self.store.insert_read(group_id, self.instance, ordered, &batch, &reached).await?;
            let added = stored.context("another instance reads")?;
            self.hubs.arrived(&self.hub, added);
            room.take(&batch);
        }
    }

    async fn wait_for_room(&self, room: &mut Room) -> anyhow::Result<()> {
        while !room.is_left() {
            let levels = room.level.map_or(1, |(_, top)| i64::from(top) + 1);
            let most = (self.deliver.ready_rows, (self.deliver.ready_bytes / levels).max(1));
            let found = self.store.inventory(self.hub.group.group_id, room.level, most.0).await?;
            (room.rows, room.bytes) = (most.0 - found.rows, most.1 - found.bytes);
            if !room.is_left() {
                let _ = tokio::time::timeout(ROOM_RETRY, self.hub.taken.notified()).await;
            }
        }
        Ok(())
    }
}
