//! `/schedules`: messages that are published at a time, once or again and again.

use axum::{
    extract::{Request, State},
    http::StatusCode,
};
use chrono::{DateTime, SubsecRound as _, Utc};
use kronos_common::{
    extract::{Json, Path, Query},
    identity::{Caller, Permission as _},
    page::{Cursor, Limit, Page},
    problem::{FieldError, OnConstraint as _, Problem, ProblemBody, Result},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::{
    CanManageTopics, CanPublish,
    on_topic::On,
    publish::{Draft, prepare},
};
use crate::{
    App, catalog,
    message::{Headers, raw},
    schedule::{Rhythm, zone},
    store,
    topic::Between,
};

/// A message to be published at a time.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct NewSchedule {
    topic: String,
    /// Any JSON.
    #[schema(value_type = serde_json::Value)]
    payload: Box<RawValue>,
    /// Once, at this time. This or `cron`.
    at: Option<DateTime<Utc>>,
    /// Again and again: minute, hour, day of the month, month, day of the week; seconds before them, if wished; or `@daily`
    /// and its like.
    #[schema(max_length = 256)]
    cron: Option<String>,
    /// In which `cron` is meant, such as `Europe/Paris`; `UTC` by default.
    time_zone: Option<String>,
    #[schema(max_length = 512)]
    key: Option<String>,
    #[schema(value_type = Option<i64>, minimum = 0, maximum = 255)]
    priority: Option<Between<0, 255>>,
    /// Drop each message if no subscriber of a group took it within so many milliseconds.
    #[schema(value_type = Option<i64>, minimum = 1, maximum = 7_776_000_000_i64)]
    ttl_ms: Option<Between<1, 7_776_000_000>>,
    headers: Option<Headers>,
}

/// A schedule.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Schedule {
    schedule_id: Uuid,
    topic: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    cron: Option<String>,
    time_zone: String,
    /// When it fires next.
    next_at: DateTime<Utc>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_fired_at: Option<DateTime<Utc>>,
    /// How often it has fired.
    fired: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    priority: i16,
    #[schema(value_type = serde_json::Value)]
    payload: Box<RawValue>,
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    headers: Box<RawValue>,
    /// Who made it.
    principal: String,
    created_at: DateTime<Utc>,
}

impl From<store::Schedule> for Schedule {
    fn from(row: store::Schedule) -> Self {
        Self {
            schedule_id: row.schedule_id,
            topic: row.topic,
            cron: row.cron,
            time_zone: row.time_zone,
            next_at: row.next_at,
            last_fired_at: row.last_fired_at,
            fired: row.fired,
            key: row.key,
            priority: row.priority,
            payload: raw(&row.payload).to_owned(),
            headers: raw(row.headers.as_bytes()).to_owned(),
            principal: row.principal,
            created_at: row.created_at,
        }
    }
}

/// Which schedules to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListSchedules {
    /// Only of this topic.
    topic: Option<String>,
    /// How many.
    #[serde(default)]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 200)]
    limit: Limit,
    /// The `nextCursor` of the page before.
    #[param(value_type = Option<String>)]
    cursor: Option<Cursor>,
}

/// Schedule a message
///
/// It is published once `at` a time, or at each time that `cron` names in its time zone; by whichever instance, once each time.
/// What was due while no instance ran is published once when one does. Its messages have the header `schedule-id`.
#[utoipa::path(
    post, path = "/schedules", tag = "messaging-service", security(("bearer" = [])), request_body = NewSchedule,
    params(("Idempotency-Key" = Option<String>, Header, description = "a repetition gets the first answer again")),
    responses(
        (status = 201, body = Schedule), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody),
        (status = 403, body = ProblemBody), (status = 404, description = "`unknown_topic`", body = ProblemBody),
        (status = 413, body = ProblemBody), (status = 415, body = ProblemBody), (status = 422, body = ProblemBody),
        (status = 503, body = ProblemBody),
    )
)]
pub(crate) async fn create_schedule(
    State(app): State<App>,
    on: On<CanPublish>,
    request: Request,
) -> Result<(StatusCode, Json<Schedule>)> {
    let new: NewSchedule = on.body(request).await?;
    let principal = on.topic(&app, &new.topic).await?.subject().to_owned();
    let now = Utc::now().trunc_subsecs(6);
    let time_zone = new.time_zone.unwrap_or_else(|| "UTC".to_owned());
    let next_at = first(new.at, new.cron.as_deref(), &time_zone, now)?;
    let schedule_id = Uuid::now_v7();
    let mut headers = new.headers.unwrap_or_default();
    headers.insert("schedule-id".to_owned(), schedule_id.to_string());
    let draft = Draft {
        topic: new.topic,
        size: new.payload.get().len(),
        payload: new.payload,
        key: new.key,
        priority: new.priority.map_or(0, Between::get),
        delay_ms: None,
        ttl_ms: new.ttl_ms.map(Between::get),
        headers,
        identity: None,
    };
    let outgoing = prepare(&app, draft).await?;
    let message = outgoing.message;
    let row = store::Schedule {
        schedule_id,
        topic_id: outgoing.topic.topic_id,
        topic: outgoing.topic.name.clone(),
        principal,
        cron: new.cron,
        time_zone,
        next_at,
        key: message.key,
        payload: message.payload.to_vec(),
        headers: message.headers,
        priority: message.priority,
        kept_ms: message.expires_at.map(|expires_at| (expires_at - message.published_at).num_milliseconds()),
        created_at: now,
        last_fired_at: None,
        fired: 0,
        sealed: message.sealed,
    };
    app.store.insert_schedule(&row).await.on_constraint("schedules_topic_id_fkey", catalog::unknown())?;
    Ok((StatusCode::CREATED, Json(shown(&app, row))))
}

/// List schedules, the oldest first
///
/// The caller's own; with `topics:manage` all.
#[utoipa::path(
    get, path = "/schedules", tag = "messaging-service", security(("bearer" = [])), params(ListSchedules),
    responses(
        (status = 200, body = Page<Schedule>), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody),
        (status = 403, body = ProblemBody), (status = 503, body = ProblemBody),
    )
)]
pub(crate) async fn list_schedules(
    State(app): State<App>,
    on: On<CanPublish>,
    Query(list): Query<ListSchedules>,
) -> Result<Json<Page<Schedule>>> {
    let caller = match &list.topic {
        Some(topic) => on.topic(&app, topic).await?,
        None => on.all()?,
    };
    let after: Option<Uuid> = list.cursor.map(|cursor| cursor.decode()).transpose()?;
    let topic = list.topic.as_deref().filter(|topic| !topic.contains('\0'));
    let rows = app.store.schedules(owner(caller), topic, after, list.limit.fetch()).await?;
    Ok(Json(Page::new(rows, list.limit, |row| row.schedule_id).map(|row| shown(&app, row))))
}

/// Show a schedule
#[utoipa::path(
    get, path = "/schedules/{id}", tag = "messaging-service", security(("bearer" = [])), params(("id" = String, Path)),
    responses(
        (status = 200, body = Schedule), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
        (status = 404, description = "`unknown_schedule`", body = ProblemBody), (status = 503, body = ProblemBody),
    )
)]
pub(crate) async fn show_schedule(
    State(app): State<App>,
    on: On<CanPublish>,
    Path(id): Path<String>,
) -> Result<Json<Schedule>> {
    find(&app, &on, &id).await.map(|row| Json(shown(&app, row)))
}

/// Delete a schedule
#[utoipa::path(
    delete, path = "/schedules/{id}", tag = "messaging-service", security(("bearer" = [])), params(("id" = String, Path)),
    responses(
        (status = 204), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
        (status = 404, description = "`unknown_schedule`", body = ProblemBody), (status = 503, body = ProblemBody),
    )
)]
pub(crate) async fn delete_schedule(
    State(app): State<App>,
    on: On<CanPublish>,
    Path(id): Path<String>,
) -> Result<StatusCode> {
    let row = find(&app, &on, &id).await?;
    let deleted = app.store.delete_schedule(row.schedule_id, None).await?;
    if deleted { Ok(StatusCode::NO_CONTENT) } else { Err(unknown()) }
}

/// A schedule that the caller may see.
async fn find(app: &App, on: &On<CanPublish>, id: &str) -> Result<store::Schedule> {
    let row = app.store.schedule(Uuid::try_parse(id).unwrap_or_default(), None).await?;
    let caller = on.found(app, row.as_ref().map(|row| row.topic.as_str()), unknown).await?;
    let is_shown = |row: &store::Schedule| owner(caller).is_none_or(|owner| owner == row.principal);
    row.filter(is_shown).ok_or_else(unknown)
}

fn shown(app: &App, mut row: store::Schedule) -> Schedule {
    row.payload = app.vault.open(row.sealed, &row.payload).into_owned();
    row.into()
}

/// When it fires first.
fn first(at: Option<DateTime<Utc>>, cron: Option<&str>, time_zone: &str, now: DateTime<Utc>) -> Result<DateTime<Utc>> {
    let mut errors = Vec::new();
    let zone = zone(time_zone);
    if zone.is_none() {
        let detail = "a name of the IANA time zone database, such as Europe/Paris";
        errors.push(FieldError::new("/timeZone", "unknown_time_zone", detail));
    }
    let next = match (at, cron) {
        (Some(at), None) if at > now => Some(at.trunc_subsecs(6)),
        (Some(_), None) => {
            errors.push(FieldError::new("/at", "in_the_past", "a time to come: publish it at once instead"));
            None
        }
        (None, Some(pattern)) => match Rhythm::new(pattern, zone.unwrap_or(chrono_tz::UTC)) {
            Ok(rhythm) => rhythm.next_after(now).or_else(|| {
                errors.push(FieldError::new("/cron", "never", "there is no such time"));
                None
            }),
            Err(fault) => {
                errors.push(FieldError::new("/cron", "wrong_form", fault));
                None
            }
        },
        _ => {
            errors.push(FieldError::new("/at", "missing", "a schedule has either `at` or `cron`"));
            None
        }
    };
    next.filter(|_| errors.is_empty()).ok_or_else(|| Problem::invalid(errors))
}

/// Whose schedules the caller may see: `None` means everybody's.
fn owner(caller: &Caller) -> Option<&str> {
    (!caller.may(CanManageTopics::NAME)).then(|| caller.subject())
}

fn unknown() -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        "unknown_schedule",
        "there is no such schedule, or it has fired for the last time",
    )
}
