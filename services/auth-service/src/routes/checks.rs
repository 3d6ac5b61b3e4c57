//! Questions of other systems: is this token good, may they do this?

pub(super) mod authzen;
pub(super) mod batch;

use axum::extract::State;
use chrono::{DateTime, Utc};
use kronos_common::{
    extract::Json,
    identity::Allowed,
    problem::{ProblemBody, Result},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::permissions::{CanCheckAccess, CanVerifyTokens};
use crate::{
    App,
    clients::is_permission,
    decision::{Decision, judge_client},
    store,
};

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct VerifyRequest {
    token: String,
}

/// What a good token says. Of one that is not good, only `active` is told.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct VerifiedToken {
    active: bool,
    #[serde(flatten)]
    details: Option<TokenDetails>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct TokenDetails {
    /// A user's or a client's id.
    subject: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<String>,
    client_id: String,
    roles: Vec<String>,
    /// Those that hold everywhere.
    permissions: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<String>,
    expires_at: DateTime<Utc>,
}

/// Says whether an access token is good now, and what it says.
#[utoipa::path(
    post, path = "/auth/verify", tag = "auth-service", security(("bearer" = [])), request_body = VerifyRequest,
    responses(
        (status = 200, description = "Good or not", body = VerifiedToken),
        (status = 401, description = "No good token of the caller's own", body = ProblemBody),
        (status = 403, description = "Needs `tokens:verify`", body = ProblemBody),
        (status = 422, description = "Bad fields", body = ProblemBody),
    )
)]
pub(super) async fn verify_token(
    State(app): State<App>,
    _: Allowed<CanVerifyTokens>,
    Json(body): Json<VerifyRequest>,
) -> Json<VerifiedToken> {
    let Ok(claims) = app.verifier.verify(&body.token).await else {
        return Json(VerifiedToken { active: false, details: None });
    };
    let details = TokenDetails {
        subject: claims.sub.clone(),
        username: claims.username.clone(),
        client_id: claims.client_id.clone(),
        roles: claims.roles.clone(),
        permissions: claims.permissions.clone(),
        session: claims.sid.clone(),
        expires_at: DateTime::from_timestamp(claims.exp, 0).unwrap_or_default(),
    };
    Json(VerifiedToken { active: true, details: Some(details) })
}

#[derive(Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, min_length = 3, max_length = 128, example = "logs:read")]
pub(super) struct PermissionName(String);

impl TryFrom<String> for PermissionName {
    type Error = &'static str;

    fn try_from(text: String) -> std::result::Result<Self, Self::Error> {
        if is_permission(&text) && !text.contains('*') {
            Ok(Self(text))
        } else {
            Err("resource:action, without wildcards")
        }
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, min_length = 1, max_length = 256)]
pub(super) struct Name(String);

impl TryFrom<String> for Name {
    type Error = &'static str;

    fn try_from(text: String) -> std::result::Result<Self, Self::Error> {
        if (1..=256).contains(&text.chars().count()) && !text.contains(char::is_control) {
            Ok(Self(text))
        } else {
            Err("1 to 256 characters")
        }
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct CheckRequest {
    /// A user's or a client's id.
    subject: Name,
    permission: PermissionName,
    /// Such as `robot:R-42`.
    resource: Option<Name>,
    /// The `Kronos-Epoch` of a change of a user's rights that the answer must know of.
    #[schema(minimum = 1)]
    min_epoch: Option<i64>,
}

/// Says whether somebody may do something, and why or why not; by what is true now, not by what a token says.
#[utoipa::path(
    post, path = "/auth/check", tag = "auth-service", security(("bearer" = [])), request_body = CheckRequest,
    responses(
        (status = 200, description = "Yes or no", body = Decision),
        (status = 401, description = "No good token of the caller's own", body = ProblemBody),
        (status = 403, description = "Needs `access:check`", body = ProblemBody),
        (status = 422, description = "Bad fields", body = ProblemBody),
    )
)]
pub(super) async fn check_access(
    State(app): State<App>,
    _: Allowed<CanCheckAccess>,
    Json(body): Json<CheckRequest>,
) -> Result<Json<Decision>> {
    Ok(Json(decide(&app, &body).await?))
}

/// The answer to one question.
async fn decide(app: &App, question: &CheckRequest) -> Result<Decision> {
    let (subject, permission) = (&question.subject.0, &question.permission.0);
    let resource = question.resource.as_ref().map(|resource| resource.0.as_str());
    // A client may be named by a UUID too; users are many, clients few.
    let client = store::clients::find(&app.pool, subject).await?;
    match (client, Uuid::parse_str(subject)) {
        (Some(client), _) => Ok(judge_client(&client, permission, resource, Utc::now())),
        (None, Ok(user_id)) => app.users.check(user_id, permission, resource, question.min_epoch).await,
        (None, Err(_)) => Ok(Decision::deny("there is no such subject")),
    }
}
