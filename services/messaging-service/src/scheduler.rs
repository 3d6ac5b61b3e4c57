//! Fires schedules: what is due goes into the outbox in the transaction that moves the schedule on, so each time is fired
//! once, by whichever instance is first.

use std::time::Duration;

use chrono::{SubsecRound as _, TimeDelta, Utc};
use kronos_common::service::Context;
use uuid::Uuid;

use crate::{
    message::Message,
    publish::Publisher,
    schedule::{Rhythm, zone},
    store::{Schedule, Store},
};

/// How often an instance looks.
const LOOK: Duration = Duration::from_millis(250);
/// Schedules of one transaction.
const BATCH: i64 = 100;

/// Looks until shutdown.
pub(crate) async fn run(publisher: Publisher, context: Context) {
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! { _ = ticks.tick() => {}, () = context.shutdown.cancelled() => return }
        loop {
            match fire(&publisher).await {
                Ok(fired) if fired == usize::try_from(BATCH).unwrap_or(usize::MAX) => {}
                Ok(_) => break,
                Err(error) => {
                    tracing::debug!(error = format!("{error:#}"), "schedules are fired later");
                    break;
                }
            }
        }
    }
}

async fn fire(publisher: &Publisher) -> anyhow::Result<usize> {
    let (mut tx, due) = publisher.store.due_schedules(BATCH).await?;
    if due.is_empty() {
        return Ok(0);
    }
    let now = Utc::now().trunc_subsecs(6);
    let mut outgoing = Vec::new();
    for schedule in &due {
        let Some(topic) = publisher.store.topic_by_id(schedule.topic_id).await? else { continue };
        outgoing.push((topic, message(schedule, now)));
        // What was missed meanwhile is not made up for.
        let rhythm = schedule.cron.as_deref().zip(zone(&schedule.time_zone));
        let next = rhythm.and_then(|(pattern, zone)| Rhythm::new(pattern, zone).ok()?.next_after(now));
        Store::fired(&mut tx, schedule.schedule_id, next).await?;
    }
    let rows: Vec<_> = outgoing.iter().map(|(topic, message)| (topic, message, None)).collect();
    Store::insert_pending_in(&mut tx, &rows).await?;
    tx.commit().await?;
    for (topic, _) in &outgoing {
        publisher.accepted_in_outbox(topic);
    }
    Ok(due.len())
}

fn message(schedule: &Schedule, now: chrono::DateTime<Utc>) -> Message {
    Message {
        id: Uuid::now_v7(),
        key: schedule.key.clone(),
        payload: schedule.payload.clone().into(),
        headers: schedule.headers.clone(),
        priority: schedule.priority,
        published_at: now,
        expires_at: schedule.kept_ms.map(|kept_ms| now + TimeDelta::milliseconds(kept_ms)),
        traceparent: None,
        sealed: schedule.sealed,
    }
}
