//! A user's own sessions; `sessions:write` reaches everybody's.

use axum::{extract::State, http::StatusCode};
use chrono::{DateTime, Utc};
use kronos_common::{
    extract::{Json, Path, Query},
    identity::Caller,
    page::{Page, PageQuery},
    problem::{Problem, ProblemBody, Result},
};
use serde::Serialize;
use utoipa::ToSchema;
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
        created_at: session.created_at,
        last_used_at: session.last_used_at,
        expires_at: session.expires_at.min(session.idle_expires_at),
        current: session.id == current,
    })))
}

/// Ends all of the caller's sessions, this one too.
#[utoipa::path(
    delete, path = "/auth/sessions", tag = "auth-service", security(("bearer" = [])),
    responses(
        (status = 204, description = "All ended"),
        (status = 400, description = "`no_session`", body = ProblemBody),
        (status = 401, description = "No good token", body = ProblemBody),
    )
)]
pub(super) async fn end_sessions(State(app): State<App>, caller: Caller) -> Result<StatusCode> {
    own_session(&caller)?;
    let user_id = own_user(&caller)?;
    let mut transaction = app.pool.begin().await?;
    let ended = sessions::end_all(&mut transaction, user_id, "ended-by-user").await?;
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

fn own_user(caller: &Caller) -> Result<Uuid> {
    let user = Uuid::parse_str(caller.subject());
    user.map_err(|_| Problem::bad_request("no_session", "this token belongs to no session of a user"))
}
