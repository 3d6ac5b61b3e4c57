//! Login with another provider: a real OpenID provider of the test's own, good and bad.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use auth_service::config::{External, ExternalKind};
use axum::{
    Form, Json, Router,
    extract::State,
    routing::{get, post},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use chrono::Utc;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use crate::{
    browser::{Browser, challenge, form_of, parameters, query},
    harness::{PASSWORD, TestAuth, TestUser},
};

/// PKCS#8 of the Ed25519 test key of RFC 8037 appendix A, and its public part.
const PRIVATE: &str = "MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g";
const PUBLIC: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";

/// An OpenID provider that says what the test wants.
#[derive(Clone)]
struct FakeProvider {
    address: SocketAddr,
    state: Arc<Mutex<Said>>,
}

#[derive(Default)]
struct Said {
    /// Replaces claims of the next ID token.
    claims: Value,
    /// What the authorization request asked for, by code.
    asked: HashMap<String, HashMap<String, String>>,
}

impl FakeProvider {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let provider = Self { address: listener.local_addr().unwrap(), state: Arc::new(Mutex::new(Said::default())) };
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(metadata))
            .route(
                "/keys",
                get(async || {
                    Json(json!({ "keys": [{
                "kty": "OKP", "crv": "Ed25519", "x": PUBLIC, "kid": "one", "alg": "EdDSA", "use": "sig",
            }] }))
                }),
            )
            .route("/token", post(token))
            .with_state(provider.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        provider
    }

    fn issuer(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What a person at the provider does: says yes. Returns where the browser goes.
    fn consent(&self, location: &str, claims: Value) -> String {
        let url = url::Url::parse(location).unwrap();
        assert!(location.starts_with(&format!("{}/authorize", self.issuer())), "{location}");
        let asked: HashMap<String, String> = url.query_pairs().into_owned().collect();
        let code = kronos_testkit::unique("code");
        let back = format!(
            "{}?{}",
            asked["redirect_uri"],
            query(&[("code", &code), ("state", &asked["state"]), ("iss", &self.issuer()),])
        );
        let mut said = self.state.lock().unwrap();
        said.claims = claims;
        said.asked.insert(code, asked);
        back
    }
}

async fn metadata(State(provider): State<FakeProvider>) -> Json<Value> {
    let issuer = provider.issuer();
    Json(json!({
        "issuer": issuer,
        "authorization_endpoint": format!("{issuer}/authorize"),
        "token_endpoint": format!("{issuer}/token"),
        "jwks_uri": format!("{issuer}/keys"),
        "authorization_response_iss_parameter_supported": true,
    }))
}

async fn token(State(provider): State<FakeProvider>, Form(form): Form<HashMap<String, String>>) -> Json<Value> {
    let mut said = provider.state.lock().unwrap();
    let asked = said.asked.remove(&form["code"]).expect("a code works once");
    assert_eq!(challenge(&form["code_verifier"]), asked["code_challenge"], "PKCE");
    assert_eq!(form["redirect_uri"], asked["redirect_uri"]);
    let now = Utc::now().timestamp();
    let mut claims = json!({
        "iss": provider.issuer(), "sub": "248289761001", "aud": "kronos-at-acme", "iat": now, "exp": now + 60,
        "nonce": asked["nonce"], "email": "jane@acme.test", "email_verified": true,
    });
    for (name, value) in said.claims.as_object().into_iter().flatten() {
        claims[name] = value.clone();
    }
    let key = EncodingKey::from_ed_der(&STANDARD.decode(PRIVATE).unwrap());
    let header = Header { kid: Some("one".into()), ..Header::new(Algorithm::EdDSA) };
    let id_token = encode(&header, &claims, &key).unwrap();
    Json(json!({ "access_token": "x", "token_type": "Bearer", "expires_in": 60, "id_token": id_token }))
}

async fn start() -> (TestAuth, FakeProvider) {
    let provider = FakeProvider::start().await;
    let acme = External {
        name: "acme".into(),
        label: Some("Acme".into()),
        kind: ExternalKind::Oidc,
        issuer: Some(provider.issuer()),
        client_id: "kronos-at-acme".into(),
        client_secret_file: None,
    };
    let other = External { name: "other".into(), label: None, ..acme.clone() };
    let auth = TestAuth::start_with(|config| config.external = vec![acme, other]).await;
    (auth, provider)
}

/// The path and query of a URL at the issuer.
fn own_path(auth: &TestAuth, url: &str) -> String {
    url.strip_prefix(&auth.config.identity.issuer).unwrap_or_else(|| panic!("{url}")).to_owned()
}

/// Links the account, as its owner does.
async fn link(auth: &TestAuth, provider: &FakeProvider, user: &TestUser) -> Browser {
    let mut browser = Browser::new(auth);
    let question = browser.log_in("/oauth/external/acme/link", user).await.expect(200);
    let leaving = browser.submit(&question, &[]).await.expect(303);
    let back = provider.consent(leaving.header("location").unwrap(), json!({}));
    let done = browser.get(&own_path(auth, &back)).await.expect(200);
    assert!(done.text().contains("is linked"), "{done}");
    browser
}

#[tokio::test]
async fn an_account_that_its_owner_linked_logs_in() {
    let (auth, provider) = start().await;
    let (app, user) = (auth.app(json!({ "firstParty": true })).await, auth.user(&[]).await);
    link(&auth, &provider, &user).await;

    let mut browser = Browser::new(&auth);
    let page = browser.get(&app.authorize(&[])).await.expect(200).text();
    let href = page.split("href=\"/oauth/external/acme?").nth(1).unwrap().split('"').next().unwrap();
    let path = format!("/oauth/external/acme?{}", href.replace("&amp;", "&"));
    let leaving = browser.get(&path).await.expect(303);
    let back = provider.consent(leaving.header("location").unwrap(), json!({}));
    let arrived = browser.get(&own_path(&auth, &back)).await.expect(303);
    let answer = parameters(&browser.follow(arrived).await);
    let tokens = auth.redeem(&app, &answer["code"]).await.expect(200).json();
    let id = crate::harness::claims(tokens["id_token"].as_str().unwrap());
    assert_eq!((id["sub"].as_str(), &id["amr"]), (Some(&*user.id.to_string()), &json!(["fed"])));
}

#[tokio::test]
async fn an_email_address_verified_or_not_opens_nobodys_account() {
    let (auth, provider) = start().await;
    let user = auth.user(&[]).await;
    for verified in [true, false] {
        let mut browser = Browser::new(&auth);
        let leaving = browser.get("/oauth/external/acme").await.expect(303);
        // The address of the test's users.
        let claims = json!({ "sub": "stranger", "email": "somebody@kronos.test", "email_verified": verified });
        let back = provider.consent(leaving.header("location").unwrap(), claims);
        let page = browser.get(&own_path(&auth, &back)).await.expect(200);
        assert!(page.text().contains("not linked yet"), "{page}");
        assert!(!browser.get("/oauth/logged_in").await.text().contains(&user.username));
        // Logging in leads to the question, not to a link.
        let answer = browser.submit(&page, &[("username", &user.username), ("password", PASSWORD)]).await.expect(303);
        let question = browser.follow(answer).await.expect(200);
        assert_eq!(form_of(&question.text()).0, "/oauth/external/acme/link");
    }
    let links: i64 = sqlx::query_scalar("select count(*) from external_links").fetch_one(&auth.pool).await.unwrap();
    assert_eq!(links, 0);
}

#[tokio::test]
async fn answers_that_are_mixed_up_forged_or_somebody_elses_are_refused() {
    let (auth, provider) = start().await;
    let user = auth.user(&[]).await;
    link(&auth, &provider, &user).await;
    let is_in = async |browser: &mut Browser| browser.get("/oauth/logged_in").await.text().contains(&user.username);

    for (what, claims) in [
        ("another login's nonce", json!({ "nonce": "other" })),
        ("another issuer", json!({ "iss": "https://evil.test" })),
        ("another audience", json!({ "aud": "somebody-else" })),
        ("several audiences and no azp", json!({ "aud": ["kronos-at-acme", "x"] })),
        ("given to another", json!({ "aud": ["kronos-at-acme", "x"], "azp": "x" })),
        ("expired", json!({ "exp": Utc::now().timestamp() - 3600 })),
    ] {
        let mut browser = Browser::new(&auth);
        let leaving = browser.get("/oauth/external/acme").await.expect(303);
        let back = provider.consent(leaving.header("location").unwrap(), claims);
        browser.get(&own_path(&auth, &back)).await.expect(502);
        assert!(!is_in(&mut browser).await, "{what}");
    }

    let mut browser = Browser::new(&auth);
    let leaving = browser.get("/oauth/external/acme").await.expect(303);
    let back = own_path(&auth, &provider.consent(leaving.header("location").unwrap(), json!({})));
    let issuer = query(&[("iss", &provider.issuer())]);
    let cookies = browser.cookies.clone();
    for (what, path, status) in [
        ("another provider's callback", back.replace("/acme/", "/other/"), 400),
        ("another state", back.replace("state=", "state=x"), 400),
        ("another issuer", back.replace(&issuer, "iss=https%3A%2F%2Fevil.test"), 502),
        ("no issuer", back.replace(&format!("&{issuer}"), ""), 502),
        ("state twice", format!("{back}&state=x"), 400),
    ] {
        browser.cookies.clone_from(&cookies);
        assert_eq!(browser.get(&path).await.status, status, "{what}");
        assert!(!is_in(&mut browser).await, "{what}");
    }
    let mut stranger = Browser::new(&auth);
    stranger.get(&back).await.expect(400);
    assert!(!is_in(&mut stranger).await, "the answer belongs to the browser that asked");
    browser.cookies = cookies;
    browser.get(&back).await.expect(303);
    assert!(is_in(&mut browser).await);
    browser.get(&back).await.expect(400);
}

#[tokio::test]
async fn an_account_belongs_to_one_person_who_can_unlink_it() {
    let (auth, provider) = start().await;
    let (user, other) = (auth.user(&[]).await, auth.user(&[]).await);
    link(&auth, &provider, &user).await;
    let mut browser = Browser::new(&auth);
    let question = browser.log_in("/oauth/external/acme/link", &other).await.expect(200);
    browser.post("/oauth/external/acme/link", &[("csrf", "AAAA")]).await.expect(400);
    let leaving = browser.submit(&question, &[]).await.expect(303);
    let back = provider.consent(leaving.header("location").unwrap(), json!({}));
    browser.get(&own_path(&auth, &back)).await.expect(409);

    let (token, _) = auth.login(&user).await;
    let owner = auth.client.bearer(token);
    let links = owner.get("/auth/links").await.expect(200).json();
    assert_eq!((links[0]["provider"].as_str(), links[0]["label"].as_str()), (Some("acme"), Some("jane@acme.test")));
    owner.delete("/auth/links/acme").await.expect(204);
    owner.delete("/auth/links/acme").await.expect_problem(404, "not_found");
    auth.admin().await.get("/auth/links").await.expect_problem(400, "no_session");
    let mut browser = Browser::new(&auth);
    let leaving = browser.get("/oauth/external/acme").await.expect(303);
    let back = provider.consent(leaving.header("location").unwrap(), json!({}));
    assert!(browser.get(&own_path(&auth, &back)).await.expect(200).text().contains("not linked yet"));
}

#[tokio::test]
async fn the_last_way_in_is_not_unlinked() {
    let (auth, provider) = start().await;
    let user = auth.user(&[]).await;
    link(&auth, &provider, &user).await;
    let owner = auth.client.bearer(auth.login(&user).await.0);
    let set = "update credentials set password_phc = $2 where user_id = $1";
    let phc: String = sqlx::query_scalar("select password_phc from credentials where user_id = $1")
        .bind(user.id)
        .fetch_one(&auth.pool)
        .await
        .unwrap();
    sqlx::query(set).bind(user.id).bind(None::<String>).execute(&auth.pool).await.unwrap();
    owner.delete("/auth/links/acme").await.expect_problem(409, "last_way_in");
    assert_eq!(owner.get("/auth/links").await.expect(200).json().as_array().unwrap().len(), 1);
    sqlx::query(set).bind(user.id).bind(phc).execute(&auth.pool).await.unwrap();
    owner.delete("/auth/links/acme").await.expect(204);
}

/// GitHub as its documentation has it: no discovery, no ID token, a form unless JSON is asked for, a numeric id.
async fn fake_github() -> (String, Arc<Mutex<Value>>) {
    let user = Arc::new(Mutex::new(json!({ "id": 583_231, "login": "octocat", "email": "somebody@kronos.test" })));
    let shown = Arc::clone(&user);
    let router = Router::new()
        .route(
            "/login/oauth/access_token",
            post(async |headers: axum::http::HeaderMap, Form(form): Form<HashMap<String, String>>| {
                assert!(headers["accept"].to_str().unwrap().contains("application/json"));
                // A code that is wrong or used is an answer with status 200.
                if form["code"] != "good" || form["code_verifier"].len() < 43 {
                    return Json(json!({ "error": "bad_verification_code", "error_description": "incorrect or expired" }));
                }
                Json(json!({ "access_token": "gho_16C7e42F292c6912E7710c838347Ae178B4a", "token_type": "bearer", "scope": "" }))
            }),
        )
        .route(
            "/user",
            get(async move |headers: axum::http::HeaderMap| {
                assert_eq!(headers["authorization"], "Bearer gho_16C7e42F292c6912E7710c838347Ae178B4a");
                assert!(headers.contains_key("user-agent"), "GitHub refuses who does not say who it is");
                Json(shown.lock().unwrap().clone())
            }),
        );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (address, user)
}

#[tokio::test]
async fn a_github_account_is_known_by_its_number_and_not_by_its_name() {
    let (address, account) = fake_github().await;
    let github = External {
        name: "github".into(),
        label: Some("GitHub".into()),
        kind: ExternalKind::Github,
        issuer: Some(address.clone()),
        client_id: "Iv1.8a61f9b3a7aba766".into(),
        client_secret_file: None,
    };
    let auth = TestAuth::start_with(|config| config.external = vec![github]).await;
    let user = auth.user(&[]).await;
    let back = |leaving: &str, code: &str| {
        assert!(leaving.starts_with(&format!("{address}/login/oauth/authorize?")), "{leaving}");
        let url = url::Url::parse(leaving).unwrap();
        let asked: HashMap<String, String> = url.query_pairs().into_owned().collect();
        assert_eq!(
            (asked["client_id"].as_str(), asked["code_challenge_method"].as_str()),
            ("Iv1.8a61f9b3a7aba766", "S256")
        );
        format!("/oauth/external/github/callback?{}", query(&[("code", code), ("state", &asked["state"])]))
    };
    let mut browser = Browser::new(&auth);
    let question = browser.log_in("/oauth/external/github/link", &user).await.expect(200);
    let leaving = browser.submit(&question, &[]).await.expect(303);
    let done = browser.get(&back(leaving.header("location").unwrap(), "good")).await.expect(200);
    assert!(done.text().contains("is linked"), "{done}");

    let log_in = async |code: &str| {
        let mut browser = Browser::new(&auth);
        let leaving = browser.get("/oauth/external/github").await.expect(303);
        let answer = browser.get(&back(leaving.header("location").unwrap(), code)).await;
        (answer, browser.get("/oauth/logged_in").await.text().contains(&user.username))
    };
    assert!(log_in("good").await.1);
    let (refused, is_in) = log_in("stolen").await;
    assert_eq!((refused.status, is_in), (502, false));
    // Who takes over the name of an account is somebody else; who renames theirs stays who they are.
    account.lock().unwrap()["id"] = json!(1);
    assert!(!log_in("good").await.1);
    *account.lock().unwrap() = json!({ "id": 583_231, "login": "renamed" });
    assert!(log_in("good").await.1);
    *account.lock().unwrap() = json!({ "login": "octocat" });
    assert_eq!(log_in("good").await.0.status, 502);
}
