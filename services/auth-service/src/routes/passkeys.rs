//! Passkeys: a person's own, and the login with one. Options and answers have the form that browsers read and write themselves
//! (`parseCreationOptionsFromJSON`, `parseRequestOptionsFromJSON`, `toJSON`).

pub(super) mod wire;

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use kronos_common::{
    extract::{Json, Path},
    identity::Caller,
    problem::{Problem, ProblemBody, Result},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use self::wire::{AssertionCredential, CreationOptions, RegistrationCredential, RequestOptions};
use super::{
    NO_STORE,
    login::own_session,
    origin::Origin,
    sessions::{DeviceName, fresh_user, own_user},
};
use crate::{
    App,
    flows::{
        TokenPair,
        passkeys::{self, Use},
    },
    store::{self, passkeys::Passkey},
};

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct PasskeyView {
    id: Uuid,
    name: String,
    /// Whether its key is copied to the owner's other devices.
    backed_up: bool,
    created_at: DateTime<Utc>,
    last_used_at: Option<DateTime<Utc>>,
}

impl From<Passkey> for PasskeyView {
    fn from(passkey: Passkey) -> Self {
        let Passkey { id, name, backed_up, created_at, last_used_at, .. } = passkey;
        Self { id, name, backed_up, created_at, last_used_at }
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct FinishRegistration {
    /// What its owner calls it; `Passkey` without one.
    name: Option<DeviceName>,
    credential: RegistrationCredential,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct RegisteredPasskey {
    passkey: PasskeyView,
    /// Shown this once; empty if the person has some already.
    recovery_codes: Vec<String>,
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RenamePasskey {
    name: DeviceName,
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct FinishLogin {
    credential: AssertionCredential,
}

/// Lists the caller's passkeys, oldest first.
#[utoipa::path(
    get, path = "/auth/passkeys", tag = "auth-service", security(("bearer" = [])),
    responses(
        (status = 200, description = "All", body = Vec<PasskeyView>),
        (status = 400, description = "`no_session`", body = ProblemBody),
        (status = 401, description = "No good token", body = ProblemBody),
    )
)]
pub(super) async fn list_passkeys(State(app): State<App>, caller: Caller) -> Result<Json<Vec<PasskeyView>>> {
    own_session(&caller)?;
    let passkeys = store::passkeys::list(&app.pool, own_user(&caller)?).await?;
    Ok(Json(passkeys.into_iter().map(Into::into).collect()))
}

/// Begins to register a passkey: the options for `navigator.credentials.create()`, good for ten minutes and one answer.
#[utoipa::path(
    post, path = "/auth/passkeys/register/begin", tag = "auth-service", security(("bearer" = [])),
    responses(
        (status = 200, description = "Options", body = CreationOptions),
        (status = 400, description = "`no_session`", body = ProblemBody),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "`fresh_login_required`", body = ProblemBody),
    )
)]
pub(super) async fn begin_passkey(State(app): State<App>, caller: Caller) -> Result<Response> {
    let user_id = fresh_user(&app, &caller).await?;
    let username = caller.claims.username.clone().unwrap_or_else(|| user_id.to_string());
    let held = store::passkeys::list(&app.pool, user_id).await?;
    let challenge = passkeys::challenge(&app, Use::Register(user_id));
    Ok((NO_STORE, Json(CreationOptions::new(&app, user_id, username, &held, challenge))).into_response())
}

/// Keeps the passkey that the browser made. From then on a login with the password asks for a second factor.
#[utoipa::path(
    post, path = "/auth/passkeys/register/finish", tag = "auth-service", security(("bearer" = [])),
    request_body = FinishRegistration,
    responses(
        (status = 201, description = "Registered", body = RegisteredPasskey),
        (status = 400, description = "`no_session`", body = ProblemBody),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "`fresh_login_required`", body = ProblemBody),
        (status = 409, description = "`passkey_exists`, `too_many_passkeys`", body = ProblemBody),
        (status = 422, description = "Not the answer to these options", body = ProblemBody),
    )
)]
pub(super) async fn finish_passkey(
    State(app): State<App>,
    caller: Caller,
    Json(body): Json<FinishRegistration>,
) -> Result<Response> {
    let user_id = fresh_user(&app, &caller).await?;
    let name = body.name.map_or_else(|| "Passkey".to_owned(), |name| name.0);
    let (registration, transports) = body.credential.into_parts();
    let (passkey, recovery_codes) = passkeys::register(&app, user_id, &registration, &name, &transports).await?;
    let answer = RegisteredPasskey { passkey: passkey.into(), recovery_codes };
    Ok((StatusCode::CREATED, NO_STORE, Json(answer)).into_response())
}

/// Gives a passkey another name.
#[utoipa::path(
    patch, path = "/auth/passkeys/{id}", tag = "auth-service", security(("bearer" = [])),
    params(("id" = Uuid, Path, description = "The passkey")), request_body = RenamePasskey,
    responses(
        (status = 204, description = "Named"),
        (status = 400, description = "`no_session`, `invalid_path`", body = ProblemBody),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 404, description = "The caller has no such passkey", body = ProblemBody),
        (status = 422, description = "Bad fields", body = ProblemBody),
    )
)]
pub(super) async fn rename_passkey(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<Uuid>,
    Json(body): Json<RenamePasskey>,
) -> Result<StatusCode> {
    own_session(&caller)?;
    if store::passkeys::rename(&app.pool, own_user(&caller)?, id, &body.name.0).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Problem::not_found("passkey"))
    }
}

/// Removes a passkey.
#[utoipa::path(
    delete, path = "/auth/passkeys/{id}", tag = "auth-service", security(("bearer" = [])),
    params(("id" = Uuid, Path, description = "The passkey")),
    responses(
        (status = 204, description = "Removed"),
        (status = 400, description = "`no_session`, `invalid_path`", body = ProblemBody),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "`fresh_login_required`", body = ProblemBody),
        (status = 404, description = "The caller has no such passkey", body = ProblemBody),
        (status = 409, description = "`last_way_in`: without it the caller could not log in any more", body = ProblemBody),
    )
)]
pub(super) async fn remove_passkey(State(app): State<App>, caller: Caller, Path(id): Path<Uuid>) -> Result<StatusCode> {
    let user_id = fresh_user(&app, &caller).await?;
    passkeys::remove(&app, user_id, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Begins a login by a passkey: the options for `navigator.credentials.get()`, good for ten minutes and one answer.
///
/// They are the same for everybody: the authenticator knows whose passkey it has. The answer goes to
/// `/auth/passkeys/login/finish`, or as `passkey` to `/auth/login` beside the password.
#[utoipa::path(
    post, path = "/auth/passkeys/login/begin", tag = "auth-service",
    responses((status = 200, description = "Options", body = RequestOptions))
)]
pub(super) async fn begin_passkey_login(State(app): State<App>) -> Response {
    let challenge = passkeys::challenge(&app, Use::LogIn);
    (NO_STORE, Json(RequestOptions::new(&app, challenge))).into_response()
}

/// Logs a user in by a passkey alone. The authenticator must have verified the person.
#[utoipa::path(
    post, path = "/auth/passkeys/login/finish", tag = "auth-service", request_body = FinishLogin,
    responses(
        (status = 200, description = "Logged in", body = TokenPair),
        (status = 401, description = "`invalid_passkey`, whatever was wrong", body = ProblemBody),
        (status = 422, description = "Bad fields", body = ProblemBody),
        (status = 429, description = "Too many failures from this network", body = ProblemBody),
        (status = 503, description = "The rights cannot be known now", body = ProblemBody),
    )
)]
pub(super) async fn finish_passkey_login(
    State(app): State<App>,
    origin: Origin,
    Json(body): Json<FinishLogin>,
) -> Result<Response> {
    let proof = passkeys::proof(body.credential.into(), Use::LogIn);
    let tokens = passkeys::log_in(&app, &proof, origin.network, origin.device.as_deref()).await?;
    Ok((NO_STORE, Json(tokens)).into_response())
}
