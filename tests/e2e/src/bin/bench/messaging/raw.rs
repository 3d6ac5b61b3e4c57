//! The brokers' own clients, lapin and rdkafka, as a service would use them: confirmed, persistent.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures::StreamExt as _;
use kronos_common::config;
use lapin::{
    BasicProperties, Channel, Confirmation,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
        QueueDeleteOptions,
    },
    types::{AMQPValue, FieldTable},
};
use rdkafka::{
    Message as _,
    admin::{AdminOptions, NewTopic, TopicReplication},
    consumer::Consumer as _,
    producer::{FutureProducer, FutureRecord},
};

use super::SIZE;
use crate::Platform;

const NAME: &str = "bench-messaging";

/// lapin, with a quorum queue.
pub(super) struct Rabbit {
    _connection: lapin::Connection,
    channel: Channel,
}

impl Rabbit {
    pub(super) async fn open(platform: &Platform) -> anyhow::Result<Self> {
        let url = &platform.stores.get("rabbitmq").context("no RabbitMQ")?.url;
        let connection = lapin::Connection::connect(url, lapin::ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_delete(NAME.into(), QueueDeleteOptions::default()).await?;
        channel.queue_declare(NAME.into(), durable, arguments).await?;
        Ok(Self { _connection: connection, channel })
    }

    pub(super) async fn publish(&self, messages: usize) -> anyhow::Result<()> {
        let payload = [b'x'; SIZE];
        let mut confirms = Vec::with_capacity(messages);
        for _ in 0..messages {
            confirms.push(self.send(&payload).await?);
        }
        for confirm in confirms {
            ensure!(matches!(confirm.await?, Confirmation::Ack(None)), "not confirmed");
        }
        Ok(())
    }

    async fn send(&self, payload: &[u8]) -> anyhow::Result<lapin::PublisherConfirm> {
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let persistent = BasicProperties::default().with_delivery_mode(2);
        Ok(self.channel.basic_publish("".into(), NAME.into(), options, payload, persistent).await?)
    }

    /// From publish to consumer, of so many messages at a steady rate.
    pub(super) async fn latency(&self, count: usize, every: Duration) -> anyhow::Result<Vec<Duration>> {
        let purge = lapin::options::QueuePurgeOptions::default();
        self.channel.queue_purge(NAME.into(), purge).await?;
        let consuming = BasicConsumeOptions::default();
        let mut consumer =
            self.channel.basic_consume(NAME.into(), "bench".into(), consuming, FieldTable::default()).await?;
        let begun = Instant::now();
        let publishing = async {
            let mut ticks = tokio::time::interval(every);
            for _ in 0..count {
                ticks.tick().await;
                let confirm = self.send(&stamped(begun)).await?;
                ensure!(matches!(confirm.await?, Confirmation::Ack(None)), "not confirmed");
            }
            anyhow::Ok(())
        };
        let receiving = async {
            let mut times = Vec::with_capacity(count);
            while times.len() < count {
                let delivery = consumer.next().await.context("the consumer ended")??;
                times.push(age(begun, &delivery.data)?);
                delivery.acker.ack(BasicAckOptions::default()).await?;
            }
            anyhow::Ok(times)
        };
        let ((), times) = tokio::try_join!(publishing, receiving)?;
        self.channel.basic_cancel("bench".into(), lapin::options::BasicCancelOptions::default()).await?;
        Ok(times)
    }

    pub(super) async fn close(&self) -> anyhow::Result<()> {
        self.channel.queue_delete(NAME.into(), QueueDeleteOptions::default()).await?;
        Ok(())
    }
}

/// rdkafka, with the settings that the service has.
pub(super) struct Kafka {
    config: config::Kafka,
    producer: FutureProducer,
}

impl Kafka {
    pub(super) async fn open(platform: &Platform) -> anyhow::Result<Self> {
        let brokers = platform.stores.get("kafka").context("no Kafka")?.url.clone();
        let config = config::Kafka {
            brokers,
            prefix: String::new(),
            timeout_ms: 5000,
            security: config::KafkaSecurity::Plaintext,
            ca_file: String::new(),
            sasl_mechanism: config::SaslMechanism::default(),
            username: String::new(),
            password: String::new().into(),
        };
        let admin = kronos_common::kafka::admin(&config)?;
        let topic = NewTopic::new(NAME, 3, TopicReplication::Fixed(1));
        // What an earlier run has left serves as well.
        let _ = admin.create_topics([&topic], &AdminOptions::new()).await?;
        Ok(Self { producer: kronos_common::kafka::producer(&config)?, config })
    }

    pub(super) async fn publish(&self, messages: usize) -> anyhow::Result<()> {
        let payload = [b'x'; SIZE];
        let mut sent = Vec::with_capacity(messages);
        for _ in 0..messages {
            let record = FutureRecord::<str, [u8]>::to(NAME).payload(&payload);
            sent.push(self.producer.send_result(record).map_err(|(error, _)| error)?);
        }
        for answer in sent {
            answer.await?.map_err(|(error, _)| error)?;
        }
        Ok(())
    }

    /// As [`Rabbit::latency`].
    pub(super) async fn latency(&self, count: usize, every: Duration) -> anyhow::Result<Vec<Duration>> {
        let consumer = kronos_common::kafka::consumer(&self.config, "bench", &[("auto.offset.reset", "latest")])?;
        let mut end = rdkafka::TopicPartitionList::new();
        for partition in 0..3 {
            end.add_partition_offset(NAME, partition, rdkafka::Offset::End)?;
        }
        consumer.assign(&end)?;
        let begun = Instant::now();
        let publish = async || {
            let payload = stamped(begun);
            let record = FutureRecord::<str, [u8]>::to(NAME).payload(&payload);
            self.producer.send_result(record).map_err(|(error, _)| error)?.await?.map_err(|(error, _)| error)?;
            anyhow::Ok(())
        };
        // The first ones only find out whether it listens.
        while tokio::time::timeout(Duration::from_millis(300), consumer.recv()).await.is_err() {
            publish().await?;
        }
        while tokio::time::timeout(Duration::from_secs(1), consumer.recv()).await.is_ok() {}
        let publishing = async {
            let mut ticks = tokio::time::interval(every);
            for _ in 0..count {
                ticks.tick().await;
                publish().await?;
            }
            anyhow::Ok(())
        };
        let receiving = async {
            let mut times = Vec::with_capacity(count);
            while times.len() < count {
                times.push(age(begun, consumer.recv().await?.payload().context("a payload")?)?);
            }
            anyhow::Ok(times)
        };
        let ((), times) = tokio::try_join!(publishing, receiving)?;
        Ok(times)
    }

    pub(super) async fn close(&self) -> anyhow::Result<()> {
        let admin = kronos_common::kafka::admin(&self.config)?;
        admin.delete_topics(&[NAME], &AdminOptions::new()).await?;
        Ok(())
    }
}

/// A payload that says when it was sent.
fn stamped(begun: Instant) -> [u8; SIZE] {
    let mut payload = [b'x'; SIZE];
    payload[..8].copy_from_slice(&u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX).to_be_bytes());
    payload
}

fn age(begun: Instant, payload: &[u8]) -> anyhow::Result<Duration> {
    let sent = u64::from_be_bytes(payload.get(..8).context("a stamp")?.try_into()?);
    Ok(begun.elapsed().saturating_sub(Duration::from_nanos(sent)))
}
