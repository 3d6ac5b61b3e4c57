//! People and groups one by one: `/Users/{id}`, `/Groups/{id}`.

use axum::{
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use kronos_common::{
    etag::IfMatch,
    extract::{Json, Path, Query},
    identity::Allowed,
    problem::{Problem, Result},
};
use serde::Deserialize;
use serde_json::Value;
use utoipa::IntoParams;
use uuid::Uuid;

use super::{
    super::{
        KRONOS_EPOCH,
        allowed::{CanReadUsers, CanWriteUsers},
    },
    wire::{Scim, headers},
};
use crate::{
    App,
    changes::{self, Actor},
    groups::{Group, GroupChanges, GroupDefinition, Members},
    roles::Description,
    scim::{
        Document, document, group, patch, person,
        projection::Projection,
        schema::{GROUPS, Resource, USERS},
    },
    store,
    users::{NewUser, User},
};

#[derive(Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(super) struct Shown {
    /// Only these attributes, with commas between.
    attributes: Option<String>,
    /// All but these attributes.
    excluded_attributes: Option<String>,
}

impl Shown {
    pub(super) fn projection(&self) -> Result<Projection> {
        Ok(Projection::parse(self.attributes.as_deref(), self.excluded_attributes.as_deref())?)
    }
}

/// What has been done, and what is to be told of it.
pub(super) struct Done {
    pub(super) status: StatusCode,
    /// Whole; what is asked for is chosen from it.
    pub(super) document: Document,
    pub(super) epoch: Option<i64>,
}

impl Done {
    pub(super) fn respond(self, resource: &'static Resource, shown: &Projection) -> Response {
        let place = if self.status == StatusCode::CREATED { header::LOCATION } else { header::CONTENT_LOCATION };
        let headers = headers(&self.document);
        let mut response = (self.status, Scim(shown.of(resource, self.document))).into_response();
        if let Some((tag, location)) = headers {
            response.headers_mut().insert(header::ETAG, tag);
            response.headers_mut().insert(place, location);
        }
        if let Some(epoch) = self.epoch {
            response.headers_mut().insert(KRONOS_EPOCH, HeaderValue::from(epoch));
        }
        response
    }
}

/// The kind of resource of a path.
///
/// # Errors
/// 404.
pub(super) fn kind(name: &str) -> Result<&'static Resource> {
    let named = |resource: &&&Resource| resource.endpoint[1..].eq_ignore_ascii_case(name);
    [&USERS, &GROUPS].iter().find(named).copied().ok_or_else(|| Problem::not_found("path"))
}

/// An id of a path: what is none names nothing.
pub(super) fn id_of(resource: &Resource, id: &str) -> Result<Uuid> {
    id.parse().map_err(|_| Problem::not_found(resource.name.to_ascii_lowercase()))
}

/// People as documents.
pub(super) async fn render_people(app: &App, users: &[User], shown: &Projection) -> Result<Vec<Document>> {
    let ids: Vec<Uuid> = users.iter().map(|user| user.id).collect();
    let rows = if shown.has("groups") { store::groups::of_users(&app.pool, &ids).await? } else { Vec::new() };
    let render = |user: &User| {
        let of_user = rows.iter().filter(|(person, ..)| *person == user.id);
        let groups: Vec<(Uuid, String)> = of_user.map(|(_, id, name)| (*id, name.clone())).collect();
        person::render(user, &groups, &app.scim_base)
    };
    Ok(users.iter().map(render).collect())
}

/// Groups as documents.
pub(super) async fn render_groups(app: &App, groups: &[Group], shown: &Projection) -> Result<Vec<Document>> {
    let ids: Vec<Uuid> = groups.iter().map(|group| group.id).collect();
    let rows = if shown.has("members") { store::groups::members_of(&app.pool, &ids).await? } else { Vec::new() };
    let render = |group: &Group| {
        let begin = rows.partition_point(|(id, _)| *id < group.id);
        let end = rows.partition_point(|(id, _)| *id <= group.id);
        let members: Vec<Uuid> = rows[begin..end].iter().map(|(_, person)| *person).collect();
        group::render(group, &members, &app.scim_base)
    };
    Ok(groups.iter().map(render).collect())
}

async fn of_person(app: &App, user: User, shown: &Projection, status: StatusCode) -> Result<Done> {
    let document = render_people(app, &[user], shown).await?.pop().unwrap_or_default();
    Ok(Done { status, document, epoch: None })
}

async fn of_group(
    app: &App,
    (group, epoch): (Group, Option<i64>),
    shown: &Projection,
    status: StatusCode,
) -> Result<Done> {
    let document = render_groups(app, &[group], shown).await?.pop().unwrap_or_default();
    Ok(Done { status, document, epoch })
}

pub(super) async fn find(app: &App, resource: &'static Resource, id: &str, shown: &Projection) -> Result<Done> {
    let id = id_of(resource, id)?;
    if resource.name == USERS.name {
        of_person(app, store::users::find(&app.pool, id).await?, shown, StatusCode::OK).await
    } else {
        of_group(app, (store::groups::find(&app.pool, id).await?, None), shown, StatusCode::OK).await
    }
}

pub(super) async fn make(
    app: &App,
    actor: Actor<'_>,
    resource: &'static Resource,
    body: Value,
    shown: &Projection,
) -> Result<Done> {
    let document = document::read(resource, body)?;
    if resource.name == USERS.name {
        let id = Uuid::now_v7();
        let mut wanted = person::read(id, document)?;
        // Who is new is active unless it is said.
        wanted.profile.remove("active");
        let new = NewUser {
            username: wanted.username,
            email: wanted.email,
            display_name: wanted.display_name,
            disabled: wanted.disabled,
            profile: wanted.profile,
            external_id: wanted.external_id,
            attributes: None,
        };
        let user = changes::users::create(app, actor, id, &new, wanted.password.as_ref()).await?;
        return of_person(app, user, shown, StatusCode::CREATED).await;
    }
    let wanted = group::read(document)?;
    let description = Description::try_from(String::new()).map_err(|rule| Problem::internal(anyhow::anyhow!(rule)))?;
    let definition = GroupDefinition { name: wanted.name, description, external_id: wanted.external_id };
    let made = changes::groups::create(app, actor, &definition, &wanted.members).await?;
    of_group(app, made, shown, StatusCode::CREATED).await
}

/// What a document makes of somebody who exists, and the new password.
fn rewritten(user: &User, document: Document) -> Result<(User, Option<crate::users::Password>)> {
    let wanted = person::read(user.id, document)?;
    let mut changed = user.clone();
    wanted.username.as_str().clone_into(&mut changed.username);
    wanted.email.as_str().clone_into(&mut changed.email);
    wanted.display_name.as_str().clone_into(&mut changed.display_name);
    changed.disabled = wanted.disabled;
    changed.external_id = wanted.external_id;
    changed.profile.0 = wanted.profile;
    Ok((changed, wanted.password))
}

pub(super) async fn put(
    app: &App,
    actor: Actor<'_>,
    (resource, id): (&'static Resource, &str),
    condition: &IfMatch,
    body: Value,
    shown: &Projection,
) -> Result<Done> {
    let id = id_of(resource, id)?;
    let document = document::read(resource, body)?;
    if resource.name == USERS.name {
        let plan = |user: &User| rewritten(user, document);
        let user = changes::users::change(app, actor, id, condition, plan).await?;
        return of_person(app, user, shown, StatusCode::OK).await;
    }
    let wanted = group::read(document)?;
    let changes = GroupChanges {
        name: Some(wanted.name),
        description: None,
        external_id: Some(wanted.external_id),
        members: vec![Members::Set(wanted.members)],
    };
    let changed = changes::groups::change(app, actor, id, Some(condition), &changes).await?;
    of_group(app, changed, shown, StatusCode::OK).await
}

pub(super) async fn alter(
    app: &App,
    actor: Actor<'_>,
    (resource, id): (&'static Resource, &str),
    condition: &IfMatch,
    body: Value,
    shown: &Projection,
) -> Result<Done> {
    let id = id_of(resource, id)?;
    let operations = patch::read(resource, body)?;
    if resource.name == USERS.name {
        let plan = |user: &User| {
            let mut document = person::writable(user);
            for operation in &operations {
                patch::apply(resource, &mut document, operation)?;
            }
            patch::tidy(&mut document);
            rewritten(user, document)
        };
        let user = changes::users::change(app, actor, id, condition, plan).await?;
        return of_person(app, user, shown, StatusCode::OK).await;
    }
    let changed = changes::groups::change(app, actor, id, Some(condition), &group::plan(operations)?).await?;
    of_group(app, changed, shown, StatusCode::OK).await
}

/// Gives the epoch from which on the members of a group that is gone lack its roles.
pub(super) async fn remove(
    app: &App,
    actor: Actor<'_>,
    (resource, id): (&'static Resource, &str),
    condition: &IfMatch,
) -> Result<Option<i64>> {
    let id = id_of(resource, id)?;
    if resource.name == USERS.name {
        changes::users::delete(app, actor, id, condition).await.map(|()| None)
    } else {
        changes::groups::delete(app, actor, id, condition).await.map(Some)
    }
}

/// Makes a person or a group.
#[utoipa::path(
    post, path = "/scim/v2/{resources}", tag = "user-service", security(("bearer" = [])),
    params(("resources" = String, Path, description = "`Users` or `Groups`", example = "Users"), Shown),
    request_body(content = Value, content_type = "application/scim+json"),
    responses(
        (status = 201, description = "Made; `Location` and `ETag`", body = Value, content_type = "application/scim+json"),
        (status = 400, description = "`invalidSyntax`, `invalidValue`", body = Value, content_type = "application/scim+json"),
        (status = 401, description = "No good token", body = Value, content_type = "application/scim+json"),
        (status = 403, description = "Needs `users:write`", body = Value, content_type = "application/scim+json"),
        (status = 409, description = "`uniqueness`", body = Value, content_type = "application/scim+json"),
        (status = 503, description = "The password cannot be kept now; nothing was made", body = Value, content_type = "application/scim+json"),
    )
)]
pub(super) async fn create(
    State(app): State<App>,
    allowed: Allowed<CanWriteUsers>,
    Path(resources): Path<String>,
    Query(shown): Query<Shown>,
    Json(body): Json<Value>,
) -> Result<Response> {
    let (resource, shown) = (kind(&resources)?, shown.projection()?);
    Ok(make(&app, Actor(&allowed.caller), resource, body, &shown).await?.respond(resource, &shown))
}

/// A person or a group.
#[utoipa::path(
    get, path = "/scim/v2/{resources}/{id}", tag = "user-service", security(("bearer" = [])),
    params(("resources" = String, Path, description = "`Users` or `Groups`"), ("id" = String, Path), Shown),
    responses(
        (status = 200, description = "With `ETag`", body = Value, content_type = "application/scim+json"),
        (status = 401, description = "No good token", body = Value, content_type = "application/scim+json"),
        (status = 403, description = "Needs `users:read`", body = Value, content_type = "application/scim+json"),
        (status = 404, description = "There is none", body = Value, content_type = "application/scim+json"),
    )
)]
pub(super) async fn get(
    State(app): State<App>,
    _: Allowed<CanReadUsers>,
    Path((resources, id)): Path<(String, String)>,
    Query(shown): Query<Shown>,
) -> Result<Response> {
    let (resource, shown) = (kind(&resources)?, shown.projection()?);
    Ok(find(&app, resource, &id, &shown).await?.respond(resource, &shown))
}

/// Makes a person or a group what the body says; what it does not name is removed.
#[utoipa::path(
    put, path = "/scim/v2/{resources}/{id}", tag = "user-service", security(("bearer" = [])),
    params(
        ("resources" = String, Path, description = "`Users` or `Groups`"), ("id" = String, Path), Shown,
        ("If-Match" = Option<String>, Header, description = "The version that is replaced"),
    ),
    request_body(content = Value, content_type = "application/scim+json"),
    responses(
        (status = 200, description = "As it is now", body = Value, content_type = "application/scim+json"),
        (status = 400, description = "`invalidSyntax`, `invalidValue`", body = Value, content_type = "application/scim+json"),
        (status = 401, description = "No good token", body = Value, content_type = "application/scim+json"),
        (status = 403, description = "Needs `users:write`, and the privileged permissions that it grants or the person holds", body = Value, content_type = "application/scim+json"),
        (status = 404, description = "There is none", body = Value, content_type = "application/scim+json"),
        (status = 409, description = "`uniqueness`; the last administrator", body = Value, content_type = "application/scim+json"),
        (status = 412, description = "It has changed since", body = Value, content_type = "application/scim+json"),
    )
)]
pub(super) async fn replace(
    State(app): State<App>,
    allowed: Allowed<CanWriteUsers>,
    Path((resources, id)): Path<(String, String)>,
    Query(shown): Query<Shown>,
    condition: IfMatch,
    Json(body): Json<Value>,
) -> Result<Response> {
    let (resource, shown) = (kind(&resources)?, shown.projection()?);
    let done = put(&app, Actor(&allowed.caller), (resource, &id), &condition, body, &shown).await?;
    Ok(done.respond(resource, &shown))
}

/// Changes a person or a group by operations, all or none (RFC 7644 section 3.5.2).
#[utoipa::path(
    patch, path = "/scim/v2/{resources}/{id}", tag = "user-service", security(("bearer" = [])),
    params(
        ("resources" = String, Path, description = "`Users` or `Groups`"), ("id" = String, Path), Shown,
        ("If-Match" = Option<String>, Header, description = "The version that is changed"),
    ),
    request_body(content = Value, content_type = "application/scim+json"),
    responses(
        (status = 200, description = "As a person is now", body = Value, content_type = "application/scim+json"),
        (status = 204, description = "A group has changed; name `attributes` to see them"),
        (status = 400, description = "`invalidSyntax`, `invalidPath`, `invalidValue`, `invalidFilter`, `noTarget`, `mutability`", body = Value, content_type = "application/scim+json"),
        (status = 401, description = "No good token", body = Value, content_type = "application/scim+json"),
        (status = 403, description = "Needs `users:write`, and the privileged permissions that it grants or the person holds", body = Value, content_type = "application/scim+json"),
        (status = 404, description = "There is none", body = Value, content_type = "application/scim+json"),
        (status = 409, description = "`uniqueness`; the last administrator", body = Value, content_type = "application/scim+json"),
        (status = 412, description = "It has changed since", body = Value, content_type = "application/scim+json"),
    )
)]
pub(super) async fn patch(
    State(app): State<App>,
    allowed: Allowed<CanWriteUsers>,
    Path((resources, id)): Path<(String, String)>,
    Query(shown): Query<Shown>,
    condition: IfMatch,
    Json(body): Json<Value>,
) -> Result<Response> {
    let (resource, shown) = (kind(&resources)?, shown.projection()?);
    // Nobody who adds one member wants to read all of them.
    let silent = resource.name == GROUPS.name && shown == Projection::Default;
    let rendered = if silent { Projection::parse(Some("id"), None)? } else { shown.clone() };
    let done = alter(&app, Actor(&allowed.caller), (resource, &id), &condition, body, &rendered).await?;
    let mut response = done.respond(resource, &shown);
    if silent {
        *response.status_mut() = StatusCode::NO_CONTENT;
        *response.body_mut() = axum::body::Body::empty();
        response.headers_mut().remove(header::CONTENT_TYPE);
        response.headers_mut().remove(header::CONTENT_LENGTH);
    }
    Ok(response)
}

/// Removes a person or a group.
#[utoipa::path(
    delete, path = "/scim/v2/{resources}/{id}", tag = "user-service", security(("bearer" = [])),
    params(
        ("resources" = String, Path, description = "`Users` or `Groups`"), ("id" = String, Path),
        ("If-Match" = Option<String>, Header, description = "The version that is removed"),
    ),
    responses(
        (status = 204, description = "Gone"),
        (status = 401, description = "No good token", body = Value, content_type = "application/scim+json"),
        (status = 403, description = "Needs `users:write`, and the privileged permissions that it grants or the person holds", body = Value, content_type = "application/scim+json"),
        (status = 404, description = "There is none", body = Value, content_type = "application/scim+json"),
        (status = 409, description = "The last administrator", body = Value, content_type = "application/scim+json"),
        (status = 412, description = "It has changed since", body = Value, content_type = "application/scim+json"),
    )
)]
pub(super) async fn delete(
    State(app): State<App>,
    allowed: Allowed<CanWriteUsers>,
    Path((resources, id)): Path<(String, String)>,
    condition: IfMatch,
) -> Result<Response> {
    let epoch = remove(&app, Actor(&allowed.caller), (kind(&resources)?, &id), &condition).await?;
    let mut response = StatusCode::NO_CONTENT.into_response();
    if let Some(epoch) = epoch {
        response.headers_mut().insert(KRONOS_EPOCH, HeaderValue::from(epoch));
    }
    Ok(response)
}
