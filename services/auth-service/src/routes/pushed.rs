//! What clients send here themselves before a person comes: pushed authorization requests (RFC 9126) and devices that ask to be
//! let in (RFC 8628 section 3.1).

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use kronos_common::{
    extract::{Bytes, Json},
    problem::Problem,
};
use serde::Serialize;
use url::form_urlencoded;
use utoipa::ToSchema;

use super::{
    NO_STORE,
    oauth::{self, Form, TokenError},
};
use crate::{
    App,
    authorization::{Limits, Parameters, Refusal, scope},
    clients::{Client, GrantType},
    device,
    flows::{
        authorize::{PUSHED_SECONDS, Untrusted, place_for, push},
        devices, issue,
    },
};

/// RFC 9126 section 2.2.
#[derive(Serialize, ToSchema)]
pub(super) struct PushedAnswer {
    request_uri: String,
    expires_in: i64,
}

/// RFC 8628 section 3.2.
#[derive(Serialize, ToSchema)]
pub(super) struct DeviceAnswer {
    device_code: String,
    user_code: String,
    verification_uri: String,
    verification_uri_complete: String,
    expires_in: i64,
    interval: i32,
}

/// Takes an authorization request; the browser comes with the `request_uri` alone, once.
#[utoipa::path(
    post, path = "/oauth/par", tag = "auth-service",
    request_body(content = String, description = "As `/oauth/authorize`, and the client's authentication", content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 201, description = "Where it is, for 90 s", body = PushedAnswer),
        (status = 400, description = "The request is wrong", body = TokenError),
        (status = 401, description = "`invalid_client`", body = TokenError),
        (status = 415, description = "Not a form", body = TokenError),
    )
)]
pub(super) async fn push_request(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Response {
    match take(&app, &headers, &body.0).await {
        Ok(answer) => (StatusCode::CREATED, NO_STORE, Json(answer)).into_response(),
        Err(problem) => oauth::refuse(problem, &headers),
    }
}

async fn take(app: &App, headers: &HeaderMap, body: &[u8]) -> Result<PushedAnswer, Problem> {
    let form = Form::read(headers, body)?;
    let client = oauth::authenticate(app, headers, &form).await?.client.clone();
    let client_id = client.client_id.clone();
    // What shows who the client is is no part of the request, and is not kept.
    let proofs = ["client_secret", "client_assertion", "client_assertion_type"];
    let pairs = form_urlencoded::parse(body).filter(|(name, _)| !proofs.contains(&&**name));
    let encoded = form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
    let parameters = Parameters::parse(&encoded);
    if parameters.get("request_uri").is_some() {
        return Err(Problem::bad_request("invalid_request", "request_uri is what this endpoint gives"));
    }
    let placed = place_for(app, client, &parameters, None).map_err(|untrusted| match untrusted {
        Untrusted::Failed(problem) => problem,
        _ => Problem::bad_request("invalid_request", "redirect_uri is not registered for this client"),
    })?;
    placed.request.map_err(explain)?;
    Ok(PushedAnswer { request_uri: push(app, &client_id, &parameters).await?, expires_in: PUSHED_SECONDS })
}

fn explain(refusal: Refusal) -> Problem {
    Problem::bad_request(refusal.error, refusal.description)
}

/// Gives a device the codes with which a person lets it in at `/device`.
#[utoipa::path(
    post, path = "/oauth/device_authorization", tag = "auth-service",
    request_body(content = String, description = "`scope`, `resource`, and the client's authentication", content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 200, description = "The codes", body = DeviceAnswer),
        (status = 400, description = "`unauthorized_client`, `invalid_scope`, `invalid_target`", body = TokenError),
        (status = 401, description = "`invalid_client`", body = TokenError),
        (status = 415, description = "Not a form", body = TokenError),
    )
)]
pub(super) async fn authorize_device(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Response {
    oauth::answer(begin(&app, &headers, &body.0).await, &headers)
}

async fn begin(app: &App, headers: &HeaderMap, body: &[u8]) -> Result<DeviceAnswer, Problem> {
    let form = Form::read(headers, body)?;
    let registered = oauth::authenticate(app, headers, &form).await?;
    let client: &Client = &registered.client;
    if !client.may_use(GrantType::DeviceCode) {
        return Err(Problem::bad_request("unauthorized_client", "this client may not use the device grant"));
    }
    let limits = Limits {
        requires_pkce: false,
        permissions: &client.permissions,
        scopes: &client.scopes,
        first_party: client.first_party,
    };
    let scope = scope(form.get("scope"), limits).map_err(explain)?;
    let resources = form.all("resource");
    issue::audience(app, client, &resources)
        .map_err(|unknown| Problem::bad_request("invalid_target", format!("no access to {unknown}")))?;
    let codes = devices::begin(app, client, &scope, &resources).await?;
    let (shown, page) = (device::show(&codes.user_code), format!("{}/device", app.issuer_url));
    Ok(DeviceAnswer {
        device_code: codes.device_code,
        verification_uri_complete: format!("{page}?user_code={shown}"),
        user_code: shown,
        verification_uri: page,
        expires_in: device::LIFE_SECONDS,
        interval: device::INTERVAL_SECONDS,
    })
}
