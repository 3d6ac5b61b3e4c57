//! What clients find by themselves: the key set (RFC 7517), and metadata (RFC 8414, OpenID Connect Discovery) of what truly
//! exists. Endpoints are addressed as the gateway shows them.

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use kronos_common::extract::Json;
use serde_json::{Value, json};

use crate::App;

const HOUR: &str = "public, max-age=3600";

/// The public keys of access tokens.
#[utoipa::path(
    get, path = "/.well-known/jwks.json", tag = "auth-service",
    responses((status = 200, description = "A JWK set", body = Value))
)]
pub(super) async fn get_jwks(State(app): State<App>) -> Response {
    let cache = format!("public, max-age={}", app.keys.jwks_max_age_seconds);
    ([(header::CACHE_CONTROL, cache)], Json(app.issuer.keys().public.clone())).into_response()
}

/// OpenID provider metadata. There are no ID tokens yet, and it says so.
#[utoipa::path(
    get, path = "/.well-known/openid-configuration", tag = "auth-service",
    responses((status = 200, description = "Metadata", body = Value))
)]
pub(super) async fn get_openid_configuration(State(app): State<App>) -> Response {
    let mut document = metadata(&app.issuer_url);
    document["subject_types_supported"] = json!(["public"]);
    document["id_token_signing_alg_values_supported"] = json!([]);
    document["request_uri_parameter_supported"] = json!(false);
    ([(header::CACHE_CONTROL, HOUR)], Json(document)).into_response()
}

/// Authorization server metadata (RFC 8414).
#[utoipa::path(
    get, path = "/.well-known/oauth-authorization-server", tag = "auth-service",
    responses((status = 200, description = "Metadata", body = Value))
)]
pub(super) async fn get_oauth_metadata(State(app): State<App>) -> Response {
    ([(header::CACHE_CONTROL, HOUR)], Json(metadata(&app.issuer_url))).into_response()
}

fn metadata(issuer: &str) -> Value {
    json!({
        "issuer": issuer,
        "jwks_uri": format!("{issuer}/.well-known/jwks.json"),
        "token_endpoint": format!("{issuer}/oauth/token"),
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
        "grant_types_supported": ["client_credentials", "refresh_token"],
        "response_types_supported": [],
    })
}
