//! `/users/schema`: which attributes people can have.

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use kronos_common::{
    etag::{ETag, IfMatch, IfNoneMatch},
    extract::Json,
    identity::Allowed,
    problem::{Problem, ProblemBody, Result},
};

use super::allowed::{CanManageUsers, CanReadUsers};
use crate::{App, attributes::Schema, changes, store};

/// The attributes that people can have.
#[utoipa::path(
    get, path = "/users/schema", tag = "user-service", security(("bearer" = [])),
    params(("If-None-Match" = Option<String>, Header, description = "A tag that is known already")),
    responses(
        (status = 200, description = "With `ETag`", body = Schema),
        (status = 304, description = "That tag is the current one"),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `users:read`", body = ProblemBody),
    )
)]
pub(super) async fn get_schema(
    State(app): State<App>,
    _: Allowed<CanReadUsers>,
    known: IfNoneMatch,
) -> Result<Response> {
    let (schema, version) = store::attributes::schema(&app.pool).await?;
    let tag = ETag::of_version(version);
    Ok(known.not_modified(&tag).unwrap_or_else(|| (tag, Json(schema)).into_response()))
}

/// Says which attributes people can have. A definition that is left out is gone; one that somebody has a value of stays as it
/// is, but may become wider: required or not, a longer text, a number instead of a whole one.
#[utoipa::path(
    put, path = "/users/schema", tag = "user-service", security(("bearer" = [])), request_body = Schema,
    params(("If-Match" = Option<String>, Header, description = "The version that is replaced")),
    responses(
        (status = 200, description = "As it is now, with `ETag`", body = Schema),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `users:manage`", body = ProblemBody),
        (status = 409, description = "`attribute_in_use`", body = ProblemBody),
        (status = 412, description = "It has changed since", body = ProblemBody),
        (status = 422, description = "Bad fields", body = ProblemBody),
        (status = 503, description = "`no_sealing_key`", body = ProblemBody),
    )
)]
pub(super) async fn put_schema(
    State(app): State<App>,
    _: Allowed<CanManageUsers>,
    condition: IfMatch,
    Json(schema): Json<Schema>,
) -> Result<Response> {
    let faults = schema.faults();
    if !faults.is_empty() {
        return Err(Problem::invalid(faults));
    }
    let version = changes::users::put_schema(&app, &condition, &schema).await?;
    Ok((ETag::of_version(version), Json(schema)).into_response())
}
