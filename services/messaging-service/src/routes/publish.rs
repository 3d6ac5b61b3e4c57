//! `POST /publish` and `POST /publish/batch`.

use axum::{extract::State, http::StatusCode};
use chrono::{SubsecRound as _, TimeDelta, Utc};
use kronos_common::{
    extract::Json,
    identity::Allowed,
    problem::{FieldError, Problem, ProblemBody, Result},
    trace,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;
use uuid::Uuid;

use super::CanPublish;
use crate::{
    App,
    message::{Headers, MAX_HEADER_NAME, MAX_HEADER_VALUE, MAX_HEADERS, MAX_KEY, Message, one_line},
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

/// Publish a message
///
/// 201: its broker has confirmed it. 202: the broker is away or slow, or the message has a delay; it is in the outbox and
/// will be published under the same id.
#[utoipa::path(
    post, path = "/publish", tag = "messaging-service", security(("bearer" = [])), request_body = NewMessage,
    params(("Idempotency-Key" = Option<String>, Header, description = "a repetition gets the first answer again")),
    responses(
        (status = 201, body = Published), (status = 202, body = Published), (status = 400, body = ProblemBody),
        (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
        (status = 404, description = "`unknown_topic`", body = ProblemBody), (status = 409, body = ProblemBody),
        (status = 413, description = "`payload_too_large`", body = ProblemBody), (status = 415, body = ProblemBody),
        (status = 422, body = ProblemBody), (status = 503, body = ProblemBody),
    )
)]
pub(crate) async fn publish_message(
    State(app): State<App>,
    _: Allowed<CanPublish>,
    Json(new): Json<NewMessage>,
) -> Result<(StatusCode, Json<Published>)> {
    let outgoing = prepare(&app, new).await?;
    let message_id = outgoing.message.id;
    let accepted = app.publisher.publish(vec![outgoing]).await.pop().expect("one result for one message")?;
    let (code, status) = match accepted {
        Accepted::Confirmed => (StatusCode::CREATED, Status::Confirmed),
        Accepted::Waiting => (StatusCode::ACCEPTED, Status::Accepted),
    };
    Ok((code, Json(Published { message_id, status })))
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
    _: Allowed<CanPublish>,
    Json(new): Json<NewMessages>,
) -> Result<(StatusCode, Json<PublishedBatch>)> {
    let most = app.config.publish.max_batch;
    if new.messages.is_empty() || new.messages.len() > most {
        return Err(Problem::field("/messages", "too_many", format!("1 to {most} messages")));
    }
    let mut outgoing = Vec::new();
    let mut results = Vec::new();
    for message in new.messages {
        results.push(match prepare(&app, message).await {
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

fn refused(problem: &Problem) -> BatchResult {
    BatchResult { status: Status::Refused, message_id: None, problem: Some(problem.body()) }
}

async fn prepare(app: &App, new: NewMessage) -> Result<Outgoing> {
    let topic = app.catalog.find(&new.topic).await?;
    let most = app.config.publish.max_payload_bytes;
    if new.payload.get().len() > most {
        let detail = format!("a payload has at most {most} bytes: send a reference to what is larger");
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", detail));
    }
    let headers = new.headers.unwrap_or_default();
    let priority = new.priority.map_or(0, Between::get);
    let mut errors = Vec::new();
    if new.key.as_ref().is_some_and(|key| key.len() > MAX_KEY || key.contains('\0')) {
        errors.push(FieldError::new("/key", "wrong_form", format!("at most {MAX_KEY} bytes, none of them zero")));
    }
    if priority > 0 && topic.kind != Kind::Queue {
        errors.push(FieldError::new("/priority", "not_for_this_kind", "only queues have priorities: remove it"));
    }
    check_headers(&headers, &mut errors);
    if !errors.is_empty() {
        return Err(Problem::invalid(errors));
    }
    let now = Utc::now().trunc_subsecs(6);
    let delay_ms = new.delay_ms.map(Between::get).filter(|delay_ms| *delay_ms > 0);
    let message = Message {
        id: Uuid::now_v7(),
        key: new.key,
        payload: one_line(new.payload.get().as_bytes()),
        headers: serde_json::to_string(&headers).expect("a map of strings serialises"),
        priority: i16::try_from(priority).expect("the type ends at 255"),
        published_at: now,
        expires_at: new.ttl_ms.map(|ttl_ms| now + TimeDelta::milliseconds(ttl_ms.get() + delay_ms.unwrap_or(0))),
        traceparent: trace::current().map(|context| context.to_string()),
    };
    Ok(Outgoing { topic, message, delay_ms })
}

fn check_headers(headers: &Headers, errors: &mut Vec<FieldError>) {
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
