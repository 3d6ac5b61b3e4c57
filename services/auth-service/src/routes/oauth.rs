//! What the endpoints of OAuth clients share: forms, how a client shows itself, and errors with the members of RFC 6749 section
//! 5.2 beside those of a problem. The media type of an error is `application/json` for who asks for it, as OAuth clients do.

use std::sync::Arc;

use axum::{
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use kronos_common::{
    extract::Json,
    problem::{self, Problem, ProblemBody},
};
use serde::Serialize;
use url::form_urlencoded;
use utoipa::ToSchema;

use super::NO_STORE;
use crate::{
    App,
    clients::Registered,
    flows::{
        assertion, client_auth,
        client_auth::{Proof, Shown},
    },
};

const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

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

/// A form's fields. An empty one counts as absent (RFC 6749 section 3.2), unknown ones are nobody's concern.
pub(super) struct Form(Vec<(String, String)>);

impl Form {
    /// Reads a form.
    ///
    /// # Errors
    /// 415 for another media type; 400 `invalid_request` for a field that is there twice and must not be.
    pub(super) fn read(headers: &HeaderMap, body: &[u8]) -> Result<Self, Problem> {
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            let detail = "send the body as `Content-Type: application/x-www-form-urlencoded`";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail));
        }
        let mut fields: Vec<(String, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(body) {
            // RFC 8707 and RFC 8693 let these be there several times.
            let may_repeat = matches!(&*name, "resource" | "audience");
            if !may_repeat && fields.iter().any(|(known, _)| *known == name) {
                return Err(Problem::bad_request("invalid_request", format!("{name} is there twice")));
            }
            fields.push((name.into_owned(), value.into_owned()));
        }
        Ok(Self(fields))
    }

    /// The field's value, if it has one.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, value)| known == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    /// The field's value.
    ///
    /// # Errors
    /// 400 `invalid_request` without one.
    pub(super) fn need(&self, name: &str) -> Result<&str, Problem> {
        self.get(name).ok_or_else(|| Problem::bad_request("invalid_request", format!("{name} is missing")))
    }

    /// All values of a field that may be there several times.
    pub(super) fn all(&self, name: &str) -> Vec<String> {
        self.0
            .iter()
            .filter(|(known, value)| known == name && !value.is_empty())
            .map(|(_, value)| value.clone())
            .collect()
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| known == name)
    }
}

/// The client that sent this form.
///
/// # Errors
/// 401 `invalid_client`, the same for an unknown client and a wrong secret; 400 `invalid_request`; the database.
pub(super) async fn authenticate(app: &App, headers: &HeaderMap, form: &Form) -> Result<Arc<Registered>, Problem> {
    let shown = read_client(headers, form)?;
    let client = client_auth::authenticate(app, &shown).await?;
    client.ok_or_else(|| invalid_client(headers.contains_key(header::AUTHORIZATION)))
}

fn read_client(headers: &HeaderMap, form: &Form) -> Result<Shown, Problem> {
    let assertion = form.get("client_assertion");
    let ways = [headers.contains_key(header::AUTHORIZATION), form.has("client_secret"), assertion.is_some()];
    if ways.iter().filter(|way| **way).count() > 1 {
        let detail = "show who you are once: by the header, client_secret or client_assertion";
        return Err(Problem::bad_request("invalid_request", detail));
    }
    let named = form.get("client_id");
    let shown = if let Some(value) = headers.get(header::AUTHORIZATION) {
        value.to_str().ok().and_then(read_basic).ok_or_else(|| invalid_client(true))?
    } else if let Some(assertion) = assertion {
        if form.get("client_assertion_type") != Some(ASSERTION_TYPE) {
            return Err(Problem::bad_request("invalid_request", format!("client_assertion_type is {ASSERTION_TYPE}")));
        }
        let client_id = assertion::claimed_client(assertion).ok_or_else(|| invalid_client(false))?;
        Shown { client_id, proof: Proof::Assertion(assertion.to_owned()) }
    } else {
        let client_id = named.ok_or_else(|| invalid_client(true))?.to_owned();
        let proof = match form.get("client_secret") {
            Some(secret) => Proof::Secrets(vec![secret.to_owned()]),
            None => Proof::Nothing,
        };
        Shown { client_id, proof }
    };
    if named.is_some_and(|named| named != shown.client_id) {
        return Err(Problem::bad_request("invalid_request", "two different clients are named"));
    }
    Ok(shown)
}

/// Of a secret in HTTP Basic there are two readings: as the RFC has it (form-encoded) and as many clients send it.
fn read_basic(value: &str) -> Option<Shown> {
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (client_id, secret) = text.split_once(':')?;
    let mut secrets = vec![secret.to_owned()];
    secrets.extend(form_decode(secret).filter(|decoded| decoded != secret));
    Some(Shown { client_id: form_decode(client_id)?, proof: Proof::Secrets(secrets) })
}

/// One form-encoded value.
fn form_decode(text: &str) -> Option<String> {
    form_urlencoded::parse(text.replace(['&', '='], "").as_bytes()).next().map(|(name, _)| name.into_owned())
}

fn invalid_client(basic: bool) -> Problem {
    let problem = Problem::new(
        StatusCode::UNAUTHORIZED,
        "invalid_client",
        "the client is unknown, or did not show itself as it is registered to",
    );
    if basic {
        let challenge = HeaderValue::from_static("Basic realm=\"kronos\", charset=\"UTF-8\"");
        problem.with_header(header::WWW_AUTHENTICATE, challenge)
    } else {
        problem
    }
}

/// An answer that nobody keeps, or the refusal.
pub(super) fn answer<T: Serialize>(outcome: Result<T, Problem>, headers: &HeaderMap) -> Response {
    match outcome {
        Ok(answer) => (NO_STORE, Json(answer)).into_response(),
        Err(problem) => refuse(problem, headers),
    }
}

/// The problem's own answer, with the members of RFC 6749 in its body.
pub(super) fn refuse(problem: Problem, headers: &HeaderMap) -> Response {
    let mut wanted = headers.get_all(header::ACCEPT).iter().filter_map(|accept| accept.to_str().ok());
    let media_type = if wanted.any(|accept| accept.contains("application/json")) {
        "application/json"
    } else {
        problem::CONTENT_TYPE
    };
    let body = problem.body();
    let error = match problem.status() {
        StatusCode::UNSUPPORTED_MEDIA_TYPE => "invalid_request".to_owned(),
        StatusCode::FORBIDDEN => "access_denied".to_owned(),
        status if status.is_server_error() => "temporarily_unavailable".to_owned(),
        _ => body.code.clone(),
    };
    let body = TokenError { error, error_description: body.detail.clone(), problem: body };
    let mut response = problem.into_response();
    *response.body_mut() = Json(body).into_response().into_body();
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    let [(name, value)] = NO_STORE;
    headers.insert(name, value);
    response
}
