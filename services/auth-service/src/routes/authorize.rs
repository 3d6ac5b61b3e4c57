//! The authorization endpoint (RFC 6749 section 3.1, OpenID Connect Core section 3.1.2), consent, and pushed requests (RFC
//! 9126). A request lives in the URL of the page, and in a hidden field of its forms: nothing is kept for browsers that come and
//! go.

use axum::{
    extract::{RawQuery, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use chrono::Utc;

use super::{
    browser::{Browser, Fields, failed, page, redirect},
    external::buttons,
    login_page::passkey_options,
};
use crate::{
    App,
    authorization::{Parameters, Refusal, Request, ResponseMode, Step, append, own_query},
    browser::{FRESH, Next, Purpose},
    flows::authorize::{Placed, Untrusted, issue_code, place, step},
    language::{Language, Words},
    pages::{self, Consent, Login},
};

/// Asks a person to let a client in.
///
/// The code flow alone, with PKCE (S256). Errors go to the redirect URI if it is registered, else they are a page.
#[utoipa::path(
    get, path = "/oauth/authorize", tag = "auth-service",
    params(
        ("client_id" = String, Query, description = "The client"),
        ("redirect_uri" = Option<String>, Query, description = "Byte for byte a registered one; a loopback address may have any port"),
        ("response_type" = Option<String>, Query, description = "`code`"),
        ("scope" = Option<String>, Query, description = "`openid`, `profile`, `email`, `offline_access`, permissions"),
        ("state" = Option<String>, Query, description = "Comes back as it is"),
        ("code_challenge" = Option<String>, Query, description = "RFC 7636"),
        ("code_challenge_method" = Option<String>, Query, description = "`S256`"),
        ("nonce" = Option<String>, Query, description = "Comes back in the ID token"),
        ("prompt" = Option<String>, Query, description = "`none`, `login`, `consent`, `select_account`"),
        ("max_age" = Option<u32>, Query, description = "Seconds since the login at most"),
        ("login_hint" = Option<String>, Query, description = "A username"),
        ("ui_locales" = Option<String>, Query, description = "`fr`, `en`"),
        ("response_mode" = Option<String>, Query, description = "`query`, `form_post`"),
        ("resource" = Option<Vec<String>>, Query, description = "RFC 8707"),
        ("dpop_jkt" = Option<String>, Query, description = "RFC 9449"),
        ("request_uri" = Option<String>, Query, description = "What `/oauth/par` gave"),
    ),
    responses(
        (status = 200, description = "A page: login or consent", content_type = "text/html", body = String),
        (status = 303, description = "To the client, with `code` or `error`, `state` and `iss`"),
        (status = 400, description = "A page: there is no place that an answer may go to", content_type = "text/html", body = String),
    )
)]
pub(super) async fn authorize(State(app): State<App>, RawQuery(query): RawQuery, browser: Browser) -> Response {
    let sent = Parameters::parse(query.as_deref().unwrap_or_default());
    let placed = match place(&app, &sent).await {
        Ok(placed) => placed,
        Err(untrusted) => return distrust(&browser, &sent, untrusted),
    };
    let query = own_query(&sent);
    let fresh = sent.get(FRESH).is_some_and(|proof| is_fresh(&browser, &query, proof));
    proceed(&app, &browser, &placed, &query, fresh, false).await
}

/// The same as a form. It becomes a GET, because browsers send no cookie with another site's form.
#[utoipa::path(
    post, path = "/oauth/authorize", tag = "auth-service",
    request_body(content = String, content_type = "application/x-www-form-urlencoded"),
    responses((status = 303, description = "To the same, as GET"))
)]
pub(super) async fn authorize_by_form(Fields(form): Fields) -> Response {
    redirect(&format!("/oauth/authorize?{}", own_query(&form)))
}

/// Takes the person's answer to the question of consent.
#[utoipa::path(
    post, path = "/oauth/consent", tag = "auth-service",
    request_body(content = String, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 303, description = "To the client"),
        (status = 400, description = "A page: the form is not from ours", content_type = "text/html", body = String),
    )
)]
pub(super) async fn consent(State(app): State<App>, browser: Browser, Fields(form): Fields) -> Response {
    let query = form.get("request").unwrap_or_default();
    let sent = Parameters::parse(query);
    let proven = form.get("csrf").is_some_and(|proof| browser.key.accepts(Purpose::Consent, query, proof));
    if browser.cross_site || browser.is_new || browser.session.is_none() || !proven {
        return outdated(&browser, browser.language(sent.get("ui_locales")));
    }
    let placed = match place(&app, &sent).await {
        Ok(placed) => placed,
        Err(untrusted) => return distrust(&browser, &sent, untrusted),
    };
    if form.get("decision") == Some("allow") {
        // The login for this request was looked at when the question was asked.
        proceed(&app, &browser, &placed, query, true, true).await
    } else {
        let refusal = Refusal { error: "access_denied", description: "the person said no" };
        answer(&browser, &placed, placed.refusal(&app.issuer_url, &refusal))
    }
}

/// Does the next step: a page, or the answer to the client.
async fn proceed(app: &App, browser: &Browser, placed: &Placed, query: &str, fresh: bool, consented: bool) -> Response {
    let language = browser.language(placed.ui_locales.as_deref());
    let request = match &placed.request {
        Ok(request) => request,
        Err(refusal) => return answer(browser, placed, placed.refusal(&app.issuer_url, refusal)),
    };
    let session = browser.session.as_ref();
    let next_step = match step(app, placed, request, session, fresh, consented, Utc::now()).await {
        Ok(step) => step,
        Err(problem) => return failed(language, problem),
    };
    match (next_step, session) {
        (Step::Refuse(refusal), _) => answer(browser, placed, placed.refusal(&app.issuer_url, &refusal)),
        (Step::Issue, Some(session)) => match issue_code(app, placed, request, session, consented).await {
            Ok(Some(code)) => answer(browser, placed, placed.answer(&app.issuer_url, vec![("code", code)])),
            Ok(None) => trouble(browser, language, |words| words.unknown_request),
            Err(problem) => failed(language, problem),
        },
        (Step::AskConsent, Some(session)) => {
            let asked = Consent {
                client: &placed.client.name,
                username: &session.username,
                scope: &request.scope,
                all_permissions: placed.client.first_party,
                host: &host(&placed.redirect_uri),
                request: query,
                csrf: &browser.key.prove(Purpose::Consent, query),
            };
            browser.page(StatusCode::OK, pages::consent(language, &asked), Some(&placed.redirect_uri))
        }
        (Step::LogIn | Step::Issue | Step::AskConsent, _) => login_page(app, browser, placed, request, query),
    }
}

fn login_page(app: &App, browser: &Browser, placed: &Placed, request: &Request, query: &str) -> Response {
    let language = browser.language(placed.ui_locales.as_deref());
    let next = Next::Authorize(query.to_owned()).encode();
    let csrf = browser.key.prove(Purpose::Login, &next);
    let hint = request.login_hint.as_deref().unwrap_or_default();
    let providers = buttons(app, &next);
    let login = Login {
        client: Some(&placed.client.name),
        next: &next,
        csrf: &csrf,
        username: hint,
        providers: &providers,
        passkey: &passkey_options(app, browser),
    };
    let html = pages::login(language, &login, None);
    browser.passkey_page(StatusCode::OK, html, Some(&placed.redirect_uri))
}

/// Sends an answer to the client in the way that it asked for.
fn answer(browser: &Browser, placed: &Placed, parameters: Vec<(&'static str, String)>) -> Response {
    match placed.mode {
        ResponseMode::Query => redirect(&append(&placed.redirect_uri, &parameters)),
        ResponseMode::FormPost => {
            let language = browser.language(placed.ui_locales.as_deref());
            page(
                StatusCode::OK,
                pages::form_post(language, &placed.redirect_uri, &parameters),
                Some(&placed.redirect_uri),
                None,
            )
        }
    }
}

fn distrust(browser: &Browser, sent: &Parameters, untrusted: Untrusted) -> Response {
    let language = browser.language(sent.get("ui_locales"));
    match untrusted {
        Untrusted::UnknownClient => trouble(browser, language, |words| words.unknown_client),
        Untrusted::UnknownRedirect => trouble(browser, language, |words| words.unknown_redirect),
        Untrusted::UnknownRequest => trouble(browser, language, |words| words.unknown_request),
        Untrusted::Failed(problem) => failed(language, problem),
    }
}

fn trouble(browser: &Browser, language: Language, what: fn(&Words) -> &'static str) -> Response {
    browser.page(StatusCode::BAD_REQUEST, pages::failure(language, what), None)
}

/// A form that was not ours, or is no longer.
pub(super) fn outdated(browser: &Browser, language: Language) -> Response {
    let words = language.words();
    browser.page(StatusCode::BAD_REQUEST, pages::mistake(language, words.problem, words.form_outdated), None)
}

/// What [`FRESH`] proves: this person has logged in for this request.
pub(super) fn freshness(query: &str, auth_time: chrono::DateTime<Utc>) -> String {
    format!("{}\n{query}", auth_time.timestamp_micros())
}

fn is_fresh(browser: &Browser, query: &str, proof: &str) -> bool {
    let session = browser.session.as_ref();
    session.is_some_and(|session| browser.key.accepts(Purpose::Fresh, &freshness(query, session.auth_time), proof))
}

fn host(redirect_uri: &str) -> String {
    let url = url::Url::parse(redirect_uri).ok();
    let host = url.as_ref().and_then(|url| url.host_str().map(str::to_owned));
    host.or_else(|| url.map(|url| format!("{}:", url.scheme()))).unwrap_or_default()
}

/// The pages' stylesheet.
#[utoipa::path(
    get, path = "/oauth/style.css", tag = "auth-service",
    responses((status = 200, description = "A stylesheet", content_type = "text/css", body = String))
)]
pub(super) async fn get_style() -> Response {
    let headers = [("content-type", "text/css; charset=utf-8"), ("cache-control", "public, max-age=3600")];
    (headers, pages::STYLE).into_response()
}
