//! OAuth clients beyond a secret: assertions, proofs of a key, questions about tokens and their end, exchange, registration.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use axum::http::Method;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use kronos_testkit::{TestRequest, TestResponse, wait_until};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::harness::{ADMIN, ADMIN_SECRET, TestAuth, claims, tokens};

const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

fn form(auth: &TestAuth, path: &str, fields: &[(&str, &str)]) -> TestRequest {
    auth.client.request(Method::POST, path).form(fields)
}

fn as_admin<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [&[("client_id", ADMIN), ("client_secret", ADMIN_SECRET)], more].concat()
}

async fn introspect(auth: &TestAuth, token: &str) -> Value {
    form(auth, "/oauth/introspect", &as_admin(&[("token", token)])).await.expect(200).json()
}

async fn make(auth: &TestAuth, body: Value) -> (String, String) {
    let made = auth.admin().await.post("/oauth/clients", &body).await.expect(201).json();
    let text = |name: &str| made[name].as_str().unwrap_or_default().to_owned();
    (text("clientId"), text("clientSecret"))
}

/// A key of a client's own.
pub(crate) struct Key(Ed25519KeyPair);

impl Key {
    pub(crate) fn new() -> Self {
        Self(Ed25519KeyPair::generate().unwrap())
    }

    fn jwk(&self) -> Value {
        json!({ "kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode(self.0.public_key()) })
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let message = format!("{}.{}", encode(header), encode(claims));
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(self.0.sign(message.as_bytes())))
    }

    fn assertion(&self, client: &str, audience: &str, change: impl FnOnce(&mut Value)) -> String {
        let now = chrono::Utc::now().timestamp();
        let mut claims = json!({
            "iss": client, "sub": client, "aud": audience, "exp": now + 60, "iat": now, "jti": Uuid::new_v4(),
        });
        change(&mut claims);
        self.sign(&json!({ "alg": "EdDSA" }), &claims)
    }

    pub(crate) fn proof(&self, method: &str, address: &str, token: Option<&str>) -> String {
        let header = json!({ "typ": "dpop+jwt", "alg": "EdDSA", "jwk": self.jwk() });
        let now = chrono::Utc::now().timestamp();
        let mut claims = json!({ "htm": method, "htu": address, "iat": now, "jti": Uuid::new_v4() });
        if let Some(token) = token {
            claims["ath"] = json!(URL_SAFE_NO_PAD.encode(Sha256::digest(token)));
        }
        self.sign(&header, &claims)
    }
}

#[track_caller]
fn expect_error(answer: &TestResponse, status: u16, error: &str) {
    assert_eq!((answer.status, answer.json()["error"].as_str()), (status, Some(error)), "{answer}");
}

#[tokio::test]
async fn introspection_tells_all_to_who_may_know_and_active_false_to_the_others() {
    let auth = TestAuth::start().await;
    let user = auth.user(&["logs:read"]).await;
    let (access, refresh) = auth.login(&user).await;
    let told = introspect(&auth, &access).await;
    assert_eq!((&told["active"], &told["sub"], &told["client_id"]), (&json!(true), &json!(user.id), &json!("kronos")));
    assert_eq!(
        (&told["scope"], &told["token_type"], &told["username"]),
        (&json!("logs:read"), &json!("Bearer"), &json!(user.username))
    );
    let of_refresh = introspect(&auth, &refresh).await;
    assert_eq!((&of_refresh["active"], &of_refresh["token_type"]), (&json!(true), &json!("refresh_token")));
    let (id, secret) = make(&auth, json!({ "name": "weak", "grantTypes": ["client_credentials"] })).await;
    let own = auth.client_token(&id, &secret).await;
    let ask = async |token: &str| {
        let fields = [("client_id", id.as_str()), ("client_secret", secret.as_str()), ("token", token)];
        form(&auth, "/oauth/introspect", &fields).await.expect(200).json()
    };
    assert_eq!(ask(&own).await["active"], true, "its own token");
    for token in [access.as_str(), refresh.as_str(), "nonsense"] {
        assert_eq!(ask(token).await, json!({ "active": false }));
    }
    auth.client.post("/auth/logout", &json!({})).bearer(&access).await.expect(204);
    for token in [&access, &refresh] {
        assert_eq!(introspect(&auth, token).await, json!({ "active": false }));
    }
    let wrong = [("client_id", ADMIN), ("client_secret", "wrong"), ("token", access.as_str())];
    expect_error(&form(&auth, "/oauth/introspect", &wrong).await, 401, "invalid_client");
    expect_error(&form(&auth, "/oauth/introspect", &as_admin(&[])).await, 400, "invalid_request");
}

#[tokio::test]
async fn a_revoked_token_is_refused_by_every_instance_and_no_other_token_is() {
    let auth = TestAuth::start().await;
    let other = auth.second().await;
    let (first, second) = (auth.admin_token().await, auth.admin_token().await);
    assert!(other.is_active(&first).await);
    form(&auth, "/oauth/revoke", &as_admin(&[("token", &first)])).await.expect(200);
    auth.client.get("/oauth/clients").bearer(&first).await.expect_problem(401, "token_revoked");
    wait_until("the other instance knows", async || !other.is_active(&first).await).await;
    assert!(auth.is_active(&second).await && other.is_active(&second).await);
    // Again, and what never was one, is no error; another client's is.
    form(&auth, "/oauth/revoke", &as_admin(&[("token", &first)])).await.expect(200);
    form(&auth, "/oauth/revoke", &as_admin(&[("token", "nonsense")])).await.expect(200);
    let user = auth.user(&[]).await;
    let (access, refresh) = auth.login(&user).await;
    for token in [&access, &refresh] {
        expect_error(&form(&auth, "/oauth/revoke", &as_admin(&[("token", token)])).await, 400, "unauthorized_client");
    }
    form(&auth, "/oauth/revoke", &[("client_id", "kronos"), ("token", &refresh)]).await.expect(200);
    assert!(!auth.is_active(&access).await, "a refresh token's session ends with it");
    auth.try_refresh(&refresh).await.expect_problem(401, "invalid_refresh_token");
}

#[tokio::test]
async fn a_client_shows_itself_by_an_assertion_of_its_key_once() {
    let auth = TestAuth::start().await;
    let key = Key::new();
    let (id, secret) = make(
        &auth,
        json!({ "name": "robot", "grantTypes": ["client_credentials"], "permissions": ["logs:write"],
            "tokenEndpointAuthMethod": "private_key_jwt", "jwks": { "keys": [key.jwk()] } }),
    )
    .await;
    assert_eq!(secret, "", "it needs none");
    let ask = async |assertion: &str| {
        let fields = [
            ("grant_type", "client_credentials"),
            ("client_assertion_type", ASSERTION_TYPE),
            ("client_assertion", assertion),
        ];
        form(&auth, "/oauth/token", &fields).await
    };
    let issuer = auth.config.identity.issuer.clone();
    let good = key.assertion(&id, &format!("{issuer}/oauth/token"), |_| {});
    let token = ask(&good).await.expect(200).json()["access_token"].as_str().unwrap().to_owned();
    assert_eq!(claims(&token)["sub"], json!(id));
    expect_error(&ask(&good).await, 401, "invalid_client");
    ask(&key.assertion(&id, &issuer, |_| {})).await.expect(200);
    let now = chrono::Utc::now().timestamp();
    for (what, bad) in [
        ("another key", Key::new().assertion(&id, &issuer, |_| {})),
        ("another audience", key.assertion(&id, "https://elsewhere.example", |_| {})),
        ("a longer audience", key.assertion(&id, &format!("{issuer}.evil.example/oauth/token"), |_| {})),
        ("expired", key.assertion(&id, &issuer, |claims| claims["exp"] = json!(now - 60))),
        ("too long", key.assertion(&id, &issuer, |claims| claims["exp"] = json!(now + 3600))),
        ("another issuer", key.assertion(&id, &issuer, |claims| claims["iss"] = json!(ADMIN))),
        ("another client", key.assertion(&id, &issuer, |claims| claims["sub"] = json!(ADMIN))),
        ("no id", key.assertion(&id, &issuer, |claims| claims["jti"] = Value::Null)),
        ("no end", key.assertion(&id, &issuer, |claims| claims["exp"] = Value::Null)),
        ("alg none", {
            let good = key.assertion(&id, &issuer, |_| {});
            let payload = good.split('.').nth(1).unwrap();
            format!("{}.{payload}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#))
        }),
    ] {
        let answer = ask(&bad).await;
        assert_eq!((answer.status, answer.json()["error"].as_str()), (401, Some("invalid_client")), "{what}: {answer}");
    }
    let by_secret = [("grant_type", "client_credentials"), ("client_id", id.as_str()), ("client_secret", "x")];
    expect_error(&form(&auth, "/oauth/token", &by_secret).await, 401, "invalid_client");
}

#[tokio::test]
async fn a_token_that_is_bound_to_a_key_needs_its_proof() {
    let auth = TestAuth::start().await;
    let (key, thief) = (Key::new(), Key::new());
    let base = auth.config.identity.issuer.clone();
    let token_endpoint = format!("{base}/oauth/token");
    let fields = as_admin(&[("grant_type", "client_credentials")]);
    let proof = key.proof("POST", &token_endpoint, None);
    let answer = form(&auth, "/oauth/token", &fields).header("dpop", &proof).await.expect(200).json();
    assert_eq!(answer["token_type"], "DPoP");
    expect_error(&form(&auth, "/oauth/token", &fields).header("dpop", &proof).await, 400, "invalid_dpop_proof");
    expect_error(
        &form(&auth, "/oauth/token", &fields).header("dpop", key.proof("GET", &token_endpoint, None)).await,
        400,
        "invalid_dpop_proof",
    );
    let token = answer["access_token"].as_str().unwrap();
    assert_eq!(introspect(&auth, token).await["cnf"], claims(token)["cnf"]);
    auth.client.get("/oauth/clients").bearer(token).await.expect_problem(401, "token_bound");
    let ask = async |proof: &str| {
        auth.client.get("/oauth/clients").header("authorization", format!("DPoP {token}")).header("dpop", proof).await
    };
    let clients = format!("{base}/oauth/clients");
    let good = key.proof("GET", &clients, Some(token));
    ask(&good).await.expect(200);
    for (what, bad) in [
        ("used before", good),
        ("another key", thief.proof("GET", &clients, Some(token))),
        ("another method", key.proof("POST", &clients, Some(token))),
        ("another address", key.proof("GET", &token_endpoint, Some(token))),
        ("another token", key.proof("GET", &clients, Some("x"))),
        ("no token", key.proof("GET", &clients, None)),
        ("no proof", "x".to_owned()),
    ] {
        let answer = ask(&bad).await;
        assert_eq!((answer.status, answer.code().as_str()), (401, "proof_invalid"), "{what}: {answer}");
    }
    let plain = auth.admin_token().await;
    let answer = auth
        .client
        .get("/oauth/clients")
        .header("authorization", format!("DPoP {plain}"))
        .header("dpop", key.proof("GET", &clients, Some(&plain)))
        .await;
    answer.expect_problem(401, "proof_invalid");
    let bound = json!({ "name": "b", "grantTypes": ["client_credentials"], "dpopBoundAccessTokens": true });
    let (id, secret) = make(&auth, bound).await;
    let fields = [("grant_type", "client_credentials"), ("client_id", id.as_str()), ("client_secret", secret.as_str())];
    expect_error(&form(&auth, "/oauth/token", &fields).await, 400, "invalid_dpop_proof");
}

#[tokio::test]
async fn a_resource_is_whom_the_token_is_for() {
    let auth = TestAuth::start().await;
    let desk = "https://desk.example.com/api";
    let body = json!({ "name": "r", "grantTypes": ["client_credentials"], "resources": [desk] });
    let (id, secret) = make(&auth, body).await;
    let ask = async |resources: &[&str]| {
        let mut fields =
            vec![("grant_type", "client_credentials"), ("client_id", id.as_str()), ("client_secret", secret.as_str())];
        fields.extend(resources.iter().map(|resource| ("resource", *resource)));
        form(&auth, "/oauth/token", &fields).await
    };
    let audience = async |resources: &[&str]| {
        claims(ask(resources).await.expect(200).json()["access_token"].as_str().unwrap())["aud"].clone()
    };
    assert_eq!(audience(&[]).await, "kronos");
    assert_eq!(audience(&[&auth.config.identity.issuer]).await, "kronos");
    assert_eq!(audience(&[desk]).await, desk);
    assert_eq!(audience(&[desk, "kronos", desk]).await, json!([desk, "kronos"]));
    expect_error(&ask(&["https://other.example.com"]).await, 400, "invalid_target");
    let foreign = ask(&[desk]).await.json()["access_token"].as_str().unwrap().to_owned();
    assert!(!auth.is_active(&foreign).await, "a token for another is none for Kronos");
}

#[tokio::test]
async fn a_technician_acts_for_a_robot_until_the_ticket_closes() {
    let auth = TestAuth::start().await;
    let other = auth.second().await;
    let robot = json!({ "clientId": "robot-42", "name": "R-42", "grantTypes": ["client_credentials"],
        "permissions": ["logs:write", "messages:publish"] });
    make(&auth, robot).await;
    let (desk, secret) = make(&auth, json!({ "name": "desk", "grantTypes": [EXCHANGE] })).await;
    let technician = auth.user(&[]).await;
    let scoped = json!([{ "permission": "robots:act", "resource": "robot:robot-42" }]);
    auth.users.change(technician.id, "scoped", scoped);
    let stranger = auth.user(&[]).await;
    let ask = async |actor: &str, ticket: &str| {
        let fields = [
            ("grant_type", EXCHANGE),
            ("client_id", desk.as_str()),
            ("client_secret", secret.as_str()),
            ("subject_token", "robot-42"),
            ("subject_token_type", "urn:kronos:params:oauth:token-type:node"),
            ("actor_token", actor),
            ("actor_token_type", ACCESS_TOKEN),
            ("ticket", ticket),
            ("scope", "logs:write"),
        ];
        form(&auth, "/oauth/token", &fields).await
    };
    let (actor, _) = auth.login(&technician).await;
    let answer = ask(&actor, "T-1").await.expect(200).json();
    assert_eq!(answer["issued_token_type"], ACCESS_TOKEN);
    let token = answer["access_token"].as_str().unwrap().to_owned();
    let said = claims(&token);
    assert_eq!((&said["sub"], &said["act"]["sub"]), (&json!("robot-42"), &json!(technician.id)));
    assert_eq!(said["permissions"], json!(["logs:write"]));
    let another = ask(&actor, "T-2").await.expect(200).json()["access_token"].as_str().unwrap().to_owned();
    assert!(other.is_active(&token).await && other.is_active(&another).await);
    expect_error(&ask(&auth.login(&stranger).await.0, "T-1").await, 403, "access_denied");
    expect_error(&ask(&auth.admin_token().await, "T-1").await, 400, "invalid_request");
    expect_error(&ask(&actor, "").await, 400, "invalid_request");
    expect_error(&ask(&token, "T-1").await, 400, "invalid_grant");

    let path = "/auth/tickets/T-1/delegations";
    let listed = auth.admin().await.get(path).await.expect(200).json();
    assert_eq!(listed["items"][0]["actor"], json!(technician.id));
    auth.client.delete(path).bearer(&actor).await.expect_problem(403, "permission_denied");
    assert_eq!(auth.admin().await.delete(path).await.expect(200).json(), json!({ "ended": 1 }));
    assert!(!auth.is_active(&token).await && auth.is_active(&another).await);
    wait_until("the other instance knows", async || !other.is_active(&token).await).await;
    expect_error(&ask(&actor, "T-1").await, 400, "invalid_grant");
    // The actor's logout ends what is done under other tickets too.
    auth.client.post("/auth/logout", &json!({})).bearer(&actor).await.expect(204);
    assert!(!auth.is_active(&another).await);
}

#[tokio::test]
async fn a_service_goes_on_in_its_callers_name_with_what_both_may() {
    let auth = TestAuth::start().await;
    let body = json!({ "name": "s", "grantTypes": [EXCHANGE], "permissions": ["logs:*", "users:read"] });
    let (id, secret) = make(&auth, body).await;
    let user = auth.user(&["*:read"]).await;
    let (access, _) = auth.login(&user).await;
    let fields = [
        ("grant_type", EXCHANGE),
        ("client_id", id.as_str()),
        ("client_secret", secret.as_str()),
        ("subject_token", access.as_str()),
        ("subject_token_type", ACCESS_TOKEN),
    ];
    let answer = form(&auth, "/oauth/token", &fields).await.expect(200).json();
    let said = claims(answer["access_token"].as_str().unwrap());
    assert_eq!((&said["sub"], &said["act"]["sub"]), (&json!(user.id), &json!(id)));
    assert_eq!(said["permissions"], json!(["logs:read", "users:read"]));
    assert!(said["exp"].as_i64() <= claims(&access)["exp"].as_i64());
    auth.client.post("/auth/logout", &json!({})).bearer(&access).await.expect(204);
    assert!(!auth.is_active(answer["access_token"].as_str().unwrap()).await);
}

#[tokio::test]
async fn a_client_registers_itself_and_administers_what_it_registered() {
    let auth = TestAuth::start().await;
    let body = json!({ "client_name": "App", "redirect_uris": ["https://app.example.com/cb"], "scope": "openid logs:read",
        "grant_types": ["authorization_code", "refresh_token"], "software_id": "ignored" });
    auth.client.post("/oauth/register", &body).await.expect_problem(401, "token_missing");
    auth.with_permissions(&["logs:read"]).await.post("/oauth/register", &body).await.expect(403);
    let initial = auth.with_permissions(&["clients:register", "logs:read"]).await;
    let made = initial.post("/oauth/register", &body).await.expect(201).json();
    assert!(made["client_secret"].is_string() && made["client_secret_expires_at"] == 0);
    assert_eq!((&made["response_types"], &made["scope"]), (&json!(["code"]), &json!("openid logs:read")));
    let token = made["registration_access_token"].as_str().unwrap();
    let path = format!("/oauth/register/{}", made["client_id"].as_str().unwrap());
    assert!(made["registration_client_uri"].as_str().unwrap().ends_with(&path));
    let own = auth.client.bearer(token);
    assert_eq!(own.get(&path).await.expect(200).json()["client_name"], "App");
    auth.admin().await.get(&path).await.expect_problem(401, "token_invalid");
    let mut changed = body.clone();
    changed["client_name"] = json!("Application");
    assert_eq!(own.put(&path, &changed).await.expect(200).json()["client_name"], "Application");
    changed["scope"] = json!("openid users:write");
    own.put(&path, &changed).await.expect(403);
    own.delete(&path).await.expect(204);
    own.get(&path).await.expect_problem(401, "token_invalid");
    for (member, value, error) in [
        ("redirect_uris", json!(["http://app.example.com/cb"]), "invalid_redirect_uri"),
        ("redirect_uris", json!(["javascript:alert(1)"]), "invalid_redirect_uri"),
        ("redirect_uris", json!(["https://app.example.com/cb#x"]), "invalid_redirect_uri"),
        ("redirect_uris", json!([]), "invalid_redirect_uri"),
        ("response_types", json!(["token"]), "invalid_client_metadata"),
        ("scope", json!("everything"), "invalid_client_metadata"),
        ("jwks", json!({ "keys": [{ "kty": "oct", "k": "c2VjcmV0" }] }), "invalid_client_metadata"),
    ] {
        let mut bad = body.clone();
        bad[member] = value;
        expect_error(&initial.post("/oauth/register", &bad).await, 400, error);
    }
    let mut more = body.clone();
    more["scope"] = json!("users:write");
    initial.post("/oauth/register", &more).await.expect(403);
}

#[tokio::test]
async fn a_client_is_changed_by_members_or_as_a_whole() {
    let auth = TestAuth::start().await;
    let admin = auth.admin().await;
    let (id, secret) =
        make(&auth, json!({ "name": "c", "grantTypes": ["client_credentials"], "permissions": ["logs:read"] })).await;
    let path = format!("/oauth/clients/{id}");
    let token = auth.client_token(&id, &secret).await;
    let changed = admin.patch(&path, &json!({ "name": "d" })).await.expect(200).json();
    assert_eq!((&changed["name"], &changed["permissions"]), (&json!("d"), &json!(["logs:read"])));
    assert!(auth.is_active(&token).await, "another name ends nothing");
    admin.patch(&path, &json!({ "permissions": [] })).await.expect(200);
    assert!(!auth.is_active(&token).await);
    assert_eq!(claims(&auth.client_token(&id, &secret).await)["permissions"], json!([]));
    admin.put(&path, &json!({ "name": "e" })).await.expect_problem(422, "invalid_request");
    let body = json!({ "name": "e", "grantTypes": ["authorization_code", "refresh_token"],
        "redirectUris": ["com.example.app:/cb"], "tokenEndpointAuthMethod": "none" });
    admin.put(&path, &body).await.expect(200);
    let fields = [("grant_type", "client_credentials"), ("client_id", id.as_str()), ("client_secret", secret.as_str())];
    expect_error(&form(&auth, "/oauth/token", &fields).await, 401, "invalid_client");
    let back = json!({ "grantTypes": ["client_credentials"], "tokenEndpointAuthMethod": "client_secret_post" });
    let secret = admin.patch(&path, &back).await.expect(200).json()["clientSecret"].as_str().unwrap().to_owned();
    auth.client_token(&id, &secret).await;
    for (member, value, named) in [
        ("redirectUris", json!(["https://*.example.com"]), "/redirectUris"),
        ("requirePkce", json!("yes"), "/requirePkce"),
        ("jwksUri", json!("ftp://example.com"), "/jwksUri"),
        ("scopes", json!(["everything"]), "/scopes"),
        ("tokenEndpointAuthMethod", json!("private_key_jwt"), "/jwks"),
    ] {
        let answer = admin.patch(&path, &json!({ member: value })).await;
        answer.clone().expect_problem(422, "invalid_request");
        assert!(answer.text().contains(named), "{answer}");
    }
    let clerk = auth.with_permissions(&["clients:write"]).await;
    clerk.patch(&path, &json!({ "firstParty": true })).await.expect_problem(403, "permission_denied");
    clerk
        .patch("/oauth/clients/ouranos-crm", &json!({ "name": "mine" }))
        .await
        .expect_problem(403, "permission_denied");
    let (_, _) = tokens(&auth.try_login(&auth.user(&[]).await.username, crate::harness::PASSWORD).await.expect(200));
}
