//! `/Me` (RFC 7644 section 3.11): who asks, if it is a person. To read it needs no permission, to change it the same as
//! anybody else's.

use axum::{extract::State, http::StatusCode, response::Response};
use kronos_common::{
    etag::IfMatch,
    extract::{Json, Query},
    identity::{Allowed, Caller},
    problem::{Problem, Result},
};
use serde_json::Value;
use uuid::Uuid;

use super::{
    super::allowed::CanWriteUsers,
    resources::{Shown, alter, find, put, remove},
};
use crate::{App, changes::Actor, scim::schema::USERS};

fn own_id(caller: &Caller) -> Result<&str> {
    let subject = caller.subject();
    subject.parse::<Uuid>().map(|_| subject).map_err(|_| Problem::not_found("person: the token is a client's own"))
}

/// The person who asks.
#[utoipa::path(
    get, path = "/scim/v2/Me", tag = "user-service", security(("bearer" = [])), params(Shown),
    responses(
        (status = 200, description = "With `ETag`", body = Value, content_type = "application/scim+json"),
        (status = 401, description = "No good token", body = Value, content_type = "application/scim+json"),
        (status = 404, description = "The token is a client's own", body = Value, content_type = "application/scim+json"),
    )
)]
pub(super) async fn get_me(State(app): State<App>, caller: Caller, Query(shown): Query<Shown>) -> Result<Response> {
    let shown = shown.projection()?;
    Ok(find(&app, &USERS, own_id(&caller)?, &shown).await?.respond(&USERS, &shown))
}

/// Makes the person who asks what the body says.
#[utoipa::path(
    put, path = "/scim/v2/Me", tag = "user-service", security(("bearer" = [])),
    params(Shown, ("If-Match" = Option<String>, Header, description = "The version that is replaced")),
    request_body(content = Value, content_type = "application/scim+json"),
    responses(
        (status = 200, description = "As it is now", body = Value, content_type = "application/scim+json"),
        (status = 401, description = "No good token", body = Value, content_type = "application/scim+json"),
        (status = 403, description = "Needs `users:write`", body = Value, content_type = "application/scim+json"),
        (status = 404, description = "The token is a client's own", body = Value, content_type = "application/scim+json"),
    )
)]
pub(super) async fn replace_me(
    State(app): State<App>,
    allowed: Allowed<CanWriteUsers>,
    Query(shown): Query<Shown>,
    condition: IfMatch,
    Json(body): Json<Value>,
) -> Result<Response> {
    let shown = shown.projection()?;
    let place = (&USERS, own_id(&allowed.caller)?);
    Ok(put(&app, Actor(&allowed.caller), place, &condition, body, &shown).await?.respond(&USERS, &shown))
}

/// Changes the person who asks.
#[utoipa::path(
    patch, path = "/scim/v2/Me", tag = "user-service", security(("bearer" = [])),
    params(Shown, ("If-Match" = Option<String>, Header, description = "The version that is changed")),
    request_body(content = Value, content_type = "application/scim+json"),
    responses(
        (status = 200, description = "As it is now", body = Value, content_type = "application/scim+json"),
        (status = 401, description = "No good token", body = Value, content_type = "application/scim+json"),
        (status = 403, description = "Needs `users:write`", body = Value, content_type = "application/scim+json"),
        (status = 404, description = "The token is a client's own", body = Value, content_type = "application/scim+json"),
    )
)]
pub(super) async fn patch_me(
    State(app): State<App>,
    allowed: Allowed<CanWriteUsers>,
    Query(shown): Query<Shown>,
    condition: IfMatch,
    Json(body): Json<Value>,
) -> Result<Response> {
    let shown = shown.projection()?;
    let place = (&USERS, own_id(&allowed.caller)?);
    Ok(alter(&app, Actor(&allowed.caller), place, &condition, body, &shown).await?.respond(&USERS, &shown))
}

/// Removes the person who asks.
#[utoipa::path(
    delete, path = "/scim/v2/Me", tag = "user-service", security(("bearer" = [])),
    params(("If-Match" = Option<String>, Header, description = "The version that is removed")),
    responses(
        (status = 204, description = "Gone"),
        (status = 401, description = "No good token", body = Value, content_type = "application/scim+json"),
        (status = 403, description = "Needs `users:write`", body = Value, content_type = "application/scim+json"),
        (status = 404, description = "The token is a client's own", body = Value, content_type = "application/scim+json"),
    )
)]
pub(super) async fn delete_me(
    State(app): State<App>,
    allowed: Allowed<CanWriteUsers>,
    condition: IfMatch,
) -> Result<StatusCode> {
    remove(&app, Actor(&allowed.caller), (&USERS, own_id(&allowed.caller)?), &condition).await?;
    Ok(StatusCode::NO_CONTENT)
}
