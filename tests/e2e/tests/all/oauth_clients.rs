//! OAuth clients that nobody here wrote, through the gateway: authlib in Python, the crate `oauth2` in Rust. They go through the
//! flows as their documentation has it; the pages are driven by their forms, as a person without scripts would.

use std::{collections::BTreeMap, time::Duration};

use kronos_e2e::api::{Api, Target, text};
use oauth2::{
    AuthUrl, AuthorizationCode, ClientId, ClientSecret, CsrfToken, DeviceAuthorizationUrl, IntrospectionUrl,
    PkceCodeChallenge, RedirectUrl, Scope, StandardDeviceAuthorizationResponse, TokenIntrospectionResponse as _,
    TokenResponse as _, TokenUrl, basic::BasicClient,
};
use serde_json::{Value, json};

use crate::{platform::Platform, python};

const REDIRECT: &str = "http://127.0.0.1:47110/cb";
const REQUIREMENTS: &str = include_str!("../../python/authlib_requirements.txt");

struct Registered {
    public: String,
    confidential: String,
    secret: String,
}

async fn register(target: &Target) -> Registered {
    let admin = Api::administrator(target).await.unwrap();
    let code = ["authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"];
    let public = json!({
        "name": "A public client", "grantTypes": code, "permissions": [], "redirectUris": ["http://127.0.0.1/cb"],
        "tokenEndpointAuthMethod": "none",
    });
    let confidential = json!({
        "name": "A confidential client", "grantTypes": ["client_credentials", "authorization_code", "refresh_token"],
        "permissions": ["tokens:verify"], "redirectUris": [REDIRECT], "tokenEndpointAuthMethod": "client_secret_basic",
    });
    let public = admin.post("/oauth/clients", &public).await.unwrap().expect(201).unwrap();
    let confidential = admin.post("/oauth/clients", &confidential).await.unwrap().expect(201).unwrap();
    Registered {
        public: text(&public, "clientId").unwrap(),
        confidential: text(&confidential, "clientId").unwrap(),
        secret: text(&confidential, "clientSecret").unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow"]
async fn authlib_goes_through_every_flow() {
    let platform = Platform::start().await;
    let clients = register(&platform.target).await;
    let given = json!({
        "issuer": platform.target.gateway,
        "public": clients.public, "confidential": clients.confidential, "secret": clients.secret,
        "username": platform.target.admin.username, "password": platform.target.admin.password,
    });
    python::run("authlib", "authlib_client.py", REQUIREMENTS, &given).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oauth2_crate_goes_through_every_flow() {
    let platform = Platform::start().await;
    let target = &platform.target;
    let clients = register(target).await;
    let at = |path: &str| format!("{}{path}", target.gateway);
    let http = oauth2_http();
    let endpoints = |client: BasicClient| {
        client
            .set_auth_uri(AuthUrl::new(at("/oauth/authorize")).unwrap())
            .set_token_uri(TokenUrl::new(at("/oauth/token")).unwrap())
            .set_device_authorization_url(DeviceAuthorizationUrl::new(at("/oauth/device_authorization")).unwrap())
            .set_introspection_url(IntrospectionUrl::new(at("/oauth/introspect")).unwrap())
            .set_redirect_uri(RedirectUrl::new(REDIRECT.to_owned()).unwrap())
    };
    let public = endpoints(BasicClient::new(ClientId::new(clients.public.clone())));
    let confidential = endpoints(BasicClient::new(ClientId::new(clients.confidential.clone())))
        .set_client_secret(ClientSecret::new(clients.secret.clone()));
    let mut person = Person::new(target);

    let own = confidential.exchange_client_credentials().request_async(&http).await.unwrap();
    assert!(!own.access_token().secret().is_empty());

    for client in [&public, &confidential] {
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let (url, state) = client
            .authorize_url(CsrfToken::new_random)
            .add_scope(Scope::new("openid".to_owned()))
            .set_pkce_challenge(challenge)
            .url();
        let back = person.go_through(url.as_str()).await;
        assert_eq!(back["state"], *state.secret());
        assert_eq!(back["iss"], target.gateway);
        let code = AuthorizationCode::new(back["code"].clone());
        let tokens = client.exchange_code(code).set_pkce_verifier(verifier).request_async(&http).await.unwrap();
        let refreshed =
            client.exchange_refresh_token(tokens.refresh_token().unwrap()).request_async(&http).await.unwrap();
        assert_ne!(refreshed.access_token().secret(), tokens.access_token().secret());

        let seen = confidential.introspect(refreshed.access_token()).request_async(&http).await.unwrap();
        assert!(seen.active());
    }

    let codes: StandardDeviceAuthorizationResponse =
        public.exchange_device_code().add_scope(Scope::new("openid".to_owned())).request_async(&http).await.unwrap();
    person.let_device_in(codes.verification_uri_complete().unwrap().secret()).await;
    let tokens = public
        .exchange_device_access_token(&codes)
        .request_async(&http, tokio::time::sleep, Some(Duration::from_secs(30)))
        .await
        .unwrap();
    assert!(!tokens.access_token().secret().is_empty());
}

#[derive(Debug)]
struct HttpError(reqwest::Error);

impl std::fmt::Display for HttpError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for HttpError {}

/// The workspace's reqwest for a crate that knows an older one.
fn oauth2_http()
-> impl Fn(oauth2::HttpRequest) -> futures::future::BoxFuture<'static, Result<oauth2::HttpResponse, HttpError>> {
    let http = plain_http();
    move |request| {
        let http = http.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let request = http.request(head.method, head.uri.to_string()).headers(head.headers).body(body);
            let response = request.send().await.map_err(HttpError)?;
            let (status, headers) = (response.status(), response.headers().clone());
            let mut answer = oauth2::HttpResponse::new(response.bytes().await.map_err(HttpError)?.to_vec());
            *answer.status_mut() = status;
            *answer.headers_mut() = headers;
            Ok(answer)
        })
    }
}

fn plain_http() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap()
}

/// Somebody with a browser.
struct Person {
    http: reqwest::Client,
    issuer: String,
    login: [(String, String); 2],
    cookies: BTreeMap<String, String>,
}

impl Person {
    fn new(target: &Target) -> Self {
        let login = [
            ("username".to_owned(), target.admin.username.clone()),
            ("password".to_owned(), target.admin.password.clone()),
        ];
        Self { http: plain_http(), issuer: target.gateway.clone(), login, cookies: BTreeMap::new() }
    }

    /// Sends a form, or gets a page; follows redirects within the issuer. A page's text, or where it leads elsewhere.
    async fn send(&mut self, url: &str, form: Option<&BTreeMap<String, String>>) -> Result<String, String> {
        let (mut url, mut form) = (url.to_owned(), form);
        loop {
            let mut request = match form.take() {
                Some(form) => self.http.post(&url).form(form),
                None => self.http.get(&url),
            };
            let cookies: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
            request = request.header("cookie", cookies.join("; "));
            let response = request.send().await.unwrap();
            for cookie in response.headers().get_all("set-cookie") {
                let pair = cookie.to_str().unwrap().split(';').next().unwrap();
                let (name, value) = pair.split_once('=').unwrap();
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
            if response.status() != 303 {
                assert_eq!(response.status(), 200, "{url}: {}", response.text().await.unwrap());
                return Ok(response.text().await.unwrap());
            }
            let location = response.headers()["location"].to_str().unwrap();
            if !location.starts_with('/') {
                return Err(location.to_owned());
            }
            url = format!("{}{location}", self.issuer);
        }
    }

    async fn submit(&mut self, page: &str, fields: &[(String, String)]) -> Result<String, String> {
        let form = page.split("<form").nth(1).unwrap().split("</form>").next().unwrap();
        let attribute = |tag: &str, name: &str| {
            let start = tag.find(&format!(" {name}=\""))? + name.len() + 3;
            Some(tag[start..].split('"').next()?.replace("&quot;", "\"").replace("&amp;", "&"))
        };
        let mut values: BTreeMap<String, String> = form
            .split("<input")
            .skip(1)
            .filter_map(|input| Some((attribute(input, "name")?, attribute(input, "value").unwrap_or_default())))
            .collect();
        values.extend(fields.iter().cloned());
        let url = format!("{}{}", self.issuer, attribute(form, "action").unwrap());
        self.send(&url, Some(&values)).await
    }

    async fn page(&mut self, url: &str) -> Result<String, String> {
        let page = self.send(url, None).await?;
        if page.contains("name=\"password\"") {
            let login = self.login.clone();
            return self.submit(&page, &login).await;
        }
        Ok(page)
    }

    /// Logs in and says yes where asked; the parameters of the answer to the client.
    async fn go_through(&mut self, url: &str) -> BTreeMap<String, String> {
        let back = match self.page(url).await {
            Ok(page) => self.submit(&page, &[("decision".into(), "allow".into())]).await.unwrap_err(),
            Err(back) => back,
        };
        let (place, query) = back.split_once('?').unwrap();
        assert_eq!(place, REDIRECT);
        serde_json::from_value::<BTreeMap<String, String>>(read_query(query)).unwrap()
    }

    async fn let_device_in(&mut self, url: &str) {
        let entry = self.page(url).await.unwrap();
        let question = self.submit(&entry, &[]).await.unwrap();
        self.submit(&question, &[("decision".into(), "allow".into())]).await.unwrap();
    }
}

fn read_query(query: &str) -> Value {
    let url = reqwest::Url::parse(&format!("http://x/?{query}")).unwrap();
    url.query_pairs().map(|(name, value)| (name.into_owned(), json!(value))).collect::<serde_json::Map<_, _>>().into()
}
