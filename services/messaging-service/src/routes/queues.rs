//! `/queues`: topics of kind `queue`, and how they do.

use axum::{
    extract::{Request, State},
    http::StatusCode,
};
use chrono::{DateTime, Utc};
use futures::future::join_all;
use kronos_common::{
    extract::{Json, Path, Query},
    identity::Allowed,
    page::{Page, PageQuery},
    problem::{ProblemBody, Result},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    CanManageTopics, CanReadTopics,
    on_topic::On,
    topics::{self, NewTopic},
};
use crate::{
    App, catalog,
    jobs::SILENT_MS,
    store::{QueueCounts, Totals},
    topic::{Between, Kind, Name, Ordering, Topic},
};

/// Rates are of the last minute.
const RATE_SECONDS: f64 = 60.0;

/// A queue to be made: as a topic, without kind.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct NewQueue {
    name: Name,
    /// Deliveries of a message before it becomes a dead letter.
    #[schema(value_type = Option<i64>, minimum = 1, maximum = 100)]
    max_attempts: Option<Between<1, 100>>,
    /// The first back-off after a failed attempt, in milliseconds; each further one is twice as long.
    #[schema(value_type = Option<i64>, minimum = 0, maximum = 3_600_000)]
    backoff_ms: Option<Between<0, 3_600_000>>,
    /// The longest back-off, in milliseconds.
    #[schema(value_type = Option<i64>, minimum = 1, maximum = 604_800_000)]
    max_backoff_ms: Option<Between<1, 604_800_000>>,
    /// How long a subscriber may work on a message, in milliseconds.
    #[schema(value_type = Option<i64>, minimum = 100, maximum = 43_200_000)]
    lease_ms: Option<Between<100, 43_200_000>>,
    /// How many priorities are kept apart at the broker.
    #[schema(value_type = Option<i64>, minimum = 1, maximum = 10)]
    priority_levels: Option<Between<1, 10>>,
    /// With priorities: a message that waits gains one priority each time this passes, in milliseconds; 0: never.
    #[schema(value_type = Option<i64>, minimum = 0, maximum = 86_400_000)]
    ageing_ms: Option<Between<0, 86_400_000>>,
    /// How long a message waits at most, in milliseconds.
    #[schema(value_type = Option<i64>, minimum = 1000, maximum = 315_360_000_000_i64)]
    retention_ms: Option<Between<1000, 315_360_000_000>>,
    /// How many messages may wait; more are refused (429 `queue_full`).
    #[schema(value_type = Option<i64>, minimum = 1, maximum = 1_000_000_000)]
    max_length: Option<Between<1, 1_000_000_000>>,
    /// `strict`: a message is handed out after the earlier ones of its key are acknowledged or dead.
    ordering: Option<Ordering>,
    /// A JSON Schema that payloads must match.
    #[schema(value_type = Option<serde_json::Value>)]
    schema: Option<serde_json::Value>,
    /// A topic that gets a copy of each dead letter.
    dead_letter: Option<Name>,
    /// Payloads are sealed wherever they are kept.
    encrypted: Option<bool>,
}

/// A queue that was made.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CreatedQueue {
    queue_id: Uuid,
    name: String,
}

/// Why messages wait although they could be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum BlockedReason {
    /// RabbitMQ can't be reached: accepted messages wait in the outbox, others at the broker.
    BrokerAway,
    /// As many wait as may: publishes are refused.
    Full,
    /// Nobody is connected; polls count only while they wait.
    NoSubscriber,
    /// All that wait are failed ones whose back-off has not ended.
    BackingOff,
    /// Subscribers hold messages and acknowledge none.
    NotAcknowledged,
}

/// A queue and its state.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Queue {
    queue_id: Uuid,
    name: String,
    max_attempts: i32,
    backoff_ms: i64,
    lease_ms: i64,
    priority_levels: i16,
    ordering: Ordering,
    #[serde(skip_serializing_if = "Option::is_none")]
    retention_ms: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_length: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dead_letter: Option<String>,
    encrypted: bool,
    /// Messages that wait: at the broker, in the outbox, and ready to be handed out.
    depth: i64,
    /// Messages that subscribers hold.
    in_flight: i64,
    /// Dead letters.
    dead: i64,
    /// SSE and WebSocket subscribers, at all instances.
    consumers: i64,
    /// Messages accepted each second, over the last minute.
    rate_in: f64,
    /// Messages acknowledged each second, over the last minute.
    rate_out: f64,
    /// The age of the oldest message that is known here; those that wait at the broker are younger, mostly.
    oldest_age_ms: Option<i64>,
    /// Why messages wait; none if they flow, or none waits.
    blocked_reason: Option<BlockedReason>,
    /// The broker could not be asked: `depth` is without its part.
    degraded: bool,
    created_at: DateTime<Utc>,
}

/// What a queue promises, in words.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Guarantees {
    queue_id: Uuid,
    name: String,
    durability: String,
    delivery: String,
    duplicates: String,
    ordering: String,
    priorities: String,
    retries: String,
    dead_letters: String,
    capacity: String,
    retention: String,
    payloads: String,
}

/// Create a queue
#[utoipa::path(
    post, path = "/queues/create", tag = "messaging-service", security(("bearer" = [])), request_body = NewQueue,
    responses(
        (status = 201, body = CreatedQueue), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody),
        (status = 403, body = ProblemBody), (status = 409, description = "`topic_exists`", body = ProblemBody),
        (status = 415, body = ProblemBody), (status = 422, body = ProblemBody), (status = 503, body = ProblemBody),
    )
)]
pub(crate) async fn create_queue(
    State(app): State<App>,
    on: On<CanManageTopics>,
    request: Request,
) -> Result<(StatusCode, Json<CreatedQueue>)> {
    let new: NewQueue = on.body(request).await?;
    on.topic(&app, new.name.as_str()).await?;
    let new = NewTopic {
        name: new.name,
        kind: Kind::Queue,
        max_attempts: new.max_attempts,
        backoff_ms: new.backoff_ms,
        lease_ms: new.lease_ms,
        priority_levels: new.priority_levels,
        ageing_ms: new.ageing_ms,
        partitions: None,
        max_backoff_ms: new.max_backoff_ms,
        retention_ms: new.retention_ms,
        max_length: new.max_length,
        ordering: new.ordering,
        schema: new.schema,
        dead_letter: new.dead_letter,
        encrypted: new.encrypted,
    };
    let topic = topics::create(&app, new).await?;
    Ok((StatusCode::CREATED, Json(CreatedQueue { queue_id: topic.topic_id, name: topic.name })))
}

/// List queues with their state, by name
#[utoipa::path(
    get, path = "/queues", tag = "messaging-service", security(("bearer" = [])), params(PageQuery),
    responses(
        (status = 200, body = Page<Queue>), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody),
        (status = 403, body = ProblemBody), (status = 503, body = ProblemBody),
    )
)]
pub(crate) async fn list_queues(
    State(app): State<App>,
    _: Allowed<CanReadTopics>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<Queue>>> {
    let after: String = page.cursor.map(|cursor| cursor.decode()).transpose()?.unwrap_or_default();
    let topics = app.store.list_topics(Some(Kind::Queue), &after, page.limit.fetch()).await?;
    let Page { items, next_cursor } = Page::new(topics, page.limit, |topic| topic.name.clone());
    let queues = join_all(items.iter().map(|topic| look(&app, topic))).await;
    Ok(Json(Page { items: queues.into_iter().collect::<Result<_>>()?, next_cursor }))
}

/// Say what a queue promises
///
/// `queueId` is what creating it gave; its name does as well.
#[utoipa::path(
    get, path = "/queues/{queueId}/guarantees", tag = "messaging-service", security(("bearer" = [])),
    params(("queueId" = String, Path)),
    responses(
        (status = 200, body = Guarantees), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
        (status = 404, description = "`unknown_topic`", body = ProblemBody), (status = 503, body = ProblemBody),
    )
)]
pub(crate) async fn show_guarantees(
    State(app): State<App>,
    _: Allowed<CanReadTopics>,
    Path(queue): Path<String>,
) -> Result<Json<Guarantees>> {
    let topic = find(&app, &queue).await?;
    Ok(Json(guarantees(&topic, &app)))
}

/// Delete a queue, with its messages and dead letters
///
/// `queueId` is what creating it gave; its name does as well.
#[utoipa::path(
    delete, path = "/queues/{queueId}", tag = "messaging-service", security(("bearer" = [])),
    params(("queueId" = String, Path)),
    responses(
        (status = 204), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
        (status = 404, description = "`unknown_topic`", body = ProblemBody), (status = 503, body = ProblemBody),
    )
)]
pub(crate) async fn delete_queue(
    State(app): State<App>,
    on: On<CanManageTopics>,
    Path(queue): Path<String>,
) -> Result<StatusCode> {
    let topic = match find(&app, &queue).await {
        Err(problem) if problem.status() != StatusCode::NOT_FOUND => return Err(problem),
        found => found.ok(),
    };
    on.found(&app, topic.as_ref().map(|topic| topic.name.as_str()), catalog::unknown).await?;
    topics::delete(&app, &topic.ok_or_else(catalog::unknown)?).await
}

async fn find(app: &App, queue: &str) -> Result<Topic> {
    let by_id = match Uuid::try_parse(queue) {
        Ok(queue_id) => app.store.topic_by_id(queue_id).await?,
        Err(_) => None,
    };
    let topic = match by_id {
        Some(topic) => topic,
        None => (*app.catalog.find(queue).await?).clone(),
    };
    if topic.kind == Kind::Queue { Ok(topic) } else { Err(catalog::unknown()) }
}

async fn look(app: &App, topic: &Topic) -> Result<Queue> {
    let (counts, waiting, totals) = tokio::join!(
        app.store.queue_counts(topic.topic_id, SILENT_MS),
        app.publisher.rabbit.depth(topic),
        app.store.totals(topic.topic_id, 0)
    );
    let (counts, totals) = (counts?, totals?);
    let depth = counts.ready + counts.pending + waiting.as_ref().copied().unwrap_or(0);
    Ok(Queue {
        queue_id: topic.topic_id,
        name: topic.name.clone(),
        max_attempts: topic.max_attempts,
        backoff_ms: topic.backoff_ms,
        lease_ms: topic.lease_ms,
        priority_levels: topic.priority_levels,
        ordering: topic.ordering,
        retention_ms: topic.retention_ms,
        max_length: topic.max_length,
        dead_letter: topic.dead_letter.clone(),
        encrypted: topic.encrypted,
        depth,
        in_flight: counts.in_flight,
        dead: counts.dead,
        consumers: counts.consumers,
        rate_in: rate(totals.accepted_lately),
        rate_out: rate(totals.acknowledged_lately),
        oldest_age_ms: counts.oldest.map(|oldest| (Utc::now() - oldest).num_milliseconds().max(0)),
        blocked_reason: blocked(topic, depth, &counts, &totals, waiting.is_err()),
        degraded: waiting.is_err(),
        created_at: topic.created_at,
    })
}

fn rate(count: i64) -> f64 {
    let per_second = count as f64 / RATE_SECONDS;
    (per_second * 100.0).round() / 100.0
}

fn blocked(topic: &Topic, depth: i64, counts: &QueueCounts, totals: &Totals, away: bool) -> Option<BlockedReason> {
    if away {
        Some(BlockedReason::BrokerAway)
    } else if topic.max_length.is_some_and(|most| depth >= most) {
        Some(BlockedReason::Full)
    } else if depth == 0 {
        None
    } else if counts.consumers == 0 && counts.in_flight == 0 {
        Some(BlockedReason::NoSubscriber)
    } else if counts.backing_off == depth {
        Some(BlockedReason::BackingOff)
    } else if counts.in_flight > 0 && totals.acknowledged_lately == 0 {
        Some(BlockedReason::NotAcknowledged)
    } else {
        None
    }
}

fn guarantees(topic: &Topic, app: &App) -> Guarantees {
    let strict = topic.ordering == Ordering::Strict;
    let longest = topic.max_backoff_ms.map_or(app.config.deliver.max_backoff_ms, i64::unsigned_abs);
    Guarantees {
        queue_id: topic.topic_id,
        name: topic.name.clone(),
        durability: "201 means that a majority of the queue's replicas at RabbitMQ has the message on disk, 202 that \
                     PostgreSQL has committed it and it will reach the broker under the same messageId."
            .to_owned(),
        delivery: format!(
            "At least once, to one subscriber at a time, which holds it for {} ms; it may ask for more time.",
            topic.lease_ms
        ),
        duplicates: format!(
            "A message is not handed out again within {} s of its acknowledgement. One whose lease ended is, under the same \
             messageId and with a higher attempt; an acknowledgement of the former attempt is refused (409).",
            app.config.deliver.remember_seconds
        ),
        ordering: if strict {
            "Messages of one key are handed out one after the other, in the order in which they were published: the next when \
             the one before is acknowledged or dead, also across retries. Delayed messages have no place in that order, nor \
             has a dead letter that is replayed. Keys do not wait for each other."
        } else {
            "Messages of one key reach the queue in their order. Several subscribers, retries and ended leases break it."
        }
        .to_owned(),
        priorities: match topic.priority_levels {
            1 => "All messages that wait at the broker are equal; of those that were read from it, the higher priority goes \
                  first."
                .to_owned(),
            levels => format!(
                "{levels} levels: a message is handed out before those of lower levels that wait, except those already held. {}",
                match topic.ageing_ms {
                    0 => "Those may wait for ever.".to_owned(),
                    ms => format!("One that waits gains a level every {ms} ms."),
                }
            ),
        },
        retries: format!(
            "{} attempts. After a failure it waits {} ms, twice as long each time up to {longest} ms, less a random quarter; \
             others do not wait for it{}.",
            topic.max_attempts,
            topic.backoff_ms,
            if strict { ", but for the later ones of its key" } else { "" }
        ),
        dead_letters: match &topic.dead_letter {
            Some(target) => {
                format!("After its last attempt it is kept until it is replayed, and a copy is published to {target}.")
            }
            None => "After its last attempt it is kept until it is replayed.".to_owned(),
        },
        capacity: match topic.max_length {
            Some(most) => format!(
                "{most} messages may wait; then publishes are refused with 429 queue_full. Several instances may pass over \
                 that by what they accept within 200 ms."
            ),
            None => "Not limited, but by the broker's disk.".to_owned(),
        },
        retention: match topic.retention_ms {
            Some(ms) => format!("A message that no subscriber took within {ms} ms is dropped."),
            None => "A message waits until it is taken, unless it was published with a ttlMs.".to_owned(),
        },
        payloads: format!(
            "{} up to {} bytes{}.",
            if topic.schema.is_some() { "JSON that matches the queue's schema," } else { "Any," },
            app.config.publish.max_payload_bytes,
            if topic.encrypted { "; sealed (AES-256-GCM) wherever they are kept" } else { "" }
        ),
    }
}
