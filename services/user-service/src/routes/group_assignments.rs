//! `/groups/{id}/roles`: which roles the members of a group have, where, until when.

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use kronos_common::{
    extract::{Json, Path, Query},
    identity::Allowed,
    page::{Page, PageQuery},
    problem::{ProblemBody, Result},
};
use uuid::Uuid;

use super::{
    KRONOS_EPOCH,
    allowed::{CanReadUsers, CanWriteUsers},
    assignments::{DeleteAssignment, DeleteQuery, PutAssignment, named_once},
};
use crate::{
    App,
    changes::{self, Actor},
    groups::GroupAssignment,
    rights::ResourcePattern,
    roles::RoleName,
    store,
};

/// Lists the roles that a group was given.
#[utoipa::path(
    get, path = "/groups/{id}/roles", tag = "user-service", security(("bearer" = [])),
    params(("id" = Uuid, Path), PageQuery),
    responses(
        (status = 200, description = "A page", body = Page<GroupAssignment>),
        (status = 400, description = "`invalid_path`, `invalid_query`, `invalid_cursor`", body = ProblemBody),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `users:read`", body = ProblemBody),
        (status = 404, description = "`not_found`", body = ProblemBody),
    )
)]
pub(super) async fn list_group_assignments(
    State(app): State<App>,
    _: Allowed<CanReadUsers>,
    Path(id): Path<Uuid>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<GroupAssignment>>> {
    let after = query.cursor.map(|cursor| cursor.decode::<(RoleName, Option<ResourcePattern>)>()).transpose()?;
    let after =
        after.map(|(role, resource)| (role.as_str().to_owned(), resource.map(|resource| resource.as_str().to_owned())));
    store::groups::find(&app.pool, id).await?;
    let found = store::assignments::list::<GroupAssignment>(&app.pool, id, after, query.limit.fetch()).await?;
    Ok(Json(Page::new(found, query.limit, |last| (last.role.clone(), last.resource.clone()))))
}

/// Gives a role to all members of a group: everywhere or on a resource, for good or until a time.
#[utoipa::path(
    put, path = "/groups/{id}/roles/{role}", tag = "user-service", security(("bearer" = [])),
    request_body = Option<PutAssignment>,
    params(("id" = Uuid, Path), ("role" = String, Path)),
    responses(
        (status = 200, description = "Held from the epoch in `Kronos-Epoch` on", body = GroupAssignment),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `users:write`, and the privileged permissions that the role grants", body = ProblemBody),
        (status = 404, description = "`not_found`: the group or the role", body = ProblemBody),
        (status = 409, description = "`last_administrator`", body = ProblemBody),
        (status = 422, description = "Bad fields, `in_the_past`", body = ProblemBody),
    )
)]
pub(super) async fn put_group_assignment(
    State(app): State<App>,
    allowed: Allowed<CanWriteUsers>,
    Path((id, role)): Path<(Uuid, RoleName)>,
    body: Option<Json<PutAssignment>>,
) -> Result<Response> {
    let PutAssignment { resource, expires_at } = body.map(|Json(body)| body).unwrap_or_default();
    let actor = Actor(&allowed.caller);
    let (assignment, epoch) =
        changes::group_assignments::put(&app, actor, id, &role, resource.as_ref(), expires_at).await?;
    Ok(([(KRONOS_EPOCH, epoch.to_string())], Json(assignment)).into_response())
}

/// Takes a role from all members of a group. Their tokens of before are refused at once.
#[utoipa::path(
    delete, path = "/groups/{id}/roles/{role}", tag = "user-service", security(("bearer" = [])),
    request_body = Option<DeleteAssignment>,
    params(("id" = Uuid, Path), ("role" = String, Path), DeleteQuery),
    responses(
        (status = 204, description = "Not held from the epoch in `Kronos-Epoch` on"),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `users:write`, and the privileged permissions that the role grants", body = ProblemBody),
        (status = 404, description = "`not_found`: the group, or it does not have the role there", body = ProblemBody),
        (status = 409, description = "`last_administrator`", body = ProblemBody),
        (status = 422, description = "Bad fields", body = ProblemBody),
    )
)]
pub(super) async fn delete_group_assignment(
    State(app): State<App>,
    allowed: Allowed<CanWriteUsers>,
    Path((id, role)): Path<(Uuid, RoleName)>,
    Query(query): Query<DeleteQuery>,
    body: Option<Json<DeleteAssignment>>,
) -> Result<Response> {
    let resource = named_once(query, body.map(|Json(body)| body))?;
    let actor = Actor(&allowed.caller);
    let epoch = changes::group_assignments::delete(&app, actor, id, &role, resource.as_ref()).await?;
    Ok((StatusCode::NO_CONTENT, [(KRONOS_EPOCH, epoch.to_string())]).into_response())
}
