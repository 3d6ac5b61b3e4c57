//! This service's metrics: names, labels, and the handles. Labels are bounded: kinds, brokers and outcomes.

use kronos_common::service::Context;
use prometheus::{HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts};

use crate::{
    counts::Counts,
    topic::{Broker, Kind},
};

/// Messages that were published, by kind of topic and outcome: confirmed, accepted, refused.
pub(crate) const PUBLISHED: &str = "kronos_messaging_published_total";
/// Seconds from a publish's arrival to the broker's confirm or the outbox's commit, by kind and outcome.
pub(crate) const PUBLISH_SECONDS: &str = "kronos_messaging_publish_seconds";
/// Messages relayed from the outbox, by broker.
pub(crate) const RELAYED: &str = "kronos_messaging_relayed_total";
/// Messages that wait in the outbox for a broker, by broker; delayed ones are not counted.
pub(crate) const PENDING: &str = "kronos_messaging_pending";
/// Messages handed to a subscriber, by kind; every attempt counts.
pub(crate) const DELIVERED: &str = "kronos_messaging_delivered_total";
/// Seconds from publish to a message's first hand-out, by kind.
pub(crate) const DELIVERY_SECONDS: &str = "kronos_messaging_delivery_seconds";
/// Seconds from publish to acknowledgement, by kind.
pub(crate) const ACKNOWLEDGED_SECONDS: &str = "kronos_messaging_acknowledged_seconds";
/// Ends of deliveries, by kind and outcome: acknowledged, retried, lease_ended, handed_back, expired.
pub(crate) const ENDED: &str = "kronos_messaging_deliveries_ended_total";
/// Messages that became dead letters, by kind.
pub(crate) const DEAD: &str = "kronos_messaging_dead_total";
/// Replies that came when nobody waited any more.
pub(crate) const LATE_REPLIES: &str = "kronos_messaging_late_replies_total";
/// SSE and WebSocket subscribers at this instance.
pub(crate) const SUBSCRIBERS: &str = "kronos_messaging_subscribers";

const BUCKETS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0];

/// The handles; clones share them.
#[derive(Clone)]
pub(crate) struct Metrics {
    pub(crate) published: IntCounterVec,
    pub(crate) publish_seconds: HistogramVec,
    pub(crate) relayed: IntCounterVec,
    pub(crate) pending: IntGaugeVec,
    pub(crate) delivered: IntCounterVec,
    pub(crate) delivery_seconds: HistogramVec,
    pub(crate) acknowledged_seconds: HistogramVec,
    pub(crate) ended: IntCounterVec,
    pub(crate) dead: IntCounterVec,
    pub(crate) late_replies: IntCounter,
    pub(crate) subscribers: IntGauge,
    /// By topic.
    pub(crate) counts: Counts,
}

impl Metrics {
    /// Registers them all, and makes every series of the counters appear at once.
    pub(crate) fn register(context: &Context) -> Self {
        let counter = |name, help, labels: &[&str]| {
            context.register(IntCounterVec::new(Opts::new(name, help), labels).expect("name and labels are valid"))
        };
        let histogram = |name, help, labels: &[&str]| {
            let options = HistogramOpts::new(name, help).buckets(BUCKETS.to_vec());
            context.register(HistogramVec::new(options, labels).expect("name and labels are valid"))
        };
        let metrics = Self {
            published: counter(PUBLISHED, "Messages published", &["kind", "outcome"]),
            publish_seconds: histogram(PUBLISH_SECONDS, "Seconds from publish to answer", &["kind", "outcome"]),
            relayed: counter(RELAYED, "Messages relayed from the outbox", &["broker"]),
            pending: context.register(
                IntGaugeVec::new(Opts::new(PENDING, "Messages in the outbox"), &["broker"])
                    .expect("name and labels are valid"),
            ),
            delivered: counter(DELIVERED, "Messages handed to subscribers", &["kind"]),
            delivery_seconds: histogram(DELIVERY_SECONDS, "Seconds from publish to first hand-out", &["kind"]),
            acknowledged_seconds: histogram(ACKNOWLEDGED_SECONDS, "Seconds from publish to acknowledgement", &["kind"]),
            ended: counter(ENDED, "Deliveries that ended", &["kind", "outcome"]),
            dead: counter(DEAD, "Messages that became dead letters", &["kind"]),
            late_replies: context.register(
                IntCounter::new(LATE_REPLIES, "Replies that came when nobody waited any more")
                    .expect("the name is valid"),
            ),
            subscribers: context
                .register(IntGauge::new(SUBSCRIBERS, "SSE subscribers at this instance").expect("the name is valid")),
            counts: Counts::register(context),
        };
        for kind in [Kind::Stream, Kind::Queue, Kind::Broadcast] {
            metrics.delivered.with_label_values(&[kind.as_str()]);
            metrics.dead.with_label_values(&[kind.as_str()]);
        }
        for broker in [Broker::Kafka, Broker::Rabbit] {
            metrics.relayed.with_label_values(&[broker.as_str()]);
            metrics.pending.with_label_values(&[broker.as_str()]);
        }
        metrics
    }
}
