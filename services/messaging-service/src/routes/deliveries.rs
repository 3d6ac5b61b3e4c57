//! What a subscriber says of a message: done, failed, more time.

use std::time::Duration;

use axum::{
    extract::{FromRequest as _, Request, State},
    http::{StatusCode, header},
};
use chrono::{DateTime, Utc};
use kronos_common::{
    extract::{Json, Path, Query},
    identity::Caller,
    problem::{Problem, ProblemBody, Result},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::{CanSubscribe, on_topic::On};
use crate::{
    App,
    delivery::{Candidate, Id, Meaning, backoff, by_message, by_receipt},
    topic::Between,
};

/// Longest `delayMs`: 7 days.
const LONGEST_DELAY_MS: i64 = 7 * 24 * 3_600_000;

/// Which of several deliveries a message id means.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Which {
    /// The group, when several hold the message.
    pub(super) group: Option<String>,
    /// Only if this is its current attempt.
    pub(super) attempt: Option<i32>,
}

/// Why and when to try again. The body may be left out.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Retry {
    /// Instead of the topic's back-off.
    #[schema(value_type = Option<i64>, minimum = 0, maximum = 604_800_000)]
    delay_ms: Option<Between<0, LONGEST_DELAY_MS>>,
    /// Kept with the message, for whoever reads the dead letters.
    reason: Option<Reason>,
}

impl Retry {
    /// # Errors
    /// 422.
    pub(super) fn new(delay_ms: Option<i64>, reason: Option<String>) -> Result<Self> {
        let refused = |pointer: &'static str| move |detail: String| Problem::field(pointer, "out_of_range", detail);
        Ok(Self {
            delay_ms: delay_ms.map(Between::try_from).transpose().map_err(refused("/delayMs"))?,
            reason: reason.map(Reason::try_from).transpose().map_err(str::to_owned).map_err(refused("/reason"))?,
        })
    }
}

impl Extension {
    /// # Errors
    /// 422.
    pub(super) fn new(lease_ms: Option<i64>) -> Result<Self> {
        let refused = |detail: String| Problem::field("/leaseMs", "out_of_range", detail);
        Ok(Self { lease_ms: lease_ms.map(Between::try_from).transpose().map_err(refused)? })
    }
}

/// At most 1000 characters.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, max_length = 1000)]
pub(crate) struct Reason(String);

impl TryFrom<String> for Reason {
    type Error = &'static str;

    fn try_from(text: String) -> std::result::Result<Self, Self::Error> {
        if text.chars().count() > 1000 {
            return Err("at most 1000 characters");
        }
        // Postgres keeps no zero character in a text.
        Ok(Self(text.replace('\0', "")))
    }
}

/// How much longer. The body may be left out.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Extension {
    /// From now on; the topic's lease by default.
    #[schema(value_type = Option<i64>, minimum = 100, maximum = 43_200_000)]
    lease_ms: Option<Between<100, 43_200_000>>,
}

/// What happens next.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RetryStatus {
    /// It is delivered again at `availableAt`.
    Scheduled,
    /// That was its last attempt.
    Dead,
}

/// An attempt that ended.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Retried {
    status: RetryStatus,
    /// The attempt that ended; 0 for a dead letter that begins anew.
    attempt: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    available_at: Option<DateTime<Utc>>,
}

/// A lease that was extended.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Extended {
    lease_expires_at: DateTime<Utc>,
}

/// Acknowledge a message
///
/// The id is a `deliveryId`, which means exactly that delivery, or a `messageId`, which means the one delivery of it that
/// the caller holds. At any instance. A repetition is no error.
#[utoipa::path(
    post, path = "/ack/{id}", tag = "messaging-service", security(("bearer" = [])),
    params(("id" = String, Path, description = "messageId or deliveryId"), Which),
    responses(
        (status = 204), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody),
        (status = 403, body = ProblemBody), (status = 404, description = "`unknown_delivery`", body = ProblemBody),
        (status = 409, description = "`stale_delivery`, `ambiguous_delivery`", body = ProblemBody),
        (status = 503, body = ProblemBody),
    )
)]
pub(crate) async fn acknowledge_message(
    State(app): State<App>,
    on: On<CanSubscribe>,
    Path(id): Path<String>,
    Query(which): Query<Which>,
) -> Result<StatusCode> {
    acknowledge(&app, on_topic_of(&app, &on, &id).await?, &id, &which).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Try a message again
///
/// A delivery that the caller holds: after `delayMs` or the topic's back-off, or it becomes a dead letter if that was its
/// last attempt. A dead letter: it is delivered anew, with all its attempts.
#[utoipa::path(
    post, path = "/retry/{id}", tag = "messaging-service", security(("bearer" = [])), request_body = Option<Retry>,
    params(("id" = String, Path, description = "messageId or deliveryId"), Which),
    responses(
        (status = 202, body = Retried), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody),
        (status = 403, body = ProblemBody), (status = 404, description = "`unknown_delivery`", body = ProblemBody),
        (status = 409, description = "`stale_delivery`, `ambiguous_delivery`", body = ProblemBody),
        (status = 413, body = ProblemBody), (status = 415, body = ProblemBody), (status = 422, body = ProblemBody),
        (status = 503, body = ProblemBody),
    )
)]
pub(crate) async fn retry_message(
    State(app): State<App>,
    on: On<CanSubscribe>,
    Path(id): Path<String>,
    Query(which): Query<Which>,
    request: Request,
) -> Result<(StatusCode, Json<Retried>)> {
    let caller = on_topic_of(&app, &on, &id).await?;
    let wanted: Retry = optional(request).await?;
    let retried = retry(&app, caller, &id, &which, &wanted).await?;
    Ok((StatusCode::ACCEPTED, Json(retried)))
}

/// Ask for more time for a message
#[utoipa::path(
    post, path = "/extend/{id}", tag = "messaging-service", security(("bearer" = [])), request_body = Option<Extension>,
    params(("id" = String, Path, description = "messageId or deliveryId"), Which),
    responses(
        (status = 200, body = Extended), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody),
        (status = 403, body = ProblemBody), (status = 404, description = "`unknown_delivery`", body = ProblemBody),
        (status = 409, description = "`stale_delivery`, `ambiguous_delivery`", body = ProblemBody),
        (status = 413, body = ProblemBody), (status = 415, body = ProblemBody), (status = 422, body = ProblemBody),
        (status = 503, body = ProblemBody),
    )
)]
pub(crate) async fn extend_lease(
    State(app): State<App>,
    on: On<CanSubscribe>,
    Path(id): Path<String>,
    Query(which): Query<Which>,
    request: Request,
) -> Result<Json<Extended>> {
    let caller = on_topic_of(&app, &on, &id).await?;
    let extension: Extension = optional(request).await?;
    extend(&app, caller, &id, &which, &extension).await.map(Json)
}

/// The caller, if it may subscribe to the topic of this delivery. Who may everywhere costs no look at the database.
async fn on_topic_of<'a>(app: &App, on: &'a On<CanSubscribe>, id: &str) -> Result<&'a Caller> {
    if let Ok(caller) = on.all() {
        return Ok(caller);
    }
    let row = match Id::parse(id) {
        None => None,
        Some(Id::Receipt(receipt)) => app.store.candidate(receipt.delivery_id).await?,
        Some(Id::Message(message_id)) => app.store.candidates(message_id).await?.pop(),
    };
    on.found(app, row.as_ref().map(|row| row.topic.as_str()), || refusal(&Meaning::Unknown)).await
}

/// As [`acknowledge_message`].
pub(super) async fn acknowledge(app: &App, caller: &Caller, id: &str, which: &Which) -> Result<()> {
    if let Some(Id::Receipt(receipt)) = Id::parse(id)
        && app.acks.ask(receipt).await?
    {
        return Ok(());
    }
    let held = match find(app, caller, id, which).await? {
        Meaning::Settled => return Ok(()),
        Meaning::Held(held) => held,
        Meaning::Dead(_) => return Err(stale()),
        other => return Err(refusal(&other)),
    };
    let receipt = held.receipt().ok_or_else(stale)?;
    if app.acks.ask(receipt).await? { Ok(()) } else { Err(stale()) }
}

/// As [`retry_message`].
pub(super) async fn retry(app: &App, caller: &Caller, id: &str, which: &Which, retry: &Retry) -> Result<Retried> {
    match find(app, caller, id, which).await? {
        Meaning::Held(held) => fail(app, &held, retry).await,
        Meaning::Dead(dead) => {
            let delay_ms = retry.delay_ms.map_or(0, Between::get);
            let replayed = app.store.replay(dead.delivery_id, delay_ms, caller.subject()).await?;
            let due_at = replayed.ok_or_else(stale)?;
            app.hubs.ready(dead.group_id);
            Ok(Retried { status: RetryStatus::Scheduled, attempt: 0, available_at: Some(due_at) })
        }
        other => Err(refusal(&other)),
    }
}

/// As [`extend_lease`].
pub(super) async fn extend(
    app: &App,
    caller: &Caller,
    id: &str,
    which: &Which,
    extension: &Extension,
) -> Result<Extended> {
    let held = match find(app, caller, id, which).await? {
        Meaning::Held(held) => held,
        other => return Err(refusal(&other)),
    };
    let receipt = held.receipt().ok_or_else(stale)?;
    let lease_ms = extension.lease_ms.map_or(held.lease_ms, Between::get);
    let lease_expires_at = app.store.extend(receipt, lease_ms).await?.ok_or_else(stale)?;
    Ok(Extended { lease_expires_at })
}

async fn find(app: &App, caller: &Caller, id: &str, which: &Which) -> Result<Meaning> {
    Ok(match Id::parse(id) {
        None => Meaning::Unknown,
        Some(Id::Receipt(receipt)) => by_receipt(app.store.candidate(receipt.delivery_id).await?, receipt),
        Some(Id::Message(message_id)) => {
            let rows = app.store.candidates(message_id).await?;
            by_message(rows, caller.subject(), which.group.as_deref(), which.attempt)
        }
    })
}

async fn fail(app: &App, held: &Candidate, retry: &Retry) -> Result<Retried> {
    let receipt = held.receipt().ok_or_else(stale)?;
    let delay_ms = retry.delay_ms.map_or_else(
        || {
            let base = Duration::from_millis(u64::try_from(held.backoff_ms).unwrap_or(0));
            let attempt = u32::try_from(held.attempt).unwrap_or(1);
            // The tail of a fresh id is random enough to keep what failed together apart.
            let random = f64::from(u32::from_be_bytes(last_bytes(Uuid::new_v4()))) / f64::from(u32::MAX);
            let longest = held.max_backoff_ms.and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis);
            let longest = longest.unwrap_or_else(|| app.config.deliver.max_backoff());
            let wait = backoff(base, longest, attempt, random);
            i64::try_from(wait.as_millis()).unwrap_or(i64::MAX)
        },
        Between::get,
    );
    let reason = retry.reason.as_ref().map(|reason| reason.0.as_str());
    let ended = app.store.fail(receipt, delay_ms, reason).await?.ok_or_else(stale)?;
    app.hubs.released(std::slice::from_ref(&ended), "retried");
    Ok(match ended.state.as_str() {
        "dead" => Retried { status: RetryStatus::Dead, attempt: ended.attempt, available_at: None },
        _ => Retried { status: RetryStatus::Scheduled, attempt: ended.attempt, available_at: Some(ended.due_at) },
    })
}

fn last_bytes(id: Uuid) -> [u8; 4] {
    let bytes = id.as_bytes();
    [bytes[12], bytes[13], bytes[14], bytes[15]]
}

/// A JSON body that may be left out.
pub(super) async fn optional<T>(request: Request) -> Result<T>
where
    T: serde::de::DeserializeOwned + ToSchema + Default + 'static,
{
    let headers = request.headers();
    let empty = headers.get(header::CONTENT_LENGTH).is_none_or(|length| length == "0");
    if empty && !headers.contains_key(header::TRANSFER_ENCODING) && !headers.contains_key(header::CONTENT_TYPE) {
        return Ok(T::default());
    }
    Json::<T>::from_request(request, &()).await.map(|Json(body)| body)
}

fn refusal(meaning: &Meaning) -> Problem {
    match meaning {
        Meaning::Unknown => Problem::new(
            StatusCode::NOT_FOUND,
            "unknown_delivery",
            "no group was ever handed a message of this id, or that is forgotten by now",
        ),
        Meaning::Ambiguous => Problem::conflict(
            "ambiguous_delivery",
            "several groups hold this message: pass ?group=, or the deliveryId instead of the messageId",
        ),
        _ => stale(),
    }
}

fn stale() -> Problem {
    Problem::conflict(
        "stale_delivery",
        "the caller does not hold this message: its lease ended, or it was delivered anew; \
         do not trust what was done with it",
    )
}
