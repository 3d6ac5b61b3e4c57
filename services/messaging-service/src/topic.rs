//! What a topic is: its kinds, its settings, and the names of what stands for it at the brokers. No I/O.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// The group in which all subscribers of a queue share its work.
pub const QUEUE_GROUP: &str = "default";
/// The most priority levels that a queue may have.
pub const MAX_PRIORITY_LEVELS: i16 = 10;

/// How a topic's messages reach its subscribers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Kafka: kept, read by any number of groups, each from its own position.
    Stream,
    /// RabbitMQ: each message is work for one subscriber.
    Queue,
    /// RabbitMQ: every subscriber that listens gets it.
    Broadcast,
}

/// Whether a key's messages are handed out one after the other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Ordering {
    /// A message waits until the earlier ones of its key are acknowledged or dead.
    Strict,
    /// In order as far as nothing fails and nobody shares.
    #[default]
    Relaxed,
}

impl Ordering {
    /// As stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Relaxed => "relaxed",
        }
    }
}

impl TryFrom<String> for Ordering {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "strict" => Ok(Self::Strict),
            "relaxed" => Ok(Self::Relaxed),
            _ => Err(format!("unknown ordering {text}")),
        }
    }
}

/// Which broker holds a kind's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Broker {
    Kafka,
    Rabbit,
}

impl Kind {
    /// As stored, and as a metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Queue => "queue",
            Self::Broadcast => "broadcast",
        }
    }

    /// Where its messages are kept.
    pub fn broker(self) -> Broker {
        match self {
            Self::Stream => Broker::Kafka,
            Self::Queue | Self::Broadcast => Broker::Rabbit,
        }
    }
}

impl Broker {
    /// As stored, and as a metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kafka => "kafka",
            Self::Rabbit => "rabbit",
        }
    }
}

impl TryFrom<String> for Kind {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "stream" => Ok(Self::Stream),
            "queue" => Ok(Self::Queue),
            "broadcast" => Ok(Self::Broadcast),
            _ => Err(format!("unknown kind of topic {text}")),
        }
    }
}

/// A topic's or group's name: 1 to 100 letters, digits, `.`, `_`, `-`, the first one a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, min_length = 1, max_length = 100, pattern = "^[A-Za-z0-9][A-Za-z0-9._-]*$")]
pub struct Name(String);

impl Name {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Name {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let begins = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        if begins && text.len() <= 100 && text.bytes().all(plain) {
            Ok(Self(text))
        } else {
            Err("a name has 1 to 100 letters, digits, '.', '_' or '-', and begins with a letter or digit")
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An integer from `MIN` to `MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "i64")]
pub struct Between<const MIN: i64, const MAX: i64>(i64);

impl<const MIN: i64, const MAX: i64> Between<MIN, MAX> {
    /// The number.
    pub fn get(self) -> i64 {
        self.0
    }
}

impl<const MIN: i64, const MAX: i64> TryFrom<i64> for Between<MIN, MAX> {
    type Error = String;

    fn try_from(number: i64) -> Result<Self, String> {
        if (MIN..=MAX).contains(&number) { Ok(Self(number)) } else { Err(format!("from {MIN} to {MAX}")) }
    }
}

/// A topic and its settings; one struct for row and wire.
#[derive(Debug, Clone, Serialize, ToSchema, sqlx::FromRow)]
#[serde(rename_all = "camelCase")]
pub struct Topic {
    pub topic_id: Uuid,
    pub name: String,
    #[sqlx(try_from = "String")]
    pub kind: Kind,
    /// Deliveries of a message in a group before it becomes a dead letter.
    pub max_attempts: i32,
    /// The first back-off after a failed attempt, in milliseconds.
    pub backoff_ms: i64,
    /// How long a subscriber may work on a message, in milliseconds.
    pub lease_ms: i64,
    /// Queues: how many priorities are kept apart at the broker.
    pub priority_levels: i16,
    /// Streams: how many partitions.
    pub partitions: i32,
    /// The longest back-off, in milliseconds; the service's own without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_backoff_ms: Option<i64>,
    /// How long a message is kept, in milliseconds; without: for ever, and in streams as long as the broker is set to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention_ms: Option<i64>,
    /// How many messages may wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_length: Option<i64>,
    #[sqlx(try_from = "String")]
    pub ordering: Ordering,
    /// A JSON Schema that payloads must match.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema: Option<serde_json::Value>,
    /// Queues with priorities: a message that waits gains one priority each time this passes, in milliseconds; 0: never.
    pub ageing_ms: i64,
    /// The topic that gets a copy of each dead letter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<String>,
    /// Payloads are sealed wherever they are kept: at the brokers, in the outbox, in the inventory. Keys and headers are not.
    pub encrypted: bool,
    pub created_at: DateTime<Utc>,
}

impl Topic {
    /// What stands for the topic at its broker, but for a queue's level. A part of the id makes it new each time: what is
    /// created under a deleted topic's name never meets that one's leftovers.
    fn object(&self) -> String {
        let id = self.topic_id.simple().to_string();
        format!("{}.{}.{}", self.kind.as_str(), self.name, &id[id.len() - 8..])
    }

    /// The Kafka topic, without the configured prefix.
    pub fn kafka_topic(&self) -> String {
        self.object()
    }

    /// The exchange of a broadcast.
    pub fn exchange(&self) -> String {
        format!("kronos.{}", self.object())
    }

    /// The log in which the broker keeps a broadcast's recent messages.
    pub fn log_queue(&self) -> String {
        format!("kronos.{}.log", self.object())
    }

    /// A queue's own queues, one for each level, by level.
    pub fn level_queue(&self, level: i16) -> String {
        format!("kronos.{}.p{level}", self.object())
    }

    /// The queue in which the broker keeps a broadcast's messages for a group.
    pub fn group_queue(&self, group_id: Uuid) -> String {
        format!("kronos.{}.g{}", self.object(), group_id.simple())
    }

    /// How long a message waits for one more priority, in milliseconds; `None`: it gains none.
    pub fn ageing(&self) -> Option<i64> {
        Some(self.ageing_ms).filter(|ageing_ms| *ageing_ms > 0)
    }

    /// Whether a message waits for the earlier ones of its key.
    pub fn is_strict(&self) -> bool {
        self.ordering == Ordering::Strict
    }

    /// The levels, the most urgent one first.
    pub fn levels(&self) -> impl Iterator<Item = i16> + use<> {
        (0..self.priority_levels).rev()
    }

    /// Which level's queue carries a priority: one above the highest level counts as the highest.
    pub fn level_of(&self, priority: i16) -> i16 {
        priority.clamp(0, self.priority_levels - 1)
    }
}

/// A group's record.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Group {
    pub group_id: Uuid,
    pub topic_id: Uuid,
    pub name: String,
}
