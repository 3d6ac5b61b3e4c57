//! `/queues`: topics of kind `queue`, and how they do.

use axum::{extract::State, http::StatusCode};
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
    topics::{self, NewTopic},
};
use crate::{
    App, catalog,
    jobs::SILENT_MS,
    topic::{Between, Kind, Name, Topic},
};

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
    /// How long a subscriber may work on a message, in milliseconds.
    #[schema(value_type = Option<i64>, minimum = 100, maximum = 43_200_000)]
    lease_ms: Option<Between<100, 43_200_000>>,
    /// How many priorities are kept apart at the broker.
    #[schema(value_type = Option<i64>, minimum = 1, maximum = 10)]
    priority_levels: Option<Between<1, 10>>,
}

/// A queue that was made.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CreatedQueue {
    queue_id: Uuid,
    name: String,
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
    /// Messages that wait: at the broker, in the outbox, and ready to be handed out.
    depth: i64,
    /// Messages that subscribers hold.
    in_flight: i64,
    /// Dead letters.
    dead: i64,
    /// SSE subscribers, at all instances.
    consumers: i64,
    /// The age of the oldest message that is known here; those that wait at the broker are younger, mostly.
    oldest_age_ms: Option<i64>,
    /// The broker could not be asked: `depth` is without its part.
    degraded: bool,
    created_at: DateTime<Utc>,
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
    _: Allowed<CanManageTopics>,
    Json(new): Json<NewQueue>,
) -> Result<(StatusCode, Json<CreatedQueue>)> {
    let new = NewTopic {
        name: new.name,
        kind: Kind::Queue,
        max_attempts: new.max_attempts,
        backoff_ms: new.backoff_ms,
        lease_ms: new.lease_ms,
        priority_levels: new.priority_levels,
        partitions: None,
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
    _: Allowed<CanManageTopics>,
    Path(queue): Path<String>,
) -> Result<StatusCode> {
    let by_id = match Uuid::try_parse(&queue) {
        Ok(queue_id) => app.store.topic_by_id(queue_id).await?,
        Err(_) => None,
    };
    let topic = match by_id {
        Some(topic) => topic,
        None => (*app.catalog.find(&queue).await?).clone(),
    };
    if topic.kind != Kind::Queue {
        return Err(catalog::unknown());
    }
    topics::delete(&app, &topic).await
}

async fn look(app: &App, topic: &Topic) -> Result<Queue> {
    let (counts, waiting) =
        tokio::join!(app.store.queue_counts(topic.topic_id, SILENT_MS), app.publisher.rabbit.depth(topic));
    let counts = counts?;
    Ok(Queue {
        queue_id: topic.topic_id,
        name: topic.name.clone(),
        max_attempts: topic.max_attempts,
        backoff_ms: topic.backoff_ms,
        lease_ms: topic.lease_ms,
        priority_levels: topic.priority_levels,
        depth: counts.ready + counts.pending + waiting.as_ref().copied().unwrap_or(0),
        in_flight: counts.in_flight,
        dead: counts.dead,
        consumers: counts.consumers,
        oldest_age_ms: counts.oldest.map(|oldest| (Utc::now() - oldest).num_milliseconds().max(0)),
        degraded: waiting.is_err(),
        created_at: topic.created_at,
    })
}
