//! Empties the outbox: one instance at a time for each broker, batch by batch, in the order of acceptance; a row is deleted
//! after its confirm, in the transaction that holds the relay's lock.

use std::{collections::HashMap, time::Duration};

use chrono::Utc;
use futures::future::join_all;
use kronos_common::service::Context;
use uuid::Uuid;

use crate::{
    broker::SendError,
    counts::Happened,
    message::Message,
    publish::Publisher,
    store::Store,
    topic::{Broker, Topic},
};

/// Rows of one batch: all are in flight together.
const BATCH: i64 = 500;
/// Without anything to do, how often the outbox is looked at: what an instance accepted that then died.
const LOOK: Duration = Duration::from_secs(1);

/// Starts the relays of both brokers.
pub(crate) fn start(publisher: &Publisher, retry: Duration, context: &Context) {
    for broker in [Broker::Kafka, Broker::Rabbit] {
        let relay = Relay { publisher: publisher.clone(), broker, retry, topics: HashMap::new() };
        let shutdown = context.shutdown.clone();
        context.spawn("relay", async move {
            tokio::select! { () = relay.run() => {}, () = shutdown.cancelled() => {} }
        });
    }
}

struct Relay {
    publisher: Publisher,
    broker: Broker,
    retry: Duration,
    topics: HashMap<Uuid, Topic>,
}

/// How a batch went.
enum Pass {
    /// So many went out; there may be more.
    Sent(u64),
    /// So many went out; the others are of queues that are full.
    Full(u64),
    /// The broker refused or was silent.
    Failed(SendError),
    /// Nothing was due, or another instance relays.
    Idle,
}

impl Relay {
    async fn run(mut self) {
        let mut failing = false;
        loop {
            let pause = match self.pass().await {
                Ok(Pass::Sent(count)) => {
                    self.publisher.metrics.relayed.with_label_values(&[self.broker.as_str()]).inc_by(count);
                    self.publisher.suspicion(self.broker).clear();
                    failing = false;
                    continue;
                }
                Ok(Pass::Full(count)) => {
                    self.publisher.metrics.relayed.with_label_values(&[self.broker.as_str()]).inc_by(count);
                    self.publisher.suspicion(self.broker).clear();
                    failing = false;
                    self.retry
                }
                Ok(Pass::Failed(error)) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(broker = self.broker.as_str(), %error, "messages wait in the outbox");
                    }
                    self.until_next().await;
                    self.retry
                }
                Ok(Pass::Idle) => self.until_next().await,
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "outbox can't be read");
                    LOOK
                }
            };
            let woken = self.publisher.woken(self.broker).notified();
            // While the broker fails, new rows are no reason to try sooner.
            if failing {
                tokio::time::sleep(pause).await;
            } else {
                tokio::select! { () = woken => {}, () = tokio::time::sleep(pause) => {} }
            }
        }
    }

    async fn until_next(&self) -> Duration {
        match self.publisher.store.waiting(self.broker, self.publisher.most_pending.saturating_add(1)).await {
            Ok((waiting, next_ms)) => {
                self.publisher.set_pending(self.broker, waiting);
                self.publisher.metrics.pending.with_label_values(&[self.broker.as_str()]).set(waiting);
                if waiting == 0 {
                    // No message to try the broker with: the next publish finds out.
                    self.publisher.suspicion(self.broker).clear();
                }
                let next = next_ms.map_or(LOOK, |ms| Duration::from_secs_f64(ms.max(1.0) / 1000.0));
                next.min(LOOK)
            }
            Err(_) => LOOK,
        }
    }

    async fn pass(&mut self) -> anyhow::Result<Pass> {
        let Some(mut tx) = self.publisher.store.begin_relay(self.broker).await? else { return Ok(Pass::Idle) };
        let rows = Store::due(&mut tx, self.broker, BATCH).await?;
        if rows.is_empty() {
            return Ok(Pass::Idle);
        }
        let channel = match self.broker {
            Broker::Rabbit => Some(self.publisher.rabbit.channel().await),
            Broker::Kafka => None,
        };
        let mut work = Vec::new();
        for row in rows {
            if let Some(topic) = self.topic(row.topic_id).await? {
                work.push((row.sequence, topic, Message::from(row)));
            }
        }
        let now = Utc::now();
        let is_over = |message: &Message| message.expires_at.is_some_and(|expires_at| expires_at <= now);
        let sent = join_all(work.iter().map(|(_, topic, message)| async {
            if is_over(message) {
                return Ok(());
            }
            self.publisher.send(topic, message, channel.as_ref()).await
        }));
        let mut done = Vec::new();
        let mut failure = None;
        let mut full = false;
        for ((sequence, topic, message), result) in work.iter().zip(sent.await) {
            match result {
                Ok(()) => {
                    done.push(*sequence);
                    let happened = if is_over(message) { Happened::Expired } else { Happened::Confirmed };
                    self.publisher.metrics.counts.add((topic.topic_id, &topic.name), happened, 1);
                }
                // The others go on.
                Err(SendError::Full) => full = true,
                Err(SendError::TooLarge) => {
                    tracing::error!(message_id = %message.id, topic = topic.name, "broker takes no message of this size");
                    done.push(*sequence);
                }
                Err(error) => {
                    if matches!(error, SendError::Unroutable) {
                        let restored = self.publisher.declare(topic).await;
                        tracing::info!(topic = topic.name, restored = restored.is_ok(), "topology was gone");
                    }
                    failure = Some(error);
                }
            }
        }
        Store::delete_pending(&mut tx, &done).await?;
        tx.commit().await?;
        let sent = done.len() as u64;
        Ok(match failure {
            Some(error) => Pass::Failed(error),
            None if full => Pass::Full(sent),
            None => Pass::Sent(sent),
        })
    }

    /// Topics never change; a deleted one's rows are gone with it.
    async fn topic(&mut self, topic_id: Uuid) -> anyhow::Result<Option<Topic>> {
        if self.topics.len() > 1000 {
            self.topics.clear();
        }
        if !self.topics.contains_key(&topic_id)
            && let Some(topic) = self.publisher.store.topic_by_id(topic_id).await?
        {
            self.topics.insert(topic_id, topic);
        }
        Ok(self.topics.get(&topic_id).cloned())
    }
}
