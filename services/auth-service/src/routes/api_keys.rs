//! API keys.

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use kronos_common::{
    extract::{Json, Path, Query},
    identity::{Caller, permission::bearer},
    page::{Page, PageQuery},
    problem::{Problem, ProblemBody, Result},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{NO_STORE, clients::GrantedPermission, nodes::fields::NodeName};
use crate::{
    App,
    flows::api_keys,
    store::{self, api_keys::ApiKey},
};

/// Reaches everybody's keys.
const API_KEYS_WRITE: &str = "api-keys:write";

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct CreateApiKey {
    name: NodeName,
    /// Each of them the caller must hold.
    #[schema(max_items = 200)]
    permissions: Vec<GrantedPermission>,
    /// Absent: until it is revoked.
    expires_at: Option<DateTime<Utc>>,
}

/// A new key.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CreatedApiKey {
    /// For `Authorization: Bearer …`; shown this once.
    key: String,
    #[serde(flatten)]
    view: ApiKey,
}

/// The token for a key.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct KeyToken {
    access_token: String,
    /// Seconds.
    expires_in: i64,
}

/// Makes a key for what the caller may do, or less.
#[utoipa::path(
    post, path = "/auth/api-keys", tag = "auth-service", security(("bearer" = [])), request_body = CreateApiKey,
    responses(
        (status = 201, description = "The key, this once", body = CreatedApiKey),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "More than the caller holds, or the caller is a key", body = ProblemBody),
        (status = 409, description = "`too_many_keys`", body = ProblemBody),
        (status = 422, description = "Bad fields", body = ProblemBody),
    )
)]
pub(super) async fn create_api_key(
    State(app): State<App>,
    caller: Caller,
    Json(body): Json<CreateApiKey>,
) -> Result<Response> {
    let permissions = body.permissions.into_iter().map(|permission| permission.0).collect();
    let (view, key) = api_keys::create(&app, &caller, body.name.0, permissions, body.expires_at).await?;
    Ok((StatusCode::CREATED, NO_STORE, Json(CreatedApiKey { key, view })).into_response())
}

/// Lists the caller's keys, newest first.
#[utoipa::path(
    get, path = "/auth/api-keys", tag = "auth-service", security(("bearer" = [])), params(PageQuery),
    responses(
        (status = 200, description = "A page", body = Page<ApiKey>),
        (status = 400, description = "`invalid_query`, `invalid_cursor`", body = ProblemBody),
        (status = 401, description = "No good token", body = ProblemBody),
    )
)]
pub(super) async fn list_api_keys(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<ApiKey>>> {
    let after = query.cursor.map(|cursor| cursor.decode()).transpose()?;
    let rows = store::api_keys::list(&app.pool, caller.subject(), after, query.limit.fetch()).await?;
    Ok(Json(Page::new(rows, query.limit, |key| key.id)))
}

/// Revokes a key: the caller's own, or anybody's with `api-keys:write`. It ends in every service at once.
#[utoipa::path(
    delete, path = "/auth/api-keys/{id}", tag = "auth-service", security(("bearer" = [])),
    params(("id" = Uuid, Path, description = "The key's id")),
    responses(
        (status = 204, description = "Revoked"),
        (status = 400, description = "`invalid_path`", body = ProblemBody),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 404, description = "The caller has no such key", body = ProblemBody),
    )
)]
pub(super) async fn revoke_api_key(State(app): State<App>, caller: Caller, Path(id): Path<Uuid>) -> Result<StatusCode> {
    api_keys::revoke(&app, &caller, id, caller.may(API_KEYS_WRITE)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Exchanges a key, sent as the bearer, for a short access token. Services do this by themselves.
#[utoipa::path(
    post, path = "/auth/api-keys/token", tag = "auth-service", security(("bearer" = [])),
    responses(
        (status = 200, description = "The token", body = KeyToken),
        (status = 401, description = "No good key", body = ProblemBody),
        (status = 503, description = "The owner's rights cannot be known now", body = ProblemBody),
    )
)]
pub(super) async fn exchange_api_key(State(app): State<App>, headers: HeaderMap) -> Result<Response> {
    let issued = api_keys::exchange(&app, bearer(&headers)?).await?;
    let issued = issued.ok_or_else(|| Problem::unauthorized("token_invalid", "this is no good API key"))?;
    let body = KeyToken { access_token: issued.token, expires_in: issued.expires_in };
    Ok((NO_STORE, Json(body)).into_response())
}
