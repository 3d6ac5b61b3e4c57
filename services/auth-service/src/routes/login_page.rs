//! The login form of browsers. What was typed goes the way of every login (`flows::login`); what comes of it is a cookie, with a
//! new value each time.

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::Utc;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};

use super::{
    authorize::{freshness, outdated},
    browser::{Browser, Fields, failed, redirect},
    external::buttons,
    passkeys::wire::{AssertionCredential, RequestOptions},
};
use crate::{
    App,
    authorization::Parameters,
    browser::{BrowserKey, Next, Purpose},
    factors::{Kind, PasskeyProof, Proof},
    flows::{
        authorize::place,
        browsers,
        login::{Attempt, Authenticated, Outcome, authenticate},
        passkeys::{self, Use},
    },
    language::Language,
    pages::{self, Login, Mistake, SecondFactor},
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
    let shown = passkey(&browser, &form);
    if let (Some(proof), false) = (&shown, second) {
        return log_in_by_passkey(&app, &browser, proof, &next, language).await;
    }
    let Some((username, password)) = typed(&app, &browser, &form) else {
        return outdated(&browser, language);
    };
    let proof = shown.map(|shown| Proof::Passkey(Box::new(shown))).or_else(|| proof(&form));
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
            Ok(None) => again(&app, &browser, &next, language, &username, false).await,
            Err(problem) => failed(language, problem),
        },
        Ok(Outcome::Refused) => again(&app, &browser, &next, language, &username, false).await,
        Ok(Outcome::FactorRequired(kinds)) => {
            let pending = seal(&app, &browser, &username, &password);
            ask_factor(&app, &browser, &next, language, &pending, &kinds, false).await
        }
        Ok(Outcome::FactorRefused(kinds)) => {
            let pending = seal(&app, &browser, &username, &password);
            ask_factor(&app, &browser, &next, language, &pending, &kinds, true).await
        }
    }
}

async fn log_in_by_passkey(
    app: &App,
    browser: &Browser,
    proof: &PasskeyProof,
    next: &Next,
    language: Language,
) -> Response {
    let who = match passkeys::authenticate(app, proof, browser.network).await {
        Ok(Some(who)) => who,
        Ok(None) => return again(app, browser, next, language, "", true).await,
        Err(problem) => return failed(language, problem),
    };
    match finish(app, browser, &who, next).await {
        Ok(Some(response)) => response,
        Ok(None) => again(app, browser, next, language, "", true).await,
        Err(problem) => failed(language, problem),
    }
}

/// The authenticator's answer to this browser's page.
fn passkey(browser: &Browser, form: &Parameters) -> Option<PasskeyProof> {
    let sent = form.get("passkey").filter(|sent| !sent.is_empty())?;
    let credential: AssertionCredential = serde_json::from_str(sent).ok()?;
    Some(passkeys::proof(credential.into(), Use::Page(&browser.key.hash())))
}

/// What a page's script asks the browser for: an answer of this browser's alone.
pub(super) fn passkey_options(app: &App, browser: &Browser) -> String {
    let challenge = passkeys::challenge(app, Use::Page(&browser.key.hash()));
    serde_json::to_string(&RequestOptions::new(app, challenge)).expect("texts and numbers serialise")
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

async fn again(
    app: &App,
    browser: &Browser,
    next: &Next,
    language: Language,
    username: &str,
    by_passkey: bool,
) -> Response {
    let words = language.words();
    let mistake = if by_passkey {
        Mistake { text: words.invalid_passkey, field: None }
    } else {
        Mistake { text: words.invalid_credentials, field: Some("username") }
    };
    let html = login_form(app, browser, next, language, username, Some(mistake));
    browser.passkey_page(StatusCode::UNPROCESSABLE_ENTITY, html, destination(app, next).await.as_deref())
}

fn login_form(
    app: &App,
    browser: &Browser,
    next: &Next,
    language: Language,
    username: &str,
    mistake: Option<Mistake<'_>>,
) -> String {
    let next = next.encode();
    let login = Login {
        client: None,
        next: &next,
        csrf: &browser.key.prove(Purpose::Login, &next),
        username,
        providers: &buttons(app, &next),
        passkey: &passkey_options(app, browser),
    };
    pages::login(language, &login, mistake)
}

/// The first step for the second page.
fn seal(app: &App, browser: &Browser, username: &str, password: &SecretString) -> String {
    let pending = Pending {
        username: username.to_owned(),
        password: password.expose_secret().to_owned(),
        until: Utc::now().timestamp() + PENDING_SECONDS,
    };
    let plain = serde_json::to_vec(&pending).expect("texts and a number serialise");
    URL_SAFE_NO_PAD.encode(app.keyring.seal(&plain, &pending_aad(browser)))
}

async fn ask_factor(
    app: &App,
    browser: &Browser,
    next: &Next,
    language: Language,
    pending: &str,
    kinds: &[Kind],
    wrong: bool,
) -> Response {
    let next_text = next.encode();
    let options = kinds.contains(&Kind::Passkey).then(|| passkey_options(app, browser));
    let totp = kinds.contains(&Kind::Totp);
    let step = SecondFactor {
        next: &next_text,
        csrf: &browser.key.prove(Purpose::SecondFactor, &next_text),
        pending,
        totp,
        passkey: options.as_deref(),
    };
    let field = if totp { "code" } else { "recovery_code" };
    let mistake = wrong.then_some(Mistake { text: language.words().invalid_factor, field: Some(field) });
    let status = if wrong { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK };
    let html = pages::second_factor(language, &step, mistake);
    let then = destination(app, next).await;
    if step.passkey.is_some() {
        browser.passkey_page(status, html, then.as_deref())
    } else {
        browser.page(status, html, then.as_deref())
    }
}

/// The page that asks somebody to log in for one of our own pages.
pub(super) fn ask(app: &App, browser: &Browser, next: &Next, mistake: Option<&str>) -> Response {
    let mistake = mistake.map(|text| Mistake { text, field: None });
    let html = login_form(app, browser, next, browser.language(None), "", mistake);
    browser.passkey_page(StatusCode::OK, html, None)
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

/// The script of the passkey button.
#[utoipa::path(
    get, path = "/oauth/passkey.js", tag = "auth-service",
    responses((status = 200, description = "A script", content_type = "text/javascript", body = String))
)]
pub(super) async fn get_script() -> Response {
    let headers = [("content-type", "text/javascript; charset=utf-8"), ("cache-control", "public, max-age=3600")];
    (headers, pages::SCRIPT).into_response()
}
