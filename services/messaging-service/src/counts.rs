//! Counts of each topic's messages at this instance: added in memory, told to the ledger each second, and shown as metrics
//! by topic. An instance that is killed takes up to a second of its counts with it; what arrives from brokers is therefore told
//! by the store itself, in the transaction that keeps it, and never too late.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use kronos_common::service::Context;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts};
use uuid::Uuid;

use crate::store::{Counted, Store};

/// Messages by topic and what happened: accepted, confirmed, arrived, delivered, acknowledged, dead, expired. Topics that
/// appear after the first [`MOST_SERIES`] are counted together as `other`.
const TOPIC_MESSAGES: &str = "kronos_messaging_topic_messages_total";
/// Seconds from a message's publish, by topic and step: its broker's confirm, its first hand-out, its acknowledgement. Topics
/// are told apart as above.
const TOPIC_SECONDS: &str = "kronos_messaging_topic_seconds";
const BUCKETS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 30.0, 300.0];
const MOST_SERIES: usize = 200;
/// How often the ledger is told.
const TOLD: Duration = Duration::from_secs(1);

/// What happens to a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Happened {
    /// Answered with a 2xx.
    Accepted,
    /// Its broker has it.
    Confirmed,
    /// Read from the broker for a group.
    Arrived,
    /// Handed to a subscriber; every attempt counts.
    Delivered,
    Acknowledged,
    Dead,
    /// Dropped, as nobody took it in time.
    Expired,
}

impl Happened {
    fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Confirmed => "confirmed",
            Self::Arrived => "arrived",
            Self::Delivered => "delivered",
            Self::Acknowledged => "acknowledged",
            Self::Dead => "dead",
            Self::Expired => "expired",
        }
    }
}

/// How far a message has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Confirmed,
    Delivered,
    Acknowledged,
}

impl Step {
    fn as_str(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::Delivered => "delivered",
            Self::Acknowledged => "acknowledged",
        }
    }
}

/// The counts; clones share them.
#[derive(Clone)]
pub(crate) struct Counts {
    untold: Arc<Mutex<HashMap<Uuid, Counted>>>,
    labels: Arc<Mutex<HashSet<String>>>,
    series: IntCounterVec,
    seconds: HistogramVec,
}

impl Counts {
    pub(crate) fn register(context: &Context) -> Self {
        let options = Opts::new(TOPIC_MESSAGES, "Messages by topic and what happened to them");
        let series = IntCounterVec::new(options, &["topic", "happened"]).expect("name and labels are valid");
        let options = HistogramOpts::new(TOPIC_SECONDS, "Seconds from a message's publish by topic and step");
        let seconds = HistogramVec::new(options.buckets(BUCKETS.to_vec()), &["topic", "step"]);
        Self {
            untold: Arc::default(),
            labels: Arc::default(),
            series: context.register(series),
            seconds: context.register(seconds.expect("name and labels are valid")),
        }
    }

    /// So many of a topic's messages.
    pub(crate) fn add(&self, (topic_id, topic): (Uuid, &str), happened: Happened, count: u64) {
        if count == 0 {
            return;
        }
        self.show(topic, happened, count);
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let mut untold = self.untold();
        let counted = untold.entry(topic_id).or_default();
        let field = match happened {
            Happened::Accepted => &mut counted.accepted,
            Happened::Confirmed => &mut counted.confirmed,
            Happened::Arrived => &mut counted.arrived,
            Happened::Delivered => &mut counted.delivered,
            Happened::Acknowledged => &mut counted.acknowledged,
            Happened::Dead => &mut counted.dead,
            Happened::Expired => &mut counted.expired,
        };
        *field += count;
    }

    /// A message came so far, so many seconds after its publish.
    pub(crate) fn took(&self, topic: &str, step: Step, seconds: f64) {
        self.seconds.with_label_values(&[self.label(topic), step.as_str()]).observe(seconds);
    }

    /// As a metric alone.
    pub(crate) fn show(&self, topic: &str, happened: Happened, count: u64) {
        self.series.with_label_values(&[self.label(topic), happened.as_str()]).inc_by(count);
    }

    /// Tells the ledger each second, and a last time at shutdown.
    pub(crate) async fn tell(self, store: Store, context: Context) {
        let mut ticks = tokio::time::interval(TOLD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let ending = tokio::select! {
                _ = ticks.tick() => false,
                () = context.shutdown.cancelled() => true,
            };
            self.tell_once(&store).await;
            if ending {
                return;
            }
        }
    }

    async fn tell_once(&self, store: &Store) {
        let counts: Vec<(Uuid, Counted)> = self.untold().drain().collect();
        if counts.is_empty() {
            return;
        }
        if let Err(error) = store.add_counts(&counts).await {
            tracing::debug!(%error, "the ledger is told later");
            let mut untold = self.untold();
            for (topic_id, counted) in counts {
                *untold.entry(topic_id).or_default() += counted;
            }
        }
    }

    fn label<'a>(&self, topic: &'a str) -> &'a str {
        let mut labels = self.labels.lock().unwrap_or_else(PoisonError::into_inner);
        if labels.contains(topic) {
            return topic;
        }
        if labels.len() < MOST_SERIES {
            labels.insert(topic.to_owned());
            return topic;
        }
        "other"
    }

    fn untold(&self) -> MutexGuard<'_, HashMap<Uuid, Counted>> {
        self.untold.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
