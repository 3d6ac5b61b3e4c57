//! `/permissions`: what there is to be allowed, who declared it, and who holds it.

use axum::{
    extract::{FromRequestParts, State},
    http::request::Parts,
};
use chrono::Utc;
use kronos_common::{
    extract::{Json, Path, Query},
    identity::{Allowed, Caller},
    page::{Cursor, Limit, Page},
    problem::{Problem, ProblemBody, Result},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::allowed::{CanReadGrants, CanReadRoles};
use crate::{
    App,
    catalogue::{DeclaredPermission, Permission, ServiceName},
    changes,
    rights::{self, GrantPath, Resource},
    roles::PermissionName,
    store,
};

/// A service declares its own permissions, and who writes roles anybody's. An extractor, so that it is judged before the body.
pub(super) struct MayDeclare(ServiceName);

impl FromRequestParts<App> for MayDeclare {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self> {
        let caller = Caller::from_request_parts(parts, app).await?;
        let service = Path::<ServiceName>::from_request_parts(parts, app).await;
        let its_own = service
            .as_ref()
            .is_ok_and(|Path(service)| caller.subject() == service.as_str() && caller.client_id() == service.as_str());
        if !its_own {
            caller.require("roles:write")?;
        }
        service.map(|Path(service)| Self(service))
    }
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PermissionQuery {
    /// How many permissions.
    #[serde(default)]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 200)]
    limit: Limit,
    /// The `nextCursor` of the page before.
    #[param(value_type = Option<String>)]
    cursor: Option<Cursor>,
    /// Only what this service has declared.
    #[param(value_type = Option<String>)]
    service: Option<ServiceName>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Declaration {
    /// All that the service asks for.
    #[schema(max_items = 500)]
    permissions: Vec<DeclaredPermission>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct HolderQuery {
    /// How many people.
    #[serde(default)]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 200)]
    limit: Limit,
    /// The `nextCursor` of the page before.
    #[param(value_type = Option<String>)]
    cursor: Option<Cursor>,
    /// Only who has it there: on the resource, above it, or everywhere.
    #[param(value_type = Option<String>, example = "robot:R-42")]
    resource: Option<Resource>,
}

/// Somebody who has a permission.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Holder {
    user_id: Uuid,
    username: String,
    /// Every way by which they have it.
    grants: Vec<GrantPath>,
}

/// Lists the permissions that are declared, by name.
#[utoipa::path(
    get, path = "/permissions", tag = "user-service", security(("bearer" = [])), params(PermissionQuery),
    responses(
        (status = 200, description = "A page", body = Page<Permission>),
        (status = 400, description = "`invalid_query`, `invalid_cursor`", body = ProblemBody),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `roles:read`", body = ProblemBody),
    )
)]
pub(super) async fn list_permissions(
    State(app): State<App>,
    _: Allowed<CanReadRoles>,
    Query(query): Query<PermissionQuery>,
) -> Result<Json<Page<Permission>>> {
    let after = query.cursor.map(|cursor| cursor.decode::<PermissionName>()).transpose()?;
    let (service, after) = (query.service.as_ref(), after.as_ref());
    let service = service.map(ServiceName::as_str);
    let after = after.map(PermissionName::as_str);
    let found = store::permissions::list(&app.pool, service, after, query.limit.fetch()).await?;
    Ok(Json(Page::new(found, query.limit, |last| last.name.clone())))
}

/// Declares all that a service asks for; the service does it itself, when it starts. What it declared before and does not now
/// can be put in no role any more.
#[utoipa::path(
    put, path = "/permissions/{service}", tag = "user-service", security(("bearer" = [])), request_body = Declaration,
    params(("service" = String, Path, description = "The id of the service's OAuth client")),
    responses(
        (status = 200, description = "What the service has declared now", body = Vec<Permission>),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs the token of that client, or `roles:write`", body = ProblemBody),
        (status = 409, description = "`permission_taken`: another service's", body = ProblemBody),
        (status = 422, description = "Bad fields", body = ProblemBody),
    )
)]
pub(super) async fn declare_permissions(
    State(app): State<App>,
    MayDeclare(service): MayDeclare,
    Json(body): Json<Declaration>,
) -> Result<Json<Vec<Permission>>> {
    if body.permissions.len() > 500 {
        return Err(Problem::field("/permissions", "too_many", "at most 500 items"));
    }
    changes::permissions::declare(&app, service.as_str(), &body.permissions).await.map(Json)
}

/// Lists who has a permission, by whatever way, and by which. Who is disabled has none.
#[utoipa::path(
    get, path = "/permissions/{permission}/holders", tag = "user-service", security(("bearer" = [])),
    params(("permission" = String, Path, example = "robots:use"), HolderQuery),
    responses(
        (status = 200, description = "A page, by the ids of people", body = Page<Holder>),
        (status = 400, description = "`invalid_path`, `invalid_query`, `invalid_cursor`", body = ProblemBody),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `grants:read`", body = ProblemBody),
    )
)]
pub(super) async fn list_holders(
    State(app): State<App>,
    _: Allowed<CanReadGrants>,
    Path(permission): Path<PermissionName>,
    Query(query): Query<HolderQuery>,
) -> Result<Json<Page<Holder>>> {
    let after = query.cursor.map(|cursor| cursor.decode::<Uuid>()).transpose()?;
    let resource = query.resource.as_ref();
    let ids = store::roles::holders_of(
        &app.pool,
        &permission.covering(),
        resource.map(Resource::covering).as_deref(),
        after,
        query.limit.fetch(),
    )
    .await?;
    let page = Page::new(ids, query.limit, |last| *last);
    let now = Utc::now();
    let mut holders = Vec::with_capacity(page.items.len());
    for held in app.held.of_all(&app.pool, &page.items).await? {
        let resource = resource.map(Resource::as_str);
        let grants = rights::granting(&held.person, &held.holdings, &permission, resource, now);
        // Somebody's last way may have ended between the two questions.
        if !grants.is_empty() {
            holders.push(Holder { user_id: held.person.id, username: held.person.username.clone(), grants });
        }
    }
    Ok(Json(Page { items: holders, next_cursor: page.next_cursor }))
}
