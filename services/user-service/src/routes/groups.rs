//! `/groups`: groups and their members.

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use kronos_common::{
    etag::{ETag, IfMatch, IfNoneMatch},
    extract::{Json, Path, Query},
    identity::Allowed,
    name,
    page::{Page, PageQuery},
    problem::{ProblemBody, Result},
};
use serde::Deserialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    KRONOS_EPOCH,
    allowed::{CanReadUsers, CanWriteUsers},
    users::present,
};
use crate::{
    App,
    changes::{self, Actor},
    groups::{Group, GroupChanges, GroupDefinition, GroupName, Member},
    roles::Description,
    store,
};

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct CreateGroup {
    name: GroupName,
    #[serde(default)]
    description: Description,
}

/// A JSON Merge Patch (RFC 7396): what is absent stays.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct UpdateGroup {
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    name: Option<GroupName>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    description: Option<Description>,
}

/// Lists groups in the order of their names.
#[utoipa::path(
    get, path = "/groups", tag = "user-service", security(("bearer" = [])), params(PageQuery),
    responses(
        (status = 200, description = "A page", body = Page<Group>),
        (status = 400, description = "`invalid_query`, `invalid_cursor`", body = ProblemBody),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `users:read`", body = ProblemBody),
    )
)]
pub(super) async fn list_groups(
    State(app): State<App>,
    _: Allowed<CanReadUsers>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<Group>>> {
    let after = position(&query)?;
    let groups = store::groups::list(&app.pool, after.as_deref(), query.limit.fetch()).await?;
    Ok(Json(Page::new(groups, query.limit, |last| name::key(&last.name))))
}

/// Makes a group; members and roles come after.
#[utoipa::path(
    post, path = "/groups", tag = "user-service", security(("bearer" = [])), request_body = CreateGroup,
    params(("Idempotency-Key" = Option<String>, Header, description = "A repetition gets the same answer")),
    responses(
        (status = 201, description = "Made; `Location` and `ETag`", body = Group),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `users:write`", body = ProblemBody),
        (status = 409, description = "`group_exists`", body = ProblemBody),
        (status = 422, description = "Bad fields", body = ProblemBody),
    )
)]
pub(super) async fn create_group(
    State(app): State<App>,
    allowed: Allowed<CanWriteUsers>,
    Json(body): Json<CreateGroup>,
) -> Result<Response> {
    let definition = GroupDefinition { name: body.name, description: body.description, external_id: None };
    let (group, _) = changes::groups::create(&app, Actor(&allowed.caller), &definition, &[]).await?;
    let location = [(header::LOCATION, format!("/groups/{}", group.id))];
    Ok((StatusCode::CREATED, location, tag(&group), Json(group)).into_response())
}

/// A group.
#[utoipa::path(
    get, path = "/groups/{id}", tag = "user-service", security(("bearer" = [])),
    params(("id" = Uuid, Path), ("If-None-Match" = Option<String>, Header, description = "A tag that is known already")),
    responses(
        (status = 200, description = "With `ETag`", body = Group),
        (status = 304, description = "That tag is the current one"),
        (status = 400, description = "`invalid_path`", body = ProblemBody),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `users:read`", body = ProblemBody),
        (status = 404, description = "`not_found`", body = ProblemBody),
    )
)]
pub(super) async fn get_group(
    State(app): State<App>,
    _: Allowed<CanReadUsers>,
    Path(id): Path<Uuid>,
    known: IfNoneMatch,
) -> Result<Response> {
    let group = store::groups::find(&app.pool, id).await?;
    let tag = tag(&group);
    Ok(known.not_modified(&tag).unwrap_or_else(|| (tag, Json(group)).into_response()))
}

/// Gives a group another name or description.
#[utoipa::path(
    patch, path = "/groups/{id}", tag = "user-service", security(("bearer" = [])),
    request_body(content(
        (UpdateGroup = "application/merge-patch+json"),
        (UpdateGroup = "application/json"),
    )),
    params(("id" = Uuid, Path), ("If-Match" = Option<String>, Header, description = "The version that is changed")),
    responses(
        (status = 200, description = "As it is now, with `ETag`", body = Group),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `users:write`, and the privileged permissions that the group's roles grant", body = ProblemBody),
        (status = 404, description = "`not_found`", body = ProblemBody),
        (status = 409, description = "`group_exists`", body = ProblemBody),
        (status = 412, description = "The group has changed since", body = ProblemBody),
        (status = 422, description = "Bad fields", body = ProblemBody),
    )
)]
pub(super) async fn update_group(
    State(app): State<App>,
    allowed: Allowed<CanWriteUsers>,
    Path(id): Path<Uuid>,
    condition: IfMatch,
    Json(UpdateGroup { name, description }): Json<UpdateGroup>,
) -> Result<Response> {
    let changes = GroupChanges { name, description, ..GroupChanges::default() };
    let (group, _) = changes::groups::change(&app, Actor(&allowed.caller), id, Some(&condition), &changes).await?;
    Ok((tag(&group), Json(group)).into_response())
}

/// Removes a group. Its members lose its roles at once.
#[utoipa::path(
    delete, path = "/groups/{id}", tag = "user-service", security(("bearer" = [])),
    params(("id" = Uuid, Path), ("If-Match" = Option<String>, Header, description = "The version that is removed")),
    responses(
        (status = 204, description = "Gone from the epoch in `Kronos-Epoch` on"),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `users:write`, and the privileged permissions that the group's roles grant", body = ProblemBody),
        (status = 404, description = "`not_found`", body = ProblemBody),
        (status = 409, description = "`last_administrator`", body = ProblemBody),
        (status = 412, description = "The group has changed since", body = ProblemBody),
    )
)]
pub(super) async fn delete_group(
    State(app): State<App>,
    allowed: Allowed<CanWriteUsers>,
    Path(id): Path<Uuid>,
    condition: IfMatch,
) -> Result<Response> {
    let epoch = changes::groups::delete(&app, Actor(&allowed.caller), id, &condition).await?;
    Ok((StatusCode::NO_CONTENT, [(KRONOS_EPOCH, epoch.to_string())]).into_response())
}

/// Lists the members of a group, by their ids.
#[utoipa::path(
    get, path = "/groups/{id}/members", tag = "user-service", security(("bearer" = [])),
    params(("id" = Uuid, Path), PageQuery),
    responses(
        (status = 200, description = "A page", body = Page<Member>),
        (status = 400, description = "`invalid_path`, `invalid_query`, `invalid_cursor`", body = ProblemBody),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `users:read`", body = ProblemBody),
        (status = 404, description = "`not_found`", body = ProblemBody),
    )
)]
pub(super) async fn list_members(
    State(app): State<App>,
    _: Allowed<CanReadUsers>,
    Path(id): Path<Uuid>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<Member>>> {
    let after = query.cursor.map(|cursor| cursor.decode::<Uuid>()).transpose()?;
    store::groups::find(&app.pool, id).await?;
    let members = store::groups::members(&app.pool, id, after, query.limit.fetch()).await?;
    Ok(Json(Page::new(members, query.limit, |last| last.user_id)))
}

/// Takes somebody into a group: the group's roles are theirs. The same again changes nothing.
#[utoipa::path(
    put, path = "/groups/{id}/members/{userId}", tag = "user-service", security(("bearer" = [])),
    params(("id" = Uuid, Path), ("userId" = Uuid, Path)),
    responses(
        (status = 204, description = "A member, from the epoch in `Kronos-Epoch` on if there is one"),
        (status = 400, description = "`invalid_path`", body = ProblemBody),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `users:write`, and the privileged permissions that the group's roles grant", body = ProblemBody),
        (status = 404, description = "`not_found`: the group or the person", body = ProblemBody),
    )
)]
pub(super) async fn add_member(
    State(app): State<App>,
    allowed: Allowed<CanWriteUsers>,
    Path((id, user_id)): Path<(Uuid, Uuid)>,
) -> Result<Response> {
    let epoch = changes::groups::add_member(&app, Actor(&allowed.caller), id, user_id).await?;
    Ok(match epoch {
        Some(epoch) => (StatusCode::NO_CONTENT, [(KRONOS_EPOCH, epoch.to_string())]).into_response(),
        None => StatusCode::NO_CONTENT.into_response(),
    })
}

/// Lets somebody go: the group's roles are not theirs any more, at once.
#[utoipa::path(
    delete, path = "/groups/{id}/members/{userId}", tag = "user-service", security(("bearer" = [])),
    params(("id" = Uuid, Path), ("userId" = Uuid, Path)),
    responses(
        (status = 204, description = "No member from the epoch in `Kronos-Epoch` on"),
        (status = 400, description = "`invalid_path`", body = ProblemBody),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `users:write`, and the privileged permissions that the group's roles grant", body = ProblemBody),
        (status = 404, description = "`not_found`: the group, the person, or they are no member", body = ProblemBody),
        (status = 409, description = "`last_administrator`", body = ProblemBody),
    )
)]
pub(super) async fn remove_member(
    State(app): State<App>,
    allowed: Allowed<CanWriteUsers>,
    Path((id, user_id)): Path<(Uuid, Uuid)>,
) -> Result<Response> {
    let epoch = changes::groups::remove_member(&app, Actor(&allowed.caller), id, user_id).await?;
    Ok((StatusCode::NO_CONTENT, [(KRONOS_EPOCH, epoch.to_string())]).into_response())
}

/// Lists the groups that a person is in, in the order of their names.
#[utoipa::path(
    get, path = "/users/{id}/groups", tag = "user-service", security(("bearer" = [])),
    params(("id" = Uuid, Path), PageQuery),
    responses(
        (status = 200, description = "A page", body = Page<Group>),
        (status = 400, description = "`invalid_path`, `invalid_query`, `invalid_cursor`", body = ProblemBody),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `users:read`", body = ProblemBody),
        (status = 404, description = "`not_found`", body = ProblemBody),
    )
)]
pub(super) async fn list_groups_of_user(
    State(app): State<App>,
    _: Allowed<CanReadUsers>,
    Path(id): Path<Uuid>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<Group>>> {
    let after = position(&query)?;
    store::users::find(&app.pool, id).await?;
    let groups = store::groups::of_user(&app.pool, id, after.as_deref(), query.limit.fetch()).await?;
    Ok(Json(Page::new(groups, query.limit, |last| name::key(&last.name))))
}

/// The name that a page begins after. No name holds the character that Postgres cannot.
fn position(query: &PageQuery) -> Result<Option<String>> {
    let after = query.cursor.as_ref().map(|cursor| cursor.decode::<String>()).transpose()?;
    Ok(after.map(|after| after.replace('\0', "")))
}

fn tag(group: &Group) -> ETag {
    ETag::of_version(group.version)
}
