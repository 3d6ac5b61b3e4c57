//! The token endpoint of OAuth 2.1 (RFC 6749): form in, JSON out. Its errors have the members that OAuth clients read and those
//! of a problem; the media type is `application/json` for who asks for it, as OAuth clients do.

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use kronos_common::{
    extract::{Bytes, Json},
    problem::{self, Problem, ProblemBody},
};
use serde::{Deserialize, Serialize};
use url::form_urlencoded;
use utoipa::ToSchema;

use super::NO_STORE;
use crate::{
    App,
    flows::{
        clients::{TokenRefusal, client_credentials},
        refresh,
    },
    tokens::LOGIN_CLIENT,
};

/// The form's fields; others are ignored (RFC 6749 section 3.2).
#[derive(Debug, Default, Deserialize, ToSchema)]
pub(super) struct TokenRequest {
    /// `client_credentials` or `refresh_token`.
    grant_type: Option<String>,
    /// Permissions, separated by spaces: fewer than the client holds.
    scope: Option<String>,
    /// Unless HTTP Basic is used.
    client_id: Option<String>,
    client_secret: Option<String>,
    refresh_token: Option<String>,
}

/// RFC 6749 section 5.1.
#[derive(Serialize, ToSchema)]
pub(super) struct TokenAnswer {
    access_token: String,
    token_type: &'static str,
    expires_in: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<String>,
}

/// RFC 6749 section 5.2, and a problem.
#[derive(Serialize, ToSchema)]
pub(super) struct TokenError {
    /// As `code`.
    error: String,
    /// As `detail`.
    error_description: String,
    #[serde(flatten)]
    problem: ProblemBody,
}

/// A client as it shows itself. Of a secret in HTTP Basic there are two readings: as the RFC has it (form-encoded) and as many
/// clients send it.
struct Shown {
    client_id: String,
    secrets: Vec<String>,
    basic: bool,
}

/// Issues access tokens to OAuth clients.
#[utoipa::path(
    post, path = "/oauth/token", tag = "auth-service",
    request_body(content = TokenRequest, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 200, description = "A token", body = TokenAnswer),
        (status = 400, description = "`invalid_request`, `invalid_grant`, `invalid_scope`, `unauthorized_client`, `unsupported_grant_type`", body = TokenError),
        (status = 401, description = "`invalid_client`", body = TokenError),
        (status = 415, description = "Not a form", body = TokenError),
        (status = 503, description = "Try again", body = TokenError),
    )
)]
pub(super) async fn issue_token(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Response {
    match answer(&app, &headers, &body.0).await {
        Ok(answer) => (NO_STORE, Json(answer)).into_response(),
        Err(problem) => refuse(problem, &headers),
    }
}

async fn answer(app: &App, headers: &HeaderMap, body: &[u8]) -> Result<TokenAnswer, Problem> {
    let form = read_form(headers, body)?;
    match form.grant_type.as_deref() {
        Some("client_credentials") => {
            let shown = read_client(headers, &form)?;
            let issued = client_credentials(app, &shown.client_id, &shown.secrets, form.scope.as_deref()).await;
            let (issued, permissions) = issued.map_err(|refusal| explain(refusal, shown.basic))?;
            Ok(TokenAnswer {
                access_token: issued.token,
                token_type: "Bearer",
                expires_in: issued.expires_in,
                scope: Some(permissions.join(" ")),
                refresh_token: None,
            })
        }
        Some("refresh_token") => {
            let token = form.refresh_token.as_deref();
            let token = token.ok_or_else(|| bad_request("invalid_request", "refresh_token is missing"))?;
            // Refresh tokens are given to the public login client alone, which has no secret to show.
            if form.client_id.as_deref().is_some_and(|client_id| client_id != LOGIN_CLIENT) {
                return Err(bad_request("invalid_grant", "the refresh token is not this client's"));
            }
            let pair = refresh::refresh(app, token).await.map_err(|problem| match problem.status() {
                StatusCode::UNAUTHORIZED | StatusCode::CONFLICT => bad_request("invalid_grant", problem.detail()),
                _ => problem,
            })?;
            Ok(TokenAnswer {
                access_token: pair.access_token,
                token_type: pair.token_type,
                expires_in: pair.expires_in,
                scope: None,
                refresh_token: Some(pair.refresh_token),
            })
        }
        Some(_) => {
            let detail = "grant_type is client_credentials or refresh_token";
            Err(bad_request("unsupported_grant_type", detail))
        }
        None => Err(bad_request("invalid_request", "grant_type is missing")),
    }
}

fn read_form(headers: &HeaderMap, body: &[u8]) -> Result<TokenRequest, Problem> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        let detail = "send the body as `Content-Type: application/x-www-form-urlencoded`";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail));
    }
    let mut form = TokenRequest::default();
    for (name, value) in form_urlencoded::parse(body) {
        let field = match &*name {
            "grant_type" => &mut form.grant_type,
            "scope" => &mut form.scope,
            "client_id" => &mut form.client_id,
            "client_secret" => &mut form.client_secret,
            "refresh_token" => &mut form.refresh_token,
            _ => continue,
        };
        if field.replace(value.into_owned()).is_some() {
            return Err(bad_request("invalid_request", format!("{name} is there twice")));
        }
    }
    Ok(form)
}

fn read_client(headers: &HeaderMap, form: &TokenRequest) -> Result<Shown, Problem> {
    match headers.get(header::AUTHORIZATION) {
        Some(_) if form.client_secret.is_some() => {
            Err(bad_request("invalid_request", "show the secret once: in the header or in the form"))
        }
        Some(value) => {
            let shown = value.to_str().ok().and_then(read_basic).ok_or_else(|| invalid_client(true))?;
            if form.client_id.as_ref().is_some_and(|client_id| *client_id != shown.client_id) {
                return Err(bad_request("invalid_request", "the header and the form name different clients"));
            }
            Ok(shown)
        }
        None => match (&form.client_id, &form.client_secret) {
            (Some(client_id), Some(secret)) => {
                Ok(Shown { client_id: client_id.clone(), secrets: vec![secret.clone()], basic: false })
            }
            _ => Err(invalid_client(true)),
        },
    }
}

fn read_basic(value: &str) -> Option<Shown> {
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (client_id, secret) = text.split_once(':')?;
    let mut secrets = vec![secret.to_owned()];
    secrets.extend(form_decode(secret).filter(|decoded| decoded != secret));
    Some(Shown { client_id: form_decode(client_id)?, secrets, basic: true })
}

/// One form-encoded value.
fn form_decode(text: &str) -> Option<String> {
    form_urlencoded::parse(text.replace(['&', '='], "").as_bytes()).next().map(|(name, _)| name.into_owned())
}

fn explain(refusal: TokenRefusal, basic: bool) -> Problem {
    match refusal {
        TokenRefusal::InvalidClient => invalid_client(basic),
        TokenRefusal::UnauthorizedClient => {
            bad_request("unauthorized_client", "this client may not use this grant type")
        }
        TokenRefusal::InvalidScope(missing) => {
            bad_request("invalid_scope", format!("this client does not hold {missing}"))
        }
        TokenRefusal::Failed(problem) => problem,
    }
}

fn bad_request(code: &'static str, detail: impl Into<String>) -> Problem {
    Problem::bad_request(code, detail)
}

/// The same for an unknown client and a wrong secret.
fn invalid_client(basic: bool) -> Problem {
    let problem =
        Problem::new(StatusCode::UNAUTHORIZED, "invalid_client", "the client is unknown, or its secret is wrong");
    if basic {
        let challenge = HeaderValue::from_static("Basic realm=\"kronos\", charset=\"UTF-8\"");
        problem.with_header(header::WWW_AUTHENTICATE, challenge)
    } else {
        problem
    }
}

/// The problem's own answer, with the members of RFC 6749 in its body.
fn refuse(problem: Problem, headers: &HeaderMap) -> Response {
    let mut wanted = headers.get_all(header::ACCEPT).iter().filter_map(|accept| accept.to_str().ok());
    let media_type = if wanted.any(|accept| accept.contains("application/json")) {
        "application/json"
    } else {
        problem::CONTENT_TYPE
    };
    let body = problem.body();
    let error = match problem.status() {
        StatusCode::UNSUPPORTED_MEDIA_TYPE => "invalid_request".to_owned(),
        status if status.is_server_error() => "temporarily_unavailable".to_owned(),
        _ => body.code.clone(),
    };
    let body = TokenError { error, error_description: body.detail.clone(), problem: body };
    let mut response = problem.into_response();
    *response.body_mut() = Json(body).into_response().into_body();
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}
