//! `/users/import` and `/users/imports`: people from a file.

use std::{convert::Infallible, time::Duration};

use axum::{
    extract::{FromRequestParts, Request, State},
    http::{HeaderMap, StatusCode, header, request::Parts},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures::{Stream, stream};
use kronos_common::{
    extract::{Json, Path, Query},
    identity::Allowed,
    problem::{Problem, ProblemBody, Result},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::allowed::CanWriteUsers;
use crate::{
    App,
    changes::{self, Actor},
    imports::{Format, Import, LineProblem, Mode},
    store,
};

/// How often somebody who follows an import is told of it.
const TELL_EVERY: Duration = Duration::from_millis(300);

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ImportQuery {
    /// What is done if lines are refused: nobody is made, or the others are.
    #[serde(default)]
    #[param(inline)]
    mode: Mode,
}

/// An import, and what is wrong with its lines.
#[derive(Serialize, ToSchema)]
pub(super) struct ImportReport {
    #[serde(flatten)]
    import: Import,
    /// The first thousand.
    problems: Vec<LineProblem>,
}

/// The format that a `Content-Type` names. An extractor, so that it is judged before the body and after the token.
pub(super) struct SentFormat(Format);

impl<S: Send + Sync> FromRequestParts<S> for SentFormat {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        format(&parts.headers).map(Self).ok_or_else(|| {
            let detail = "send people as text/csv or application/x-ndjson";
            Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail)
        })
    }
}

fn format(headers: &HeaderMap) -> Option<Format> {
    let kind = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    match kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
        "text/csv" => Some(Format::Csv),
        "application/x-ndjson" | "application/jsonl" => Some(Format::Jsonl),
        _ => None,
    }
}

/// Makes people from a file of any size. It is read as it comes; when all of it is there, this answers, and the people are made
/// from then on. A line has `username`, `email` and `displayName`, perhaps `disabled`, `externalId` and `attributes` (in CSV
/// columns `attributes.NAME`); `id`, `createdAt` and `updatedAt` of an export are passed over. Nobody gets a password by it.
#[utoipa::path(
    post, path = "/users/import", tag = "user-service", security(("bearer" = [])), params(ImportQuery),
    request_body(content(
        (String = "text/csv", example = "username,email,displayName\r\ncamille,camille@example.com,Camille\r\n"),
        (String = "application/x-ndjson"),
    )),
    responses(
        (status = 202, description = "Received; `Location` is where to look", body = Import),
        (status = 400, description = "`incomplete_body`, `invalid_query`", body = ProblemBody),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `users:write`", body = ProblemBody),
        (status = 415, description = "`unsupported_media_type`", body = ProblemBody),
        (status = 422, description = "The header line of CSV has wrong columns", body = ProblemBody),
        (status = 503, description = "`no_sealing_key`, `store_unavailable`", body = ProblemBody),
    )
)]
pub(super) async fn import_users(
    State(app): State<App>,
    allowed: Allowed<CanWriteUsers>,
    Query(query): Query<ImportQuery>,
    SentFormat(format): SentFormat,
    request: Request,
) -> Result<Response> {
    let body = request.into_body().into_data_stream();
    let id = changes::imports::receive(&app, Actor(&allowed.caller), format, query.mode, body).await?;
    let import = store::imports::find(&app.pool, id).await?;
    let location = [(header::LOCATION, format!("/users/imports/{id}"))];
    Ok((StatusCode::ACCEPTED, location, Json(import)).into_response())
}

/// How far an import is, and what is wrong with its lines; for a week.
#[utoipa::path(
    get, path = "/users/imports/{id}", tag = "user-service", security(("bearer" = [])), params(("id" = Uuid, Path)),
    responses(
        (status = 200, description = "So far", body = ImportReport),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `users:write`", body = ProblemBody),
        (status = 404, description = "`not_found`", body = ProblemBody),
    )
)]
pub(super) async fn get_import(
    State(app): State<App>,
    _: Allowed<CanWriteUsers>,
    Path(id): Path<Uuid>,
) -> Result<Json<ImportReport>> {
    let import = store::imports::find(&app.pool, id).await?;
    let problems = store::imports::problems(&app.pool, id).await?;
    Ok(Json(ImportReport { import, problems }))
}

/// Follows an import: an event `progress` (server-sent events) whenever it has got on, and `end` when it is over.
#[utoipa::path(
    get, path = "/users/imports/{id}/events", tag = "user-service", security(("bearer" = [])), params(("id" = Uuid, Path)),
    responses(
        (status = 200, description = "Events, each with the import as JSON", body = String, content_type = "text/event-stream"),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `users:write`", body = ProblemBody),
        (status = 404, description = "`not_found`", body = ProblemBody),
    )
)]
pub(super) async fn follow_import(
    State(app): State<App>,
    _: Allowed<CanWriteUsers>,
    Path(id): Path<Uuid>,
) -> Result<Sse<impl Stream<Item = std::result::Result<Event, Infallible>>>> {
    let first = store::imports::find(&app.pool, id).await?;
    Ok(Sse::new(follow(app, first)).keep_alive(KeepAlive::default()))
}

/// The import as it is, and each time that it has changed. A database that is away is waited for.
fn follow(app: App, first: Import) -> impl Stream<Item = std::result::Result<Event, Infallible>> {
    let event = |import: &Import| {
        let kind = if import.is_over() { "end" } else { "progress" };
        let data = serde_json::to_string(import).expect("an import is JSON");
        Ok(Event::default().event(kind).data(data))
    };
    stream::unfold((app, first, true), move |(app, mut known, is_first)| async move {
        if is_first {
            return Some((event(&known), (app, known, false)));
        }
        if known.is_over() {
            return None;
        }
        loop {
            tokio::select! {
                () = tokio::time::sleep(TELL_EVERY) => {}
                () = app.shutdown.cancelled() => return None,
            }
            match store::imports::find(&app.pool, known.id).await {
                Ok(import) if import != known => {
                    known = import;
                    return Some((event(&known), (app, known, false)));
                }
                Err(problem) if problem.status() == StatusCode::NOT_FOUND => return None,
                Ok(_) | Err(_) => {}
            }
        }
    })
}
