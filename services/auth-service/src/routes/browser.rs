//! What the pages share: the browser that asks, and answers that are pages or redirects, with their policy.

use axum::{
    extract::{FromRequest, FromRequestParts, Request},
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use chrono::Utc;
use kronos_common::{extract::Bytes, problem::Problem};

use super::origin::Origin;
use crate::{
    App,
    authorization::{Parameters, form_action},
    browser::{BrowserKey, cookie_name, find_cookie, set_cookie},
    language::Language,
    network::Network,
    pages,
    store::{self, browsers::BrowserSession},
};

/// A browser: its cookie, who is logged in there, and the language that it speaks.
pub(super) struct Browser {
    pub(super) key: BrowserKey,
    /// The cookie is new, so no form can have come from a page of ours.
    pub(super) is_new: bool,
    pub(super) session: Option<BrowserSession>,
    pub(super) network: Network,
    pub(super) device: Option<String>,
    /// A form that another site sent (Fetch Metadata); the proofs in our forms are what counts, this is a second fence.
    pub(super) cross_site: bool,
    accept_language: Option<String>,
    secure: bool,
    script: String,
}

impl FromRequestParts<App> for Browser {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Response> {
        let Ok(origin) = Origin::from_request_parts(parts, app).await;
        let secure = is_secure(app);
        let found = cookie(&parts.headers, cookie_name(secure)).and_then(BrowserKey::parse);
        let accept_language = text(&parts.headers, header::ACCEPT_LANGUAGE.as_str()).map(str::to_owned);
        let language = Language::choose(None, accept_language.as_deref());
        let session = match &found {
            None => None,
            Some(key) => store::browsers::find(&app.pool, &key.hash(), Utc::now())
                .await
                .map_err(|error| failed(language, error.into()))?,
        };
        Ok(Self {
            is_new: found.is_none(),
            key: found.unwrap_or_default(),
            session,
            network: origin.network,
            device: origin.device,
            cross_site: text(&parts.headers, "sec-fetch-site").is_some_and(|site| site == "cross-site"),
            accept_language,
            secure,
            // The first origin is the issuer's own.
            script: app
                .relying_party
                .origins
                .first()
                .map(|own| format!("{own}{}", pages::SCRIPT_PATH))
                .unwrap_or_default(),
        })
    }
}

/// The fields of a form.
pub(super) struct Fields(pub(super) Parameters);

impl FromRequest<App> for Fields {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let kind = text(request.headers(), header::CONTENT_TYPE.as_str()).unwrap_or_default();
        let essence = kind.split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            let detail = "send the body as `Content-Type: application/x-www-form-urlencoded`";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail));
        }
        let Bytes(body) = Bytes::from_request(request, app).await?;
        Ok(Self(Parameters::parse(&String::from_utf8_lossy(&body))))
    }
}

impl Browser {
    /// The language of a page for a client's request.
    pub(super) fn language(&self, ui_locales: Option<&str>) -> Language {
        Language::choose(ui_locales, self.accept_language.as_deref())
    }

    /// A page whose forms go to us, and from there perhaps to `then`.
    pub(super) fn page(&self, status: StatusCode, html: String, then: Option<&str>) -> Response {
        self.keep(page(status, html, then, None))
    }

    /// The same, with the button for a passkey: the only pages with a script, and that one is ours.
    pub(super) fn passkey_page(&self, status: StatusCode, html: String, then: Option<&str>) -> Response {
        self.keep(page(status, html, then, Some(&self.script)))
    }

    /// The answer; a new browser gets its key with it.
    fn keep(&self, mut response: Response) -> Response {
        if self.is_new {
            self.put_cookie(&mut response, &self.key, None);
        }
        response
    }

    /// Gives the browser a key.
    pub(super) fn put_cookie(&self, response: &mut Response, key: &BrowserKey, max_age_seconds: Option<i64>) {
        let cookie = set_cookie(cookie_name(self.secure), &key.encode(), self.secure, max_age_seconds);
        append_cookie(response, &cookie);
    }

    /// Makes the browser forget its key.
    pub(super) fn drop_cookie(&self, response: &mut Response) {
        append_cookie(response, &set_cookie(cookie_name(self.secure), "", self.secure, Some(0)));
    }
}

/// Whether the issuer is reached over TLS.
pub(super) fn is_secure(app: &App) -> bool {
    app.issuer_url.starts_with("https://")
}

pub(super) fn append_cookie(response: &mut Response, cookie: &str) {
    if let Ok(cookie) = HeaderValue::from_str(cookie) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
}

/// A cookie of the request.
pub(super) fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    find_cookie(headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok()), name)
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// A page: no frame, no style but ours, no script but this one; forms go to us, and where a redirect may lead from there.
pub(super) fn page(status: StatusCode, html: String, then: Option<&str>, script: Option<&str>) -> Response {
    let script = script.map(|script| format!("script-src {script}; ")).unwrap_or_default();
    let then = then.and_then(form_action).map(|place| format!(" {place}")).unwrap_or_default();
    let policy = format!(
        "default-src 'none'; {script}style-src 'self'; form-action 'self'{then}; frame-ancestors 'none'; base-uri 'none'"
    );
    // A redirect URI's scheme and host hold nothing that a header cannot.
    let policy = HeaderValue::try_from(policy).unwrap_or_else(|_| HeaderValue::from_static("default-src 'none'"));
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (header::VARY, HeaderValue::from_static("Accept-Language, Cookie")),
    ];
    (status, headers, html).into_response()
}

/// A redirect that a form's answer may be too (303, never a repeated form).
pub(super) fn redirect(location: &str) -> Response {
    match HeaderValue::from_str(location) {
        Ok(location) => {
            let headers = [
                (header::LOCATION, location),
                (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
                (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
            ];
            (StatusCode::SEE_OTHER, headers).into_response()
        }
        Err(_) => StatusCode::BAD_REQUEST.into_response(),
    }
}

/// A problem as a page; its cause is logged as any other's.
pub(super) fn failed(language: Language, problem: Problem) -> Response {
    let words = language.words();
    let text = if problem.status() == StatusCode::TOO_MANY_REQUESTS { words.too_many } else { words.unavailable };
    let html = pages::mistake(language, words.problem, text);
    let mut response = page(problem.status(), html, None, None);
    if let Some(wait) = problem.into_response().headers().get(header::RETRY_AFTER) {
        response.headers_mut().insert(header::RETRY_AFTER, wait.clone());
    }
    response
}
