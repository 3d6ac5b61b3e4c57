//! Administration of OAuth clients.

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, TimeDelta, Utc};
use kronos_common::{
    extract::{Json, Path, Query},
    identity::{Allowed, is_resource_pattern},
    page::{Page, PageQuery},
    problem::{Problem, ProblemBody, Result},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    NO_STORE,
    permissions::{CanReadClients, CanWriteClients},
};
use crate::{
    App,
    client_settings::Settings,
    clients::{AuthMethod, Client, GrantType, LONGEST_SECRET, SHORTEST_SECRET, is_permission},
    flows::clients::{NewRegistration, change, create, delete, rotate_secret},
    grants::ScopedGrant,
    keys::Algorithm,
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
#[serde(try_from = "String")]
#[schema(value_type = String, min_length = 3, max_length = 256, example = "topic:orders.*")]
struct ResourcePattern(String);

impl TryFrom<String> for ResourcePattern {
    type Error = &'static str;

    fn try_from(text: String) -> std::result::Result<Self, Self::Error> {
        if is_resource_pattern(&text) {
            Ok(Self(text))
        } else {
            Err("a resource, or all below one: customer:17/*, topic:orders.*")
        }
    }
}

/// A permission on a resource, or on all below one.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ScopedPermission {
    permission: GrantedPermission,
    resource: ResourcePattern,
    /// Without end if absent.
    expires_at: Option<DateTime<Utc>>,
}

impl From<ScopedPermission> for ScopedGrant {
    fn from(scoped: ScopedPermission) -> Self {
        let ScopedPermission { permission, resource, expires_at } = scoped;
        Self { permission: permission.0, resource: Some(resource.0), expires_at }
    }
}

/// A client to make. What is absent has its default.
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
    /// What it may do on some resources alone. Each of these permissions, too, the caller must hold.
    #[serde(default)]
    #[schema(max_items = 200)]
    scoped_permissions: Vec<ScopedPermission>,
    /// Needed for `authorization_code`; compared byte for byte.
    redirect_uris: Option<Vec<String>>,
    post_logout_redirect_uris: Option<Vec<String>>,
    /// `client_secret_basic` if absent.
    token_endpoint_auth_method: Option<AuthMethod>,
    /// True if absent.
    require_pkce: Option<bool>,
    /// A JWK set with the keys of `private_key_jwt`.
    jwks: Option<Value>,
    /// Or where one is read.
    jwks_uri: Option<String>,
    /// Of `openid profile email offline_access`; all if absent.
    scopes: Option<Vec<String>>,
    /// Audiences beside Kronos itself that its tokens may be for.
    resources: Option<Vec<String>>,
    /// Needs `*:*`.
    first_party: Option<bool>,
    /// `RS256` if absent.
    id_token_signed_response_alg: Option<Algorithm>,
    dpop_bound_access_tokens: Option<bool>,
}

/// What changes of a client. With PATCH absent members stay as they are, with PUT they become their defaults.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ChangeClient {
    name: Option<ClientName>,
    #[schema(min_items = 1)]
    grant_types: Option<Vec<GrantType>>,
    #[schema(max_items = 200)]
    permissions: Option<Vec<GrantedPermission>>,
    #[schema(max_items = 200)]
    scoped_permissions: Option<Vec<ScopedPermission>>,
    redirect_uris: Option<Vec<String>>,
    post_logout_redirect_uris: Option<Vec<String>>,
    token_endpoint_auth_method: Option<AuthMethod>,
    require_pkce: Option<bool>,
    /// Takes the place of `jwksUri`.
    jwks: Option<Value>,
    /// Takes the place of `jwks`.
    jwks_uri: Option<String>,
    scopes: Option<Vec<String>>,
    resources: Option<Vec<String>>,
    first_party: Option<bool>,
    id_token_signed_response_alg: Option<Algorithm>,
    dpop_bound_access_tokens: Option<bool>,
}

impl ChangeClient {
    fn apply(self, mut to: Settings) -> Settings {
        fn set<T>(field: &mut T, value: Option<T>) {
            if let Some(value) = value {
                *field = value;
            }
        }
        set(&mut to.name, self.name.map(|name| name.0));
        set(&mut to.grant_types, self.grant_types.map(|grants| sorted(grants.iter().map(|grant| grant.name().into()))));
        set(&mut to.permissions, self.permissions.map(|held| sorted(held.into_iter().map(|held| held.0))));
        let scoped = self.scoped_permissions;
        set(&mut to.scoped_permissions, scoped.map(|held| held.into_iter().map(Into::into).collect()));
        set(&mut to.redirect_uris, self.redirect_uris);
        set(&mut to.post_logout_redirect_uris, self.post_logout_redirect_uris);
        set(&mut to.token_endpoint_auth_method, self.token_endpoint_auth_method);
        set(&mut to.require_pkce, self.require_pkce);
        if self.jwks.is_some() || self.jwks_uri.is_some() {
            (to.jwks, to.jwks_uri) = (self.jwks, self.jwks_uri);
        }
        set(&mut to.scopes, self.scopes);
        set(&mut to.resources, self.resources);
        set(&mut to.first_party, self.first_party);
        set(&mut to.id_token_signed_response_alg, self.id_token_signed_response_alg);
        set(&mut to.dpop_bound_access_tokens, self.dpop_bound_access_tokens);
        to
    }
}

fn sorted(items: impl Iterator<Item = String>) -> Vec<String> {
    let mut items: Vec<String> = items.collect();
    items.sort();
    items.dedup();
    items
}

/// A client, with its secret if a new one was made.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CreatedClient {
    /// Shown this once; absent for a client that needs none.
    #[serde(skip_serializing_if = "Option::is_none")]
    client_secret: Option<String>,
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
    let CreateClient { client_id, client_secret, name, grant_types, permissions, .. } = body;
    let rest = ChangeClient {
        name: None,
        grant_types: Some(grant_types),
        permissions: Some(permissions),
        scoped_permissions: Some(body.scoped_permissions),
        redirect_uris: body.redirect_uris,
        post_logout_redirect_uris: body.post_logout_redirect_uris,
        token_endpoint_auth_method: body.token_endpoint_auth_method,
        require_pkce: body.require_pkce,
        jwks: body.jwks,
        jwks_uri: body.jwks_uri,
        scopes: body.scopes,
        resources: body.resources,
        first_party: body.first_party,
        id_token_signed_response_alg: body.id_token_signed_response_alg,
        dpop_bound_access_tokens: body.dpop_bound_access_tokens,
    };
    let new = NewRegistration {
        client_id: client_id.map(|id| id.0),
        client_secret: client_secret.map(|secret| secret.0),
        settings: rest.apply(Settings::of_program(&name.0, Vec::new())),
        self_administered: false,
    };
    let made = create(&app, &allowed.caller, new).await?;
    let location = format!("/oauth/clients/{}", made.client.client_id);
    let body = Json(CreatedClient { client_secret: made.secret, client: made.client });
    Ok((StatusCode::CREATED, NO_STORE, [(header::LOCATION, location)], body).into_response())
}

/// Changes the members that are sent. What the client's own tokens hang on ends them.
#[utoipa::path(
    patch, path = "/oauth/clients/{clientId}", tag = "auth-service", security(("bearer" = [])),
    params(("clientId" = String, Path, description = "The client")), request_body = ChangeClient,
    responses(
        (status = 200, description = "Changed; with a secret, shown this once, if it needs one now", body = CreatedClient),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `clients:write` and all that the client may do before and after", body = ProblemBody),
        (status = 404, description = "No such client", body = ProblemBody),
        (status = 422, description = "Bad fields", body = ProblemBody),
    )
)]
pub(super) async fn patch_client(
    State(app): State<App>,
    allowed: Allowed<CanWriteClients>,
    Path(client_id): Path<String>,
    Json(body): Json<ChangeClient>,
) -> Result<Response> {
    let made = change(&app, &allowed.caller, &client_id, |before| Ok(body.apply(before))).await?;
    Ok((NO_STORE, Json(CreatedClient { client_secret: made.secret, client: made.client })).into_response())
}

/// Replaces a client's settings; what is absent becomes its default.
#[utoipa::path(
    put, path = "/oauth/clients/{clientId}", tag = "auth-service", security(("bearer" = [])),
    params(("clientId" = String, Path, description = "The client")), request_body = ChangeClient,
    responses(
        (status = 200, description = "Replaced; with a secret, shown this once, if it needs one now", body = CreatedClient),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `clients:write` and all that the client may do before and after", body = ProblemBody),
        (status = 404, description = "No such client", body = ProblemBody),
        (status = 422, description = "Bad fields; `name` and `grantTypes` are needed", body = ProblemBody),
    )
)]
pub(super) async fn put_client(
    State(app): State<App>,
    allowed: Allowed<CanWriteClients>,
    Path(client_id): Path<String>,
    Json(body): Json<ChangeClient>,
) -> Result<Response> {
    for (member, is_absent) in [("/name", body.name.is_none()), ("/grantTypes", body.grant_types.is_none())] {
        if is_absent {
            return Err(Problem::field(member, "required", "is needed to replace a client"));
        }
    }
    let made =
        change(&app, &allowed.caller, &client_id, |_| Ok(body.apply(Settings::of_program("", Vec::new())))).await?;
    Ok((NO_STORE, Json(CreatedClient { client_secret: made.secret, client: made.client })).into_response())
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
    delete(&app, allowed.caller.subject(), &client_id).await?;
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
