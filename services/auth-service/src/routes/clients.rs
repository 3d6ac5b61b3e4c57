//! Administration of OAuth clients.

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::TimeDelta;
use kronos_common::{
    extract::{Json, Path, Query},
    identity::Allowed,
    page::{Page, PageQuery},
    problem::{Problem, ProblemBody, Result},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    NO_STORE,
    permissions::{CanReadClients, CanWriteClients},
};
use crate::{
    App,
    clients::{Client, GrantType, LONGEST_SECRET, SHORTEST_SECRET, is_permission},
    flows::clients::{NewRegistration, create, delete, rotate_secret},
    store,
};

/// A week.
const LONGEST_OVERLAP_SECONDS: u32 = 604_800;

#[derive(Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, min_length = 3, max_length = 64, pattern = "^[A-Za-z0-9][A-Za-z0-9._-]*$")]
pub(super) struct ClientId(String);

impl TryFrom<String> for ClientId {
    type Error = &'static str;

    fn try_from(text: String) -> std::result::Result<Self, Self::Error> {
        let good = (3..=64).contains(&text.len())
            && text.starts_with(|first: char| first.is_ascii_alphanumeric())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
        if good { Ok(Self(text)) } else { Err("3 to 64 letters, digits, points, hyphens or underscores") }
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, min_length = 28, max_length = 256, pattern = "^[!-~]+$")]
pub(super) struct ChosenSecret(String);

impl TryFrom<String> for ChosenSecret {
    type Error = &'static str;

    fn try_from(text: String) -> std::result::Result<Self, Self::Error> {
        let good = (SHORTEST_SECRET..=LONGEST_SECRET).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_graphic());
        if good { Ok(Self(text)) } else { Err("28 to 256 random ASCII characters") }
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, min_length = 1, max_length = 100)]
pub(super) struct ClientName(String);

impl TryFrom<String> for ClientName {
    type Error = &'static str;

    fn try_from(text: String) -> std::result::Result<Self, Self::Error> {
        let good = (1..=100).contains(&text.chars().count()) && !text.contains(char::is_control);
        if good { Ok(Self(text)) } else { Err("1 to 100 characters") }
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, min_length = 3, max_length = 128, example = "logs:read",
    pattern = "^(\\*|[a-z][a-z0-9-]*)(:(\\*|[a-z][a-z0-9-]*)){1,3}$")]
pub(super) struct GrantedPermission(pub(super) String);

impl TryFrom<String> for GrantedPermission {
    type Error = &'static str;

    fn try_from(text: String) -> std::result::Result<Self, Self::Error> {
        if is_permission(&text) { Ok(Self(text)) } else { Err("resource:action, `*` for any one of them") }
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct CreateClient {
    /// Made if absent.
    client_id: Option<ClientId>,
    /// Made if absent: better so.
    client_secret: Option<ChosenSecret>,
    name: ClientName,
    #[schema(min_items = 1)]
    grant_types: Vec<GrantType>,
    /// Each of them the caller must hold.
    #[serde(default)]
    #[schema(max_items = 200)]
    permissions: Vec<GrantedPermission>,
}

/// A new client, with its secret.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CreatedClient {
    /// Shown this once.
    client_secret: String,
    #[serde(flatten)]
    client: Client,
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RotateSecret {
    /// The old secret stays good for so long; 0 ends it, and the tokens got with it, now. At most a week.
    #[serde(default)]
    #[schema(maximum = 604_800, minimum = 0)]
    overlap_seconds: u32,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct NewSecret {
    client_id: String,
    /// Shown this once.
    client_secret: String,
}

/// Lists clients, newest first.
#[utoipa::path(
    get, path = "/oauth/clients", tag = "auth-service", security(("bearer" = [])), params(PageQuery),
    responses(
        (status = 200, description = "A page", body = Page<Client>),
        (status = 400, description = "`invalid_query`, `invalid_cursor`", body = ProblemBody),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `clients:read`", body = ProblemBody),
    )
)]
pub(super) async fn list_clients(
    State(app): State<App>,
    _: Allowed<CanReadClients>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<Client>>> {
    let after = query.cursor.map(|cursor| cursor.decode()).transpose()?;
    let rows = store::clients::list(&app.pool, after, query.limit.fetch()).await?;
    Ok(Json(Page::new(rows, query.limit, |client| (client.created_at, client.client_id.clone()))))
}

/// Makes a client.
#[utoipa::path(
    post, path = "/oauth/clients", tag = "auth-service", security(("bearer" = [])), request_body = CreateClient,
    responses(
        (status = 201, description = "Made; the secret is shown this once", body = CreatedClient),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `clients:write` and each permission that is handed out", body = ProblemBody),
        (status = 409, description = "`client_exists`", body = ProblemBody),
        (status = 422, description = "Bad fields", body = ProblemBody),
    )
)]
pub(super) async fn create_client(
    State(app): State<App>,
    allowed: Allowed<CanWriteClients>,
    Json(body): Json<CreateClient>,
) -> Result<Response> {
    if body.grant_types.is_empty() {
        return Err(Problem::field("/grantTypes", "too_few", "at least 1 items"));
    }
    if body.permissions.len() > 200 {
        return Err(Problem::field("/permissions", "too_many", "at most 200 items"));
    }
    let mut permissions: Vec<String> = body.permissions.into_iter().map(|permission| permission.0).collect();
    permissions.sort();
    permissions.dedup();
    let new = NewRegistration {
        client_id: body.client_id.map(|id| id.0),
        client_secret: body.client_secret.map(|secret| secret.0),
        name: body.name.0,
        grant_types: vec!["client_credentials".to_owned()],
        permissions,
    };
    let (client, client_secret) = create(&app, &allowed.caller, new).await?;
    let location = format!("/oauth/clients/{}", client.client_id);
    let body = Json(CreatedClient { client_secret, client });
    Ok((StatusCode::CREATED, NO_STORE, [(header::LOCATION, location)], body).into_response())
}

/// Shows a client.
#[utoipa::path(
    get, path = "/oauth/clients/{clientId}", tag = "auth-service", security(("bearer" = [])),
    params(("clientId" = String, Path, description = "The client")),
    responses(
        (status = 200, description = "The client", body = Client),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `clients:read`", body = ProblemBody),
        (status = 404, description = "No such client", body = ProblemBody),
    )
)]
pub(super) async fn get_client(
    State(app): State<App>,
    _: Allowed<CanReadClients>,
    Path(client_id): Path<String>,
) -> Result<Json<Client>> {
    let client = store::clients::find(&app.pool, &client_id).await?;
    client.map(Json).ok_or_else(|| Problem::not_found("client"))
}

/// Removes a client; its tokens are refused at once.
#[utoipa::path(
    delete, path = "/oauth/clients/{clientId}", tag = "auth-service", security(("bearer" = [])),
    params(("clientId" = String, Path, description = "The client")),
    responses(
        (status = 204, description = "Removed"),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `clients:write`", body = ProblemBody),
        (status = 404, description = "No such client", body = ProblemBody),
    )
)]
pub(super) async fn delete_client(
    State(app): State<App>,
    allowed: Allowed<CanWriteClients>,
    Path(client_id): Path<String>,
) -> Result<StatusCode> {
    delete(&app, &allowed.caller, &client_id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Gives a client a new secret.
#[utoipa::path(
    post, path = "/oauth/clients/{clientId}/secret", tag = "auth-service", security(("bearer" = [])),
    params(("clientId" = String, Path, description = "The client")), request_body = RotateSecret,
    responses(
        (status = 200, description = "The new secret, shown this once", body = NewSecret),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `clients:write` and all that the client may do", body = ProblemBody),
        (status = 404, description = "No such client", body = ProblemBody),
        (status = 422, description = "Bad fields", body = ProblemBody),
    )
)]
pub(super) async fn rotate_client_secret(
    State(app): State<App>,
    allowed: Allowed<CanWriteClients>,
    Path(client_id): Path<String>,
    Json(body): Json<RotateSecret>,
) -> Result<Response> {
    if body.overlap_seconds > LONGEST_OVERLAP_SECONDS {
        return Err(Problem::field("/overlapSeconds", "too_large", format!("at most {LONGEST_OVERLAP_SECONDS}")));
    }
    let overlap = TimeDelta::seconds(i64::from(body.overlap_seconds));
    let client_secret = rotate_secret(&app, &allowed.caller, &client_id, overlap).await?;
    Ok((NO_STORE, Json(NewSecret { client_id, client_secret })).into_response())
}
