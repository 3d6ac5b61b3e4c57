//! A person's second factors. What weakens or adds one needs a login that is not long ago; the service desk may remove all of
//! somebody's (`factors:write`).

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use kronos_common::{
    extract::{Json, Path},
    identity::{Allowed, Caller},
    problem::{ProblemBody, Result},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{NO_STORE, login::FactorCode, permissions::CanWriteFactors, sessions::fresh_user};
use crate::{App, flows::factors, store};

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct FactorsView {
    /// Whether an authenticator app is set up.
    totp: bool,
    /// How many passkeys; `GET /auth/passkeys` lists them.
    passkeys: i64,
    /// How many recovery codes are left.
    recovery_codes: i64,
}

/// A secret for an authenticator app.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct TotpEnrolment {
    /// Base 32, to be typed.
    secret: String,
    /// The same for a QR code.
    uri: String,
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct TotpCode {
    code: FactorCode,
}

/// Codes that are shown this once.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct RecoveryCodes {
    /// Empty if the person has some already.
    pub(super) recovery_codes: Vec<String>,
}

/// What the caller has.
#[utoipa::path(
    get, path = "/auth/factors", tag = "auth-service", security(("bearer" = [])),
    responses(
        (status = 200, description = "Which factors there are", body = FactorsView),
        (status = 400, description = "`no_session`", body = ProblemBody),
        (status = 401, description = "No good token", body = ProblemBody),
    )
)]
pub(super) async fn list_factors(State(app): State<App>, caller: Caller) -> Result<Json<FactorsView>> {
    super::login::own_session(&caller)?;
    let held = store::factors::held(&app.pool, super::sessions::own_user(&caller)?).await?;
    Ok(Json(FactorsView { totp: held.totp, passkeys: held.passkeys, recovery_codes: held.recovery_codes }))
}

/// Begins to set up an authenticator app. It counts once a code was confirmed.
#[utoipa::path(
    post, path = "/auth/factors/totp", tag = "auth-service", security(("bearer" = [])),
    responses(
        (status = 201, description = "The secret, this once", body = TotpEnrolment),
        (status = 400, description = "`no_session`", body = ProblemBody),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "`fresh_login_required`", body = ProblemBody),
        (status = 409, description = "`totp_exists`", body = ProblemBody),
    )
)]
pub(super) async fn begin_totp(State(app): State<App>, caller: Caller) -> Result<Response> {
    let user_id = fresh_user(&app, &caller).await?;
    let username = caller.claims.username.clone().unwrap_or_else(|| user_id.to_string());
    let (secret, uri) = factors::begin_totp(&app, user_id, &username).await?;
    Ok((StatusCode::CREATED, NO_STORE, Json(TotpEnrolment { secret, uri })).into_response())
}

/// Confirms the app with the code that it shows. Brings recovery codes if there are none yet.
#[utoipa::path(
    post, path = "/auth/factors/totp/confirm", tag = "auth-service", security(("bearer" = [])), request_body = TotpCode,
    responses(
        (status = 200, description = "From now on a login asks for it", body = RecoveryCodes),
        (status = 400, description = "`no_session`", body = ProblemBody),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "`fresh_login_required`", body = ProblemBody),
        (status = 422, description = "Not the code", body = ProblemBody),
        (status = 429, description = "Too many wrong codes", body = ProblemBody),
    )
)]
pub(super) async fn confirm_totp(
    State(app): State<App>,
    caller: Caller,
    Json(body): Json<TotpCode>,
) -> Result<Response> {
    let user_id = fresh_user(&app, &caller).await?;
    let recovery_codes = factors::confirm_totp(&app, user_id, &body.code.0).await?;
    Ok((NO_STORE, Json(RecoveryCodes { recovery_codes })).into_response())
}

/// Removes the authenticator app.
#[utoipa::path(
    delete, path = "/auth/factors/totp", tag = "auth-service", security(("bearer" = [])),
    responses(
        (status = 204, description = "Removed"),
        (status = 400, description = "`no_session`", body = ProblemBody),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "`fresh_login_required`", body = ProblemBody),
        (status = 404, description = "There is none", body = ProblemBody),
    )
)]
pub(super) async fn remove_totp(State(app): State<App>, caller: Caller) -> Result<StatusCode> {
    let user_id = fresh_user(&app, &caller).await?;
    factors::remove_totp(&app, user_id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Makes ten new recovery codes; the old ones end.
#[utoipa::path(
    post, path = "/auth/factors/recovery-codes", tag = "auth-service", security(("bearer" = [])),
    responses(
        (status = 201, description = "The codes, this once", body = RecoveryCodes),
        (status = 400, description = "`no_session`", body = ProblemBody),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "`fresh_login_required`", body = ProblemBody),
        (status = 409, description = "`no_second_factor`", body = ProblemBody),
    )
)]
pub(super) async fn make_recovery_codes(State(app): State<App>, caller: Caller) -> Result<Response> {
    let user_id = fresh_user(&app, &caller).await?;
    let recovery_codes = factors::new_recovery_codes(&app, user_id).await?;
    Ok((StatusCode::CREATED, NO_STORE, Json(RecoveryCodes { recovery_codes })).into_response())
}

/// Removes all second factors of a person who lost them; the password stays.
#[utoipa::path(
    delete, path = "/auth/credentials/{userId}/factors", tag = "auth-service", security(("bearer" = [])),
    params(("userId" = Uuid, Path, description = "The user")),
    responses(
        (status = 204, description = "Removed"),
        (status = 400, description = "`invalid_path`", body = ProblemBody),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `factors:write`", body = ProblemBody),
        (status = 404, description = "The person has none", body = ProblemBody),
    )
)]
pub(super) async fn reset_factors(
    State(app): State<App>,
    allowed: Allowed<CanWriteFactors>,
    Path(user_id): Path<Uuid>,
) -> Result<StatusCode> {
    factors::reset(&app, user_id, allowed.caller.subject()).await?;
    Ok(StatusCode::NO_CONTENT)
}
