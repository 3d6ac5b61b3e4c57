//! `GET /topics/{name}/ledger`: what became of all of a topic's messages.

use std::time::Duration;

use axum::extract::State;
use kronos_common::{
    extract::{Json, Path},
    identity::Allowed,
    problem::{Problem, ProblemBody, Result},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::CanReadTopics;
use crate::{
    App,
    jobs::SILENT_MS,
    store::Totals,
    topic::{Kind, Topic},
};

/// What was confirmed so long ago has been counted wherever it went, in seconds.
const SETTLED: i64 = 20;

/// A topic's books: since it was created, and as it is now. `arrived` is counted in the transaction that keeps a message, what
/// waits where it waits. `accepted`, `confirmed`, `delivered`, `acknowledged`, `expired` and `dead` are told each second by every
/// instance: one that is killed takes at most its last second of them with it, so they may be too low by that. `lost` is then
/// too low as well, and never too high.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Ledger {
    topic: String,
    kind: Kind,
    /// Messages answered with 201 or 202.
    accepted: i64,
    /// Of those, the ones that the broker has confirmed.
    confirmed: i64,
    /// Of those, the ones that wait in the outbox.
    in_outbox: i64,
    /// Queues: messages at the broker.
    #[serde(skip_serializing_if = "Option::is_none")]
    at_broker: Option<i64>,
    /// Messages read from the broker for groups; one counts once for each group.
    arrived: i64,
    /// Of those, the ones that wait for a subscriber.
    waiting: i64,
    /// Of those, the ones that subscribers hold.
    in_flight: i64,
    /// Hand-outs, every attempt, and what subscribers without group were sent.
    delivered: i64,
    acknowledged: i64,
    /// Dropped, as nobody took them in time.
    expired: i64,
    /// How often a message became a dead letter.
    dead: i64,
    /// Dead letters that are kept now.
    dead_now: i64,
    /// Queues: messages that the broker confirmed and then neither had nor handed over. Streams: messages that the broker
    /// deleted before a group had read them. Broadcasts keep no such count. None if the broker is away.
    lost: Option<i64>,
}

/// Show a topic's ledger
#[utoipa::path(
    get, path = "/topics/{name}/ledger", tag = "messaging-service", security(("bearer" = [])),
    params(("name" = String, Path)),
    responses(
        (status = 200, body = Ledger), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
        (status = 404, description = "`unknown_topic`", body = ProblemBody), (status = 503, body = ProblemBody),
    )
)]
pub(crate) async fn show_ledger(
    State(app): State<App>,
    _: Allowed<CanReadTopics>,
    Path(name): Path<String>,
) -> Result<Json<Ledger>> {
    let topic = app.catalog.find(&name).await?;
    // The broker first: what it hands over meanwhile is then counted twice and not missed.
    let at_broker = match topic.kind {
        Kind::Queue => app.publisher.rabbit.depth(&topic).await.ok(),
        Kind::Stream | Kind::Broadcast => None,
    };
    let asked = tokio::time::timeout(Duration::from_secs(5), deleted_unread(&app, &topic));
    let (counts, totals, deleted) = tokio::join!(
        app.store.queue_counts(topic.topic_id, SILENT_MS),
        app.store.totals(topic.topic_id, SETTLED),
        asked
    );
    let (counts, totals) = (counts?, totals?);
    let lost = match topic.kind {
        Kind::Queue => at_broker.map(|at_broker| lost_of_queue(&totals, at_broker)),
        Kind::Stream => deleted.ok().and_then(std::result::Result::ok),
        Kind::Broadcast => None,
    };
    Ok(Json(Ledger {
        topic: topic.name.clone(),
        kind: topic.kind,
        accepted: totals.accepted,
        confirmed: totals.confirmed,
        in_outbox: counts.pending,
        at_broker,
        arrived: totals.arrived,
        waiting: counts.ready,
        in_flight: counts.in_flight,
        delivered: totals.delivered,
        acknowledged: totals.acknowledged,
        expired: totals.expired,
        dead: totals.dead,
        dead_now: counts.dead,
        lost,
    }))
}

fn lost_of_queue(totals: &Totals, at_broker: i64) -> i64 {
    (totals.confirmed_before - totals.arrived - at_broker).max(0)
}

/// Messages of a stream between where a group would go on and where the stream now begins.
async fn deleted_unread(app: &App, topic: &Topic) -> Result<i64> {
    if topic.kind != Kind::Stream {
        return Ok(0);
    }
    let positions = app.store.topic_positions(topic.topic_id).await?;
    if positions.is_empty() {
        return Ok(0);
    }
    let beginnings = app
        .publisher
        .kafka
        .beginnings(topic)
        .await
        .map_err(|error| Problem::unavailable("stream broker (Kafka)", Duration::from_secs(2)).caused_by(error))?;
    let begins = |partition| beginnings.iter().find(|begin| begin.partition == partition);
    let missed = |position: &crate::store::Position| {
        begins(position.partition).map_or(0, |begin| (begin.next_offset - position.next_offset).max(0))
    };
    Ok(positions.iter().map(missed).sum())
}
