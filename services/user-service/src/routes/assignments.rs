//! `/users/{id}/roles`: who holds which role, where, until when.

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use kronos_common::{
    extract::{Json, Path, Query},
    identity::Allowed,
    page::{Page, PageQuery},
    problem::{Problem, ProblemBody, Result},
};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::{
    KRONOS_EPOCH,
    allowed::{CanReadUsers, CanWriteUsers},
};
use crate::{
    App,
    changes::{self, Actor},
    rights::{Assignment, ResourcePattern},
    roles::RoleName,
    store,
};

#[derive(Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PutAssignment {
    /// Where it holds; absent or null: everywhere.
    pub(super) resource: Option<ResourcePattern>,
    /// When it ends by itself; absent or null: never.
    pub(super) expires_at: Option<DateTime<Utc>>,
}

#[derive(Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct DeleteAssignment {
    /// Of which resource; absent or null: the one that holds everywhere.
    resource: Option<ResourcePattern>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DeleteQuery {
    /// As in the body, for clients that cannot send one with DELETE.
    #[param(value_type = Option<String>)]
    resource: Option<ResourcePattern>,
}

/// Lists the roles that a person was given, those that come by inheritance not among them.
#[utoipa::path(
    get, path = "/users/{id}/roles", tag = "user-service", security(("bearer" = [])),
    params(("id" = Uuid, Path), PageQuery),
    responses(
        (status = 200, description = "A page", body = Page<Assignment>),
        (status = 400, description = "`invalid_path`, `invalid_query`, `invalid_cursor`", body = ProblemBody),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `users:read`", body = ProblemBody),
        (status = 404, description = "`not_found`", body = ProblemBody),
    )
)]
pub(super) async fn list_assignments(
    State(app): State<App>,
    _: Allowed<CanReadUsers>,
    Path(id): Path<Uuid>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<Assignment>>> {
    let after = query.cursor.map(|cursor| cursor.decode::<(RoleName, Option<ResourcePattern>)>()).transpose()?;
    let after =
        after.map(|(role, resource)| (role.as_str().to_owned(), resource.map(|resource| resource.as_str().to_owned())));
    store::users::find(&app.pool, id).await?;
    let assignments = store::assignments::list::<Assignment>(&app.pool, id, after, query.limit.fetch()).await?;
    Ok(Json(Page::new(assignments, query.limit, |last| (last.role.clone(), last.resource.clone()))))
}

/// Gives a role to a person: everywhere or on a resource, for good or until a time. The same again changes nothing; another
/// end replaces the first.
#[utoipa::path(
    put, path = "/users/{id}/roles/{role}", tag = "user-service", security(("bearer" = [])),
    request_body = Option<PutAssignment>,
    params(("id" = Uuid, Path), ("role" = String, Path)),
    responses(
        (status = 200, description = "Held from the epoch in `Kronos-Epoch` on", body = Assignment),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `users:write`, and the privileged permissions that the role grants", body = ProblemBody),
        (status = 404, description = "`not_found`: the person or the role", body = ProblemBody),
        (status = 409, description = "`last_administrator`", body = ProblemBody),
        (status = 422, description = "Bad fields, `in_the_past`", body = ProblemBody),
    )
)]
pub(super) async fn put_assignment(
    State(app): State<App>,
    allowed: Allowed<CanWriteUsers>,
    Path((id, role)): Path<(Uuid, RoleName)>,
    body: Option<Json<PutAssignment>>,
) -> Result<Response> {
    let PutAssignment { resource, expires_at } = body.map(|Json(body)| body).unwrap_or_default();
    let actor = Actor(&allowed.caller);
    let (assignment, epoch) = changes::assignments::put(&app, actor, id, &role, resource.as_ref(), expires_at).await?;
    Ok(([(KRONOS_EPOCH, epoch.to_string())], Json(assignment)).into_response())
}

/// Takes a role away from a person, everywhere or on a resource. Their tokens of before are refused at once.
#[utoipa::path(
    delete, path = "/users/{id}/roles/{role}", tag = "user-service", security(("bearer" = [])),
    request_body = Option<DeleteAssignment>,
    params(("id" = Uuid, Path), ("role" = String, Path), DeleteQuery),
    responses(
        (status = 204, description = "Not held from the epoch in `Kronos-Epoch` on"),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `users:write`, and the privileged permissions that the role grants", body = ProblemBody),
        (status = 404, description = "`not_found`: the person, or they do not hold it there", body = ProblemBody),
        (status = 409, description = "`last_administrator`", body = ProblemBody),
        (status = 422, description = "Bad fields", body = ProblemBody),
    )
)]
pub(super) async fn delete_assignment(
    State(app): State<App>,
    allowed: Allowed<CanWriteUsers>,
    Path((id, role)): Path<(Uuid, RoleName)>,
    Query(query): Query<DeleteQuery>,
    body: Option<Json<DeleteAssignment>>,
) -> Result<Response> {
    let resource = named_once(query, body.map(|Json(body)| body))?;
    let actor = Actor(&allowed.caller);
    let epoch = changes::assignments::delete(&app, actor, id, &role, resource.as_ref()).await?;
    Ok((StatusCode::NO_CONTENT, [(KRONOS_EPOCH, epoch.to_string())]).into_response())
}

/// The resource, from the query or the body.
pub(super) fn named_once(query: DeleteQuery, body: Option<DeleteAssignment>) -> Result<Option<ResourcePattern>> {
    match (query.resource, body.unwrap_or_default().resource) {
        (Some(query), Some(body)) if query != body => {
            Err(Problem::field("/resource", "ambiguous", "the query names another resource: name it once"))
        }
        (query, body) => Ok(query.or(body)),
    }
}
