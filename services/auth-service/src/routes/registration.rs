//! Registration, invitations, and proving an address.

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, TimeDelta, Utc};
use kronos_common::{
    extract::{Json, Path, Query},
    identity::Allowed,
    page::{Page, PageQuery},
    problem::{ProblemBody, Result},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    NO_STORE,
    credentials::Email,
    login::{FactorCode, Password},
    nodes::fields::Seconds,
    origin::Origin,
    passwords::{Address, LinkToken, language},
    permissions::{CanReadInvitations, CanWriteInvitations},
};
use crate::{
    App,
    flows::{
        passwords::{VERIFICATION, ask_for_link},
        registration::{self, Applicant, Registered},
    },
    store::{self, registrations::Invitation},
};

const WEEK_SECONDS: i64 = 604_800;

/// A name to log in with.
#[derive(Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, min_length = 1, max_length = 64, pattern = "^\\S+$", example = "camille")]
pub(super) struct NewUsername(String);

impl TryFrom<String> for NewUsername {
    type Error = &'static str;

    fn try_from(text: String) -> std::result::Result<Self, Self::Error> {
        let good = (1..=64).contains(&text.chars().count())
            && !text.contains(|character: char| character.is_whitespace() || character.is_control());
        if good { Ok(Self(text)) } else { Err("1 to 64 characters without blanks or control characters") }
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, min_length = 1, max_length = 128)]
pub(super) struct ShownName(String);

impl TryFrom<String> for ShownName {
    type Error = &'static str;

    fn try_from(text: String) -> std::result::Result<Self, Self::Error> {
        let good = (1..=128).contains(&text.chars().count()) && !text.contains(char::is_control);
        if good && text.trim() == text { Ok(Self(text)) } else { Err("1 to 128 characters, no blanks around") }
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RegisterRequest {
    username: NewUsername,
    email: Email,
    password: Password,
    /// What others see; the username, if absent.
    display_name: Option<ShownName>,
    /// The code of an invitation.
    invitation: Option<FactorCode>,
}

/// What comes next.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct RegisterAnswer {
    /// `registered`: log in; `verificationRequired`: follow the link that was mailed.
    #[schema(value_type = String, example = "verificationRequired")]
    status: &'static str,
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct VerifyEmail {
    token: LinkToken,
    /// Another name, if the first choice was taken meanwhile.
    username: Option<NewUsername>,
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Invite {
    /// Whom it is for; it is mailed there, and proves the address.
    email: Option<Email>,
    /// A week, if absent.
    expires_in_seconds: Option<Seconds>,
}

/// A new invitation.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CreatedInvitation {
    /// Shown this once.
    code: String,
    #[serde(flatten)]
    invitation: Invitation,
}

/// Registers a person, as far as the configuration lets strangers do so.
///
/// An address that has an account already gets the same answer, and a mail that says so.
#[utoipa::path(
    post, path = "/auth/register", tag = "auth-service", request_body = RegisterRequest,
    responses(
        (status = 201, description = "Can log in now", body = RegisterAnswer),
        (status = 202, description = "Can log in once the address is proved", body = RegisterAnswer),
        (status = 403, description = "`registration_closed`, `invitation_refused`", body = ProblemBody),
        (status = 409, description = "`username_taken`; `email_taken` for an invited address", body = ProblemBody),
        (status = 422, description = "Bad fields, or a weak password", body = ProblemBody),
        (status = 429, description = "Too many from this network", body = ProblemBody),
        (status = 503, description = "Overloaded, or user-service does not answer", body = ProblemBody),
    )
)]
pub(super) async fn register(
    State(app): State<App>,
    origin: Origin,
    headers: HeaderMap,
    Json(body): Json<RegisterRequest>,
) -> Result<Response> {
    let applicant = Applicant {
        username: body.username.0,
        email: body.email.as_str().to_owned(),
        display_name: body.display_name.map(|name| name.0),
        password: body.password.0,
        invitation: body.invitation.map(|code| code.0),
        network: origin.network,
        language: language(&headers),
    };
    let (code, status) = match registration::register(&app, applicant).await? {
        Registered::Done => (StatusCode::CREATED, "registered"),
        Registered::ToVerify => (StatusCode::ACCEPTED, "verificationRequired"),
    };
    Ok((code, Json(RegisterAnswer { status })).into_response())
}

/// Proves an address by the link that was mailed there.
#[utoipa::path(
    post, path = "/auth/verify-email", tag = "auth-service", request_body = VerifyEmail,
    responses(
        (status = 204, description = "Proved; who registered can log in now"),
        (status = 400, description = "`invalid_link`", body = ProblemBody),
        (status = 409, description = "`username_taken`: send another one with the same link; `email_taken`", body = ProblemBody),
        (status = 422, description = "Bad fields", body = ProblemBody),
        (status = 429, description = "Too many wrong links from this network", body = ProblemBody),
        (status = 503, description = "user-service does not answer; the link is still good", body = ProblemBody),
    )
)]
pub(super) async fn verify_email(
    State(app): State<App>,
    origin: Origin,
    Json(body): Json<VerifyEmail>,
) -> Result<StatusCode> {
    registration::verify(&app, &body.token.0, body.username.map(|name| name.0), origin.network).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Has another link mailed, if the address waits for one; the answer is the same if it does not.
#[utoipa::path(
    post, path = "/auth/verify-email/resend", tag = "auth-service", request_body = Address,
    responses(
        (status = 202, description = "If the address waits for one, a mail is on its way"),
        (status = 422, description = "Bad fields", body = ProblemBody),
        (status = 429, description = "Too many from this network", body = ProblemBody),
    )
)]
pub(super) async fn resend_verification(
    State(app): State<App>,
    origin: Origin,
    headers: HeaderMap,
    Json(body): Json<Address>,
) -> Result<StatusCode> {
    ask_for_link(&app, VERIFICATION, body.email.as_str(), origin.network, language(&headers)).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Invites somebody to register.
#[utoipa::path(
    post, path = "/auth/invitations", tag = "auth-service", security(("bearer" = [])), request_body = Invite,
    responses(
        (status = 201, description = "The code, this once", body = CreatedInvitation),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `invitations:write`", body = ProblemBody),
        (status = 422, description = "Bad fields", body = ProblemBody),
    )
)]
pub(super) async fn invite(
    State(app): State<App>,
    allowed: Allowed<CanWriteInvitations>,
    headers: HeaderMap,
    Json(body): Json<Invite>,
) -> Result<Response> {
    let life = body.expires_in_seconds.map_or(TimeDelta::seconds(WEEK_SECONDS), Into::into);
    let expires_at: DateTime<Utc> = Utc::now() + life;
    let email = body.email.map(|email| email.as_str().to_owned());
    let actor = allowed.caller.subject();
    let (invitation, code) = registration::invite(&app, email, expires_at, actor, language(&headers)).await?;
    Ok((StatusCode::CREATED, NO_STORE, Json(CreatedInvitation { code, invitation })).into_response())
}

/// Lists invitations, newest first.
#[utoipa::path(
    get, path = "/auth/invitations", tag = "auth-service", security(("bearer" = [])), params(PageQuery),
    responses(
        (status = 200, description = "A page", body = Page<Invitation>),
        (status = 400, description = "`invalid_query`, `invalid_cursor`", body = ProblemBody),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `invitations:read`", body = ProblemBody),
    )
)]
pub(super) async fn list_invitations(
    State(app): State<App>,
    _: Allowed<CanReadInvitations>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<Invitation>>> {
    let after = query.cursor.map(|cursor| cursor.decode()).transpose()?;
    let rows = store::registrations::list(&app.pool, after, query.limit.fetch()).await?;
    Ok(Json(Page::new(rows, query.limit, |invitation| invitation.id)))
}

/// Withdraws an invitation that was not used.
#[utoipa::path(
    delete, path = "/auth/invitations/{id}", tag = "auth-service", security(("bearer" = [])),
    params(("id" = Uuid, Path, description = "The invitation")),
    responses(
        (status = 204, description = "Withdrawn"),
        (status = 400, description = "`invalid_path`", body = ProblemBody),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `invitations:write`", body = ProblemBody),
        (status = 404, description = "No such open invitation", body = ProblemBody),
    )
)]
pub(super) async fn withdraw_invitation(
    State(app): State<App>,
    allowed: Allowed<CanWriteInvitations>,
    Path(id): Path<Uuid>,
) -> Result<StatusCode> {
    registration::withdraw(&app, id, allowed.caller.subject()).await?;
    Ok(StatusCode::NO_CONTENT)
}
