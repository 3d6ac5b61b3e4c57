//! `/db/backup` and `/db/backups`.

use std::{convert::Infallible, time::Duration};

use axum::{
    extract::State,
    http::{HeaderName, StatusCode, header},
    response::sse::{Event, KeepAlive, Sse},
};
use chrono::{DateTime, Utc};
use futures::{Stream, stream};
use kronos_common::{
    extract::{Json, Path, Query},
    idempotency,
    identity::Allowed,
    page::{Page, PageQuery},
    problem::{OnConstraint as _, Problem, ProblemBody, Result},
};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::CanBackUp;
use crate::{
    App, jobs,
    store::backups::{self, Row},
};

/// How often a follower looks for news.
const LOOK: Duration = Duration::from_millis(250);

pub(super) fn router(app: &App) -> OpenApiRouter<App> {
    let verifier = axum::extract::FromRef::from_ref(app);
    OpenApiRouter::new()
        .routes(routes!(start_backup))
        .layer(idempotency::layer(app.pool.clone(), verifier))
        .routes(routes!(list_backups))
        .routes(routes!(get_backup))
        .routes(routes!(follow_backup))
}

/// A backup that was begun.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct BackupStarted {
    id: Uuid,
}

/// How far a backup is.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    tables_done: i32,
    tables_total: i32,
    /// 0 to 1, by tables.
    fraction: f64,
}

/// A backup.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Backup {
    id: Uuid,
    /// `running`, `completed` or `failed`.
    state: String,
    progress: Progress,
    started_at: DateTime<Utc>,
    finished_at: Option<DateTime<Utc>>,
    duration_ms: i64,
    /// Of the file on disk.
    bytes: i64,
    /// Of the file on disk.
    sha256: Option<String>,
    /// Its name in the configured directory.
    file: Option<String>,
    /// Encrypted on disk.
    sealed: bool,
    /// Why it failed.
    failure: Option<String>,
    /// Who asked for it.
    requested_by: String,
}

impl Backup {
    fn new(row: Row, now: DateTime<Utc>) -> Self {
        let fraction = match (row.state.as_str(), row.tables_total) {
            ("completed", _) => 1.0,
            (_, 0) => 0.0,
            (_, total) => f64::from(row.tables_done) / f64::from(total),
        };
        Self {
            id: row.id,
            progress: Progress { tables_done: row.tables_done, tables_total: row.tables_total, fraction },
            started_at: row.started_at,
            finished_at: row.finished_at,
            duration_ms: (row.finished_at.unwrap_or(now) - row.started_at).num_milliseconds().max(0),
            bytes: row.bytes,
            sha256: row.sha256,
            file: row.file,
            sealed: row.sealed,
            failure: row.failure,
            requested_by: row.subject,
            state: row.state,
        }
    }
}

/// Begin a backup of all schemas.
///
/// One at a time, whichever instance runs it. Follow it at `/db/backups/{id}`.
#[utoipa::path(
    post,
    path = "/db/backup",
    tag = "database-admin",
    responses(
        (status = 202, body = BackupStarted),
        (status = 401, description = "No valid token", body = ProblemBody),
        (status = 403, description = "Needs `db:backup`", body = ProblemBody),
        (status = 409, description = "One is running: `backup_running`", body = ProblemBody),
        (status = 503, description = "The database is away", body = ProblemBody),
    ),
    security(("bearer" = []))
)]
pub(super) async fn start_backup(
    State(app): State<App>,
    allowed: Allowed<CanBackUp>,
) -> Result<(StatusCode, [(HeaderName, String); 1], Json<BackupStarted>)> {
    jobs::fail_dead(&app).await?;
    let id = Uuid::now_v7();
    let caller = &allowed.caller;
    backups::begin(&app.pool, id, caller.subject(), caller.client_id(), app.keyring.is_some()).await.on_constraint(
        "backups_one_running",
        Problem::conflict("backup_running", "a backup is running: wait for it, GET /db/backups shows how far it is"),
    )?;
    app.context.spawn("backup", jobs::back_up(app.clone(), id));
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, format!("/db/backups/{id}"))], Json(BackupStarted { id })))
}

/// List the backups, the newest first.
#[utoipa::path(
    get,
    path = "/db/backups",
    tag = "database-admin",
    params(PageQuery),
    responses(
        (status = 200, body = Page<Backup>),
        (status = 400, description = "A bad limit or cursor", body = ProblemBody),
        (status = 401, description = "No valid token", body = ProblemBody),
        (status = 403, description = "Needs `db:backup`", body = ProblemBody),
        (status = 503, description = "The database is away", body = ProblemBody),
    ),
    security(("bearer" = []))
)]
pub(super) async fn list_backups(
    State(app): State<App>,
    _: Allowed<CanBackUp>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<Backup>>> {
    let after = backups::position(query.cursor.as_ref())?;
    let page = backups::list(&app.pool, query.limit, after).await?;
    let now = Utc::now();
    Ok(Json(page.map(|row| Backup::new(row, now))))
}

/// Show a backup: its state and how far it is.
#[utoipa::path(
    get,
    path = "/db/backups/{id}",
    tag = "database-admin",
    params(("id" = Uuid, Path)),
    responses(
        (status = 200, body = Backup),
        (status = 400, description = "Not an id", body = ProblemBody),
        (status = 401, description = "No valid token", body = ProblemBody),
        (status = 403, description = "Needs `db:backup`", body = ProblemBody),
        (status = 404, description = "No such backup", body = ProblemBody),
        (status = 503, description = "The database is away", body = ProblemBody),
    ),
    security(("bearer" = []))
)]
pub(super) async fn get_backup(
    State(app): State<App>,
    _: Allowed<CanBackUp>,
    Path(id): Path<Uuid>,
) -> Result<Json<Backup>> {
    let row = backups::get(&app.pool, id).await?.ok_or_else(|| Problem::not_found("backup"))?;
    Ok(Json(Backup::new(row, Utc::now())))
}

/// Follow a backup: server-sent events `progress` with the backup as data; the last one shows how it ended.
#[utoipa::path(
    get,
    path = "/db/backups/{id}/events",
    tag = "database-admin",
    params(("id" = Uuid, Path)),
    responses(
        (status = 200, description = "A stream of `Backup`", body = Backup, content_type = "text/event-stream"),
        (status = 400, description = "Not an id", body = ProblemBody),
        (status = 401, description = "No valid token", body = ProblemBody),
        (status = 403, description = "Needs `db:backup`", body = ProblemBody),
        (status = 404, description = "No such backup", body = ProblemBody),
        (status = 503, description = "The database is away", body = ProblemBody),
    ),
    security(("bearer" = []))
)]
pub(super) async fn follow_backup(
    State(app): State<App>,
    _: Allowed<CanBackUp>,
    Path(id): Path<Uuid>,
) -> Result<Sse<impl Stream<Item = std::result::Result<Event, Infallible>>>> {
    let first = backups::get(&app.pool, id).await?.ok_or_else(|| Problem::not_found("backup"))?;
    Ok(Sse::new(follow(app, first)).keep_alive(KeepAlive::default()))
}

/// The first state, then every change, until it has ended or the service does.
fn follow(app: App, first: Row) -> impl Stream<Item = std::result::Result<Event, Infallible>> {
    /// What was shown last; None: nothing yet.
    struct Follower {
        app: App,
        shown: Option<Row>,
        next: Row,
    }
    let follower = Follower { app, shown: None, next: first };
    stream::unfold(follower, |mut follower| async move {
        while follower.shown.as_ref() == Some(&follower.next) {
            if follower.next.state != "running" {
                return None;
            }
            tokio::select! {
                () = follower.app.context.shutdown.cancelled() => return None,
                () = tokio::time::sleep(LOOK) => {}
            }
            // A short absence of the database is waited out; the follower's keep-alive goes on.
            if let Ok(Some(row)) = backups::get(&follower.app.pool, follower.next.id).await {
                follower.next = row;
            }
        }
        let event = Event::default().event("progress").json_data(Backup::new(follower.next.clone(), Utc::now()));
        follower.shown = Some(follower.next.clone());
        Some((Ok(event.unwrap_or_default()), follower))
    })
}
