//! Dynamic registration of clients (RFC 7591) by whoever holds `clients:register`, whose token is the initial access token; and a
//! client's own administration of its registration (RFC 7592) by the token that it was given then. Members have the RFC's names.

use std::sync::Arc;

use axum::{
    extract::{FromRequestParts, State},
    http::{HeaderMap, StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use kronos_common::{
    extract::{Json, Path},
    identity::{Allowed, permission::bearer},
    problem::{Problem, ProblemBody, Result},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use subtle::ConstantTimeEq as _;
use utoipa::ToSchema;

use super::{NO_STORE, oauth, oauth::TokenError, permissions::CanRegisterClients};
use crate::{
    App,
    client_settings::{IDENTITY_SCOPES, Settings},
    clients::{AuthMethod, Client, GrantType, Registered, hash_secret, is_permission},
    flows::{
        client_auth,
        clients::{Made, NewRegistration, change_itself, create, delete},
    },
    keys::Algorithm,
};

/// RFC 7591 section 2. Members that Kronos does not know are ignored, as the RFC has it.
#[derive(Deserialize, ToSchema)]
pub(super) struct ClientMetadata {
    client_name: Option<String>,
    redirect_uris: Option<Vec<String>>,
    post_logout_redirect_uris: Option<Vec<String>>,
    /// `authorization_code` if absent.
    grant_types: Option<Vec<GrantType>>,
    /// `code`, or nothing.
    response_types: Option<Vec<String>>,
    /// `client_secret_basic` if absent.
    token_endpoint_auth_method: Option<AuthMethod>,
    /// Permissions, each of which who registers must hold, and `openid profile email offline_access`.
    scope: Option<String>,
    jwks: Option<Value>,
    jwks_uri: Option<String>,
    id_token_signed_response_alg: Option<Algorithm>,
    dpop_bound_access_tokens: Option<bool>,
}

/// RFC 7591 section 3.2.1, RFC 7592 section 3.
#[derive(Serialize, ToSchema)]
pub(super) struct RegistrationAnswer {
    client_id: String,
    client_id_issued_at: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_secret: Option<String>,
    /// 0: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    client_secret_expires_at: Option<i64>,
    /// Shown this once.
    #[serde(skip_serializing_if = "Option::is_none")]
    registration_access_token: Option<String>,
    registration_client_uri: String,
    client_name: String,
    redirect_uris: Vec<String>,
    post_logout_redirect_uris: Vec<String>,
    grant_types: Vec<String>,
    response_types: Vec<&'static str>,
    token_endpoint_auth_method: AuthMethod,
    scope: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    jwks: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jwks_uri: Option<String>,
    id_token_signed_response_alg: Algorithm,
    dpop_bound_access_tokens: bool,
}

impl ClientMetadata {
    fn settings(self) -> Result<Settings> {
        let invalid = |detail: &str| Problem::bad_request("invalid_client_metadata", detail);
        let grants = self.grant_types.unwrap_or_else(|| vec![GrantType::AuthorizationCode]);
        let has_code = grants.contains(&GrantType::AuthorizationCode);
        if self.response_types.is_some_and(|types| types.iter().any(|kind| kind != "code" || !has_code)) {
            return Err(invalid("response_types: `code`, with the grant authorization_code"));
        }
        let name = self.client_name.unwrap_or_else(|| "Registered client".to_owned());
        if name.is_empty() || name.chars().count() > 100 || name.contains(char::is_control) {
            return Err(invalid("client_name: 1 to 100 characters"));
        }
        let mut settings = Settings::of_program(&name, Vec::new());
        settings.grant_types = grants.iter().map(|grant| grant.name().to_owned()).collect();
        settings.redirect_uris = self.redirect_uris.unwrap_or_default();
        settings.post_logout_redirect_uris = self.post_logout_redirect_uris.unwrap_or_default();
        settings.token_endpoint_auth_method = self.token_endpoint_auth_method.unwrap_or(AuthMethod::ClientSecretBasic);
        if let Some(scope) = self.scope {
            settings.scopes.clear();
            for item in scope.split_ascii_whitespace() {
                match item {
                    name if IDENTITY_SCOPES.contains(&name) => settings.scopes.push(name.to_owned()),
                    permission if is_permission(permission) => settings.permissions.push(permission.to_owned()),
                    other => return Err(invalid(&format!("scope: there is no {other}"))),
                }
            }
        }
        settings.jwks = self.jwks;
        settings.jwks_uri = self.jwks_uri;
        settings.id_token_signed_response_alg = self.id_token_signed_response_alg.unwrap_or(Algorithm::Rs256);
        settings.dpop_bound_access_tokens = self.dpop_bound_access_tokens.unwrap_or(false);
        Ok(settings)
    }
}

/// Registers a client.
#[utoipa::path(
    post, path = "/oauth/register", tag = "auth-service", security(("bearer" = [])), request_body = ClientMetadata,
    responses(
        (status = 201, description = "Registered; secret and token are shown this once", body = RegistrationAnswer),
        (status = 400, description = "`invalid_redirect_uri`, `invalid_client_metadata`", body = TokenError),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `clients:register` and each permission of `scope`", body = ProblemBody),
        (status = 422, description = "Members of the wrong type", body = ProblemBody),
    )
)]
pub(super) async fn register_client(
    State(app): State<App>,
    allowed: Allowed<CanRegisterClients>,
    headers: HeaderMap,
    Json(body): Json<ClientMetadata>,
) -> Response {
    let register = async {
        let settings = body.settings()?;
        let new = NewRegistration { client_id: None, client_secret: None, settings, self_administered: true };
        create(&app, &allowed.caller, new).await
    };
    match register.await {
        Ok(made) => (StatusCode::CREATED, NO_STORE, Json(describe(&app, made))).into_response(),
        Err(problem) => oauth::refuse(as_registration(problem), &headers),
    }
}

/// Shows a client its own registration.
#[utoipa::path(
    get, path = "/oauth/register/{clientId}", tag = "auth-service", security(("bearer" = [])),
    params(("clientId" = String, Path, description = "The client")),
    responses(
        (status = 200, description = "The registration", body = RegistrationAnswer),
        (status = 401, description = "Not the registration's own token", body = ProblemBody),
    )
)]
pub(super) async fn read_registration(State(app): State<App>, Registrant(registered): Registrant) -> Response {
    let made = Made { client: registered.client.clone(), secret: None, registration_token: None };
    (NO_STORE, Json(describe(&app, made))).into_response()
}

/// Replaces a client's own registration. It cannot give itself permissions.
#[utoipa::path(
    put, path = "/oauth/register/{clientId}", tag = "auth-service", security(("bearer" = [])),
    params(("clientId" = String, Path, description = "The client")), request_body = ClientMetadata,
    responses(
        (status = 200, description = "Replaced", body = RegistrationAnswer),
        (status = 400, description = "`invalid_redirect_uri`, `invalid_client_metadata`", body = TokenError),
        (status = 401, description = "Not the registration's own token", body = ProblemBody),
        (status = 403, description = "More permissions than it has", body = ProblemBody),
        (status = 422, description = "Members of the wrong type", body = ProblemBody),
    )
)]
pub(super) async fn change_registration(
    State(app): State<App>,
    Registrant(registered): Registrant,
    headers: HeaderMap,
    Json(body): Json<ClientMetadata>,
) -> Response {
    match change_itself(&app, &registered.client.client_id, |_| body.settings()).await {
        Ok(made) => (NO_STORE, Json(describe(&app, made))).into_response(),
        Err(problem) => oauth::refuse(as_registration(problem), &headers),
    }
}

/// Ends a client's own registration, and its tokens.
#[utoipa::path(
    delete, path = "/oauth/register/{clientId}", tag = "auth-service", security(("bearer" = [])),
    params(("clientId" = String, Path, description = "The client")),
    responses(
        (status = 204, description = "Removed"),
        (status = 401, description = "Not the registration's own token", body = ProblemBody),
    )
)]
pub(super) async fn end_registration(State(app): State<App>, Registrant(registered): Registrant) -> Result<StatusCode> {
    let client_id = &registered.client.client_id;
    delete(&app, client_id, client_id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The client whose registration the path names, proved by the token that it was given then.
pub(super) struct Registrant(Arc<Registered>);

impl FromRequestParts<App> for Registrant {
    type Rejection = Problem;

    /// # Errors
    /// 401, the same for a wrong token and for an unknown client.
    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self> {
        let Path(client_id) = Path::<String>::from_request_parts(parts, app).await?;
        let token = bearer(&parts.headers)?;
        let registered = client_auth::find(app, &client_id).await?.filter(|registered| {
            let stored = registered.registration_token_hash.as_deref();
            stored.is_some_and(|stored| hash_secret(token).ct_eq(stored).into())
        });
        let registered = registered
            .ok_or_else(|| Problem::unauthorized("token_invalid", "this is not the token of the registration"))?;
        Ok(Self(registered))
    }
}

fn describe(app: &App, made: Made) -> RegistrationAnswer {
    let Made { client, secret, registration_token } = made;
    let Client { client_id, name, grant_types, permissions, scopes, .. } = client;
    let has_code = grant_types.iter().any(|grant| grant == GrantType::AuthorizationCode.name());
    RegistrationAnswer {
        registration_client_uri: format!("{}/oauth/register/{client_id}", app.issuer_url),
        client_id,
        client_id_issued_at: client.created_at.timestamp(),
        client_secret_expires_at: secret.is_some().then_some(0),
        client_secret: secret,
        registration_access_token: registration_token,
        client_name: name,
        redirect_uris: client.redirect_uris,
        post_logout_redirect_uris: client.post_logout_redirect_uris,
        grant_types,
        response_types: if has_code { vec!["code"] } else { vec![] },
        token_endpoint_auth_method: client.token_endpoint_auth_method,
        scope: scopes.iter().chain(&permissions).cloned().collect::<Vec<_>>().join(" "),
        jwks: client.jwks,
        jwks_uri: client.jwks_uri,
        id_token_signed_response_alg: client.id_token_signed_response_alg,
        dpop_bound_access_tokens: client.dpop_bound_access_tokens,
    }
}

/// RFC 7591 section 3.2.2.
fn as_registration(problem: Problem) -> Problem {
    if problem.status() != StatusCode::UNPROCESSABLE_ENTITY {
        return problem;
    }
    let code = if problem.errors().iter().all(|error| error.pointer == "/redirectUris") {
        "invalid_redirect_uri"
    } else {
        "invalid_client_metadata"
    };
    Problem::bad_request(code, problem.detail())
}
