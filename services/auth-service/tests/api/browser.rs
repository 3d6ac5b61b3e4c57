//! A browser for tests: it keeps cookies, follows redirects by hand, and fills the forms that it is shown.

use std::collections::BTreeMap;

use axum::http::Method;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use kronos_testkit::{TestClient, TestResponse};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::harness::{PASSWORD, TestAuth, TestUser};

/// RFC 7636 appendix B.
pub(crate) const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
pub(crate) const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
pub(crate) const REDIRECT: &str = "https://app.kronos.test/callback";

pub(crate) struct Browser {
    client: TestClient,
    pub(crate) cookies: BTreeMap<String, String>,
    pub(crate) language: &'static str,
}

/// A client with a browser's flow.
pub(crate) struct App {
    pub(crate) id: String,
    pub(crate) secret: Option<String>,
}

impl Browser {
    pub(crate) fn new(auth: &TestAuth) -> Self {
        Self { client: auth.client.clone(), cookies: BTreeMap::new(), language: "en" }
    }

    pub(crate) async fn get(&mut self, path: &str) -> TestResponse {
        self.send(Method::GET, path, None, &[]).await
    }

    pub(crate) async fn post(&mut self, path: &str, form: &[(&str, &str)]) -> TestResponse {
        self.send(Method::POST, path, Some(form), &[]).await
    }

    pub(crate) async fn send(
        &mut self,
        method: Method,
        path: &str,
        form: Option<&[(&str, &str)]>,
        headers: &[(&str, &str)],
    ) -> TestResponse {
        let cookies: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mut request = self.client.request(method, path).header("accept-language", self.language);
        if !cookies.is_empty() {
            request = request.header("cookie", cookies.join("; "));
        }
        for (name, value) in headers {
            request = request.header(name, value);
        }
        if let Some(form) = form {
            request = request.form(form);
        }
        let response = request.await;
        for cookie in response.headers.get_all("set-cookie") {
            let (pair, attributes) = cookie.to_str().unwrap().split_once(';').unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            if attributes.contains("Max-Age=0") {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        response
    }

    /// Sends the page's form with these fields filled in.
    pub(crate) async fn submit(&mut self, page: &TestResponse, fields: &[(&str, &str)]) -> TestResponse {
        let (action, mut form) = form_of(&page.text());
        for (name, value) in fields {
            form.insert((*name).to_owned(), (*value).to_owned());
        }
        let form: Vec<(&str, &str)> = form.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        self.post(&action, &form).await
    }

    /// Fills in the login form that is shown at `path`, and follows where it leads within this service.
    pub(crate) async fn log_in(&mut self, path: &str, user: &TestUser) -> TestResponse {
        let page = self.get(path).await.expect(200);
        let answer = self.submit(&page, &[("username", &user.username), ("password", PASSWORD)]).await.expect(303);
        self.follow(answer).await
    }

    /// Follows redirects within this service.
    pub(crate) async fn follow(&mut self, mut answer: TestResponse) -> TestResponse {
        while answer.status == 303 && answer.header("location").unwrap().starts_with('/') {
            let path = answer.header("location").unwrap().to_owned();
            answer = self.get(&path).await;
        }
        answer
    }

    /// Says yes if it is asked, and returns the parameters of the answer to the client.
    pub(crate) async fn allow(&mut self, mut answer: TestResponse) -> BTreeMap<String, String> {
        if answer.status == 200 {
            answer = self.submit(&answer, &[("decision", "allow")]).await;
        }
        parameters(&answer)
    }
}

/// The parameters of a redirect to a client.
#[track_caller]
pub(crate) fn parameters(answer: &TestResponse) -> BTreeMap<String, String> {
    assert_eq!(answer.status, 303, "{answer}");
    let url = url::Url::parse(answer.header("location").unwrap()).unwrap();
    url.query_pairs().map(|(name, value)| (name.into_owned(), value.into_owned())).collect()
}

/// Where the page's form goes, and its fields.
#[track_caller]
pub(crate) fn form_of(html: &str) -> (String, BTreeMap<String, String>) {
    let form = html.split("<form").nth(1).unwrap_or_else(|| panic!("no form: {html}"));
    let form = form.split("</form>").next().unwrap();
    let action = attribute(form, "action").unwrap();
    let inputs = form.split("<input").skip(1).map(|input| input.split('>').next().unwrap());
    let fields =
        inputs.filter_map(|input| Some((attribute(input, "name")?, attribute(input, "value").unwrap_or_default())));
    (action, fields.collect())
}

fn attribute(tag: &str, name: &str) -> Option<String> {
    let start = tag.find(&format!(" {name}=\""))? + name.len() + 3;
    let value = tag[start..].split('"').next()?;
    Some(value.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&"))
}

pub(crate) fn query(pairs: &[(&str, &str)]) -> String {
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

pub(crate) fn challenge(verifier: &str) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(verifier))
}

impl TestAuth {
    /// A client of a third party, public, that may read logs.
    pub(crate) async fn app(&self, change: Value) -> App {
        let mut body = json!({
            "name": "Tools & <Co>",
            "grantTypes": [
                "authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code",
            ],
            "permissions": ["logs:read"],
            "redirectUris": [REDIRECT, "http://127.0.0.1/cb"],
            "postLogoutRedirectUris": ["https://app.kronos.test/bye"],
            "tokenEndpointAuthMethod": "none",
        });
        for (name, value) in change.as_object().unwrap() {
            body[name] = value.clone();
        }
        let made = self.admin().await.post("/oauth/clients", &body).await.expect(201).json();
        App {
            id: made["clientId"].as_str().unwrap().to_owned(),
            secret: made["clientSecret"].as_str().map(str::to_owned),
        }
    }

    pub(crate) async fn token(&self, form: &[(&str, &str)]) -> TestResponse {
        self.client.request(Method::POST, "/oauth/token").header("accept", "application/json").form(form).await
    }

    /// Exchanges a code with the verifier of the RFC.
    pub(crate) async fn redeem(&self, app: &App, code: &str) -> TestResponse {
        self.token(&[
            ("grant_type", "authorization_code"),
            ("client_id", &app.id),
            ("code", code),
            ("redirect_uri", REDIRECT),
            ("code_verifier", VERIFIER),
        ])
        .await
    }
}

impl App {
    /// The path of a request, with these parameters instead of the usual ones; an empty one is left out.
    pub(crate) fn authorize(&self, change: &[(&str, &str)]) -> String {
        let mut pairs = vec![
            ("client_id", self.id.as_str()),
            ("redirect_uri", REDIRECT),
            ("response_type", "code"),
            ("scope", "openid profile email logs:read"),
            ("state", "af0ifjsldkj"),
            ("nonce", "n-0S6_WzA2Mj"),
            ("code_challenge", CHALLENGE),
            ("code_challenge_method", "S256"),
        ];
        for (name, value) in change {
            pairs.retain(|(known, _)| known != name);
            if !value.is_empty() {
                pairs.push((name, value));
            }
        }
        format!("/oauth/authorize?{}", query(&pairs))
    }
}
