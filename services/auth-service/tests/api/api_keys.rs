//! API keys: scoped, shown once, taken by every service, revoked everywhere.

use kronos_common::{
    identity::{Revocations, Verifier, api_key},
    service::Context,
};
use kronos_testkit::wait_until;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{TestAuth, TestUser};

async fn make(auth: &TestAuth, access: &str, permissions: &[&str]) -> (String, String) {
    let body = json!({ "name": "robot console", "permissions": permissions });
    let made = auth.client.post("/auth/api-keys", &body).bearer(access).await.expect(201);
    assert_eq!(made.header("cache-control"), Some("no-store"));
    let text = |name: &str| made.json()[name].as_str().unwrap().to_owned();
    (text("id"), text("key"))
}

async fn user(auth: &TestAuth, permissions: &[&str]) -> (TestUser, String) {
    let user = auth.user(permissions).await;
    let (access, _) = auth.login(&user).await;
    (user, access)
}

/// Another service, which knows nothing of auth-service but its address.
async fn other_service(auth: &TestAuth) -> Verifier {
    let mut identity = auth.config.identity.clone();
    identity.auth_url = auth.url();
    identity.jwks_url = format!("{}/.well-known/jwks.json", auth.url());
    let context = Context::detached("other");
    let revocations = Revocations::follow(&auth.config.redis, &context).await.unwrap();
    Verifier::connect(&identity, revocations, &context).await.unwrap()
}

#[tokio::test]
async fn a_key_does_what_it_was_made_for_and_no_more() {
    let auth = TestAuth::start().await;
    let (user, access) = user(&auth, &["clients:read", "audit:read"]).await;
    let (id, key) = make(&auth, &access, &["clients:read"]).await;
    assert!(key.starts_with("kro_"));
    let mine = auth.client.bearer(&key);
    mine.get("/oauth/clients").await.expect(200);
    mine.get("/auth/audit").await.expect_problem(403, "permission_denied");
    // It is not its owner: neither the account nor other keys are in its reach.
    mine.get("/auth/sessions").await.expect_problem(400, "no_session");
    mine.post("/auth/factors/totp", &json!({})).await.expect_problem(400, "no_session");
    let more = json!({ "name": "more", "permissions": [] });
    mine.post("/auth/api-keys", &more).await.expect_problem(403, "permission_denied");
    let listed = auth.client.get("/auth/api-keys").bearer(&access).await.expect(200);
    let item = listed.json()["items"][0].clone();
    assert_eq!((item["id"].clone(), item["permissions"].clone()), (json!(id), json!(["clients:read"])));
    assert!(item["lastUsedAt"].is_string() && !listed.text().contains(&key), "{listed}");
    let (_, secret) = api_key::parts(&key).unwrap();
    let stored: Vec<u8> = sqlx::query_scalar("select secret_hash from api_keys").fetch_one(&auth.pool).await.unwrap();
    assert_eq!(stored, api_key::hash_secret(secret));
    // What the owner loses, the key loses.
    auth.users.grant(user.id, &user.username, &["audit:read"], 2);
    let fresh = auth.second().await;
    fresh.client.get("/oauth/clients").bearer(&key).await.expect(403);
}

#[tokio::test]
async fn nobody_makes_a_key_for_more_than_they_hold() {
    let auth = TestAuth::start().await;
    let (_, access) = user(&auth, &["logs:read"]).await;
    for permissions in [json!(["logs:write"]), json!(["logs:*"]), json!(["logs:read", "*:*"])] {
        let body = json!({ "name": "more", "permissions": permissions });
        auth.client.post("/auth/api-keys", &body).bearer(&access).await.expect_problem(403, "permission_denied");
    }
    let body = json!({ "name": "late", "permissions": [], "expiresAt": "2020-01-01T00:00:00Z" });
    auth.client.post("/auth/api-keys", &body).bearer(&access).await.expect_problem(422, "invalid_request");
}

#[tokio::test]
async fn an_expired_key_and_one_of_a_user_who_is_gone_are_refused() {
    let auth = TestAuth::start().await;
    let (user, access) = user(&auth, &["clients:read"]).await;
    let (id, key) = make(&auth, &access, &["clients:read"]).await;
    let id = Uuid::parse_str(&id).unwrap();
    let set = "update api_keys set expires_at = now() + make_interval(secs => $2) where id = $1";
    sqlx::query(set).bind(id).bind(-1.0).execute(&auth.pool).await.unwrap();
    auth.client.get("/oauth/clients").bearer(&key).await.expect_problem(401, "token_invalid");
    sqlx::query(set).bind(id).bind(600.0).execute(&auth.pool).await.unwrap();
    auth.users.change(user.id, "disabled", json!(true));
    auth.second().await.client.get("/oauth/clients").bearer(&key).await.expect(401);
    auth.users.change(user.id, "disabled", json!(false));
    auth.second().await.client.get("/oauth/clients").bearer(&key).await.expect(200);
}

#[tokio::test]
async fn every_service_takes_a_key_and_feels_its_end_at_once() {
    let auth = TestAuth::start().await;
    let (user, access) = user(&auth, &["logs:read"]).await;
    let (id, key) = make(&auth, &access, &["logs:read"]).await;
    let service = other_service(&auth).await;
    let claims = service.verify(&key).await.unwrap();
    assert_eq!((claims.sub.clone(), claims.permissions.clone()), (user.id.to_string(), vec!["logs:read".to_owned()]));
    let (_, strange) = self::user(&auth, &[]).await;
    let path = format!("/auth/api-keys/{id}");
    auth.client.delete(&path).bearer(&strange).await.expect_problem(404, "not_found");
    auth.client.delete(&path).bearer(&access).await.expect(204);
    // Long before the 30 s for which a service would remember the key.
    wait_until("the service refuses the key", async || service.verify(&key).await.is_err()).await;
    auth.client.delete(&path).bearer(&access).await.expect_problem(404, "not_found");
    auth.client.get("/auth/api-keys").bearer(&key).await.expect(401);
}

#[tokio::test]
async fn a_client_has_keys_too_and_they_end_with_it() {
    let auth = TestAuth::start().await;
    let admin = auth.admin().await;
    let body = json!({ "name": "x", "grantTypes": ["client_credentials"], "permissions": ["clients:read"] });
    let client = admin.post("/oauth/clients", &body).await.expect(201).json();
    let (id, secret) = (client["clientId"].as_str().unwrap(), client["clientSecret"].as_str().unwrap());
    let token = auth.client_token(id, secret).await;
    let (_, key) = make(&auth, &token, &["clients:read"]).await;
    auth.client.get("/oauth/clients").bearer(&key).await.expect(200);
    admin.delete(&format!("/oauth/clients/{id}")).await.expect(204);
    auth.client.get("/oauth/clients").bearer(&key).await.expect(401);
}

#[tokio::test]
async fn unknown_keys_cost_auth_service_one_look_each_at_most() {
    let auth = TestAuth::start().await;
    let service = other_service(&auth).await;
    let asked = async || {
        let metrics = auth.operations().get("/metrics").await.text();
        let lines = metrics.lines().filter(|line| line.contains("/auth/api-keys/token") && line.contains("_count"));
        lines.filter_map(|line| line.rsplit(' ').next().and_then(|count| count.parse::<f64>().ok())).sum::<f64>()
    };
    let unknown = api_key::text(Uuid::now_v7(), &[1; api_key::SECRET_BYTES]);
    let mut mistyped = unknown.clone();
    mistyped.replace_range(10..11, if unknown.as_bytes()[10] == b'0' { "1" } else { "0" });
    for _ in 0..20 {
        assert_eq!(service.verify(&mistyped).await.unwrap_err().code(), "token_invalid");
    }
    assert_eq!(asked().await, 0.0, "a wrong checksum is nobody's business");
    let many = futures::future::join_all((0..50).map(|_| service.verify(&unknown))).await;
    assert!(many.into_iter().all(|answer| answer.unwrap_err().code() == "token_invalid"));
    assert_eq!(asked().await, 1.0);
    for odd in ["kro_", "kro_%00", "kro_0000"] {
        assert!(service.verify(odd).await.is_err());
    }
    let form: Value = auth.client.post("/auth/api-keys/token", &json!({})).bearer(&unknown).await.expect(401).json();
    assert_eq!(form["code"], "token_invalid");
}
