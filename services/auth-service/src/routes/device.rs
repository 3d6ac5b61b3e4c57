//! The person's side of the device flow (RFC 8628 section 3.3): type the code, see who asks, say yes or no.

use axum::{
    extract::{RawQuery, State},
    http::StatusCode,
    response::Response,
};

use super::{
    authorize::outdated,
    browser::{Browser, Fields, failed},
    login_page::ask,
};
use crate::{
    App,
    authorization::Parameters,
    browser::{Next, Purpose},
    device,
    flows::devices,
    pages::{self, Mistake},
};

/// The page where a person types the code that a device shows.
#[utoipa::path(
    get, path = "/device", tag = "auth-service",
    params(("user_code" = Option<String>, Query, description = "Fills the field")),
    responses((status = 200, description = "A page", content_type = "text/html", body = String))
)]
pub(super) async fn show_device(State(app): State<App>, browser: Browser, RawQuery(query): RawQuery) -> Response {
    let query = Parameters::parse(query.as_deref().unwrap_or_default());
    let code = query.get("user_code");
    if browser.session.is_none() {
        return ask(&app, &browser, &Next::Device(code.map(str::to_owned)), None);
    }
    // The code is sent by hand even if a link brought it, so that a link alone connects nobody's device.
    let language = browser.language(query.get("ui_locales"));
    let csrf = browser.key.prove(Purpose::Device, "");
    browser.page(StatusCode::OK, pages::device_entry(language, &csrf, code.unwrap_or_default(), None), None)
}

/// Takes the code, then the decision.
#[utoipa::path(
    post, path = "/device", tag = "auth-service",
    request_body(content = String, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 200, description = "A page", content_type = "text/html", body = String),
        (status = 400, description = "A page: the form is not from ours", content_type = "text/html", body = String),
        (status = 422, description = "A page: an unknown code", content_type = "text/html", body = String),
        (status = 429, description = "A page: too many attempts", content_type = "text/html", body = String),
    )
)]
pub(super) async fn decide_device(State(app): State<App>, browser: Browser, Fields(form): Fields) -> Response {
    let language = browser.language(None);
    let words = language.words();
    let typed = form.get("user_code").unwrap_or_default();
    let code = device::read(typed);
    let decision = form.get("decision");
    // The decision is bound to the code that was shown.
    let content = if decision.is_some() { typed } else { "" };
    let proven = form.get("csrf").is_some_and(|proof| browser.key.accepts(Purpose::Device, content, proof));
    let Some(session) = browser.session.as_ref().filter(|_| proven && !browser.cross_site) else {
        return outdated(&browser, language);
    };
    let found = match devices::find(&app, session, browser.network, code.as_deref()).await {
        Ok(found) => found,
        Err(problem) => return failed(language, problem),
    };
    let Some(((client, waiting), code)) = found.zip(code) else {
        let csrf = browser.key.prove(Purpose::Device, "");
        let mistake = Mistake { text: words.device_unknown, field: Some("user_code") };
        let html = pages::device_entry(language, &csrf, typed, Some(mistake));
        return browser.page(StatusCode::UNPROCESSABLE_ENTITY, html, None);
    };
    let Some(decision) = decision else {
        let shown = device::show(&code);
        let csrf = browser.key.prove(Purpose::Device, &shown);
        let scope = &waiting.scope;
        let html = pages::device_confirm(language, &client.name, &session.username, scope, &shown, &csrf);
        return browser.page(StatusCode::OK, html, None);
    };
    let allow = decision == "allow";
    match devices::decide(&app, session, &code, &client.client_id, allow).await {
        Ok(true) => {
            let title = if allow { words.device_allowed } else { words.device_denied };
            browser.page(StatusCode::OK, pages::notice(language, title, words.close), None)
        }
        Ok(false) => {
            let html = pages::mistake(language, words.device, words.device_unknown);
            browser.page(StatusCode::UNPROCESSABLE_ENTITY, html, None)
        }
        Err(problem) => failed(language, problem),
    }
}
