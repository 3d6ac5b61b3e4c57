//! `/roles`.

use std::collections::BTreeSet;

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use kronos_common::{
    etag::{ETag, IfMatch, IfNoneMatch},
    extract::{Json, Path, Query},
    identity::Allowed,
    page::{Page, PageQuery},
    problem::{Problem, ProblemBody, Result},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    KRONOS_EPOCH,
    allowed::{CanReadRoles, CanWriteRoles},
};
use crate::{
    App,
    changes::{self, Actor},
    rights::difference::Difference,
    roles::{Description, PermissionPattern, Role, RoleDefinition, RoleName},
    store,
};

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct CreateRole {
    name: RoleName,
    #[serde(default)]
    description: Description,
    /// What it grants.
    #[serde(default)]
    #[schema(max_items = 200)]
    permissions: Vec<PermissionPattern>,
    /// Roles whose permissions it has as well.
    #[serde(default)]
    #[schema(max_items = 50)]
    inherits: Vec<RoleName>,
}

/// What is absent becomes empty: this is the whole role.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ReplaceRole {
    /// May be repeated, not changed.
    #[serde(default, deserialize_with = "super::users::present")]
    #[schema(nullable = false)]
    name: Option<RoleName>,
    #[serde(default)]
    description: Description,
    #[schema(max_items = 200)]
    permissions: Vec<PermissionPattern>,
    #[serde(default)]
    #[schema(max_items = 50)]
    inherits: Vec<RoleName>,
}

/// What would become of a role's holders.
#[derive(Serialize, ToSchema)]
pub(super) struct DryRun {
    /// How many people have the role, by whatever way.
    holders: i64,
    #[serde(flatten)]
    people: Page<AffectedPerson>,
}

/// What would become of one of them.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct AffectedPerson {
    user_id: Uuid,
    username: String,
    #[serde(flatten)]
    difference: Difference,
}

/// Lists roles in the order of their names.
#[utoipa::path(
    get, path = "/roles", tag = "user-service", security(("bearer" = [])), params(PageQuery),
    responses(
        (status = 200, description = "A page", body = Page<Role>),
        (status = 400, description = "`invalid_query`, `invalid_cursor`", body = ProblemBody),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `roles:read`", body = ProblemBody),
    )
)]
pub(super) async fn list_roles(
    State(app): State<App>,
    _: Allowed<CanReadRoles>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<Role>>> {
    let after = query.cursor.map(|cursor| cursor.decode::<RoleName>()).transpose()?;
    let roles = store::roles::list(&app.pool, after.as_ref().map(RoleName::as_str), query.limit.fetch()).await?;
    Ok(Json(Page::new(roles, query.limit, |role| role.name.clone())))
}

/// Makes a role.
#[utoipa::path(
    post, path = "/roles", tag = "user-service", security(("bearer" = [])), request_body = CreateRole,
    params(("Idempotency-Key" = Option<String>, Header, description = "A repetition gets the same answer")),
    responses(
        (status = 201, description = "Made; `Location` and `ETag`", body = Role),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `roles:write`, and the privileged permissions that the role grants", body = ProblemBody),
        (status = 409, description = "`role_exists`", body = ProblemBody),
        (status = 422, description = "Bad fields, `unknown_role`, `unknown_permission`", body = ProblemBody),
    )
)]
pub(super) async fn create_role(
    State(app): State<App>,
    allowed: Allowed<CanWriteRoles>,
    Json(body): Json<CreateRole>,
) -> Result<Response> {
    let definition = definition(body.description, body.permissions, body.inherits)?;
    let role = changes::roles::create(&app, Actor(&allowed.caller), &body.name, &definition).await?;
    let location = [(header::LOCATION, format!("/roles/{}", role.name))];
    Ok((StatusCode::CREATED, location, tag(&role), Json(role)).into_response())
}

/// A role.
#[utoipa::path(
    get, path = "/roles/{role}", tag = "user-service", security(("bearer" = [])),
    params(("role" = String, Path), ("If-None-Match" = Option<String>, Header, description = "A tag that is known already")),
    responses(
        (status = 200, description = "With `ETag`", body = Role),
        (status = 304, description = "That tag is the current one"),
        (status = 400, description = "`invalid_path`", body = ProblemBody),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `roles:read`", body = ProblemBody),
        (status = 404, description = "`not_found`", body = ProblemBody),
    )
)]
pub(super) async fn get_role(
    State(app): State<App>,
    _: Allowed<CanReadRoles>,
    Path(name): Path<RoleName>,
    known: IfNoneMatch,
) -> Result<Response> {
    let role = store::roles::find(&app.pool, name.as_str()).await?;
    let tag = tag(&role);
    Ok(known.not_modified(&tag).unwrap_or_else(|| (tag, Json(role)).into_response()))
}

/// Gives a role other permissions or another inheritance. Tokens of everybody who holds it end, and their refresh brings
/// the new rights.
#[utoipa::path(
    put, path = "/roles/{role}", tag = "user-service", security(("bearer" = [])), request_body = ReplaceRole,
    params(("role" = String, Path), ("If-Match" = Option<String>, Header, description = "The version that is replaced")),
    responses(
        (status = 200, description = "As it is now, with `ETag`; it holds from the epoch in `Kronos-Epoch` on", body = Role),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `roles:write`, and the privileged permissions that the role grants", body = ProblemBody),
        (status = 404, description = "`not_found`", body = ProblemBody),
        (status = 409, description = "`role_cycle`, `last_administrator`", body = ProblemBody),
        (status = 412, description = "The role has changed since", body = ProblemBody),
        (status = 422, description = "Bad fields, `unknown_role`, `unknown_permission`, `name_fixed`", body = ProblemBody),
    )
)]
pub(super) async fn replace_role(
    State(app): State<App>,
    allowed: Allowed<CanWriteRoles>,
    Path(name): Path<RoleName>,
    condition: IfMatch,
    Json(body): Json<ReplaceRole>,
) -> Result<Response> {
    if body.name.is_some_and(|repeated| repeated != name) {
        return Err(Problem::field("/name", "name_fixed", "the name of a role never changes"));
    }
    let definition = definition(body.description, body.permissions, body.inherits)?;
    let (role, epoch) = changes::roles::replace(&app, Actor(&allowed.caller), &name, &condition, &definition).await?;
    Ok((tag(&role), [(KRONOS_EPOCH, epoch.to_string())], Json(role)).into_response())
}

/// Removes a role, from everybody who holds it too.
#[utoipa::path(
    delete, path = "/roles/{role}", tag = "user-service", security(("bearer" = [])),
    params(("role" = String, Path), ("If-Match" = Option<String>, Header, description = "The version that is removed")),
    responses(
        (status = 204, description = "Gone from the epoch in `Kronos-Epoch` on"),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `roles:write`, and the privileged permissions that the role grants", body = ProblemBody),
        (status = 404, description = "`not_found`", body = ProblemBody),
        (status = 409, description = "`role_inherited`, `last_administrator`", body = ProblemBody),
        (status = 412, description = "The role has changed since", body = ProblemBody),
    )
)]
pub(super) async fn delete_role(
    State(app): State<App>,
    allowed: Allowed<CanWriteRoles>,
    Path(name): Path<RoleName>,
    condition: IfMatch,
) -> Result<Response> {
    let epoch = changes::roles::delete(&app, Actor(&allowed.caller), &name, &condition).await?;
    Ok((StatusCode::NO_CONTENT, [(KRONOS_EPOCH, epoch.to_string())]).into_response())
}

/// Says who would lose and gain what if a role were as it is in the body, or without a body: removed. Nothing changes. What
/// somebody has by another way as well, they do not lose.
#[utoipa::path(
    post, path = "/roles/{role}/dry-run", tag = "user-service", security(("bearer" = [])),
    request_body = Option<ReplaceRole>, params(("role" = String, Path), PageQuery),
    responses(
        (status = 200, description = "The holders, a page by their ids", body = DryRun),
        (status = 400, description = "`invalid_path`, `invalid_query`, `invalid_cursor`", body = ProblemBody),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `roles:write` and `grants:read`", body = ProblemBody),
        (status = 404, description = "`not_found`", body = ProblemBody),
        (status = 409, description = "`role_cycle`", body = ProblemBody),
        (status = 422, description = "Bad fields, `unknown_role`, `unknown_permission`", body = ProblemBody),
    )
)]
pub(super) async fn dry_run(
    State(app): State<App>,
    allowed: Allowed<CanWriteRoles>,
    Path(name): Path<RoleName>,
    Query(query): Query<PageQuery>,
    body: Option<Json<ReplaceRole>>,
) -> Result<Json<DryRun>> {
    allowed.caller.require("grants:read")?;
    let body = body.map(|Json(body)| body);
    let definition = body.map(|body| definition(body.description, body.permissions, body.inherits)).transpose()?;
    let after = query.cursor.map(|cursor| cursor.decode::<Uuid>()).transpose()?;
    let fetch = query.limit.fetch();
    let (holders, people) = changes::roles::dry_run(&app, &name, definition.as_ref(), after, fetch).await?;
    let page = Page::new(people, query.limit, |last| last.user_id).map(|affected| AffectedPerson {
        user_id: affected.user_id,
        username: affected.username,
        difference: affected.difference,
    });
    Ok(Json(DryRun { holders, people: page }))
}

fn definition(
    description: Description,
    permissions: Vec<PermissionPattern>,
    inherits: Vec<RoleName>,
) -> Result<RoleDefinition> {
    let too_many = |pointer, most| Err(Problem::field(pointer, "too_many", format!("at most {most} items")));
    match (permissions.len(), inherits.len()) {
        (201.., _) => too_many("/permissions", 200),
        (_, 51..) => too_many("/inherits", 50),
        _ => Ok(RoleDefinition {
            description,
            permissions: BTreeSet::from_iter(permissions),
            inherits: BTreeSet::from_iter(inherits),
        }),
    }
}

fn tag(role: &Role) -> ETag {
    ETag::of_version(role.version)
}
