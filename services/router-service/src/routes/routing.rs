//! `/routes`: which requests go where, and on which conditions.

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

use super::{CanReadRoutes, CanWriteRoutes, actor, take_over};
use crate::{App, route::RouteSpec, store::Stored};

/// A route as it is stored.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    pub id: Uuid,
    #[serde(flatten)]
    pub spec: RouteSpec,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

impl From<Stored<RouteSpec>> for Route {
    fn from(stored: Stored<RouteSpec>) -> Self {
        let Stored { id, spec, created_at, updated_at, .. } = stored;
        Self { id, spec, created_at, updated_at }
    }
}

pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list_routes, create_route)).routes(routes!(
        show_route,
        replace_route,
        delete_route
    ))
}

/// Routes by name.
#[utoipa::path(
    get, path = "/routes", tag = "router-service", security(("bearer" = [])), params(PageQuery),
    responses(
        (status = 200, body = Page<Route>),
        (status = 400, body = ProblemBody, content_type = "application/problem+json"),
        (status = 401, body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, body = ProblemBody, content_type = "application/problem+json"),
    )
)]
async fn list_routes(
    State(app): State<App>,
    _: Allowed<CanReadRoutes>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<Route>>> {
    let after: String = query.cursor.map(|cursor| cursor.decode()).transpose()?.unwrap_or_default();
    let rows = app.store.list_routes(&after, query.limit.fetch()).await?;
    let page = Page::new(rows, query.limit, |row| row.spec.name.as_str().to_owned());
    Ok(Json(page.map(Route::from)))
}

/// Makes a route; it is live here when this is answered, and at the other gateways within a second.
#[utoipa::path(
    post, path = "/routes", tag = "router-service", security(("bearer" = [])), request_body = RouteSpec,
    responses(
        (status = 201, body = Route, headers(("ETag" = String), ("Location" = String))),
        (status = 400, body = ProblemBody, content_type = "application/problem+json"),
        (status = 401, body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, body = ProblemBody, content_type = "application/problem+json"),
        (status = 415, body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, body = ProblemBody, content_type = "application/problem+json"),
    )
)]
async fn create_route(
    State(app): State<App>,
    allowed: Allowed<CanWriteRoutes>,
    Json(spec): Json<RouteSpec>,
) -> Result<Response> {
    accept(&spec)?;
    let mut change = app.store.change(actor(&allowed)).await?;
    let stored = change.insert_route(None, &spec).await?;
    take_over(&app, change.commit(Some(stored.id)).await?).await?;
    let location = [(header::LOCATION, format!("/routes/{}", stored.id))];
    let etag = ETag::of_version(stored.revision);
    Ok((StatusCode::CREATED, location, etag, Json(Route::from(stored))).into_response())
}

/// One route.
#[utoipa::path(
    get, path = "/routes/{id}", tag = "router-service", security(("bearer" = [])), params(("id" = Uuid, Path)),
    responses(
        (status = 200, body = Route, headers(("ETag" = String))),
        (status = 400, body = ProblemBody, content_type = "application/problem+json"),
        (status = 401, body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, body = ProblemBody, content_type = "application/problem+json"),
    )
)]
async fn show_route(State(app): State<App>, _: Allowed<CanReadRoutes>, Path(id): Path<Uuid>) -> Result<Response> {
    let stored = app.store.route(id).await?;
    Ok((ETag::of_version(stored.revision), Json(Route::from(stored))).into_response())
}

/// Replaces a route; with `If-Match` only the version that was seen.
#[utoipa::path(
    put, path = "/routes/{id}", tag = "router-service", security(("bearer" = [])), request_body = RouteSpec,
    params(("id" = Uuid, Path), ("If-Match" = Option<String>, Header)),
    responses(
        (status = 200, body = Route, headers(("ETag" = String))),
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
async fn replace_route(
    State(app): State<App>,
    allowed: Allowed<CanWriteRoutes>,
    Path(id): Path<Uuid>,
    if_match: IfMatch,
    Json(spec): Json<RouteSpec>,
) -> Result<Response> {
    accept(&spec)?;
    let mut change = app.store.change(actor(&allowed)).await?;
    if_match.check(&ETag::of_version(change.route_revision(id).await?))?;
    let stored = change.update_route(id, &spec).await?;
    take_over(&app, change.commit(Some(id)).await?).await?;
    Ok((ETag::of_version(stored.revision), Json(Route::from(stored))).into_response())
}

/// Deletes a route; with `If-Match` only the version that was seen.
#[utoipa::path(
    delete, path = "/routes/{id}", tag = "router-service", security(("bearer" = [])),
    params(("id" = Uuid, Path), ("If-Match" = Option<String>, Header)),
    responses(
        (status = 204),
        (status = 400, body = ProblemBody, content_type = "application/problem+json"),
        (status = 401, body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, body = ProblemBody, content_type = "application/problem+json"),
        (status = 412, body = ProblemBody, content_type = "application/problem+json"),
    )
)]
async fn delete_route(
    State(app): State<App>,
    allowed: Allowed<CanWriteRoutes>,
    Path(id): Path<Uuid>,
    if_match: IfMatch,
) -> Result<StatusCode> {
    let mut change = app.store.change(actor(&allowed)).await?;
    if_match.check(&ETag::of_version(change.route_revision(id).await?))?;
    change.delete_route(id).await?;
    take_over(&app, change.commit(None).await?).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn accept(spec: &RouteSpec) -> Result<()> {
    let errors = spec.check();
    if errors.is_empty() { Ok(()) } else { Err(Problem::invalid(errors)) }
}
