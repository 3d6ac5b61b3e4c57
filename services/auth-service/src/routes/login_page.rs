//! The login form of browsers. What was typed goes the way of every login (`flows::login`); what comes of it is a cookie, with a
//! new value each time.

use axum::{extract::State, http::StatusCode, response::Response};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::Utc;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};

use super::{
    authorize::{freshness, outdated},
    browser::{Browser, Fields, failed, redirect},
    external::buttons,
};
use crate::{
    App,
    authorization::Parameters,
    browser::{BrowserKey, Next, Purpose},
    factors::Proof,
    flows::{
        authorize::place,
        browsers,
        login::{Attempt, Authenticated, Outcome, authenticate},
    },
    language::Language,
    pages::{self, Mistake},
    password::MAX_BYTES,
    store,
};

const LONGEST_NAME: usize = 254;
const LONGEST_CODE: usize = 64;
/// A person looks for the phone for so long, in seconds.
const PENDING_SECONDS: i64 = 300;

/// The first step of a login, sealed with our own key into the second page: nothing is kept here for who never comes back, and
/// the second step checks both factors again.
#[derive(Serialize, Deserialize)]
struct Pending {
    username: String,
    password: String,
    until: i64,
}

/// Logs a browser in.
#[utoipa::path(
    post, path = "/oauth/login", tag = "auth-service",
    request_body(content = String, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 200, description = "A page: the second factor", content_type = "text/html", body = String),
        (status = 303, description = "On to what the login was for"),
        (status = 400, description = "A page: the form is not from ours", content_type = "text/html", body = String),
        (status = 422, description = "A page: wrong, whatever it was", content_type = "text/html", body = String),
        (status = 429, description = "A page: too many attempts", content_type = "text/html", body = String),
        (status = 503, description = "A page: not now", content_type = "text/html", body = String),
    )
)]
pub(super) async fn log_in(State(app): State<App>, browser: Browser, Fields(form): Fields) -> Response {
    let encoded = form.get("next").unwrap_or_default();
    let next = Next::parse(encoded);
    let second = form.get("pending").is_some();
    let language = browser.language(ui_locales(&next).as_deref());
    let purpose = if second { Purpose::SecondFactor } else { Purpose::Login };
    let proven = form.get("csrf").is_some_and(|proof| browser.key.accepts(purpose, encoded, proof));
    if browser.cross_site || browser.is_new || !proven {
        return outdated(&browser, language);
    }
    let Some((username, password)) = typed(&app, &browser, &form) else {
        return outdated(&browser, language);
    };
    let proof = proof(&form);
    let attempt = Attempt {
        username: username.clone(),
        password: password.clone(),
        proof: proof.clone(),
        network: browser.network,
    };
    match authenticate(&app, attempt).await {
        Err(problem) => failed(language, problem),
        Ok(Outcome::Authenticated(who)) => match finish(&app, &browser, &who, &next).await {
            Ok(Some(response)) => response,
            Ok(None) => again(&app, &browser, &next, language, &username).await,
            Err(problem) => failed(language, problem),
        },
        Ok(Outcome::Refused) => again(&app, &browser, &next, language, &username).await,
        Ok(Outcome::FactorRequired(_)) => {
            ask_factor(&app, &browser, &next, language, &username, &password, false).await
        }
        Ok(Outcome::FactorRefused) => ask_factor(&app, &browser, &next, language, &username, &password, true).await,
    }
}

/// Where the browser goes after the login, if the client registered it: the form's policy must let it.
async fn destination(app: &App, next: &Next) -> Option<String> {
    match next {
        Next::Authorize(query) => place(app, &Parameters::parse(query)).await.ok().map(|placed| placed.redirect_uri),
        _ => None,
    }
}

/// Begins the browser's session under a new key, and leads on; `None` if the person may no longer log in.
pub(super) async fn finish(
    app: &App,
    browser: &Browser,
    who: &Authenticated,
    next: &Next,
) -> Result<Option<Response>, kronos_common::problem::Problem> {
    let key = BrowserKey::new();
    let replaced = browser.session.as_ref().map(|session| session.session_id);
    let place = browsers::Place { device: browser.device.as_deref(), network: browser.network };
    if !browsers::log_in(app, who, &place, &key, replaced).await? {
        return Ok(None);
    }
    let fresh = match next {
        Next::Authorize(query) => {
            let session = store::browsers::find(&app.pool, &key.hash(), Utc::now()).await?;
            session.map(|session| key.prove(Purpose::Fresh, &freshness(query, session.auth_time)))
        }
        _ => None,
    };
    let mut response = redirect(&next.path(&fresh.unwrap_or_default()));
    let life = i64::try_from(app.tokens.session_seconds).unwrap_or(i64::from(u32::MAX));
    browser.put_cookie(&mut response, &key, Some(life));
    Ok(Some(response))
}

/// Name and password, from the form or from the sealed first step.
fn typed(app: &App, browser: &Browser, form: &Parameters) -> Option<(String, SecretString)> {
    match form.get("pending") {
        None => {
            let username = form.get("username").unwrap_or_default();
            let password = form.get("password").unwrap_or_default();
            // What no account can have is checked as a wrong one, in the same time.
            let username = if username.chars().count() <= LONGEST_NAME { username } else { "" };
            let password = if password.len() <= MAX_BYTES { password } else { "" };
            Some((username.to_owned(), password.into()))
        }
        Some(sealed) => {
            let sealed = URL_SAFE_NO_PAD.decode(sealed).ok()?;
            let opened = app.keyring.open(&sealed, &pending_aad(browser)).ok()?;
            let pending: Pending = serde_json::from_slice(&opened).ok()?;
            (pending.until > Utc::now().timestamp()).then(|| (pending.username, pending.password.into()))
        }
    }
}

fn proof(form: &Parameters) -> Option<Proof> {
    let short = |name| form.get(name).map(str::trim).filter(|code| !code.is_empty() && code.len() <= LONGEST_CODE);
    match (short("code"), short("recovery_code")) {
        (Some(code), _) => Some(Proof::Totp(code.to_owned())),
        (None, Some(code)) => Some(Proof::RecoveryCode(code.to_owned())),
        (None, None) => None,
    }
}

/// The sealed step is this browser's alone.
fn pending_aad(browser: &Browser) -> Vec<u8> {
    [b"login-pending:".as_slice(), &browser.key.hash()].concat()
}

async fn again(app: &App, browser: &Browser, next: &Next, language: Language, username: &str) -> Response {
    let encoded = next.encode();
    let csrf = browser.key.prove(Purpose::Login, &encoded);
    let mistake = Mistake { text: language.words().invalid_credentials, field: Some("username") };
    let html = pages::login(language, None, &encoded, &csrf, username, &buttons(app, &encoded), Some(mistake));
    browser.page(StatusCode::UNPROCESSABLE_ENTITY, html, destination(app, next).await.as_deref())
}

async fn ask_factor(
    app: &App,
    browser: &Browser,
    next: &Next,
    language: Language,
    username: &str,
    password: &SecretString,
    wrong: bool,
) -> Response {
    let pending = Pending {
        username: username.to_owned(),
        password: password.expose_secret().to_owned(),
        until: Utc::now().timestamp() + PENDING_SECONDS,
    };
    let plain = serde_json::to_vec(&pending).expect("texts and a number serialise");
    let sealed = URL_SAFE_NO_PAD.encode(app.keyring.seal(&plain, &pending_aad(browser)));
    let next_text = next.encode();
    let csrf = browser.key.prove(Purpose::SecondFactor, &next_text);
    let mistake = wrong.then_some(Mistake { text: language.words().invalid_factor, field: Some("code") });
    let status = if wrong { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK };
    let html = pages::second_factor(language, &next_text, &csrf, &sealed, mistake);
    browser.page(status, html, destination(app, next).await.as_deref())
}

/// The page that asks somebody to log in for one of our own pages.
pub(super) fn ask(app: &App, browser: &Browser, next: &Next, mistake: Option<&str>) -> Response {
    let language = browser.language(None);
    let next = next.encode();
    let csrf = browser.key.prove(Purpose::Login, &next);
    let mistake = mistake.map(|text| Mistake { text, field: None });
    let html = pages::login(language, None, &next, &csrf, "", &buttons(app, &next), mistake);
    browser.page(StatusCode::OK, html, None)
}

/// The language that the client of the request behind the login asked for.
fn ui_locales(next: &Next) -> Option<String> {
    match next {
        Next::Authorize(query) => Parameters::parse(query).get("ui_locales").map(str::to_owned),
        _ => None,
    }
}

/// Says that the person is logged in.
#[utoipa::path(
    get, path = "/oauth/logged_in", tag = "auth-service",
    responses((status = 200, description = "A page", content_type = "text/html", body = String))
)]
pub(super) async fn show_logged_in(State(app): State<App>, browser: Browser) -> Response {
    let language = browser.language(None);
    let words = language.words();
    match &browser.session {
        Some(session) => {
            let text = format!("{} {}", words.logged_in_as, session.username);
            browser.page(StatusCode::OK, pages::notice(language, words.logged_in, &text), None)
        }
        None => ask(&app, &browser, &Next::Done, None),
    }
}
