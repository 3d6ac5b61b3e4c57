//! Users' credentials, written by user-service alone (`credentials:write`).

use axum::{extract::State, http::StatusCode};
use kronos_common::{
    extract::{Json, Path},
    identity::Allowed,
    problem::{ProblemBody, Result},
};
use serde::Deserialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{login::Password, permissions::CanWriteCredentials};
use crate::{App, flows::credentials};

#[derive(Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, min_length = 1, max_length = 254)]
pub(super) struct Username(String);

impl TryFrom<String> for Username {
    type Error = &'static str;

    fn try_from(text: String) -> std::result::Result<Self, Self::Error> {
        let length = text.chars().count();
        if !text.trim().is_empty() && length <= 254 && !text.contains(char::is_control) {
            Ok(Self(text))
        } else {
            Err("1 to 254 characters, not all blank")
        }
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, min_length = 3, max_length = 320, pattern = "^[^@\\s]+@[^@\\s]+$")]
pub(super) struct Email(String);

impl TryFrom<String> for Email {
    type Error = &'static str;

    fn try_from(text: String) -> std::result::Result<Self, Self::Error> {
        let good = text.chars().count() <= 320
            && !text.contains(|c: char| c.is_whitespace() || c.is_control())
            && text
                .split_once('@')
                .is_some_and(|(local, domain)| !local.is_empty() && !domain.is_empty() && !domain.contains('@'));
        if good { Ok(Self(text)) } else { Err("an e-mail address of at most 320 characters") }
    }
}

impl Email {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PutCredentials {
    username: Username,
    email: Email,
    /// Without one the present password stays; a user who has none cannot log in.
    password: Option<Password>,
}

/// Sets a user's name and, if given, password. A name that was another user's is theirs no more.
#[utoipa::path(
    put, path = "/auth/credentials/{userId}", tag = "auth-service", security(("bearer" = [])),
    params(("userId" = Uuid, Path, description = "The user")), request_body = PutCredentials,
    responses(
        (status = 204, description = "Set"),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `credentials:write`", body = ProblemBody),
        (status = 409, description = "`username_taken` at this moment", body = ProblemBody),
        (status = 422, description = "Bad fields, such as a password that is too short", body = ProblemBody),
        (status = 503, description = "Overloaded", body = ProblemBody),
    )
)]
pub(super) async fn put_credentials(
    State(app): State<App>,
    allowed: Allowed<CanWriteCredentials>,
    Path(user_id): Path<Uuid>,
    Json(body): Json<PutCredentials>,
) -> Result<StatusCode> {
    let put = credentials::Put {
        user_id,
        username: body.username.0,
        email: body.email.0,
        password: body.password.map(|password| password.0),
    };
    credentials::put(&app, put, allowed.caller.subject()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Removes a user's credentials and ends the sessions.
#[utoipa::path(
    delete, path = "/auth/credentials/{userId}", tag = "auth-service", security(("bearer" = [])),
    params(("userId" = Uuid, Path, description = "The user")),
    responses(
        (status = 204, description = "Removed, or there were none"),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `credentials:write`", body = ProblemBody),
    )
)]
pub(super) async fn delete_credentials(
    State(app): State<App>,
    allowed: Allowed<CanWriteCredentials>,
    Path(user_id): Path<Uuid>,
) -> Result<StatusCode> {
    credentials::delete(&app, user_id, allowed.caller.subject()).await?;
    Ok(StatusCode::NO_CONTENT)
}
