//! Changing and resetting passwords, and proving an address.

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode, header},
};
use kronos_common::{
    extract::{Json, Path},
    identity::{Allowed, Caller},
    problem::{ProblemBody, Result},
};
use serde::Deserialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    credentials::Email,
    login::{Password, own_session},
    origin::Origin,
    permissions::CanResetCredentials,
    sessions::own_user,
};
use crate::{
    App,
    flows::passwords::{self, Change, RESET},
    mail,
};

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ChangePassword {
    current_password: Password,
    new_password: Password,
    /// Ends every session but this one.
    #[serde(default)]
    end_other_sessions: bool,
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Address {
    pub(super) email: Email,
}

/// The text that a mailed link carries.
#[derive(Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, min_length = 1, max_length = 128)]
pub(super) struct LinkToken(pub(super) String);

impl TryFrom<String> for LinkToken {
    type Error = &'static str;

    fn try_from(text: String) -> std::result::Result<Self, Self::Error> {
        if (1..=128).contains(&text.chars().count()) { Ok(Self(text)) } else { Err("1 to 128 characters") }
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ResetPassword {
    token: LinkToken,
    password: Password,
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct DeskReset {
    /// The present password and all sessions end now.
    #[serde(default)]
    lock: bool,
}

/// Changes the caller's password.
#[utoipa::path(
    post, path = "/auth/password", tag = "auth-service", security(("bearer" = [])), request_body = ChangePassword,
    responses(
        (status = 204, description = "Changed"),
        (status = 400, description = "`no_session`", body = ProblemBody),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "`wrong_password`", body = ProblemBody),
        (status = 404, description = "The person has no credentials any more", body = ProblemBody),
        (status = 422, description = "A weak password; says what would help", body = ProblemBody),
        (status = 429, description = "Too many wrong ones", body = ProblemBody),
        (status = 503, description = "Overloaded", body = ProblemBody),
    )
)]
pub(super) async fn change_password(
    State(app): State<App>,
    caller: Caller,
    origin: Origin,
    headers: HeaderMap,
    Json(body): Json<ChangePassword>,
) -> Result<StatusCode> {
    let change = Change {
        session: own_session(&caller)?,
        user_id: own_user(&caller)?,
        username: caller.claims.username.clone().unwrap_or_default(),
        current: body.current_password.0,
        new: body.new_password.0,
        end_other_sessions: body.end_other_sessions,
        network: origin.network,
        language: language(&headers),
    };
    passwords::change(&app, change).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Has a reset link mailed, if the address has an account; the answer is the same if it has none.
#[utoipa::path(
    post, path = "/auth/password-reset", tag = "auth-service", request_body = Address,
    responses(
        (status = 202, description = "If there is such an account, a mail is on its way"),
        (status = 422, description = "Bad fields", body = ProblemBody),
        (status = 429, description = "Too many from this network", body = ProblemBody),
    )
)]
pub(super) async fn ask_for_reset(
    State(app): State<App>,
    origin: Origin,
    headers: HeaderMap,
    Json(body): Json<Address>,
) -> Result<StatusCode> {
    passwords::ask_for_link(&app, RESET, body.email.as_str(), origin.network, language(&headers)).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Sets a new password by a link, once. All sessions end.
#[utoipa::path(
    post, path = "/auth/password-reset/confirm", tag = "auth-service", request_body = ResetPassword,
    responses(
        (status = 204, description = "Set"),
        (status = 400, description = "`invalid_link`", body = ProblemBody),
        (status = 422, description = "A weak password; the link is still good", body = ProblemBody),
        (status = 429, description = "Too many wrong links from this network", body = ProblemBody),
        (status = 503, description = "Overloaded", body = ProblemBody),
    )
)]
pub(super) async fn reset_password(
    State(app): State<App>,
    origin: Origin,
    Json(body): Json<ResetPassword>,
) -> Result<StatusCode> {
    passwords::reset(&app, &body.token.0, body.password.0, origin.network).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Has a reset link mailed to a person; who asks for it sees neither link nor password.
#[utoipa::path(
    post, path = "/auth/credentials/{userId}/reset", tag = "auth-service", security(("bearer" = [])),
    params(("userId" = Uuid, Path, description = "The user")), request_body = DeskReset,
    responses(
        (status = 202, description = "The mail is on its way, unless the person had enough in this hour"),
        (status = 400, description = "`invalid_path`", body = ProblemBody),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `credentials:reset`", body = ProblemBody),
        (status = 404, description = "No such credentials", body = ProblemBody),
        (status = 422, description = "Bad fields", body = ProblemBody),
    )
)]
pub(super) async fn reset_by_desk(
    State(app): State<App>,
    allowed: Allowed<CanResetCredentials>,
    Path(user_id): Path<Uuid>,
    Json(body): Json<DeskReset>,
) -> Result<StatusCode> {
    passwords::reset_by_desk(&app, user_id, body.lock, allowed.caller.subject()).await?;
    Ok(StatusCode::ACCEPTED)
}

/// The language of a mail to who asks.
pub(super) fn language(headers: &HeaderMap) -> &'static str {
    mail::language(headers.get(header::ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok()))
}
