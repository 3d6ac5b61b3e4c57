//! What was given up, giving it another chance, and the history of a message that failed.

use axum::extract::{Request, State};
use chrono::{DateTime, Utc};
use kronos_common::{
    extract::{Json, Path, Query},
    page::{Cursor, Limit, Page},
    problem::{Problem, ProblemBody, Result},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::{CanSubscribe, on_topic::On};
use crate::{
    App, bridge,
    delivery::{DeadLetter, Receipt},
    message::raw,
    store::DeadFilter,
};

/// Dead letters that one statement replays.
const BATCH: i64 = 500;
/// Most ids in a filter.
const MOST_IDS: usize = 500;

/// Which dead letters to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListDeadLetters {
    /// Only of this topic.
    topic: Option<String>,
    /// Only of groups of this name.
    group: Option<String>,
    /// How many.
    #[serde(default)]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 200)]
    limit: Limit,
    /// The `nextCursor` of the page before.
    #[param(value_type = Option<String>)]
    cursor: Option<Cursor>,
}

/// A message that was given up.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DeadLetterItem {
    message_id: Uuid,
    /// Replays exactly this group's copy.
    delivery_id: Option<String>,
    topic: String,
    group: String,
    key: Option<String>,
    #[schema(value_type = serde_json::Value)]
    payload: Box<RawValue>,
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    headers: Box<RawValue>,
    attempts: i32,
    reason: Option<String>,
    published_at: DateTime<Utc>,
    dead_at: DateTime<Utc>,
}

impl From<DeadLetter> for DeadLetterItem {
    fn from(row: DeadLetter) -> Self {
        Self {
            message_id: row.message_id,
            delivery_id: row.lease_id.map(|lease_id| Receipt { delivery_id: row.delivery_id, lease_id }.encode()),
            topic: row.topic,
            group: row.group_name,
            key: row.key,
            payload: raw(&row.payload).to_owned(),
            headers: raw(row.headers.as_bytes()).to_owned(),
            attempts: row.attempt,
            reason: row.reason,
            published_at: row.published_at,
            dead_at: row.dead_at,
        }
    }
}

/// Which dead letters to replay.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Replay {
    topic: String,
    /// All of the topic without.
    filter: Option<ReplayFilter>,
    /// Only say how many they are.
    dry_run: Option<bool>,
}

/// Dead letters that match all that is given.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ReplayFilter {
    group: Option<String>,
    key: Option<String>,
    /// Part of the reason, whatever its case.
    reason: Option<String>,
    /// At most 500.
    #[schema(max_items = 500)]
    message_ids: Option<Vec<Uuid>>,
    /// Dead since then, or later.
    dead_after: Option<DateTime<Utc>>,
    /// Dead before then; before now at the latest.
    dead_before: Option<DateTime<Utc>>,
}

/// What a replay did.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Replayed {
    /// Dead letters that matched when it began.
    matched: i64,
    /// Those that are delivered anew, with all their attempts.
    replayed: i64,
    dry_run: bool,
}

/// What became of a message, in every group that was handed it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct History {
    message_id: Uuid,
    topic: String,
    published_at: DateTime<Utc>,
    groups: Vec<GroupHistory>,
}

/// A message in one group.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct GroupHistory {
    group: String,
    state: GroupState,
    /// Attempts since it was published, or replayed.
    attempts: i32,
    /// Since when it is acknowledged, dropped or dead; until when it is held; from when it may be handed out.
    at: DateTime<Utc>,
    /// Who holds it, or had it last.
    #[serde(skip_serializing_if = "Option::is_none")]
    principal: Option<String>,
    /// What went wrong last.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Attempts that failed, and replays, the oldest first.
    failures: Vec<Failure>,
}

/// How a message is in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum GroupState {
    /// It waits, maybe for the end of a back-off.
    Waiting,
    /// A subscriber has it.
    Held,
    Dead,
    /// Acknowledged, or dropped as `reason` says.
    Settled,
}

/// An attempt that failed, or a replay.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Failure {
    attempt: i32,
    /// `retried`: its subscriber said so; `lease_ended`: it said nothing; `replayed`: it began anew.
    outcome: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// The subscriber, or who replayed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    principal: Option<String>,
    at: DateTime<Utc>,
}

/// List dead letters, the newest first
#[utoipa::path(
    get, path = "/dead-letters", tag = "messaging-service", security(("bearer" = [])), params(ListDeadLetters),
    responses(
        (status = 200, body = Page<DeadLetterItem>), (status = 400, body = ProblemBody),
        (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
        (status = 404, description = "`unknown_topic`", body = ProblemBody), (status = 503, body = ProblemBody),
    )
)]
pub(crate) async fn list_dead_letters(
    State(app): State<App>,
    on: On<CanSubscribe>,
    Query(list): Query<ListDeadLetters>,
) -> Result<Json<Page<DeadLetterItem>>> {
    let caller = match &list.topic {
        Some(topic) => {
            let caller = on.topic(&app, topic).await?;
            bridge::may_read(caller, &app.catalog.find(topic).await?.name)?;
            caller
        }
        None => on.all()?,
    };
    let hidden = bridge::hidden_from(caller);
    let before = list.cursor.map(|cursor| cursor.decode()).transpose()?;
    let (topic, group) = (list.topic.as_deref(), list.group.as_deref());
    let letters = app.store.dead_letters(topic, group, &hidden, before, list.limit.fetch()).await?;
    let page = Page::new(letters, list.limit, |letter| (letter.dead_at, letter.delivery_id));
    Ok(Json(page.map(|mut letter| {
        letter.payload = app.vault.open(letter.sealed, &letter.payload).into_owned();
        letter.into()
    })))
}

/// Replay many dead letters
///
/// Those of a topic that match the filter are delivered anew, with all their attempts, the oldest first. Those that die again
/// meanwhile are not replayed twice.
#[utoipa::path(
    post, path = "/dead-letters/replay", tag = "messaging-service", security(("bearer" = [])), request_body = Replay,
    responses(
        (status = 200, body = Replayed), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody),
        (status = 403, body = ProblemBody), (status = 404, description = "`unknown_topic`", body = ProblemBody),
        (status = 415, body = ProblemBody), (status = 422, body = ProblemBody), (status = 503, body = ProblemBody),
    )
)]
pub(crate) async fn replay_dead_letters(
    State(app): State<App>,
    on: On<CanSubscribe>,
    request: Request,
) -> Result<Json<Replayed>> {
    let replay: Replay = on.body(request).await?;
    let caller = on.topic(&app, &replay.topic).await?;
    let topic = app.catalog.find(&replay.topic).await?;
    bridge::may_read(caller, &topic.name)?;
    let filter = replay.filter.unwrap_or_default();
    if filter.message_ids.as_ref().is_some_and(|ids| ids.len() > MOST_IDS) {
        return Err(Problem::field("/filter/messageIds", "too_many", format!("at most {MOST_IDS} ids")));
    }
    let now = Utc::now();
    let plain = |text: Option<String>| text.map(|text| text.replace('\0', ""));
    let filter = DeadFilter {
        group: plain(filter.group),
        key: plain(filter.key),
        reason: plain(filter.reason),
        message_ids: filter.message_ids,
        dead_after: filter.dead_after,
        dead_before: Some(filter.dead_before.map_or(now, |before| before.min(now))),
    };
    let dry_run = replay.dry_run.unwrap_or(false);
    let matched = app.store.count_dead(topic.topic_id, &filter).await?;
    let replayed = if dry_run { 0 } else { replay_all(&app, topic.topic_id, &filter, caller.subject()).await? };
    Ok(Json(Replayed { matched, replayed, dry_run }))
}

async fn replay_all(app: &App, topic_id: Uuid, filter: &DeadFilter, principal: &str) -> Result<i64> {
    let mut replayed = 0;
    loop {
        let mut groups = app.store.replay_many(topic_id, filter, principal, BATCH).await?;
        let count = i64::try_from(groups.len()).unwrap_or(i64::MAX);
        replayed += count;
        groups.sort_unstable();
        groups.dedup();
        for group_id in groups {
            app.hubs.ready(group_id);
        }
        if count < BATCH {
            return Ok(replayed);
        }
    }
}

/// Show what became of a message
///
/// Of every group that was handed it, until a day after its acknowledgement there.
#[utoipa::path(
    get, path = "/messages/{id}/history", tag = "messaging-service", security(("bearer" = [])),
    params(("id" = String, Path, description = "messageId")),
    responses(
        (status = 200, body = History), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
        (status = 404, description = "`unknown_message`", body = ProblemBody), (status = 503, body = ProblemBody),
    )
)]
pub(crate) async fn show_history(
    State(app): State<App>,
    on: On<CanSubscribe>,
    Path(id): Path<String>,
) -> Result<Json<History>> {
    let unknown = || {
        let detail = "no group was ever handed a message of this id, or that is forgotten by now";
        Problem::new(axum::http::StatusCode::NOT_FOUND, "unknown_message", detail)
    };
    let message_id = Uuid::try_parse(&id).unwrap_or_default();
    let (copies, failures) = tokio::try_join!(app.store.copies(message_id), app.store.failed_attempts(message_id))?;
    on.found(&app, copies.first().map(|copy| copy.topic.as_str()), unknown).await?;
    let first = copies.first().ok_or_else(unknown)?;
    let (topic, published_at) = (first.topic.clone(), first.published_at);
    let groups = copies
        .into_iter()
        .map(|copy| GroupHistory {
            state: match copy.state.as_str() {
                "ready" => GroupState::Waiting,
                "leased" => GroupState::Held,
                "dead" => GroupState::Dead,
                _ => GroupState::Settled,
            },
            failures: failures
                .iter()
                .filter(|failure| failure.delivery_id == copy.delivery_id)
                .map(|failure| Failure {
                    attempt: failure.attempt,
                    outcome: failure.outcome.clone(),
                    reason: failure.reason.clone(),
                    principal: failure.principal.clone(),
                    at: failure.ended_at,
                })
                .collect(),
            group: copy.group_name,
            attempts: copy.attempt,
            at: copy.due_at,
            principal: copy.principal,
            reason: copy.reason,
        })
        .collect();
    Ok(Json(History { message_id, topic, published_at, groups }))
}
