//! What clients find by themselves: the key set (RFC 7517), and metadata (RFC 8414, OpenID Connect Discovery) of what truly
//! exists: an endpoint is named if there is a route for it. Endpoints are addressed as the gateway shows them.

use std::sync::Arc;

use axum::{
    Extension,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use kronos_common::{extract::Json, identity::dpop::PROOF_ALGORITHMS};
use serde_json::{Value, json};
use utoipa::openapi::OpenApi;

use crate::{App, client_settings::IDENTITY_SCOPES, clients::GrantType, keys::Algorithm};

const HOUR: &str = "public, max-age=3600";
/// Browsers of any origin may read what is public anyway.
const ANY_ORIGIN: (header::HeaderName, &str) = (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*");

/// The members that name an endpoint, and its path.
const ENDPOINTS: [(&str, &str); 10] = [
    ("jwks_uri", "/.well-known/jwks.json"),
    ("token_endpoint", "/oauth/token"),
    ("introspection_endpoint", "/oauth/introspect"),
    ("revocation_endpoint", "/oauth/revoke"),
    ("registration_endpoint", "/oauth/register"),
    ("authorization_endpoint", "/oauth/authorize"),
    ("pushed_authorization_request_endpoint", "/oauth/par"),
    ("device_authorization_endpoint", "/oauth/device_authorization"),
    ("userinfo_endpoint", "/oauth/userinfo"),
    ("end_session_endpoint", "/oauth/end_session"),
];

/// The documents, made once.
#[derive(Clone)]
pub(crate) struct Metadata(Arc<Value>);

impl Metadata {
    /// The metadata of a server with these routes.
    pub(crate) fn of(issuer: &str, routes: &OpenApi) -> Self {
        let exists = |path: &str| routes.paths.paths.contains_key(path);
        let methods = ["client_secret_basic", "client_secret_post", "private_key_jwt", "none"];
        let confidential = &methods[..3];
        let browsers = exists("/oauth/authorize");
        let grants = GrantType::ALL.into_iter().filter(|grant| match grant {
            GrantType::AuthorizationCode => browsers,
            GrantType::DeviceCode => exists("/oauth/device_authorization"),
            _ => true,
        });
        let algorithms = [Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa].map(Algorithm::name);
        let mut document = json!({
            "issuer": issuer,
            "token_endpoint_auth_methods_supported": methods,
            "token_endpoint_auth_signing_alg_values_supported": PROOF_ALGORITHMS,
            "introspection_endpoint_auth_methods_supported": confidential,
            "introspection_endpoint_auth_signing_alg_values_supported": PROOF_ALGORITHMS,
            "revocation_endpoint_auth_methods_supported": methods,
            "revocation_endpoint_auth_signing_alg_values_supported": PROOF_ALGORITHMS,
            "grant_types_supported": grants.map(GrantType::name).collect::<Vec<_>>(),
            "scopes_supported": IDENTITY_SCOPES,
            "response_types_supported": if browsers { vec!["code"] } else { vec![] },
            "dpop_signing_alg_values_supported": PROOF_ALGORITHMS,
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": algorithms,
            "claims_supported": [
                "iss", "sub", "aud", "azp", "exp", "iat", "auth_time", "nonce", "acr", "amr", "sid", "at_hash",
                "preferred_username", "email", "email_verified",
            ],
            "claims_parameter_supported": false,
            "request_parameter_supported": false,
            // Absent would mean true (OpenID Connect Discovery 1.0 section 3).
            "request_uri_parameter_supported": false,
            "ui_locales_supported": ["en", "fr"],
        });
        for (member, path) in ENDPOINTS.into_iter().filter(|(_, path)| exists(path)) {
            document[member] = json!(format!("{issuer}{path}"));
        }
        if browsers {
            document["response_modes_supported"] = json!(["query", "form_post"]);
            document["code_challenge_methods_supported"] = json!(["S256"]);
            document["authorization_response_iss_parameter_supported"] = json!(true);
            document["require_pushed_authorization_requests"] = json!(false);
        }
        Self(Arc::new(document))
    }

    fn answer(&self) -> Response {
        ([(header::CACHE_CONTROL, HOUR), ANY_ORIGIN], Json(&*self.0)).into_response()
    }
}

/// The public keys of access tokens and ID tokens.
#[utoipa::path(
    get, path = "/.well-known/jwks.json", tag = "auth-service",
    responses((status = 200, description = "A JWK set", body = Value))
)]
pub(super) async fn get_jwks(State(app): State<App>) -> Response {
    let cache = format!("public, max-age={}", app.keys.jwks_max_age_seconds);
    let (any, star) = ANY_ORIGIN;
    ([(header::CACHE_CONTROL, cache), (any, star.to_owned())], Json(app.issuer.keys().public.clone())).into_response()
}

/// OpenID provider metadata.
#[utoipa::path(
    get, path = "/.well-known/openid-configuration", tag = "auth-service",
    responses((status = 200, description = "Metadata", body = Value))
)]
pub(super) async fn get_openid_configuration(Extension(metadata): Extension<Metadata>) -> Response {
    metadata.answer()
}

/// Authorization server metadata (RFC 8414).
#[utoipa::path(
    get, path = "/.well-known/oauth-authorization-server", tag = "auth-service",
    responses((status = 200, description = "Metadata", body = Value))
)]
pub(super) async fn get_oauth_metadata(Extension(metadata): Extension<Metadata>) -> Response {
    metadata.answer()
}
