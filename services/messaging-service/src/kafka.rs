//! Kafka as this service uses it: topics, acknowledged publishes, readers that are told where to begin. Positions are kept
//! in Postgres, so there are no consumer groups at the broker and no rebalances. It knows no SQL and no HTTP.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use chrono::Utc;
use futures::FutureExt as _;
use kronos_common::{
    config, kafka,
    service::{Context, Criticality},
};
use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{Consumer as _, StreamConsumer},
    error::{KafkaError, RDKafkaErrorCode},
    message::{BorrowedMessage, Header, Headers as _, OwnedHeaders},
    producer::{FutureProducer, FutureRecord, Producer as _},
};
use uuid::Uuid;

use crate::{broker::SendError, message::Message, store::Position, topic::Topic};

/// How much longer than the client's own deadline an answer is waited for.
const GRACE: Duration = Duration::from_millis(500);
/// Settings of readers: small read-ahead, since there may be many, and quick return from a full one.
const READER: [(&str, &str); 3] =
    [("queued.max.messages.kbytes", "4096"), ("fetch.queue.backoff.ms", "20"), ("fetch.error.backoff.ms", "100")];

/// The handle; clones share it.
#[derive(Clone)]
pub(crate) struct Kafka {
    config: config::Kafka,
    replication: i32,
    producer: FutureProducer,
    admin: Arc<AdminClient<DefaultClientContext>>,
}

impl Kafka {
    /// Creates the clients; the broker may be away.
    ///
    /// # Errors
    /// A setting that the client refuses.
    pub(crate) fn open(config: &config::Kafka, replication: i32, context: &Context) -> anyhow::Result<Self> {
        let producer = kafka::producer(config)?;
        let kafka = Self { config: config.clone(), replication, producer, admin: Arc::new(kafka::admin(config)?) };
        let checked = kafka.producer.clone();
        context.depends_on("kafka", Criticality::Degraded, move || {
            let producer = checked.clone();
            let ask =
                move || producer.client().fetch_metadata(Some("kronos-ready"), Duration::from_millis(800)).map(drop);
            async move { Ok(tokio::task::spawn_blocking(ask).await??) }.boxed()
        });
        Ok(kafka)
    }

    /// Publishes and waits for all replicas. Calls that are polled in an order reach the broker in that order.
    ///
    /// # Errors
    /// See [`SendError`].
    pub(crate) async fn send(&self, topic: &Topic, message: &Message) -> Result<(), SendError> {
        let name = self.config.name(&topic.kafka_topic());
        let parts = message.wire_headers();
        let mut headers = OwnedHeaders::new_with_capacity(parts.len());
        for (key, value) in &parts {
            headers = headers.insert(Header { key, value: Some(value.as_str()) });
        }
        let mut record = FutureRecord::<str, [u8]>::to(&name)
            .payload(&message.payload)
            .headers(headers)
            .timestamp(message.published_at.timestamp_millis());
        if let Some(key) = &message.key {
            record = record.key(key);
        }
        let sent = self.producer.send_result(record).map_err(|(error, _)| meaning(&error))?;
        match tokio::time::timeout(self.config.timeout() + GRACE, sent).await {
            Ok(Ok(Ok(_))) => Ok(()),
            Ok(Ok(Err((error, _)))) => Err(meaning(&error)),
            Ok(Err(_)) | Err(_) => Err(SendError::Unconfirmed("no answer in time".to_owned())),
        }
    }

    /// Creates a topic; one that is there already stays.
    ///
    /// # Errors
    /// The broker is away or refuses.
    pub(crate) async fn declare(&self, topic: &Topic) -> anyhow::Result<()> {
        let name = self.config.name(&topic.kafka_topic());
        let new = NewTopic::new(&name, topic.partitions, TopicReplication::Fixed(self.replication))
            .set("max.message.bytes", "8388608");
        let retention = topic.retention_ms.map(|ms| ms.to_string());
        let new = match &retention {
            Some(retention) => new.set("retention.ms", retention),
            None => new,
        };
        let results = self.admin.create_topics([&new], &self.options()).await.context("create Kafka topic")?;
        match results.into_iter().next() {
            Some(Err((_, error))) if error != RDKafkaErrorCode::TopicAlreadyExists => {
                anyhow::bail!("create Kafka topic: {error}")
            }
            _ => Ok(()),
        }
    }

    /// Deletes a topic by its name without prefix; that it is not there is fine.
    ///
    /// # Errors
    /// The broker is away or refuses.
    pub(crate) async fn delete(&self, name: &str) -> anyhow::Result<()> {
        let name = self.config.name(name);
        let results = self.admin.delete_topics(&[&name], &self.options()).await.context("delete Kafka topic")?;
        match results.into_iter().next() {
            Some(Err((_, error)))
                if !matches!(error, RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) =>
            {
                anyhow::bail!("delete Kafka topic: {error}")
            }
            _ => Ok(()),
        }
    }

    /// Where the topic ends now: the offset of the next message in each partition.
    ///
    /// # Errors
    /// The broker is away or does not know the topic.
    pub(crate) async fn ends(&self, topic: &Topic) -> anyhow::Result<Vec<Position>> {
        self.watermarks(topic, |(_, high)| high).await
    }

    /// Where the topic begins now: the offset of the oldest message that is kept in each partition.
    ///
    /// # Errors
    /// The broker is away or does not know the topic.
    pub(crate) async fn beginnings(&self, topic: &Topic) -> anyhow::Result<Vec<Position>> {
        self.watermarks(topic, |(low, _)| low).await
    }

    async fn watermarks(&self, topic: &Topic, pick: fn((i64, i64)) -> i64) -> anyhow::Result<Vec<Position>> {
        let (producer, name) = (self.producer.clone(), self.config.name(&topic.kafka_topic()));
        let (partitions, timeout) = (topic.partitions, self.config.timeout());
        let ask = move || {
            let one = |partition| -> anyhow::Result<Position> {
                let next_offset = pick(producer.client().fetch_watermarks(&name, partition, timeout)?);
                Ok(Position { partition, next_offset })
            };
            (0..partitions).map(one).collect()
        };
        tokio::task::spawn_blocking(ask).await?
    }

    /// A reader of all partitions: from the given positions, and from the beginning where there is none.
    ///
    /// # Errors
    /// A setting that the client refuses.
    pub(crate) fn reader(&self, topic: &Topic, positions: &[Position]) -> anyhow::Result<StreamConsumer> {
        let name = self.config.name(&topic.kafka_topic());
        // A group's name is needed to assign partitions; nothing is ever committed under it.
        let consumer = kafka::consumer(&self.config, &topic.kafka_topic(), &READER)?;
        let mut assignment = TopicPartitionList::new();
        for partition in 0..topic.partitions {
            let position = positions.iter().find(|position| position.partition == partition);
            let offset = position.map_or(Offset::Beginning, |position| Offset::Offset(position.next_offset));
            assignment.add_partition_offset(&name, partition, offset)?;
        }
        consumer.assign(&assignment)?;
        Ok(consumer)
    }

    fn options(&self) -> AdminOptions {
        let timeout = Some(self.config.timeout());
        AdminOptions::new().request_timeout(timeout).operation_timeout(timeout)
    }
}

/// What the broker hands over, as a message. One that Kronos did not write gets an id made of where it is.
pub(crate) fn incoming(record: &BorrowedMessage<'_>) -> Message {
    let key = record.key().map(|key| String::from_utf8_lossy(key).into_owned());
    let headers = record.headers().into_iter().flat_map(|headers| headers.iter()).filter_map(|header| {
        let value = header.value.and_then(|value| std::str::from_utf8(value).ok())?;
        Some((header.key, value))
    });
    let place = (u128::from(record.partition().unsigned_abs()) << 64) | u128::from(record.offset().unsigned_abs());
    Message::from_wire(record.payload().unwrap_or(b"null"), key, headers, Uuid::from_u128(place), Utc::now())
}

fn meaning(error: &KafkaError) -> SendError {
    match error {
        KafkaError::MessageProduction(code) => match code {
            RDKafkaErrorCode::QueueFull => SendError::Away(error.to_string()),
            RDKafkaErrorCode::MessageSizeTooLarge => SendError::TooLarge,
            RDKafkaErrorCode::UnknownTopic
            | RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::UnknownPartition => SendError::Unroutable,
            _ => SendError::Unconfirmed(error.to_string()),
        },
        _ => SendError::Away(error.to_string()),
    }
}
