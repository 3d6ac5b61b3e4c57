//! `/topics`: creating, listing, deleting.

use std::time::Duration;

use axum::{
    extract::{Request, State},
    http::StatusCode,
};
use chrono::{SubsecRound as _, Utc};
use kronos_common::{
    extract::{Json, Path, Query},
    identity::Allowed,
    page::{Cursor, Limit, Page},
    problem::{FieldError, OnConstraint as _, Problem, ProblemBody, Result},
};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::{CanManageTopics, CanReadTopics, on_topic::On};
use crate::{
    App, bridge, jobs, payload_schema,
    signals::Signal,
    topic::{Between, Broker, Kind, Name, Ordering, Topic},
};

/// Attempts; a back-off; a lease; levels; partitions: what each may be.
type Attempts = Between<1, 100>;
type Backoff = Between<0, 3_600_000>;
type Lease = Between<100, 43_200_000>;
type Levels = Between<1, 10>;
type Partitions = Between<1, 64>;
type Ageing = Between<0, 86_400_000>;
type LongestBackoff = Between<1, 604_800_000>;
/// Up to ten years.
type Retention = Between<1000, 315_360_000_000>;
type Length = Between<1, 1_000_000_000>;

/// A topic to be made. What is left out gets the service's defaults.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct NewTopic {
    pub(crate) name: Name,
    pub(crate) kind: Kind,
    /// Deliveries of a message in a group before it becomes a dead letter.
    #[schema(value_type = Option<i64>, minimum = 1, maximum = 100)]
    pub(crate) max_attempts: Option<Attempts>,
    /// The first back-off after a failed attempt, in milliseconds; each further one is twice as long.
    #[schema(value_type = Option<i64>, minimum = 0, maximum = 3_600_000)]
    pub(crate) backoff_ms: Option<Backoff>,
    /// How long a subscriber may work on a message, in milliseconds.
    #[schema(value_type = Option<i64>, minimum = 100, maximum = 43_200_000)]
    pub(crate) lease_ms: Option<Lease>,
    /// Queues: how many priorities are kept apart at the broker.
    #[schema(value_type = Option<i64>, minimum = 1, maximum = 10)]
    pub(crate) priority_levels: Option<Levels>,
    /// Queues with priorities: a message that waits gains one priority each time this passes, in milliseconds, so that urgent
    /// ones can't hold up the others for ever; 0: never.
    #[schema(value_type = Option<i64>, minimum = 0, maximum = 86_400_000)]
    pub(crate) ageing_ms: Option<Ageing>,
    /// Streams: how many partitions.
    #[schema(value_type = Option<i64>, minimum = 1, maximum = 64)]
    pub(crate) partitions: Option<Partitions>,
    /// The longest back-off, in milliseconds.
    #[schema(value_type = Option<i64>, minimum = 1, maximum = 604_800_000)]
    pub(crate) max_backoff_ms: Option<LongestBackoff>,
    /// How long a message is kept, in milliseconds. In a stream whether it was read or not, and in whole segments; elsewhere
    /// until a subscriber of a group takes it.
    #[schema(value_type = Option<i64>, minimum = 1000, maximum = 315_360_000_000_i64)]
    pub(crate) retention_ms: Option<Retention>,
    /// Queues: how many messages may wait; more are refused (429 `queue_full`). Broadcasts: how many the broker keeps for a
    /// group; the oldest make room. Streams have none.
    #[schema(value_type = Option<i64>, minimum = 1, maximum = 1_000_000_000)]
    pub(crate) max_length: Option<Length>,
    /// `strict`: a message is handed out after the earlier ones of its key are acknowledged or dead. `relaxed` by default.
    pub(crate) ordering: Option<Ordering>,
    /// A JSON Schema (draft 2020-12 unless it says otherwise) that payloads must match; at most 64 KiB, references within it
    /// alone.
    #[schema(value_type = Option<serde_json::Value>)]
    pub(crate) schema: Option<serde_json::Value>,
    /// A topic that gets a copy of each dead letter. It must be there, and have no such topic itself.
    pub(crate) dead_letter: Option<Name>,
    /// Payloads are sealed wherever they are kept: at the brokers, in the outbox, in the inventory. Keys and headers are not.
    pub(crate) encrypted: Option<bool>,
}

/// Which topics to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListTopics {
    /// Only of this kind.
    kind: Option<Kind>,
    /// How many.
    #[serde(default)]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 200)]
    limit: Limit,
    /// The `nextCursor` of the page before.
    #[param(value_type = Option<String>)]
    cursor: Option<Cursor>,
}

/// Create a topic
///
/// `stream` is a Kafka topic, `queue` a RabbitMQ quorum queue (one for each priority level), `broadcast` a fanout exchange.
#[utoipa::path(
    post, path = "/topics", tag = "messaging-service", security(("bearer" = [])), request_body = NewTopic,
    responses(
        (status = 201, body = Topic), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody),
        (status = 403, body = ProblemBody), (status = 409, description = "`topic_exists`", body = ProblemBody),
        (status = 415, body = ProblemBody), (status = 422, body = ProblemBody), (status = 503, body = ProblemBody),
    )
)]
pub(crate) async fn create_topic(
    State(app): State<App>,
    on: On<CanManageTopics>,
    request: Request,
) -> Result<(StatusCode, Json<Topic>)> {
    let new: NewTopic = on.body(request).await?;
    on.topic(&app, new.name.as_str()).await?;
    Ok((StatusCode::CREATED, Json(create(&app, new).await?)))
}

/// List topics, by name
#[utoipa::path(
    get, path = "/topics", tag = "messaging-service", security(("bearer" = [])), params(ListTopics),
    responses(
        (status = 200, body = Page<Topic>), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody),
        (status = 403, body = ProblemBody), (status = 503, body = ProblemBody),
    )
)]
pub(crate) async fn list_topics(
    State(app): State<App>,
    _: Allowed<CanReadTopics>,
    Query(list): Query<ListTopics>,
) -> Result<Json<Page<Topic>>> {
    let after: String = list.cursor.map(|cursor| cursor.decode()).transpose()?.unwrap_or_default();
    let topics = app.store.list_topics(list.kind, &after, list.limit.fetch()).await?;
    Ok(Json(Page::new(topics, list.limit, |topic| topic.name.clone())))
}

/// Show a topic
#[utoipa::path(
    get, path = "/topics/{name}", tag = "messaging-service", security(("bearer" = [])), params(("name" = String, Path)),
    responses(
        (status = 200, body = Topic), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
        (status = 404, description = "`unknown_topic`", body = ProblemBody), (status = 503, body = ProblemBody),
    )
)]
pub(crate) async fn show_topic(
    State(app): State<App>,
    _: Allowed<CanReadTopics>,
    Path(name): Path<String>,
) -> Result<Json<Topic>> {
    Ok(Json((*app.catalog.find(&name).await?).clone()))
}

/// Delete a topic, with its messages, groups and dead letters
#[utoipa::path(
    delete, path = "/topics/{name}", tag = "messaging-service", security(("bearer" = [])), params(("name" = String, Path)),
    responses(
        (status = 204), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
        (status = 404, description = "`unknown_topic`", body = ProblemBody), (status = 503, body = ProblemBody),
    )
)]
pub(crate) async fn delete_topic(
    State(app): State<App>,
    on: On<CanManageTopics>,
    Path(name): Path<String>,
) -> Result<StatusCode> {
    on.topic(&app, &name).await?;
    let topic = app.catalog.find(&name).await?;
    if topic.name.starts_with(bridge::RESERVED) {
        return Err(Problem::forbidden("the ecosystem's channels can't be deleted"));
    }
    delete(&app, &topic).await
}

/// Creates the topic at its broker, then its record: what is left of a failed attempt has a name that nobody uses again.
pub(crate) async fn create(app: &App, new: NewTopic) -> Result<Topic> {
    let topic = complete(app, new).await?;
    let exists =
        || Problem::conflict("topic_exists", "there is a topic of this name: choose another one, or delete it first");
    if app.store.topic_by_name(&topic.name).await?.is_some() {
        return Err(exists());
    }
    app.publisher.declare(&topic).await.map_err(|error| {
        let broker = match topic.kind.broker() {
            Broker::Kafka => "stream broker (Kafka)",
            Broker::Rabbit => "queue broker (RabbitMQ)",
        };
        Problem::unavailable(broker, Duration::from_secs(2)).caused_by(error)
    })?;
    app.store.insert_topic(&topic).await.on_constraint("topics_name_key", exists())?;
    app.catalog.remember(topic.clone());
    Ok(topic)
}

/// Deletes its record, and at the broker what can be deleted now; the rest is deleted later.
pub(crate) async fn delete(app: &App, topic: &Topic) -> Result<StatusCode> {
    let deleted = app.store.delete_topic(topic).await?;
    app.catalog.forget(&topic.name);
    app.hubs.forget(&topic.name);
    app.tails.forget(&topic.name);
    app.signals.send(Signal::Deleted(topic.name.clone()));
    if !deleted {
        return Err(crate::catalog::unknown());
    }
    let publisher = &app.publisher;
    if let Err(error) = jobs::retire_once(&app.store, &publisher.rabbit, &publisher.kafka).await {
        tracing::info!(%error, "deleted topic's objects are deleted later");
    }
    Ok(StatusCode::NO_CONTENT)
}

async fn complete(app: &App, new: NewTopic) -> Result<Topic> {
    let mut errors = Vec::new();
    // Whoever asks for that one may have it.
    if new.name.as_str().starts_with(bridge::RESERVED) && new.name.as_str() != bridge::REQUESTS {
        let detail = format!("names that begin with {} are the ecosystem's own: choose another one", bridge::RESERVED);
        errors.push(FieldError::new("/name", "reserved_name", detail));
    }
    let mut only_for = |kind: Kind, pointer: &str, given: bool| {
        if given && new.kind != kind {
            let detail = format!("only a topic of kind {} has this setting: remove it", kind.as_str());
            errors.push(FieldError::new(pointer, "not_for_this_kind", detail));
        }
    };
    only_for(Kind::Queue, "/priorityLevels", new.priority_levels.is_some_and(|levels| levels.get() > 1));
    only_for(Kind::Queue, "/ageingMs", new.ageing_ms.is_some_and(|ageing| ageing.get() > 0));
    only_for(Kind::Stream, "/partitions", new.partitions.is_some_and(|partitions| partitions.get() > 1));
    if new.kind == Kind::Stream && new.max_length.is_some() {
        let detail = "a stream is limited by time: remove it, or use retentionMs";
        errors.push(FieldError::new("/maxLength", "not_for_this_kind", detail));
    }
    if new.ordering == Some(Ordering::Strict) && new.priority_levels.is_some_and(|levels| levels.get() > 1) {
        let detail = "priorities break the order: leave them out, or choose relaxed";
        errors.push(FieldError::new("/ordering", "not_with_priorities", detail));
    }
    if let Some(fault) = new.schema.as_ref().and_then(payload_schema::fault) {
        errors.push(FieldError::new("/schema", "invalid_schema", fault));
    }
    if let Some(target) = &new.dead_letter {
        let found = app.store.topic_by_name(target.as_str()).await?;
        let reserved = target.as_str().starts_with(bridge::RESERVED);
        if reserved || found.is_none_or(|found| found.dead_letter.is_some()) {
            let detail = "there must be such a topic, without a dead-letter topic of its own: create it first";
            errors.push(FieldError::new("/deadLetter", "unknown_topic", detail));
        }
    }
    if new.encrypted == Some(true) && !app.vault.has_keys() {
        let detail = "this platform has no key to seal payloads with: leave it out, or configure [sealing]";
        errors.push(FieldError::new("/encrypted", "not_configured", detail));
    }
    if !errors.is_empty() {
        return Err(Problem::invalid(errors));
    }
    let defaults = &app.config.topics;
    let narrow = |number: i64| i32::try_from(number).expect("the types above end below");
    Ok(Topic {
        topic_id: Uuid::now_v7(),
        name: new.name.as_str().to_owned(),
        kind: new.kind,
        max_attempts: new.max_attempts.map_or(defaults.max_attempts, |number| narrow(number.get())),
        backoff_ms: new.backoff_ms.map_or(defaults.backoff_ms, Between::get),
        lease_ms: new.lease_ms.map_or(defaults.lease_ms, Between::get),
        priority_levels: new
            .priority_levels
            .map_or(1, |number| i16::try_from(number.get()).expect("the type above ends at 10")),
        partitions: match new.kind {
            Kind::Stream => new.partitions.map_or(defaults.partitions, |number| narrow(number.get())),
            Kind::Queue | Kind::Broadcast => 1,
        },
        ageing_ms: match new.priority_levels {
            Some(levels) if levels.get() > 1 => new.ageing_ms.map_or(defaults.ageing_ms, Between::get),
            _ => 0,
        },
        max_backoff_ms: new.max_backoff_ms.map(Between::get),
        retention_ms: new.retention_ms.map(Between::get),
        max_length: new.max_length.map(Between::get),
        ordering: new.ordering.unwrap_or_default(),
        schema: new.schema,
        dead_letter: new.dead_letter.map(|name| name.as_str().to_owned()),
        encrypted: new.encrypted.unwrap_or_default(),
        created_at: Utc::now().trunc_subsecs(6),
    })
}
