//! RabbitMQ as this service uses it: quorum queues, fanout exchanges, confirmed publishes on one channel for all callers,
//! consumers on a connection of their own. It knows no SQL and no HTTP.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
    time::Duration,
};

use chrono::Utc;
use kronos_common::{
    config,
    rabbit::{self, Connection, PublishError},
    service::Context,
};
use lapin::{
    BasicProperties, Channel, Consumer, ExchangeKind,
    message::Delivery,
    options::{
        BasicConsumeOptions, BasicQosOptions, ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions,
        QueueDeclareOptions, QueueDeleteOptions,
    },
    types::{AMQPValue, FieldTable},
};
use uuid::Uuid;

use crate::{
    broker::SendError,
    message::{Message, wire},
    topic::{Group, Kind, Topic},
};

/// Deliveries that one consumer holds in memory.
pub(crate) const PREFETCH: u16 = 256;
/// What a broadcast's log keeps at least, for subscribers that come back; whole segments are deleted.
pub(crate) const LOG_AGE: Duration = Duration::from_secs(3600);
const LOG_BYTES: i64 = 512 << 20;
const LOG_SEGMENT_BYTES: i64 = 16 << 20;
/// Longest wait for an answer to anything but a publish.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where to begin in a broadcast's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    /// After all that is there.
    Now,
    Offset(i64),
    /// With what was published since, in seconds since 1970; some that is older may come too.
    Second(u64),
}

/// The handle; clones share it.
#[derive(Clone)]
pub(crate) struct Rabbit {
    publishing: Connection,
    consuming: Connection,
    channel: Arc<Mutex<Option<Channel>>>,
    opening: Arc<tokio::sync::Mutex<()>>,
    /// Held while a publish's number and its frames are queued, never over a wait: the driver takes the number first, so two
    /// publishes at once could swap their confirms.
    order: Arc<Mutex<()>>,
}

impl Rabbit {
    /// Starts the connections; the broker may be away.
    ///
    /// # Errors
    /// A malformed URL.
    pub(crate) async fn open(config: &config::Rabbit, context: &Context) -> anyhow::Result<Self> {
        Ok(Self {
            consuming: Connection::open(config, context).await?,
            publishing: Connection::open(config, context).await?,
            channel: Arc::default(),
            opening: Arc::default(),
            order: Arc::default(),
        })
    }

    /// Publishes and waits for the confirm. Publishes that are polled in an order reach the broker in that order.
    ///
    /// # Errors
    /// See [`SendError`].
    pub(crate) async fn send(&self, channel: &Channel, topic: &Topic, message: &Message) -> Result<(), SendError> {
        let (exchange, routing_key) = match topic.kind {
            Kind::Broadcast => (topic.exchange(), String::new()),
            _ => (String::new(), topic.level_queue(topic.level_of(message.priority))),
        };
        let outgoing = rabbit::Message {
            exchange: &exchange,
            routing_key: &routing_key,
            // A broadcast that nobody listens to has done its work.
            mandatory: topic.kind != Kind::Broadcast,
            payload: &message.payload,
            properties: properties(message),
        };
        let confirmed = async {
            let mut sending = pin!(outgoing.send(channel));
            let first = poll_fn(|context| {
                let _order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
                Poll::Ready(sending.as_mut().poll(context))
            });
            let confirm = match first.await {
                Poll::Ready(confirm) => confirm,
                Poll::Pending => sending.await,
            };
            rabbit::confirmed(confirm.map_err(PublishError::Broken)?.await)
        };
        match tokio::time::timeout(self.publishing.confirm_timeout(), confirmed).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(PublishError::Unroutable)) => Err(SendError::Unroutable),
            Ok(Err(PublishError::Refused)) if topic.max_length.is_some() => Err(SendError::Full),
            Ok(Err(error @ PublishError::Refused)) => Err(SendError::Away(error.to_string())),
            Ok(Err(PublishError::Broken(error))) => Err(SendError::Unconfirmed(error.to_string())),
            Ok(Err(error @ PublishError::Unconfirmed)) => Err(SendError::Unconfirmed(error.to_string())),
            Err(_) => Err(SendError::Unconfirmed("no answer in time".to_owned())),
        }
    }

    /// The channel that all publishes share.
    ///
    /// # Errors
    /// [`SendError::Away`].
    pub(crate) async fn channel(&self) -> Result<Channel, SendError> {
        // The driver would keep what is published meanwhile in memory, without a bound.
        if self.publishing.is_blocked() {
            return Err(SendError::Away("the broker takes no publishes: it is short of memory or disk".to_owned()));
        }
        let usable = || {
            let channel = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
            channel.as_ref().filter(|channel| channel.status().connected()).cloned()
        };
        if let Some(channel) = usable() {
            return Ok(channel);
        }
        let _opening = self.opening.lock().await;
        if let Some(channel) = usable() {
            return Ok(channel);
        }
        let opened = tokio::time::timeout(PATIENCE, self.publishing.confirming_channel()).await;
        let channel = opened
            .map_err(|_| SendError::Away("no channel in time".to_owned()))?
            .map_err(|error| SendError::Away(format!("{error:#}")))?;
        *self.channel.lock().unwrap_or_else(PoisonError::into_inner) = Some(channel.clone());
        Ok(channel)
    }

    /// The connection that consumes.
    pub(crate) fn connection(&self) -> Connection {
        self.consuming.clone()
    }

    /// Waits until the broker is there.
    pub(crate) async fn connected(&self) {
        self.consuming.connected().await;
    }

    /// Creates what stands for a topic; what is there already stays.
    ///
    /// # Errors
    /// The broker is away or refuses.
    pub(crate) async fn declare(&self, topic: &Topic) -> anyhow::Result<()> {
        self.on_channel(|channel| async move {
            match topic.kind {
                Kind::Stream => {}
                Kind::Queue => {
                    for level in topic.levels() {
                        declare_quorum(&channel, &topic.level_queue(level), topic).await?;
                    }
                }
                Kind::Broadcast => {
                    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
                    let name = topic.exchange().into();
                    channel.exchange_declare(name, ExchangeKind::Fanout, durable, FieldTable::default()).await?;
                    declare_log(&channel, &topic.log_queue()).await?;
                    bind(&channel, &topic.log_queue(), &topic.exchange()).await?;
                }
            }
            Ok(())
        })
        .await
    }

    /// Creates the queue that keeps a broadcast's messages for a group from now on.
    ///
    /// # Errors
    /// The broker is away or refuses.
    pub(crate) async fn declare_group(&self, topic: &Topic, group: &Group) -> anyhow::Result<()> {
        self.declare(topic).await?;
        self.on_channel(|channel| async move {
            let queue = topic.group_queue(group.group_id);
            declare_quorum(&channel, &queue, topic).await?;
            bind(&channel, &queue, &topic.exchange()).await
        })
        .await
    }

    /// Deletes a queue or exchange; that it is not there is fine.
    ///
    /// # Errors
    /// The broker is away or refuses.
    pub(crate) async fn delete_queue(&self, name: &str) -> anyhow::Result<()> {
        self.on_channel(|channel| async move {
            channel.queue_delete(name.into(), QueueDeleteOptions::default()).await?;
            Ok(())
        })
        .await
    }

    /// As [`Rabbit::delete_queue`].
    ///
    /// # Errors
    /// The broker is away or refuses.
    pub(crate) async fn delete_exchange(&self, name: &str) -> anyhow::Result<()> {
        self.on_channel(|channel| async move {
            channel.exchange_delete(name.into(), ExchangeDeleteOptions::default()).await?;
            Ok(())
        })
        .await
    }

    /// Messages that wait at the broker in all of a queue's levels.
    ///
    /// # Errors
    /// The broker is away or has no such queue.
    pub(crate) async fn depth(&self, topic: &Topic) -> anyhow::Result<i64> {
        self.on_channel(|channel| async move {
            let mut depth = 0;
            for level in topic.levels() {
                let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
                let name = topic.level_queue(level).into();
                depth += i64::from(channel.queue_declare(name, passive, FieldTable::default()).await?.message_count());
            }
            Ok(depth)
        })
        .await
    }

    /// Consumes a queue on a channel of its own, so that one acknowledgement can cover all before it.
    ///
    /// # Errors
    /// The broker is away or has no such queue.
    pub(crate) async fn consume(&self, queue: &str) -> anyhow::Result<(Channel, Consumer)> {
        let channel = self.consuming.channel().await?;
        let consuming = async {
            channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
            let options = BasicConsumeOptions::default();
            channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await
        };
        let consumer = tokio::time::timeout(PATIENCE, consuming).await??;
        Ok((channel, consumer))
    }

    /// Consumes a broadcast's log, for subscribers without group. Each message must be acknowledged, to get more.
    ///
    /// # Errors
    /// The broker is away or refuses.
    pub(crate) async fn listen(&self, topic: &Topic, from: From) -> anyhow::Result<(Channel, Consumer)> {
        self.declare(topic).await?;
        let channel = self.consuming.channel().await?;
        let mut arguments = FieldTable::default();
        let start = match from {
            From::Now => AMQPValue::LongString("next".into()),
            From::Offset(offset) => AMQPValue::LongLongInt(offset),
            From::Second(second) => AMQPValue::Timestamp(second),
        };
        arguments.insert("x-stream-offset".into(), start);
        let listening = async {
            channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
            let options = BasicConsumeOptions::default();
            anyhow::Ok(channel.basic_consume(topic.log_queue().into(), "".into(), options, arguments).await?)
        };
        let consumer = tokio::time::timeout(PATIENCE, listening).await??;
        Ok((channel, consumer))
    }

    /// A short piece of work on a channel of its own, which an error of the broker's would close.
    async fn on_channel<T, F>(&self, work: impl FnOnce(Channel) -> F) -> anyhow::Result<T>
    where
        F: Future<Output = anyhow::Result<T>>,
    {
        let worked = async {
            let channel = self.consuming.channel().await?;
            let result = work(channel.clone()).await;
            // An error has closed it already.
            let _ = channel.close(200, "done".into()).await;
            result
        };
        tokio::time::timeout(PATIENCE, worked).await?
    }
}

/// Where a message is in a broadcast's log.
pub(crate) fn offset(delivery: &Delivery) -> Option<i64> {
    match delivery.properties.headers().as_ref()?.inner().get("x-stream-offset")? {
        AMQPValue::LongLongInt(offset) => Some(*offset),
        AMQPValue::LongInt(offset) => Some(i64::from(*offset)),
        _ => None,
    }
}

/// What the broker hands over, as a message.
pub(crate) fn incoming(delivery: &Delivery) -> Message {
    let headers = delivery.properties.headers().as_ref().map(FieldTable::inner);
    let headers = headers.into_iter().flatten().filter_map(|(name, value)| match value {
        AMQPValue::LongString(value) => Some((name.as_str(), std::str::from_utf8(value.as_bytes()).ok()?)),
        AMQPValue::ShortString(value) => Some((name.as_str(), value.as_str())),
        _ => None,
    });
    Message::from_wire(&delivery.data, None, headers, Uuid::now_v7(), Utc::now())
}

fn properties(message: &Message) -> BasicProperties {
    let mut headers = FieldTable::default();
    for (name, value) in message.wire_headers() {
        headers.insert(name.into(), AMQPValue::LongString(value.into()));
    }
    if let Some(key) = &message.key {
        headers.insert(wire::KEY.into(), AMQPValue::LongString(key.as_str().into()));
    }
    BasicProperties::default()
        .with_content_type("application/json".into())
        .with_message_id(message.id.to_string().into())
        .with_headers(headers)
}

async fn declare_quorum(channel: &Channel, name: &str, topic: &Topic) -> anyhow::Result<()> {
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    if topic.is_strict() {
        // Else instances would store what they were dealt in an order of their own.
        arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
    }
    if let Some(max_length) = topic.max_length {
        // A group that nobody serves must not hold up a broadcast: it keeps the newest.
        // A queue is refused more before its broker would (see `fullness`), which only stands behind.
        let (most, overflow) = match topic.kind {
            Kind::Broadcast => (max_length, "drop-head"),
            _ => (max_length.saturating_mul(2), "reject-publish"),
        };
        arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(most));
        arguments.insert("x-overflow".into(), AMQPValue::LongString(overflow.into()));
    }
    channel.queue_declare(name.into(), durable, arguments).await?;
    Ok(())
}

async fn declare_log(channel: &Channel, name: &str) -> anyhow::Result<()> {
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("stream".into()));
    arguments.insert("x-max-age".into(), AMQPValue::LongString(format!("{}s", LOG_AGE.as_secs()).into()));
    arguments.insert("x-max-length-bytes".into(), AMQPValue::LongLongInt(LOG_BYTES));
    arguments.insert("x-stream-max-segment-size-bytes".into(), AMQPValue::LongLongInt(LOG_SEGMENT_BYTES));
    channel.queue_declare(name.into(), durable, arguments).await?;
    Ok(())
}

async fn bind(channel: &Channel, queue: &str, exchange: &str) -> anyhow::Result<()> {
    let options = QueueBindOptions::default();
    channel.queue_bind(queue.into(), exchange.into(), "".into(), options, FieldTable::default()).await?;
    Ok(())
}
