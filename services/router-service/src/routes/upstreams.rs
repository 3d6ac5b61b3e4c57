//! `/upstreams`: the instances that routes lead to.

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use kronos_common::{
    etag::{ETag, IfMatch},
    extract::{Json, Path, Query},
    identity::Allowed,
    page::{Page, PageQuery},
    problem::{Problem, ProblemBody, Result},
};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{CanReadRoutes, CanWriteRoutes, actor, state::UpstreamState, take_over};
use crate::{App, store::Stored, upstream_spec::UpstreamSpec};

/// An upstream as it is stored.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Upstream {
    pub id: Uuid,
    #[serde(flatten)]
    pub spec: UpstreamSpec,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    /// As this gateway sees it now; absent where it does not know it yet.
    pub state: Option<UpstreamState>,
}

impl Upstream {
    fn of(app: &App, stored: Stored<UpstreamSpec>) -> Self {
        let Stored { id, spec, created_at, updated_at, .. } = stored;
        let table = app.live.table();
        let state = table.upstream(spec.name.as_str()).map(|upstream| UpstreamState::of(upstream, app.now_us()));
        Self { id, spec, created_at, updated_at, state }
    }
}

pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list_upstreams, create_upstream)).routes(routes!(
        show_upstream,
        replace_upstream,
        delete_upstream
    ))
}

/// Upstreams by name.
#[utoipa::path(
    get, path = "/upstreams", tag = "router-service", security(("bearer" = [])), params(PageQuery),
    responses(
        (status = 200, body = Page<Upstream>),
        (status = 400, body = ProblemBody, content_type = "application/problem+json"),
        (status = 401, body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, body = ProblemBody, content_type = "application/problem+json"),
    )
)]
async fn list_upstreams(
    State(app): State<App>,
    _: Allowed<CanReadRoutes>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<Upstream>>> {
    let after: String = query.cursor.map(|cursor| cursor.decode()).transpose()?.unwrap_or_default();
    let rows = app.store.list_upstreams(&after, query.limit.fetch()).await?;
    let page = Page::new(rows, query.limit, |row| row.spec.name.as_str().to_owned());
    Ok(Json(page.map(|stored| Upstream::of(&app, stored))))
}

/// Makes an upstream; it is known here when this is answered, and at the other gateways within a second.
#[utoipa::path(
    post, path = "/upstreams", tag = "router-service", security(("bearer" = [])), request_body = UpstreamSpec,
    responses(
        (status = 201, body = Upstream, headers(("ETag" = String), ("Location" = String))),
        (status = 400, body = ProblemBody, content_type = "application/problem+json"),
        (status = 401, body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, body = ProblemBody, content_type = "application/problem+json"),
        (status = 415, body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, body = ProblemBody, content_type = "application/problem+json"),
    )
)]
async fn create_upstream(
    State(app): State<App>,
    allowed: Allowed<CanWriteRoutes>,
    Json(spec): Json<UpstreamSpec>,
) -> Result<Response> {
    accept(&spec)?;
    let mut change = app.store.change(actor(&allowed)).await?;
    let stored = change.insert_upstream(None, &spec, None).await?;
    take_over(&app, change.commit(None).await?).await?;
    let location = [(header::LOCATION, format!("/upstreams/{}", stored.id))];
    let etag = ETag::of_version(stored.revision);
    Ok((StatusCode::CREATED, location, etag, Json(Upstream::of(&app, stored))).into_response())
}

/// One upstream.
#[utoipa::path(
    get, path = "/upstreams/{id}", tag = "router-service", security(("bearer" = [])), params(("id" = Uuid, Path)),
    responses(
        (status = 200, body = Upstream, headers(("ETag" = String))),
        (status = 400, body = ProblemBody, content_type = "application/problem+json"),
        (status = 401, body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, body = ProblemBody, content_type = "application/problem+json"),
    )
)]
async fn show_upstream(State(app): State<App>, _: Allowed<CanReadRoutes>, Path(id): Path<Uuid>) -> Result<Response> {
    let stored = app.store.upstream(id).await?;
    Ok((ETag::of_version(stored.revision), Json(Upstream::of(&app, stored))).into_response())
}

/// Replaces an upstream; with `If-Match` only the version that was seen.
#[utoipa::path(
    put, path = "/upstreams/{id}", tag = "router-service", security(("bearer" = [])), request_body = UpstreamSpec,
    params(("id" = Uuid, Path), ("If-Match" = Option<String>, Header)),
    responses(
        (status = 200, body = Upstream, headers(("ETag" = String))),
        (status = 400, body = ProblemBody, content_type = "application/problem+json"),
        (status = 401, body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, body = ProblemBody, content_type = "application/problem+json"),
        (status = 412, body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, body = ProblemBody, content_type = "application/problem+json"),
        (status = 415, body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, body = ProblemBody, content_type = "application/problem+json"),
    )
)]
async fn replace_upstream(
    State(app): State<App>,
    allowed: Allowed<CanWriteRoutes>,
    Path(id): Path<Uuid>,
    if_match: IfMatch,
    Json(spec): Json<UpstreamSpec>,
) -> Result<Response> {
    accept(&spec)?;
    let mut change = app.store.change(actor(&allowed)).await?;
    if_match.check(&ETag::of_version(change.upstream_revision(id).await?))?;
    let stored = change.update_upstream(id, &spec).await?;
    take_over(&app, change.commit(None).await?).await?;
    Ok((ETag::of_version(stored.revision), Json(Upstream::of(&app, stored))).into_response())
}

/// Deletes an upstream to which no route leads; with `If-Match` only the version that was seen.
#[utoipa::path(
    delete, path = "/upstreams/{id}", tag = "router-service", security(("bearer" = [])),
    params(("id" = Uuid, Path), ("If-Match" = Option<String>, Header)),
    responses(
        (status = 204),
        (status = 400, body = ProblemBody, content_type = "application/problem+json"),
        (status = 401, body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, body = ProblemBody, content_type = "application/problem+json"),
        (status = 412, body = ProblemBody, content_type = "application/problem+json"),
    )
)]
async fn delete_upstream(
    State(app): State<App>,
    allowed: Allowed<CanWriteRoutes>,
    Path(id): Path<Uuid>,
    if_match: IfMatch,
) -> Result<StatusCode> {
    let mut change = app.store.change(actor(&allowed)).await?;
    if_match.check(&ETag::of_version(change.upstream_revision(id).await?))?;
    change.delete_upstream(id).await?;
    take_over(&app, change.commit(None).await?).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn accept(spec: &UpstreamSpec) -> Result<()> {
    let errors = spec.check();
    if errors.is_empty() { Ok(()) } else { Err(Problem::invalid(errors)) }
}
