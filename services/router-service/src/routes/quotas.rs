//! `/quotas`: how much somebody may ask in a day or a month, and what is used of it.

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
};
use crate::{
    App,
    quota::{Per, QuotaSpec},
    store::Stored,
};

/// A quota as it is stored.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Quota {
    pub id: Uuid,
    #[serde(flatten)]
    pub spec: QuotaSpec,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

impl Shown for Quota {
    type Spec = QuotaSpec;
    const PATH: &'static str = "/quotas";

    fn of(_: &App, stored: Stored<QuotaSpec>) -> Self {
        let Stored { id, spec, created_at, updated_at, .. } = stored;
        Self { id, spec, created_at, updated_at }
    }
}

pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_quotas, create_quota))
        .routes(routes!(show_quota, replace_quota, delete_quota))
        .routes(routes!(show_quota_use))
}

/// Quotas by name.
#[utoipa::path(
    get, path = "/quotas", tag = "router-service", security(("bearer" = [])), params(PageQuery),
    responses((status = 200, body = Page<Quota>), ToReaders)
)]
async fn list_quotas(
    State(app): State<App>,
    _: Allowed<CanReadRoutes>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<Quota>>> {
    records::list(&app, query).await
}

/// Makes a quota; it counts here when this is answered, and at the other gateways as soon as they hear of it.
#[utoipa::path(
    post, path = "/quotas", tag = "router-service", security(("bearer" = [])), request_body = QuotaSpec,
    responses((status = 201, body = Quota, headers(("ETag" = String), ("Location" = String))), ToMakers)
)]
async fn create_quota(
    State(app): State<App>,
    allowed: Allowed<CanWriteRoutes>,
    Json(spec): Json<QuotaSpec>,
) -> Result<Response> {
    records::create::<Quota>(&app, &allowed, &spec).await
}

/// One quota.
#[utoipa::path(
    get, path = "/quotas/{id}", tag = "router-service", security(("bearer" = [])), params(("id" = Uuid, Path)),
    responses(
        (status = 200, body = Quota, headers(("ETag" = String))),
        ToReaders,
        (status = 404, body = ProblemBody, content_type = "application/problem+json"),
    )
)]
async fn show_quota(State(app): State<App>, _: Allowed<CanReadRoutes>, Path(id): Path<Uuid>) -> Result<Response> {
    records::show::<Quota>(&app, id).await
}

/// Replaces a quota, what was used of it stays used; with `If-Match` only the version that was seen.
/// What was read can be sent back as it is: what the gateway had added (`id`, `createdAt`, `updatedAt`) means nothing.
#[utoipa::path(
    put, path = "/quotas/{id}", tag = "router-service", security(("bearer" = [])), request_body = QuotaSpec,
    params(("id" = Uuid, Path), ("If-Match" = Option<String>, Header)),
    responses((status = 200, body = Quota, headers(("ETag" = String))), ToReplacers)
)]
async fn replace_quota(
    State(app): State<App>,
    allowed: Allowed<CanWriteRoutes>,
    Path(id): Path<Uuid>,
    if_match: IfMatch,
    Written(spec): Written<QuotaSpec>,
) -> Result<Response> {
    records::replace::<Quota>(&app, &allowed, id, &if_match, &spec).await
}

/// Deletes a quota and what was used of it; with `If-Match` only the version that was seen.
#[utoipa::path(
    delete, path = "/quotas/{id}", tag = "router-service", security(("bearer" = [])),
    params(("id" = Uuid, Path), ("If-Match" = Option<String>, Header)),
    responses((status = 204), ToDeleters)
)]
async fn delete_quota(
    State(app): State<App>,
    allowed: Allowed<CanWriteRoutes>,
    Path(id): Path<Uuid>,
    if_match: IfMatch,
) -> Result<StatusCode> {
    records::delete::<Quota>(&app, &allowed, id, &if_match).await
}

/// What one client used of a quota in the present period.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct QuotaUse {
    /// Such as `sub:robot-42`, `client:gaia;` or `ip:10.0.0.7;`; empty: everybody together.
    pub client: String,
    /// Requests that gateways were given leave for: up to one hundredth of the quota more than were made.
    pub used: i64,
    pub left: i64,
    /// When the period ends.
    pub until: DateTime<Utc>,
}

/// Who used how much of a quota in the present period.
#[utoipa::path(
    get, path = "/quotas/{id}/use", tag = "router-service", security(("bearer" = [])),
    params(("id" = Uuid, Path), PageQuery),
    responses(
        (status = 200, body = Page<QuotaUse>),
        ToReaders,
        (status = 404, body = ProblemBody, content_type = "application/problem+json"),
    )
)]
async fn show_quota_use(
    State(app): State<App>,
    _: Allowed<CanReadRoutes>,
    Path(id): Path<Uuid>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<QuotaUse>>> {
    let after: String = query.cursor.map(|cursor| cursor.decode()).transpose()?.unwrap_or_default();
    let QuotaSpec { per, requests, .. } = app.store.get::<QuotaSpec>(id).await?.spec;
    let now = Utc::now();
    let (begin, until) = (Per::begin(per, now), per.end(now));
    let rows = app.store.quota_use(id, begin, &after, query.limit.fetch()).await?;
    let page = Page::new(rows, query.limit, |row| row.client.clone());
    Ok(Json(page.map(|row| QuotaUse { left: (requests - row.used).max(0), client: row.client, used: row.used, until })))
}
