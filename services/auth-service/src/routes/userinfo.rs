//! The userinfo endpoint (OpenID Connect Core section 5.3): what the token's scope lets the client know of the person, as
//! user-service has it now.

use axum::{
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use kronos_common::{
    extract::Json,
    identity::Caller,
    name,
    problem::{Problem, ProblemBody, Result},
};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::NO_STORE;
use crate::{App, store};

/// The standard claims (OpenID Connect Core section 5.1).
#[derive(Debug, Default, Serialize, ToSchema)]
pub(super) struct UserInfo {
    sub: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    preferred_username: Option<String>,
    /// Seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    updated_at: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<String>,
    /// Whether the person has shown that the address is theirs.
    #[serde(skip_serializing_if = "Option::is_none")]
    email_verified: Option<bool>,
}

/// Tells a client who its token speaks of: `profile` brings the names, `email` the address.
#[utoipa::path(
    get, path = "/oauth/userinfo", tag = "auth-service", security(("bearer" = [])),
    responses(
        (status = 200, description = "Claims", body = UserInfo),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "`insufficient_scope`: the token was not given for `openid`", body = ProblemBody),
        (status = 503, description = "user-service does not answer", body = ProblemBody),
    )
)]
pub(super) async fn get_userinfo(State(app): State<App>, caller: Caller) -> Result<Response> {
    answer(&app, &caller).await
}

/// The same.
#[utoipa::path(
    post, path = "/oauth/userinfo", tag = "auth-service", security(("bearer" = [])),
    responses(
        (status = 200, description = "Claims", body = UserInfo),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "`insufficient_scope`: the token was not given for `openid`", body = ProblemBody),
        (status = 503, description = "user-service does not answer", body = ProblemBody),
    )
)]
pub(super) async fn post_userinfo(State(app): State<App>, caller: Caller) -> Result<Response> {
    answer(&app, &caller).await
}

async fn answer(app: &App, caller: &Caller) -> Result<Response> {
    let scope: Vec<&str> = caller.claims.scope.as_deref().unwrap_or_default().split_ascii_whitespace().collect();
    let user_id = Uuid::parse_str(caller.subject()).ok().filter(|_| scope.contains(&"openid"));
    let Some(user_id) = user_id else {
        let challenge = HeaderValue::from_static("Bearer error=\"insufficient_scope\", scope=\"openid\"");
        return Err(Problem::new(StatusCode::FORBIDDEN, "insufficient_scope", "the token was not given for openid")
            .with_header(header::WWW_AUTHENTICATE, challenge));
    };
    let mut info = UserInfo { sub: caller.subject().to_owned(), ..UserInfo::default() };
    if scope.contains(&"profile") || scope.contains(&"email") {
        let profile = app.users.profile(user_id).await?.ok_or_else(|| Problem::not_found("user"))?;
        if scope.contains(&"profile") {
            info.name = Some(profile.display_name);
            info.preferred_username = Some(profile.username);
            info.updated_at = Some(profile.updated_at.timestamp());
        }
        if scope.contains(&"email") {
            // What was shown of an address counts for that one alone.
            let known = store::credentials::email(&app.pool, user_id).await?;
            let is_same = |email: &str| name::key(email) == name::key(&profile.email);
            info.email_verified = Some(known.is_some_and(|(email, verified)| verified && is_same(&email)));
            info.email = Some(profile.email);
        }
    }
    Ok((NO_STORE, Json(info)).into_response())
}
