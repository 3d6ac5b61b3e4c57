//! `/routes`: which requests go where, and on which conditions.

use axum::{extract::State, http::StatusCode, response::Response};
use chrono::{DateTime, Utc};
use kronos_common::{
    etag::IfMatch,
    extract::{Json, Path, Query},
    identity::Allowed,
    page::{Cursor, Limit, Page},
    problem::{ProblemBody, Result},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    CanReadRoutes, CanWriteRoutes,
    records::{self, Shown, Written},
    refusals::{ToDeleters, ToMakers, ToReaders, ToReplacers},
};
use crate::{
    App,
    route::{Name, RouteSpec},
    store::Stored,
};

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

impl Shown for Route {
    type Spec = RouteSpec;
    const PATH: &'static str = "/routes";

    fn of(_: &App, stored: Stored<RouteSpec>) -> Self {
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

/// Which routes are listed.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Listed {
    /// How many items.
    #[serde(default)]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 200)]
    pub limit: Limit,
    /// The `nextCursor` of the page before.
    #[param(value_type = Option<String>)]
    pub cursor: Option<Cursor>,
    /// Only those that lead to this upstream: all requests, those of a canary, or a mirror's copies.
    #[param(value_type = Option<String>)]
    pub upstream: Option<Name>,
}

/// Routes by name.
#[utoipa::path(
    get, path = "/routes", tag = "router-service", security(("bearer" = [])), params(Listed),
    responses((status = 200, body = Page<Route>), ToReaders)
)]
async fn list_routes(
    State(app): State<App>,
    _: Allowed<CanReadRoutes>,
    Query(query): Query<Listed>,
) -> Result<Json<Page<Route>>> {
    let after: String = query.cursor.map(|cursor| cursor.decode()).transpose()?.unwrap_or_default();
    let rows = match &query.upstream {
        Some(upstream) => app.store.routes_to(upstream.as_str(), &after, query.limit.fetch()).await?,
        None => app.store.list(&after, query.limit.fetch()).await?,
    };
    Ok(records::page(&app, rows, query.limit))
}

/// Makes a route; it is live here when this is answered, and at the other gateways as soon as they hear of it.
#[utoipa::path(
    post, path = "/routes", tag = "router-service", security(("bearer" = [])), request_body = RouteSpec,
    responses((status = 201, body = Route, headers(("ETag" = String), ("Location" = String))), ToMakers)
)]
async fn create_route(
    State(app): State<App>,
    allowed: Allowed<CanWriteRoutes>,
    Json(spec): Json<RouteSpec>,
) -> Result<Response> {
    records::create::<Route>(&app, &allowed, &spec).await
}

/// One route.
#[utoipa::path(
    get, path = "/routes/{id}", tag = "router-service", security(("bearer" = [])), params(("id" = Uuid, Path)),
    responses(
        (status = 200, body = Route, headers(("ETag" = String))),
        ToReaders,
        (status = 404, body = ProblemBody, content_type = "application/problem+json"),
    )
)]
async fn show_route(State(app): State<App>, _: Allowed<CanReadRoutes>, Path(id): Path<Uuid>) -> Result<Response> {
    records::show::<Route>(&app, id).await
}

/// Replaces a route; with `If-Match` only the version that was seen.
/// What was read can be sent back as it is: what the gateway had added (`id`, `createdAt`, `updatedAt`) means nothing.
#[utoipa::path(
    put, path = "/routes/{id}", tag = "router-service", security(("bearer" = [])), request_body = RouteSpec,
    params(("id" = Uuid, Path), ("If-Match" = Option<String>, Header)),
    responses((status = 200, body = Route, headers(("ETag" = String))), ToReplacers)
)]
async fn replace_route(
    State(app): State<App>,
    allowed: Allowed<CanWriteRoutes>,
    Path(id): Path<Uuid>,
    if_match: IfMatch,
    Written(spec): Written<RouteSpec>,
) -> Result<Response> {
    records::replace::<Route>(&app, &allowed, id, &if_match, &spec).await
}

/// Deletes a route; with `If-Match` only the version that was seen.
#[utoipa::path(
    delete, path = "/routes/{id}", tag = "router-service", security(("bearer" = [])),
    params(("id" = Uuid, Path), ("If-Match" = Option<String>, Header)),
    responses((status = 204), ToDeleters)
)]
async fn delete_route(
    State(app): State<App>,
    allowed: Allowed<CanWriteRoutes>,
    Path(id): Path<Uuid>,
    if_match: IfMatch,
) -> Result<StatusCode> {
    records::delete::<Route>(&app, &allowed, id, &if_match).await
}
