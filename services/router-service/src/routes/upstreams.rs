//! `/upstreams`: the instances that routes lead to.

use axum::{extract::State, http::StatusCode, response::Response};
use chrono::{DateTime, Utc};
use kronos_common::{
    etag::IfMatch,
    extract::{Json, Path, Query},
    identity::Allowed,
    page::{Page, PageQuery},
    problem::{ProblemBody, Result},
};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    CanReadRoutes, CanWriteRoutes,
    records::{self, Shown, Written},
    refusals::{ToDeleters, ToMakers, ToReaders, ToReplacers},
    state::UpstreamState,
};
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

impl Shown for Upstream {
    type Spec = UpstreamSpec;
    const PATH: &'static str = "/upstreams";

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
    responses((status = 200, body = Page<Upstream>), ToReaders)
)]
async fn list_upstreams(
    State(app): State<App>,
    _: Allowed<CanReadRoutes>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<Upstream>>> {
    records::list(&app, query).await
}

/// Makes an upstream; it is known here when this is answered, and at the other gateways as soon as they hear of it.
#[utoipa::path(
    post, path = "/upstreams", tag = "router-service", security(("bearer" = [])), request_body = UpstreamSpec,
    responses((status = 201, body = Upstream, headers(("ETag" = String), ("Location" = String))), ToMakers)
)]
async fn create_upstream(
    State(app): State<App>,
    allowed: Allowed<CanWriteRoutes>,
    Json(spec): Json<UpstreamSpec>,
) -> Result<Response> {
    records::create::<Upstream>(&app, &allowed, &spec).await
}

/// One upstream.
#[utoipa::path(
    get, path = "/upstreams/{id}", tag = "router-service", security(("bearer" = [])), params(("id" = Uuid, Path)),
    responses(
        (status = 200, body = Upstream, headers(("ETag" = String))),
        ToReaders,
        (status = 404, body = ProblemBody, content_type = "application/problem+json"),
    )
)]
async fn show_upstream(State(app): State<App>, _: Allowed<CanReadRoutes>, Path(id): Path<Uuid>) -> Result<Response> {
    records::show::<Upstream>(&app, id).await
}

/// Replaces an upstream; with `If-Match` only the version that was seen.
/// What was read can be sent back as it is: what the gateway had added (`id`, `createdAt`, `updatedAt`, `state`) means nothing.
#[utoipa::path(
    put, path = "/upstreams/{id}", tag = "router-service", security(("bearer" = [])), request_body = UpstreamSpec,
    params(("id" = Uuid, Path), ("If-Match" = Option<String>, Header)),
    responses((status = 200, body = Upstream, headers(("ETag" = String))), ToReplacers)
)]
async fn replace_upstream(
    State(app): State<App>,
    allowed: Allowed<CanWriteRoutes>,
    Path(id): Path<Uuid>,
    if_match: IfMatch,
    Written(spec): Written<UpstreamSpec>,
) -> Result<Response> {
    records::replace::<Upstream>(&app, &allowed, id, &if_match, &spec).await
}

/// Deletes an upstream to which no route leads; with `If-Match` only the version that was seen.
#[utoipa::path(
    delete, path = "/upstreams/{id}", tag = "router-service", security(("bearer" = [])),
    params(("id" = Uuid, Path), ("If-Match" = Option<String>, Header)),
    responses(
        (status = 204),
        ToDeleters,
        (status = 409, body = ProblemBody, content_type = "application/problem+json"),
    )
)]
async fn delete_upstream(
    State(app): State<App>,
    allowed: Allowed<CanWriteRoutes>,
    Path(id): Path<Uuid>,
    if_match: IfMatch,
) -> Result<StatusCode> {
    records::delete::<Upstream>(&app, &allowed, id, &if_match).await
}
