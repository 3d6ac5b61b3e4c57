//! Request and reply: `POST /request/{topic}` publishes a message and waits for its reply, or says where it can be read
//! later; `POST /reply/{messageId}` gives it. Any instance will do for either side.

use std::time::Duration;

use axum::{
    extract::{FromRequest as _, Request as Call, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use kronos_common::{
    extract::{Json, Path, Query},
    identity::{Caller, Permission as _},
    problem::{OnConstraint as _, Problem, ProblemBody, Result},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::time::Instant;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::{
    CanPublish, CanSubscribe,
    on_topic::On,
    publish::{Draft, check_headers, check_payload, prepare},
};
use crate::{
    App, bridge, catalog,
    message::{Headers, json_on_one_line, raw},
    signals::Signal,
    store::Request,
    topic::Between,
};

/// RFC 7240.
const PREFER: HeaderName = HeaderName::from_static("prefer");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
/// Without `timeoutMs`: who waits, and who comes back.
const WAIT_MS: u64 = 10_000;
const COME_BACK_MS: u64 = 3_600_000;
/// The longest that a reply may take: 24 hours.
const LONGEST_MS: u64 = 24 * 3_600_000;

/// A message that asks for a reply.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct NewRequest {
    /// Any JSON.
    #[schema(value_type = serde_json::Value)]
    payload: Box<RawValue>,
    #[schema(max_length = 512)]
    key: Option<String>,
    #[schema(value_type = Option<i64>, minimum = 0, maximum = 255)]
    priority: Option<Between<0, 255>>,
    headers: Option<Headers>,
}

/// How long.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query, rename_all = "camelCase")]
pub(crate) struct RequestQuery {
    /// A reply may come for so long, in milliseconds: 10 s by default and 30 s at most for who waits; with
    /// `Prefer: respond-async` an hour, and 24 hours at most. As long, the message may wait for a subscriber.
    #[param(minimum = 1, maximum = 86_400_000)]
    timeout_ms: Option<u64>,
    /// For whom it is asked, and who may then read the reply; needs `requests:delegate`.
    #[param(max_length = 256)]
    owner: Option<String>,
}

/// A reply.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct NewReply {
    /// Any JSON.
    #[schema(value_type = serde_json::Value)]
    payload: Box<RawValue>,
    headers: Option<Headers>,
}

/// How a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RequestStatus {
    /// A reply may still come.
    Waiting,
    Replied,
    /// None came in time.
    Expired,
}

/// What became of what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    Pending,
    Done,
    /// No reply came in time, or one with the header `outcome` that says so.
    Failed,
}

/// A request, and its reply once there is one.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RequestState {
    message_id: Uuid,
    topic: String,
    status: RequestStatus,
    state: Outcome,
    expires_at: DateTime<Utc>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    payload: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<std::collections::BTreeMap<String, String>>)]
    headers: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replied_by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replied_at: Option<DateTime<Utc>>,
}

impl From<Request> for RequestState {
    fn from(row: Request) -> Self {
        let failed = |headers: &str| {
            serde_json::from_str::<Headers>(headers)
                .is_ok_and(|headers| headers.get("outcome").is_some_and(|is| is == "failed"))
        };
        Self {
            message_id: row.message_id,
            topic: row.topic,
            state: match (&row.reply, row.expired) {
                (Some(_), _) if row.reply_headers.as_deref().is_some_and(failed) => Outcome::Failed,
                (Some(_), _) => Outcome::Done,
                (None, true) => Outcome::Failed,
                (None, false) => Outcome::Pending,
            },
            status: match (&row.reply, row.expired) {
                (Some(_), _) => RequestStatus::Replied,
                (None, true) => RequestStatus::Expired,
                (None, false) => RequestStatus::Waiting,
            },
            expires_at: row.expires_at,
            payload: row.reply.map(|reply| raw(&reply).to_owned()),
            headers: row.reply_headers.map(|headers| raw(headers.as_bytes()).to_owned()),
            replied_by: row.replied_by,
            replied_at: row.replied_at,
        }
    }
}

/// Ask, and wait for the reply
///
/// The message has the header `reply-to`: where its subscriber posts the reply. With `Prefer: respond-async` the answer is a
/// 202 at once, and its `Location` tells of the reply, at any instance.
#[utoipa::path(
    post, path = "/request/{topic}", tag = "messaging-service", security(("bearer" = [])), request_body = NewRequest,
    params(
        ("topic" = String, Path), RequestQuery,
        ("Prefer" = Option<String>, Header, description = "`respond-async` (RFC 7240)"),
    ),
    responses(
        (status = 200, description = "the reply", body = RequestState),
        (status = 202, description = "`Location` tells of it", body = RequestState), (status = 400, body = ProblemBody),
        (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
        (status = 404, description = "`unknown_topic`", body = ProblemBody), (status = 413, body = ProblemBody),
        (status = 415, body = ProblemBody), (status = 422, body = ProblemBody), (status = 429, body = ProblemBody),
        (status = 503, body = ProblemBody),
        (status = 504, description = "`no_reply`: none came in time", body = ProblemBody),
    )
)]
pub(crate) async fn request(
    State(app): State<App>,
    on: On<CanPublish>,
    Path(topic): Path<String>,
    Query(query): Query<RequestQuery>,
    headers: HeaderMap,
    call: Call,
) -> Result<Response> {
    let caller = on.topic(&app, &topic).await?;
    if query.owner.is_some() {
        caller.require(bridge::DELEGATE)?;
    }
    let owner = query.owner.as_deref().unwrap_or_else(|| caller.subject());
    if owner.is_empty() || owner.len() > 256 || owner.contains('\0') {
        return Err(Problem::bad_request("invalid_query", "owner has 1 to 256 bytes"));
    }
    let Json(new) = Json::<NewRequest>::from_request(call, &()).await?;
    let comes_back = prefers_async(&headers);
    let longest = if comes_back { LONGEST_MS } else { app.config.subscribe.longest_wait_ms };
    let timeout_ms = query.timeout_ms.unwrap_or(if comes_back { COME_BACK_MS } else { WAIT_MS });
    if !(1..=longest).contains(&timeout_ms) {
        return Err(Problem::bad_request("invalid_query", format!("timeoutMs is 1 to {longest}")));
    }
    let timeout = i64::try_from(timeout_ms).unwrap_or(i64::MAX);
    let mut outgoing = prepare(
        &app,
        Draft {
            topic,
            size: new.payload.get().len(),
            payload: new.payload,
            key: new.key,
            priority: new.priority.map_or(0, Between::get),
            delay_ms: None,
            ttl_ms: Some(timeout),
            headers: new.headers.unwrap_or_default(),
            identity: None,
        },
    )
    .await?;
    let message_id = outgoing.message.id;
    let deadline = Instant::now() + Duration::from_millis(timeout_ms);
    let expires_at = Utc::now().trunc_subsecs(6) + TimeDelta::milliseconds(timeout);
    let mut told: Headers = serde_json::from_str(&outgoing.message.headers).map_err(Problem::internal)?;
    told.insert("reply-to".to_owned(), format!("/reply/{message_id}"));
    outgoing.message.headers = serde_json::to_string(&told).map_err(Problem::internal)?;

    let waiter = app.replies.wait_for(message_id);
    let inserted = app.store.insert_request(message_id, &outgoing.topic, owner, expires_at).await;
    inserted.on_constraint("requests_topic_id_fkey", catalog::unknown())?;
    let published = app.publisher.publish(vec![outgoing]).await.pop().expect("one result for one message");
    if let Err(problem) = published {
        if let Err(error) = app.store.delete_request(message_id).await {
            tracing::debug!(%error, "a request that was not published is forgotten later");
        }
        return Err(problem);
    }
    if comes_back {
        let state = app.store.request(message_id).await?.ok_or_else(catalog::unknown)?;
        let location = HeaderValue::try_from(format!("/requests/{message_id}")).map_err(Problem::internal)?;
        let headers = [(header::LOCATION, location), (PREFERENCE_APPLIED, HeaderValue::from_static("respond-async"))];
        return Ok((StatusCode::ACCEPTED, headers, Json(shown(&app, state))).into_response());
    }
    let state = waiter.reply(&app.store, deadline).await?.ok_or_else(catalog::unknown)?;
    if state.reply.is_none() {
        let detail = format!("no reply to message {message_id} came in time");
        return Err(Problem::new(StatusCode::GATEWAY_TIMEOUT, "no_reply", detail));
    }
    Ok(Json(shown(&app, state)).into_response())
}

/// Show a request, and its reply once there is one
///
/// For whoever asked, until an hour after its time.
#[utoipa::path(
    get, path = "/requests/{id}", tag = "messaging-service", security(("bearer" = [])),
    params(("id" = String, Path, description = "messageId")),
    responses(
        (status = 200, body = RequestState), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
        (status = 404, description = "`unknown_request`", body = ProblemBody), (status = 503, body = ProblemBody),
    )
)]
pub(crate) async fn show_request(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<RequestState>> {
    let row = app.store.request(Uuid::try_parse(&id).unwrap_or_default()).await?;
    match row.filter(|row| row.principal == caller.subject()) {
        Some(row) => Ok(Json(shown(&app, row))),
        None => Err(caller.require(CanPublish::NAME).err().unwrap_or_else(unknown)),
    }
}

fn shown(app: &App, mut row: Request) -> RequestState {
    row.reply = row.reply.map(|reply| app.vault.open(row.sealed, &reply).into_owned());
    row.into()
}

/// Reply to a message
///
/// The first reply counts. It does not acknowledge the message.
#[utoipa::path(
    post, path = "/reply/{messageId}", tag = "messaging-service", security(("bearer" = [])), request_body = NewReply,
    params(("messageId" = String, Path)),
    responses(
        (status = 204), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody),
        (status = 403, body = ProblemBody),
        (status = 404, description = "`unknown_request`: the message asks for no reply", body = ProblemBody),
        (status = 409, description = "`already_replied`, `request_expired`", body = ProblemBody),
        (status = 413, body = ProblemBody), (status = 415, body = ProblemBody), (status = 422, body = ProblemBody),
        (status = 503, body = ProblemBody),
    )
)]
pub(crate) async fn reply(
    State(app): State<App>,
    on: On<CanSubscribe>,
    Path(id): Path<String>,
    call: Call,
) -> Result<StatusCode> {
    let new: NewReply = on.body(call).await?;
    check_payload(&app, new.payload.get().len())?;
    let id = Uuid::try_parse(&id).unwrap_or_default();
    let asked = app.store.request(id).await?;
    let caller = on.found(&app, asked.as_ref().map(|asked| asked.topic.as_str()), unknown).await?;
    let headers = new.headers.unwrap_or_default();
    let mut errors = Vec::new();
    check_headers(&headers, &mut errors);
    if !errors.is_empty() {
        return Err(Problem::invalid(errors));
    }
    let payload = json_on_one_line(new.payload);
    let payload = match asked.is_some_and(|asked| asked.sealed) {
        true => app.vault.seal(&payload)?.into(),
        false => payload,
    };
    let headers = serde_json::to_string(&headers).map_err(Problem::internal)?;
    if !app.store.reply(id, &payload, &headers, caller.subject()).await? {
        return Err(match app.store.request(id).await? {
            None => unknown(),
            Some(row) if row.reply.is_some() => Problem::conflict("already_replied", "somebody has replied before"),
            Some(_) => {
                app.metrics.late_replies.inc();
                Problem::conflict("request_expired", "the reply comes too late: nobody waits for it")
            }
        });
    }
    app.replies.ring(id);
    app.signals.send(Signal::Replied(id));
    Ok(StatusCode::NO_CONTENT)
}

fn prefers_async(headers: &HeaderMap) -> bool {
    headers
        .get_all(PREFER)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.split(',').any(|preference| preference.trim().eq_ignore_ascii_case("respond-async")))
}

fn unknown() -> Problem {
    let detail = "no such message asked for a reply, or that is forgotten by now";
    Problem::new(StatusCode::NOT_FOUND, "unknown_request", detail)
}
