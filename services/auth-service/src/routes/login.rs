//! Login, refresh, logout of people.

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use kronos_common::{
    extract::Json,
    identity::Caller,
    problem::{Problem, ProblemBody, Result},
};
use secrecy::SecretString;
use serde::Deserialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{NO_STORE, origin::Origin, passkeys::wire::AssertionCredential};
use crate::{
    App,
    factors::Proof,
    flows::{
        TokenPair,
        api_keys::KEY_CLIENT,
        login::{Attempt, login},
        passkeys, refresh, sessions,
    },
    password::MAX_BYTES,
};

/// A name that somebody types; whether it is anybody's is not said.
#[derive(Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, max_length = 254)]
pub(super) struct LoginName(pub(super) String);

impl TryFrom<String> for LoginName {
    type Error = &'static str;

    fn try_from(text: String) -> std::result::Result<Self, Self::Error> {
        if text.chars().count() <= 254 { Ok(Self(text)) } else { Err("at most 254 characters") }
    }
}

/// A password that somebody types.
#[derive(Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, format = Password, max_length = 1024)]
pub(super) struct Password(pub(super) SecretString);

impl TryFrom<String> for Password {
    type Error = &'static str;

    fn try_from(text: String) -> std::result::Result<Self, Self::Error> {
        if text.len() <= MAX_BYTES { Ok(Self(text.into())) } else { Err("at most 1024 bytes") }
    }
}

/// The code of a second factor, as typed.
#[derive(Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, max_length = 64)]
pub(super) struct FactorCode(pub(super) String);

impl TryFrom<String> for FactorCode {
    type Error = &'static str;

    fn try_from(text: String) -> std::result::Result<Self, Self::Error> {
        if text.chars().count() <= 64 { Ok(Self(text)) } else { Err("at most 64 characters") }
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct LoginRequest {
    username: LoginName,
    password: Password,
    /// The code that an authenticator app shows, if the person has one.
    totp: Option<FactorCode>,
    /// One of the recovery codes, instead.
    recovery_code: Option<FactorCode>,
    /// A passkey's answer to the options of `/auth/passkeys/login/begin`, instead.
    passkey: Option<AssertionCredential>,
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RefreshRequest {
    refresh_token: String,
}

/// Logs a user in with name and password.
#[utoipa::path(
    post, path = "/auth/login", tag = "auth-service", request_body = LoginRequest,
    responses(
        (status = 200, description = "Logged in", body = TokenPair),
        (status = 401, description = "`invalid_credentials`, whatever was wrong; `second_factor_required`; `invalid_second_factor`", body = ProblemBody),
        (status = 422, description = "Bad fields", body = ProblemBody),
        (status = 429, description = "Too many failures from this network", body = ProblemBody),
        (status = 503, description = "Overloaded, or the rights cannot be known now", body = ProblemBody),
    )
)]
pub(super) async fn log_in(State(app): State<App>, origin: Origin, Json(body): Json<LoginRequest>) -> Result<Response> {
    let proof = match (body.totp, body.recovery_code, body.passkey) {
        (Some(code), _, _) => Some(Proof::Totp(code.0)),
        (None, Some(code), _) => Some(Proof::RecoveryCode(code.0)),
        (None, None, Some(credential)) => {
            Some(Proof::Passkey(Box::new(passkeys::proof(credential.into(), passkeys::Use::LogIn))))
        }
        (None, None, None) => None,
    };
    let attempt = Attempt { username: body.username.0, password: body.password.0, proof, network: origin.network };
    Ok((NO_STORE, Json(login(&app, attempt, origin.device.as_deref()).await?)).into_response())
}

/// Exchanges a refresh token for the next pair.
///
/// Within 10 s the same refresh token brings the same successor. An older one ends the session.
#[utoipa::path(
    post, path = "/auth/refresh", tag = "auth-service", request_body = RefreshRequest,
    responses(
        (status = 200, description = "The next tokens", body = TokenPair),
        (status = 401, description = "`invalid_refresh_token`: log in again", body = ProblemBody),
        (status = 409, description = "`refresh_conflict`: others refresh this session", body = ProblemBody),
        (status = 422, description = "Bad fields", body = ProblemBody),
        (status = 503, description = "The rights cannot be known now; the token is still good", body = ProblemBody),
    )
)]
pub(super) async fn refresh(State(app): State<App>, Json(body): Json<RefreshRequest>) -> Result<Response> {
    Ok((NO_STORE, Json(refresh::refresh(&app, &body.refresh_token).await?)).into_response())
}

/// Ends the session that the token belongs to: no refresh, and its access tokens are refused everywhere.
#[utoipa::path(
    post, path = "/auth/logout", tag = "auth-service", security(("bearer" = [])),
    responses(
        (status = 204, description = "Logged out"),
        (status = 400, description = "`no_session`: a client's token has none", body = ProblemBody),
        (status = 401, description = "No good token", body = ProblemBody),
    )
)]
pub(super) async fn log_out(State(app): State<App>, caller: Caller) -> Result<StatusCode> {
    sessions::end(&app, own_session(&caller)?, "logout", None).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The session of a user's token.
pub(super) fn own_session(caller: &Caller) -> Result<Uuid> {
    // An API key acts for its owner, but not on the owner's account.
    let session = Some(&caller.claims).filter(|claims| claims.client_id != KEY_CLIENT);
    let session = session.and_then(|claims| claims.sid.as_deref()).and_then(|sid| Uuid::parse_str(sid).ok());
    session.ok_or_else(|| Problem::bad_request("no_session", "this token belongs to no session of a user"))
}
