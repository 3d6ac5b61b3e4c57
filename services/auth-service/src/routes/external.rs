//! Login with another provider's account, and the links between accounts there and users here. An account opens what its owner
//! linked while logged in here, and nothing else: whatever e-mail address it shows.

use axum::{
    extract::{RawQuery, State},
    http::{HeaderMap, StatusCode},
    response::Response,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::Utc;
use kronos_common::{
    extract::{Json, Path},
    identity::Caller,
    problem::{Problem, ProblemBody, Result},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use url::form_urlencoded;
use uuid::Uuid;

use super::{
    authorize::outdated,
    browser::{Browser, Fields, append_cookie, cookie, failed, is_secure, redirect},
    login::own_session,
    login_page::{ask, finish},
};
use crate::{
    App,
    audit::SecurityEvent,
    authorization::Parameters,
    browser::{Next, Purpose, set_cookie},
    external::{Attempt, Identity, Provider, attempt_end},
    flows::{login::Authenticated, passkeys},
    pages::{self, Linking},
    store::{self, external_links::Link},
};

/// The method of a login elsewhere; RFC 8176 has no name for it.
const FEDERATED: &str = "fed";

/// A login elsewhere that is under way: sealed into a cookie, so that only the browser that began it can end it.
#[derive(Serialize, Deserialize)]
struct Pending {
    provider: String,
    attempt: Attempt,
    next: String,
    /// The user who links the account, rather than logs in with it.
    link: Option<Uuid>,
    until: i64,
}

/// The login page's links to the providers.
pub(super) fn buttons(app: &App, next: &str) -> Vec<(String, String)> {
    let query = form_urlencoded::Serializer::new(String::new()).append_pair("next", next).finish();
    let path = |name: &str| format!("/oauth/external/{name}?{query}");
    app.providers.iter().map(|provider| (provider.label.clone(), path(&provider.name))).collect()
}

fn cookie_name(app: &App) -> &'static str {
    if is_secure(app) { "__Host-kronos-external" } else { "kronos-external" }
}

/// Sends the browser to another provider to log in there.
#[utoipa::path(
    get, path = "/oauth/external/{provider}", tag = "auth-service",
    params(("provider" = String, Path, description = "As configured"), ("next" = Option<String>, Query, description = "What the login is for")),
    responses(
        (status = 303, description = "To the provider"),
        (status = 404, description = "No such provider", body = ProblemBody),
        (status = 502, description = "A page: it does not answer", content_type = "text/html", body = String),
    )
)]
pub(super) async fn begin_external(
    State(app): State<App>,
    Path(provider): Path<String>,
    RawQuery(query): RawQuery,
    browser: Browser,
) -> Result<Response> {
    let provider = app.providers.find(&provider).ok_or_else(|| Problem::not_found("provider"))?;
    let query = Parameters::parse(query.as_deref().unwrap_or_default());
    let next = Next::parse(query.get("next").unwrap_or_default());
    Ok(leave(&app, &browser, provider, &next, None).await)
}

async fn leave(app: &App, browser: &Browser, provider: &Provider, next: &Next, link: Option<Uuid>) -> Response {
    let (url, attempt) = match provider.begin().await {
        Ok(begun) => begun,
        Err(error) => return refused(browser, provider, &error),
    };
    let pending = Pending { provider: provider.name.clone(), attempt, next: next.encode(), link, until: attempt_end() };
    let plain = serde_json::to_vec(&pending).expect("texts and numbers serialise");
    let sealed = URL_SAFE_NO_PAD.encode(app.keyring.seal(&plain, b"external-login"));
    let mut response = redirect(&url);
    append_cookie(&mut response, &set_cookie(cookie_name(app), &sealed, is_secure(app), Some(900)));
    response
}

/// Takes the provider's answer.
#[utoipa::path(
    get, path = "/oauth/external/{provider}/callback", tag = "auth-service",
    params(("provider" = String, Path, description = "As configured")),
    responses(
        (status = 200, description = "A page: the account is not linked, or now is", content_type = "text/html", body = String),
        (status = 303, description = "On to what the login was for"),
        (status = 400, description = "A page: not the answer to what this browser began", content_type = "text/html", body = String),
        (status = 404, description = "No such provider", body = ProblemBody),
        (status = 502, description = "A page: the provider's word does not hold", content_type = "text/html", body = String),
    )
)]
pub(super) async fn end_external(
    State(app): State<App>,
    Path(provider): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    browser: Browser,
) -> Result<Response> {
    let provider = app.providers.find(&provider).ok_or_else(|| Problem::not_found("provider"))?;
    let query = Parameters::parse(query.as_deref().unwrap_or_default());
    let mut response = arrive(&app, &browser, provider, &query, &headers).await;
    // Each answer is taken once.
    append_cookie(&mut response, &set_cookie(cookie_name(&app), "", is_secure(&app), Some(0)));
    Ok(response)
}

async fn arrive(
    app: &App,
    browser: &Browser,
    provider: &Provider,
    query: &Parameters,
    headers: &HeaderMap,
) -> Response {
    let language = browser.language(None);
    let Some(pending) = cookie(headers, cookie_name(app)).and_then(|sealed| open(app, sealed)) else {
        return outdated(browser, language);
    };
    let same = pending.provider == provider.name && query.get("state") == Some(pending.attempt.state.as_str());
    if !same || pending.until < Utc::now().timestamp() || query.repeated().is_some() {
        return outdated(browser, language);
    }
    let Some(code) = query.get("code") else {
        return refused(browser, provider, &anyhow::anyhow!("the provider said no"));
    };
    let identity = match provider.finish(&pending.attempt, code, query.get("iss")).await {
        Ok(identity) => identity,
        Err(error) => return refused(browser, provider, &error),
    };
    let next = Next::parse(&pending.next);
    let done = match pending.link {
        Some(user_id) => link(app, browser, provider, &identity, user_id).await,
        None => log_in(app, browser, provider, &identity, &next).await,
    };
    done.unwrap_or_else(|problem| failed(language, problem))
}

async fn log_in(
    app: &App,
    browser: &Browser,
    provider: &Provider,
    identity: &Identity,
    next: &Next,
) -> Result<Response> {
    let now = Utc::now();
    let words = browser.language(None).words();
    let Some(user_id) = store::external_links::owner(&app.pool, &provider.name, &identity.subject).await? else {
        // Who logs in with a password is asked whether to link it, on the way to nowhere else.
        return Ok(ask(app, browser, &Next::Link(provider.name.clone()), Some(words.external_unlinked)));
    };
    let who = match app.users.rights(user_id).await?.usable(now)? {
        Some(grants) => Authenticated { user_id, grants, amr: vec![FEDERATED], at: now },
        None => return Ok(ask(app, browser, next, Some(words.external_failed))),
    };
    match finish(app, browser, &who, next).await? {
        Some(response) => {
            store::external_links::used(&app.pool, &provider.name, &identity.subject, now).await?;
            Ok(response)
        }
        None => Ok(ask(app, browser, next, Some(words.external_failed))),
    }
}

async fn link(
    app: &App,
    browser: &Browser,
    provider: &Provider,
    identity: &Identity,
    user_id: Uuid,
) -> Result<Response> {
    let language = browser.language(None);
    let words = language.words();
    // Somebody else may have logged in here meanwhile.
    if browser.session.as_ref().is_none_or(|session| session.user_id != user_id) {
        return Ok(outdated(browser, language));
    }
    let (now, subject) = (Utc::now(), user_id.to_string());
    let mut transaction = app.pool.begin().await?;
    let (name, account) = (provider.name.as_str(), identity.subject.as_str());
    if !store::external_links::insert(&mut transaction, name, account, user_id, &identity.label, now).await? {
        transaction.rollback().await?;
        let same = store::external_links::owner(&app.pool, name, account).await? == Some(user_id);
        let html = if same {
            pages::notice(language, words.link, words.linked)
        } else {
            pages::mistake(language, words.link, words.linked_elsewhere)
        };
        return Ok(browser.page(if same { StatusCode::OK } else { StatusCode::CONFLICT }, html, None));
    }
    let event = SecurityEvent::about("account-linked", subject.as_str(), Some(&subject), json!({ "provider": name }));
    store::audit::record(&mut transaction, &event, now).await?;
    transaction.commit().await?;
    app.relay.wake();
    Ok(browser.page(StatusCode::OK, pages::notice(language, words.link, words.linked), None))
}

/// Asks a logged-in person whether to link an account.
#[utoipa::path(
    get, path = "/oauth/external/{provider}/link", tag = "auth-service",
    params(("provider" = String, Path, description = "As configured")),
    responses(
        (status = 200, description = "A page", content_type = "text/html", body = String),
        (status = 404, description = "No such provider", body = ProblemBody),
    )
)]
pub(super) async fn ask_link(
    State(app): State<App>,
    Path(provider): Path<String>,
    browser: Browser,
) -> Result<Response> {
    let provider = app.providers.find(&provider).ok_or_else(|| Problem::not_found("provider"))?;
    let Some(session) = &browser.session else {
        return Ok(ask(&app, &browser, &Next::Link(provider.name.clone()), None));
    };
    let linking = Linking {
        provider: &provider.name,
        provider_label: &provider.label,
        username: &session.username,
        csrf: &browser.key.prove(Purpose::Link, &provider.name),
    };
    Ok(browser.page(StatusCode::OK, pages::link(browser.language(None), &linking), None))
}

/// Sends the logged-in person to the provider to show which account it is.
#[utoipa::path(
    post, path = "/oauth/external/{provider}/link", tag = "auth-service",
    params(("provider" = String, Path, description = "As configured")),
    request_body(content = String, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 303, description = "To the provider"),
        (status = 400, description = "A page: the form is not from ours", content_type = "text/html", body = String),
        (status = 404, description = "No such provider", body = ProblemBody),
    )
)]
pub(super) async fn begin_link(
    State(app): State<App>,
    Path(provider): Path<String>,
    browser: Browser,
    Fields(form): Fields,
) -> Result<Response> {
    let provider = app.providers.find(&provider).ok_or_else(|| Problem::not_found("provider"))?;
    let proven = form.get("csrf").is_some_and(|proof| browser.key.accepts(Purpose::Link, &provider.name, proof));
    match browser.session.as_ref().filter(|_| proven && !browser.cross_site) {
        Some(session) => Ok(leave(&app, &browser, provider, &Next::Done, Some(session.user_id)).await),
        None => Ok(outdated(&browser, browser.language(None))),
    }
}

fn open(app: &App, sealed: &str) -> Option<Pending> {
    let opened = app.keyring.open(&URL_SAFE_NO_PAD.decode(sealed).ok()?, b"external-login").ok()?;
    serde_json::from_slice(&opened).ok()
}

fn refused(browser: &Browser, provider: &Provider, error: &anyhow::Error) -> Response {
    tracing::warn!(provider = provider.name, error = format!("{error:#}"), "a login at another provider failed");
    let language = browser.language(None);
    let words = language.words();
    browser.page(StatusCode::BAD_GATEWAY, pages::mistake(language, words.log_in, words.external_failed), None)
}

/// Lists the caller's accounts at other providers. A new one is linked in a browser, at `/oauth/external/{provider}/link`.
#[utoipa::path(
    get, path = "/auth/links", tag = "auth-service", security(("bearer" = [])),
    responses(
        (status = 200, description = "All", body = Vec<Link>),
        (status = 400, description = "`no_session`: a client's token has none", body = ProblemBody),
        (status = 401, description = "No good token", body = ProblemBody),
    )
)]
pub(super) async fn list_links(State(app): State<App>, caller: Caller) -> Result<Json<Vec<Link>>> {
    Ok(Json(store::external_links::list(&app.pool, own_user(&caller)?).await?))
}

/// Unlinks an account: it no longer logs the caller in.
#[utoipa::path(
    delete, path = "/auth/links/{provider}", tag = "auth-service", security(("bearer" = [])),
    params(("provider" = String, Path, description = "As in the list")),
    responses(
        (status = 204, description = "Unlinked"),
        (status = 400, description = "`no_session`", body = ProblemBody),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 404, description = "There is no such link", body = ProblemBody),
        (status = 409, description = "`last_way_in`: without it the caller could not log in any more", body = ProblemBody),
    )
)]
pub(super) async fn delete_link(
    State(app): State<App>,
    caller: Caller,
    Path(provider): Path<String>,
) -> Result<StatusCode> {
    let user_id = own_user(&caller)?;
    let mut transaction = app.pool.begin().await?;
    let ways = store::passkeys::ways_in(&mut transaction, user_id).await?;
    if !store::external_links::delete(&mut transaction, user_id, &provider).await? {
        return Err(Problem::not_found("link"));
    }
    passkeys::must_not_be_last(ways)?;
    let data = json!({ "provider": provider });
    let event = SecurityEvent::about("account-unlinked", caller.subject(), Some(caller.subject()), data);
    store::audit::record(&mut transaction, &event, Utc::now()).await?;
    transaction.commit().await?;
    app.relay.wake();
    Ok(StatusCode::NO_CONTENT)
}

fn own_user(caller: &Caller) -> Result<Uuid> {
    own_session(caller)?;
    let user = Uuid::parse_str(caller.subject());
    user.map_err(|_| Problem::bad_request("no_session", "this token belongs to no session of a user"))
}
