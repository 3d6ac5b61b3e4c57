//! What every instance does now and then; any number of them may do it at once.

use std::time::Duration;

use kronos_common::service::Context;
use uuid::Uuid;

use crate::{
    config::Deliver,
    counts::Happened,
    hub::Hubs,
    kafka::Kafka,
    rabbit::Rabbit,
    store::{RetiredObject, Store},
    telemetry::Metrics,
};

/// Rows of one statement.
const BATCH: i64 = 500;
/// How often an instance says that it lives. One that is silent for [`SILENT_MS`] is thought dead.
const BEAT: Duration = Duration::from_secs(5);
pub(crate) const SILENT_MS: i64 = 15_000;
const SWEEP: Duration = Duration::from_secs(5);

/// Ends leases whose time is over.
pub(crate) async fn end_leases(store: Store, hubs: Hubs, interval_ms: u64, context: Context) {
    let mut ticks = Ticks::new(Duration::from_millis(interval_ms), context);
    while ticks.next().await {
        loop {
            let Some(ended) = logged(store.expire(BATCH).await) else { break };
            hubs.released(&ended, "lease_ended");
            if ended.len() < usize::try_from(BATCH).unwrap_or(usize::MAX) {
                break;
            }
        }
    }
}

/// Drops what expired, and forgets what was settled long ago.
pub(crate) async fn sweep(store: Store, deliver: Deliver, metrics: Metrics, context: Context) {
    let seconds = i64::try_from(deliver.remember_seconds).unwrap_or(i64::MAX);
    let mut ticks = Ticks::new(SWEEP, context);
    while ticks.next().await {
        for expired in logged(store.drop_expired(BATCH).await).unwrap_or_default() {
            metrics.ended.with_label_values(&[expired.kind.as_str(), "expired"]).inc();
            metrics.counts.add((expired.topic_id, &expired.topic), Happened::Expired, 1);
        }
        logged(store.fold_counts().await);
        logged(store.forget_requests(BATCH).await);
        logged(store.forget_attempts(seconds, BATCH).await);
        while logged(store.forget_settled(seconds, BATCH).await).is_some_and(|forgotten| forgotten > 0) {}
    }
}

/// Says that this instance lives, with all its subscribers.
pub(crate) async fn beat(store: Store, instance: Uuid, context: Context) {
    let mut ticks = Ticks::new(BEAT, context);
    while ticks.next().await {
        logged(store.beat(instance).await);
    }
}

/// Deletes at the brokers what deleted topics left.
pub(crate) async fn retire(store: Store, rabbit: Rabbit, kafka: Kafka, context: Context) {
    let mut ticks = Ticks::new(SWEEP, context);
    while ticks.next().await {
        logged(retire_once(&store, &rabbit, &kafka).await);
    }
}

/// As [`retire`], once: what can't be deleted now stays noted.
///
/// # Errors
/// Those of the database.
pub(crate) async fn retire_once(store: &Store, rabbit: &Rabbit, kafka: &Kafka) -> Result<(), sqlx::Error> {
    for object in store.retired_objects().await? {
        let RetiredObject { object_kind, name } = &object;
        let deleted = match object_kind.as_str() {
            "kafka_topic" => kafka.delete(name).await,
            "rabbit_queue" => rabbit.delete_queue(name).await,
            _ => rabbit.delete_exchange(name).await,
        };
        match deleted {
            Ok(()) => store.forget_object(&object).await?,
            Err(error) => tracing::info!(name, error = format!("{error:#}"), "deleted topic's object is still there"),
        }
    }
    Ok(())
}

/// Begins a job's rounds, until shutdown.
struct Ticks {
    interval: tokio::time::Interval,
    context: Context,
}

impl Ticks {
    fn new(period: Duration, context: Context) -> Self {
        let mut interval = tokio::time::interval(period);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        Self { interval, context }
    }

    async fn next(&mut self) -> bool {
        tokio::select! {
            _ = self.interval.tick() => true,
            () = self.context.shutdown.cancelled() => false,
        }
    }
}

fn logged<T>(result: Result<T, sqlx::Error>) -> Option<T> {
    result.inspect_err(|error| tracing::debug!(%error, "job failed, it is tried again")).ok()
}
