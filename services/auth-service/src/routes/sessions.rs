//! A user's own sessions; `sessions:write` reaches everybody's.

use axum::{extract::State, http::StatusCode};
use chrono::{DateTime, TimeDelta, Utc};
use kronos_common::{
    extract::{Json, Path, Query},
    identity::Caller,
    page::{Page, PageQuery},
    problem::{Problem, ProblemBody, Result},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::login::own_session;
use crate::{App, flows::sessions, store};

/// Reaches the sessions of others.
const SESSIONS_WRITE: &str = "sessions:write";

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct SessionView {
    id: Uuid,
    client_id: String,
    /// What the login's browser or program called itself.
    device: Option<String>,
    /// What its owner calls the device.
    name: Option<String>,
    /// The network of the login: IPv4 /24, IPv6 /56.
    network: Option<String>,
    /// How the person was authenticated (RFC 8176).
    amr: Vec<String>,
    created_at: DateTime<Utc>,
    last_used_at: DateTime<Utc>,
    expires_at: DateTime<Utc>,
    /// Whether it is the one that asks.
    current: bool,
}

/// Lists the caller's living sessions, newest first.
#[utoipa::path(
    get, path = "/auth/sessions", tag = "auth-service", security(("bearer" = [])), params(PageQuery),
    responses(
        (status = 200, description = "A page", body = Page<SessionView>),
        (status = 400, description = "`no_session`, `invalid_query`, `invalid_cursor`", body = ProblemBody),
        (status = 401, description = "No good token", body = ProblemBody),
    )
)]
pub(super) async fn list_sessions(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<SessionView>>> {
    let current = own_session(&caller)?;
    let after = query.cursor.map(|cursor| cursor.decode()).transpose()?;
    let rows = store::sessions::list(&app.pool, own_user(&caller)?, Utc::now(), after, query.limit.fetch()).await?;
    let page = Page::new(rows, query.limit, |session| (session.created_at, session.id));
    Ok(Json(page.map(|session| SessionView {
        id: session.id,
        client_id: session.client_id,
        device: session.device,
        name: session.name,
        network: session.network,
        amr: session.amr,
        created_at: session.created_at,
        last_used_at: session.last_used_at,
        expires_at: session.expires_at.min(session.idle_expires_at),
        current: session.id == current,
    })))
}

#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct EndQuery {
    /// Keeps the session that asks.
    #[serde(default)]
    #[param(value_type = Option<bool>)]
    keep_current: bool,
}

#[derive(Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, min_length = 1, max_length = 60)]
pub(super) struct DeviceName(pub(super) String);

impl TryFrom<String> for DeviceName {
    type Error = &'static str;

    fn try_from(text: String) -> std::result::Result<Self, Self::Error> {
        let good = (1..=60).contains(&text.chars().count()) && !text.contains(char::is_control);
        if good && !text.trim().is_empty() { Ok(Self(text)) } else { Err("1 to 60 characters, not all blank") }
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NameSession {
    name: DeviceName,
}

/// Gives the device of one of the caller's sessions a name.
#[utoipa::path(
    patch, path = "/auth/sessions/{id}", tag = "auth-service", security(("bearer" = [])),
    params(("id" = Uuid, Path, description = "The session")), request_body = NameSession,
    responses(
        (status = 204, description = "Named"),
        (status = 400, description = "`invalid_path`, `no_session`", body = ProblemBody),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 404, description = "No living session of the caller's has this id", body = ProblemBody),
        (status = 422, description = "Bad fields", body = ProblemBody),
    )
)]
pub(super) async fn name_session(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<Uuid>,
    Json(body): Json<NameSession>,
) -> Result<StatusCode> {
    if store::sessions::rename(&app.pool, own_user(&caller)?, id, &body.name.0).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Problem::not_found("session"))
    }
}

/// Ends all of the caller's sessions, this one too unless `keepCurrent` is set.
#[utoipa::path(
    delete, path = "/auth/sessions", tag = "auth-service", security(("bearer" = [])), params(EndQuery),
    responses(
        (status = 204, description = "All ended"),
        (status = 400, description = "`no_session`, `invalid_query`", body = ProblemBody),
        (status = 401, description = "No good token", body = ProblemBody),
    )
)]
pub(super) async fn end_sessions(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<EndQuery>,
) -> Result<StatusCode> {
    let current = own_session(&caller)?;
    let user_id = own_user(&caller)?;
    let mut transaction = app.pool.begin().await?;
    let ended = if query.keep_current {
        sessions::end_others(&mut transaction, user_id, current, "ended-by-user").await?
    } else {
        sessions::end_all(&mut transaction, user_id, "ended-by-user").await?
    };
    transaction.commit().await?;
    sessions::after_commit(&app, &ended).await;
    Ok(StatusCode::NO_CONTENT)
}

/// Ends one session: the caller's own, or anybody's with `sessions:write`.
#[utoipa::path(
    delete, path = "/auth/sessions/{id}", tag = "auth-service", security(("bearer" = [])),
    params(("id" = Uuid, Path, description = "The session")),
    responses(
        (status = 204, description = "Ended"),
        (status = 400, description = "`invalid_path`", body = ProblemBody),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 404, description = "No living session of the caller's has this id", body = ProblemBody),
    )
)]
pub(super) async fn end_session(State(app): State<App>, caller: Caller, Path(id): Path<Uuid>) -> Result<StatusCode> {
    let session = store::sessions::find(&app.pool, id).await?;
    let reachable = session.filter(|session| {
        session.ended_at.is_none() && (session.user_id.to_string() == caller.subject() || caller.may(SESSIONS_WRITE))
    });
    let session = reachable.ok_or_else(|| Problem::not_found("session"))?;
    sessions::end(&app, session.id, "ended-by-user", None).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The caller's user id, if their session's login is not long ago: a stolen token must not change how its owner logs in.
pub(super) async fn fresh_user(app: &App, caller: &Caller) -> Result<Uuid> {
    let (session, user_id) = (own_session(caller)?, own_user(caller)?);
    let fresh = TimeDelta::seconds(i64::from(app.accounts.fresh_login_seconds));
    let session = store::sessions::find(&app.pool, session).await?;
    if session.is_some_and(|session| session.user_id == user_id && Utc::now() - session.created_at <= fresh) {
        Ok(user_id)
    } else {
        Err(Problem::new(StatusCode::FORBIDDEN, "fresh_login_required", "log in again, then repeat this"))
    }
}

/// The caller, if it is a user.
pub(super) fn own_user(caller: &Caller) -> Result<Uuid> {
    let user = Uuid::parse_str(caller.subject());
    user.map_err(|_| Problem::bad_request("no_session", "this token belongs to no session of a user"))
}
