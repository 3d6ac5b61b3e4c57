//! Logout that a client asks for (OpenID Connect RP-Initiated Logout 1.0). Without a good ID token of the person's, the person is
//! asked. The way back is one that the client registered, byte for byte.

use axum::{
    extract::{RawQuery, State},
    http::StatusCode,
    response::Response,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use kronos_common::problem::Problem;
use serde::Deserialize;

use super::{
    authorize::outdated,
    browser::{Browser, Fields, failed, redirect},
};
use crate::{
    App,
    authorization::{Parameters, append},
    browser::Purpose,
    flows::browsers::log_out,
    pages, store,
};

/// What is read of an ID token, which may have expired long ago.
#[derive(Deserialize)]
struct Hint {
    iss: String,
    sub: String,
    aud: String,
}

/// Logs the browser out, and goes back to the client.
#[utoipa::path(
    get, path = "/oauth/end_session", tag = "auth-service",
    params(
        ("id_token_hint" = Option<String>, Query, description = "An ID token of the person's: nobody is asked"),
        ("client_id" = Option<String>, Query, description = "If there is no ID token"),
        ("post_logout_redirect_uri" = Option<String>, Query, description = "Byte for byte a registered one"),
        ("state" = Option<String>, Query, description = "Comes back as it is"),
        ("ui_locales" = Option<String>, Query, description = "`fr`, `en`"),
    ),
    responses(
        (status = 200, description = "A page: the question, or that it is done", content_type = "text/html", body = String),
        (status = 303, description = "Back to the client"),
        (status = 400, description = "A page: the way back is not registered", content_type = "text/html", body = String),
    )
)]
pub(super) async fn end_session(State(app): State<App>, RawQuery(query): RawQuery, browser: Browser) -> Response {
    let sent = Parameters::parse(query.as_deref().unwrap_or_default());
    run(&app, &browser, &sent, false).await.unwrap_or_else(|problem| failed(browser.language(None), problem))
}

/// The same as a form, and the answer to the question.
#[utoipa::path(
    post, path = "/oauth/end_session", tag = "auth-service",
    request_body(content = String, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 200, description = "A page: that it is done", content_type = "text/html", body = String),
        (status = 303, description = "Back to the client, or to the question"),
        (status = 400, description = "A page: the form is not from ours", content_type = "text/html", body = String),
    )
)]
pub(super) async fn end_session_by_form(State(app): State<App>, browser: Browser, Fields(form): Fields) -> Response {
    let Some(csrf) = form.get("csrf") else {
        // Browsers send no cookie with another site's form, but they do when it leads on to a GET.
        return redirect(&format!("/oauth/end_session?{}", form.encode()));
    };
    let request = form.get("request").unwrap_or_default();
    let sent = Parameters::parse(request);
    if browser.cross_site || !browser.key.accepts(Purpose::Logout, request, csrf) {
        return outdated(&browser, browser.language(sent.get("ui_locales")));
    }
    run(&app, &browser, &sent, true).await.unwrap_or_else(|problem| failed(browser.language(None), problem))
}

async fn run(app: &App, browser: &Browser, sent: &Parameters, confirmed: bool) -> Result<Response, Problem> {
    let language = browser.language(sent.get("ui_locales"));
    let words = language.words();
    let hint = sent.get("id_token_hint").and_then(|token| read_hint(app, token));
    let client_id = hint.as_ref().map(|hint| hint.aud.as_str()).or(sent.get("client_id"));
    let contradicts = hint.is_some() && sent.get("client_id").is_some_and(|named| Some(named) != client_id);
    let back = match sent.get("post_logout_redirect_uri") {
        None => None,
        Some(uri) => {
            let client = match client_id {
                Some(client_id) => store::clients::find(&app.pool, client_id).await?,
                None => None,
            };
            let known = client.is_some_and(|client| client.post_logout_redirect_uris.iter().any(|known| known == uri));
            if !known || contradicts || sent.repeated().is_some() {
                let html = pages::failure(language, |words| words.unknown_redirect);
                return Ok(browser.page(StatusCode::BAD_REQUEST, html, None));
            }
            let state = sent.get("state").filter(|state| !state.contains(char::is_control));
            let state = state.map(|state| ("state", state.to_owned()));
            Some(state.map_or_else(|| uri.to_owned(), |state| append(uri, &[state])))
        }
    };
    if let Some(session) = &browser.session {
        let named = hint.is_some_and(|hint| hint.sub == session.user_id.to_string()) && !contradicts;
        if !named && !confirmed {
            let request = sent.encode();
            let csrf = browser.key.prove(Purpose::Logout, &request);
            let html = pages::log_out_question(language, &request, &csrf);
            return Ok(browser.page(StatusCode::OK, html, back.as_deref()));
        }
        log_out(app, session.session_id, "logout").await?;
    }
    let mut response = match back {
        Some(back) => redirect(&back),
        None => browser.page(StatusCode::OK, pages::notice(language, words.logged_out, words.close), None),
    };
    browser.drop_cookie(&mut response);
    Ok(response)
}

/// An ID token that we signed, however old. One of a key that is gone is none: the person is asked then.
fn read_hint(app: &App, token: &str) -> Option<Hint> {
    let (signed, signature) = token.rsplit_once('.')?;
    let (header, payload) = signed.split_once('.')?;
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).ok();
    let header: serde_json::Value = serde_json::from_slice(&decode(header)?).ok()?;
    // An access token is none.
    if header["typ"].as_str().is_some_and(|typ| !typ.eq_ignore_ascii_case("jwt")) {
        return None;
    }
    let keys = app.issuer.keys();
    let key = keys.public.keys.iter().find(|key| key["kid"] == header["kid"] && key["alg"] == header["alg"])?;
    let algorithm: jsonwebtoken::Algorithm = header["alg"].as_str()?.parse().ok()?;
    let key: jsonwebtoken::jwk::Jwk = serde_json::from_value(key.clone()).ok()?;
    let key = jsonwebtoken::DecodingKey::from_jwk(&key).ok()?;
    let good = jsonwebtoken::crypto::verify(signature, signed.as_bytes(), &key, algorithm).ok()?;
    let hint: Hint = serde_json::from_slice(&decode(payload)?).ok()?;
    (good && hint.iss.trim_end_matches('/') == app.issuer_url).then_some(hint)
}
