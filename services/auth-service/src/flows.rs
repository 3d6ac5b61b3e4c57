//! What one request does across the store, the hashing threads and user-service. No axum: handlers call these and wrap the
//! answer.

pub(crate) mod api_keys;
pub(crate) mod assertion;
pub(crate) mod authorize;
pub(crate) mod browsers;
pub(crate) mod client_auth;
pub(crate) mod clients;
pub(crate) mod codes;
pub(crate) mod credentials;
pub(crate) mod devices;
pub(crate) mod dpop;
pub(crate) mod exchange;
pub(crate) mod factors;
pub(crate) mod issue;
pub(crate) mod login;
pub(crate) mod nodes;
pub(crate) mod passkeys;
pub(crate) mod passwords;
mod privacy;
pub(crate) mod refresh;
pub(crate) mod registration;
pub(crate) mod rights;
pub(crate) mod sessions;
pub(crate) mod tokens;

use serde::Serialize;
use utoipa::ToSchema;

/// What a login or a refresh hands out.
#[derive(Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TokenPair {
    /// For `Authorization: Bearer …`.
    pub access_token: String,
    /// For one refresh; it brings the next one.
    pub refresh_token: String,
    #[schema(value_type = String, example = "Bearer")]
    pub token_type: &'static str,
    /// Life of the access token, in seconds.
    pub expires_in: i64,
}
