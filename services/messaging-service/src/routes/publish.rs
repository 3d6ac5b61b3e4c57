//! `POST /publish` and `POST /publish/batch`.

use axum::{
    extract::{FromRequest as _, Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use chrono::{SubsecRound as _, TimeDelta, Utc};
use kronos_common::{
    extract::{Bytes, Json, Query},
    problem::{FieldError, Problem, ProblemBody, Result},
    trace,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::{
    CanPublish,
    cloud_event::{self, Content, Form},
    on_topic::On,
};
use crate::{
    App, bridge,
    message::{Headers, MAX_HEADER_NAME, MAX_HEADER_VALUE, MAX_HEADERS, MAX_KEY, Message, json_on_one_line},
    publish::{Accepted, Outgoing},
    topic::{Between, Kind},
};

/// Longest delay and time to live: 90 days, in milliseconds.
const LONGEST_MS: i64 = 90 * 24 * 3_600_000;
/// All headers of a message together, in bytes.
const HEADER_BYTES: usize = 16 * 1024;

/// A message to be published.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct NewMessage {
    topic: String,
    /// Any JSON.
    #[schema(value_type = serde_json::Value)]
    payload: Box<RawValue>,
    /// Messages of one key keep their order.
    #[schema(max_length = 512)]
    key: Option<String>,
    /// Queues: the higher, the more urgent.
    #[schema(value_type = Option<i64>, minimum = 0, maximum = 255)]
    priority: Option<Between<0, 255>>,
    /// Publish it so much later, in milliseconds. Such a message has no place in its key's order.
    #[schema(value_type = Option<i64>, minimum = 0, maximum = 7_776_000_000_i64)]
    delay_ms: Option<Between<0, LONGEST_MS>>,
    /// Drop it if no subscriber of a group took it within so many milliseconds after the delay.
    #[schema(value_type = Option<i64>, minimum = 1, maximum = 7_776_000_000_i64)]
    ttl_ms: Option<Between<1, LONGEST_MS>>,
    /// At most 64, 16 KiB in all.
    headers: Option<Headers>,
}

/// Several messages.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct NewMessages {
    #[schema(min_items = 1)]
    messages: Vec<NewMessage>,
}

/// Where a message is safe.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    /// The broker has it.
    Confirmed,
    /// The outbox has it; the broker will.
    Accepted,
    /// It was not published.
    Refused,
}

/// A message that was published.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Published {
    message_id: Uuid,
    status: Status,
}

/// A result for each message, in their order.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PublishedBatch {
    results: Vec<BatchResult>,
}

/// What became of one message of a batch.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BatchResult {
    status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<Uuid>,
    /// Why it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<ProblemBody>,
}

/// How to publish a body that says nothing of itself.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query, rename_all = "camelCase")]
pub(crate) struct PublishQuery {
    /// The body is then the payload, of any media type, or a CloudEvent.
    topic: Option<String>,
    /// As in the JSON form, and so the others.
    key: Option<String>,
    #[param(minimum = 0, maximum = 255)]
    priority: Option<i64>,
    #[param(minimum = 0)]
    delay_ms: Option<i64>,
    #[param(minimum = 1)]
    ttl_ms: Option<i64>,
}

/// Publish a message
///
/// 201: its broker has confirmed it. 202: the broker is away or slow, or the message has a delay; it is in the outbox and
/// will be published under the same id.
///
/// With `?topic=` the body is the payload, whatever its media type, or a CloudEvent in one of the HTTP binding's modes: binary
/// (`ce-*` headers), structured (`application/cloudevents+json`), batched (`application/cloudevents-batch+json`, 207).
#[utoipa::path(
    post, path = "/publish", tag = "messaging-service", security(("bearer" = [])), request_body = NewMessage,
    params(PublishQuery, ("Idempotency-Key" = Option<String>, Header, description = "a repetition gets the first answer again")),
    responses(
        (status = 201, body = Published), (status = 202, body = Published),
        (status = 207, description = "a batch of CloudEvents", body = PublishedBatch), (status = 400, body = ProblemBody),
        (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
        (status = 404, description = "`unknown_topic`", body = ProblemBody), (status = 409, body = ProblemBody),
        (status = 413, description = "`payload_too_large`", body = ProblemBody), (status = 415, body = ProblemBody),
        (status = 422, description = "also: against the topic's schema", body = ProblemBody),
        (status = 429, description = "`queue_full`", body = ProblemBody), (status = 503, body = ProblemBody),
    )
)]
pub(crate) async fn publish_message(
    State(app): State<App>,
    on: On<CanPublish>,
    Query(query): Query<PublishQuery>,
    request: Request,
) -> Result<Response> {
    let form = cloud_event::form(request.headers(), query.topic.is_some());
    if form == Form::Own {
        let new: NewMessage = on.body(request).await?;
        on.topic(&app, &new.topic).await?;
        return publish_one(&app, prepare(&app, new.into()).await?).await;
    }
    let nowhere =
        || Problem::bad_request("invalid_query", "the body does not say to which topic it goes: pass ?topic=");
    let publisher = on.found(&app, query.topic.as_deref(), nowhere).await?.subject();
    let topic = query.topic.clone().ok_or_else(nowhere)?;
    let headers = request.headers().clone();
    let Bytes(body) = Bytes::from_request(request, &()).await?;
    if form == Form::Batch {
        return publish_events(&app, &topic, &query, &body, publisher).await.map(IntoResponse::into_response);
    }
    let content = match form {
        Form::Structured => cloud_event::of_event(event(&body)?, "")?,
        _ => cloud_event::of_body(&headers, &body, form == Form::Binary)?,
    };
    let outgoing = prepare(&app, Draft::new(topic, content, &query, publisher)).await?;
    publish_one(&app, outgoing).await
}

async fn publish_one(app: &App, outgoing: Outgoing) -> Result<Response> {
    let message_id = outgoing.message.id;
    let accepted = app.publisher.publish(vec![outgoing]).await.pop().expect("one result for one message")?;
    let (code, status) = match accepted {
        Accepted::Confirmed => (StatusCode::CREATED, Status::Confirmed),
        Accepted::Waiting => (StatusCode::ACCEPTED, Status::Accepted),
    };
    Ok((code, Json(Published { message_id, status })).into_response())
}

/// Publish several messages
///
/// Each one succeeds or fails by itself. Messages of one key keep their order.
#[utoipa::path(
    post, path = "/publish/batch", tag = "messaging-service", security(("bearer" = [])), request_body = NewMessages,
    params(("Idempotency-Key" = Option<String>, Header, description = "a repetition gets the first answer again")),
    responses(
        (status = 207, body = PublishedBatch), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody),
        (status = 403, body = ProblemBody), (status = 409, body = ProblemBody), (status = 413, body = ProblemBody),
        (status = 415, body = ProblemBody), (status = 422, body = ProblemBody), (status = 503, body = ProblemBody),
    )
)]
pub(crate) async fn publish_batch(
    State(app): State<App>,
    on: On<CanPublish>,
    request: Request,
) -> Result<(StatusCode, Json<PublishedBatch>)> {
    let new: NewMessages = on.body(request).await?;
    if new.messages.is_empty() {
        on.all()?;
    }
    check_size(&app, new.messages.len(), "/messages")?;
    let mut drafts = Vec::with_capacity(new.messages.len());
    for message in new.messages {
        drafts.push(on.topic(&app, &message.topic).await.map(|_| message.into()));
    }
    publish_many(&app, drafts.into_iter()).await
}

async fn publish_events(
    app: &App,
    topic: &str,
    query: &PublishQuery,
    body: &[u8],
    publisher: &str,
) -> Result<(StatusCode, Json<PublishedBatch>)> {
    let events: Vec<&RawValue> = serde_json::from_slice(body).map_err(|error| malformed(&error))?;
    check_size(app, events.len(), "")?;
    let drafts = events.into_iter().enumerate().map(|(index, event)| {
        let content = cloud_event::of_event(event, &format!("/{index}"))?;
        Ok(Draft::new(topic.to_owned(), content, query, publisher))
    });
    publish_many(app, drafts).await
}

async fn publish_many(
    app: &App,
    drafts: impl Iterator<Item = Result<Draft>>,
) -> Result<(StatusCode, Json<PublishedBatch>)> {
    let mut outgoing = Vec::new();
    let mut results = Vec::new();
    for draft in drafts {
        let prepared = match draft {
            Ok(draft) => prepare(app, draft).await,
            Err(problem) => Err(problem),
        };
        results.push(match prepared {
            Ok(prepared) => {
                let message_id = Some(prepared.message.id);
                outgoing.push(prepared);
                BatchResult { status: Status::Accepted, message_id, problem: None }
            }
            Err(problem) => refused(&problem),
        });
    }
    let mut answers = app.publisher.publish(outgoing).await.into_iter();
    for result in results.iter_mut().filter(|result| result.message_id.is_some()) {
        match answers.next().expect("one result for each message") {
            Ok(Accepted::Confirmed) => result.status = Status::Confirmed,
            Ok(Accepted::Waiting) => {}
            Err(problem) => *result = refused(&problem),
        }
    }
    Ok((StatusCode::MULTI_STATUS, Json(PublishedBatch { results })))
}

fn check_size(app: &App, messages: usize, at: &str) -> Result<()> {
    let most = app.config.publish.max_batch;
    if (1..=most).contains(&messages) {
        Ok(())
    } else {
        Err(Problem::field(at, "too_many", format!("1 to {most} messages")))
    }
}

fn event(body: &[u8]) -> Result<&RawValue> {
    serde_json::from_slice(body).map_err(|error| malformed(&error))
}

fn malformed(error: &serde_json::Error) -> Problem {
    Problem::bad_request("malformed_json", format!("the body is not valid JSON: {error}"))
}

/// A message as asked for, in whatever form.
pub(crate) struct Draft {
    pub(crate) topic: String,
    pub(crate) payload: Box<RawValue>,
    /// Of the payload before any encoding, in bytes.
    pub(crate) size: usize,
    pub(crate) key: Option<String>,
    pub(crate) priority: i64,
    pub(crate) delay_ms: Option<i64>,
    pub(crate) ttl_ms: Option<i64>,
    pub(crate) headers: Headers,
    /// Publisher, and an event's source and id.
    pub(crate) identity: Option<(String, (String, String))>,
}

impl Draft {
    fn new(topic: String, content: Content, query: &PublishQuery, publisher: &str) -> Self {
        Self {
            topic,
            payload: content.payload,
            size: content.size,
            key: query.key.clone().or(content.key),
            priority: query.priority.unwrap_or(0),
            delay_ms: query.delay_ms,
            ttl_ms: query.ttl_ms,
            headers: content.headers,
            identity: content.identity.map(|identity| (publisher.to_owned(), identity)),
        }
    }
}

impl From<NewMessage> for Draft {
    fn from(new: NewMessage) -> Self {
        Self {
            topic: new.topic,
            size: new.payload.get().len(),
            payload: new.payload,
            key: new.key,
            priority: new.priority.map_or(0, Between::get),
            delay_ms: new.delay_ms.map(Between::get),
            ttl_ms: new.ttl_ms.map(Between::get),
            headers: new.headers.unwrap_or_default(),
            identity: None,
        }
    }
}

fn refused(problem: &Problem) -> BatchResult {
    BatchResult { status: Status::Refused, message_id: None, problem: Some(problem.body()) }
}

/// Makes a message of a draft, if it may be one.
///
/// # Errors
/// 404 `unknown_topic`, 413 `payload_too_large`, 422.
pub(crate) async fn prepare(app: &App, draft: Draft) -> Result<Outgoing> {
    let topic = app.catalog.find(&draft.topic).await?;
    bridge::may_publish(&topic.name)?;
    check_payload(app, draft.size)?;
    let mut errors = Vec::new();
    if draft.key.as_ref().is_some_and(|key| key.len() > MAX_KEY || key.contains('\0')) {
        errors.push(FieldError::new("/key", "wrong_form", format!("at most {MAX_KEY} bytes, none of them zero")));
    }
    if draft.priority > 0 && topic.kind != Kind::Queue {
        errors.push(FieldError::new("/priority", "not_for_this_kind", "only queues have priorities: remove it"));
    }
    let within = |value: Option<i64>, least| value.is_none_or(|value| (least..=LONGEST_MS).contains(&value));
    for (pointer, good, from, to) in [
        ("/priority", (0..=255).contains(&draft.priority), 0, 255),
        ("/delayMs", within(draft.delay_ms, 0), 0, LONGEST_MS),
        ("/ttlMs", within(draft.ttl_ms, 1), 1, LONGEST_MS),
    ] {
        if !good {
            errors.push(FieldError::new(pointer, "out_of_range", format!("from {from} to {to}")));
        }
    }
    check_headers(&draft.headers, &mut errors);
    if !errors.is_empty() {
        return Err(Problem::invalid(errors));
    }
    app.schemas.check(&topic, draft.payload.get().as_bytes(), "/payload")?;
    let now = Utc::now().trunc_subsecs(6);
    let delay_ms = draft.delay_ms.filter(|delay_ms| *delay_ms > 0);
    let kept_ms = match topic.kind {
        Kind::Stream => draft.ttl_ms,
        _ => [draft.ttl_ms, topic.retention_ms].into_iter().flatten().min(),
    };
    let payload = json_on_one_line(draft.payload);
    let message = Message {
        id: match &draft.identity {
            Some((publisher, event)) => cloud_event::message_id(topic.topic_id, publisher, event),
            None => Uuid::now_v7(),
        },
        key: draft.key,
        payload: if topic.encrypted { app.vault.seal(&payload)?.into() } else { payload },
        headers: serde_json::to_string(&draft.headers).expect("a map of strings serialises"),
        priority: i16::try_from(draft.priority).expect("checked above"),
        published_at: now,
        expires_at: kept_ms.map(|kept_ms| now + TimeDelta::milliseconds(kept_ms + delay_ms.unwrap_or(0))),
        traceparent: trace::current().map(|context| context.to_string()),
        sealed: topic.encrypted,
    };
    Ok(Outgoing { topic, message, delay_ms })
}

/// 413 `payload_too_large`.
pub(super) fn check_payload(app: &App, size: usize) -> Result<()> {
    let most = app.config.publish.max_payload_bytes;
    if size > most {
        let detail = format!("a payload has at most {most} bytes: send a reference to what is larger");
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", detail));
    }
    Ok(())
}

pub(super) fn check_headers(headers: &Headers, errors: &mut Vec<FieldError>) {
    if headers.len() > MAX_HEADERS {
        errors.push(FieldError::new("/headers", "too_many", format!("at most {MAX_HEADERS} headers")));
    }
    if headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > HEADER_BYTES {
        errors.push(FieldError::new("/headers", "too_long", format!("at most {HEADER_BYTES} bytes in all")));
    }
    for (name, value) in headers.iter().take(MAX_HEADERS) {
        if name.is_empty() || name.len() > MAX_HEADER_NAME || value.len() > MAX_HEADER_VALUE {
            let pointer = format!("/headers/{}", name.replace('~', "~0").replace('/', "~1"));
            let detail = format!("a name has 1 to {MAX_HEADER_NAME} bytes, a value at most {MAX_HEADER_VALUE}");
            errors.push(FieldError::new(pointer, "too_long", detail));
        }
    }
}
