//! Sessions of OAuth clients: refresh, ID tokens, narrowed rights.

use auth_service::refresh_token::{Codec, RefreshToken};
use axum::http::Method;
use kronos_common::seal::Keyring;
use kronos_testkit::TestResponse;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{TestAuth, TestUser, claims, header};

/// What an authorization code would have begun: the first refresh token of a client's session.
async fn begin(auth: &TestAuth, user: &TestUser, client: &str, scope: &[&str]) -> String {
    auth.login(user).await;
    let session = Uuid::now_v7();
    sqlx::query(
        "insert into sessions (id, user_id, client_id, rotated_at, created_at, last_used_at, idle_expires_at, expires_at,
             scope, auth_time)
         values ($1, $2, $3, now(), now(), now(), now() + interval '1 day', now() + interval '1 day', $4, now())",
    )
    .bind(session)
    .bind(user.id)
    .bind(client)
    .bind(scope)
    .execute(&auth.pool)
    .await
    .unwrap();
    let sealed: Vec<u8> = sqlx::query_scalar("select sealed from secrets where name = 'refresh-tokens'")
        .fetch_one(&auth.pool)
        .await
        .unwrap();
    let secret = Keyring::new(&auth.config.sealing).unwrap().open(&sealed, b"secret:refresh-tokens").unwrap();
    Codec::new(&secret).encode(RefreshToken { family: session, generation: 0 })
}

async fn make(auth: &TestAuth, more: Value) -> String {
    let mut body = json!({ "name": "app", "grantTypes": ["authorization_code", "refresh_token"],
        "redirectUris": ["https://app.example.com/cb"], "tokenEndpointAuthMethod": "none",
        "permissions": ["logs:*"] });
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    let made = auth.admin().await.post("/oauth/clients", &body).await.expect(201).json();
    made["clientId"].as_str().unwrap().to_owned()
}

async fn refresh(auth: &TestAuth, client: &str, token: &str, scope: Option<&str>) -> TestResponse {
    let mut fields = vec![("grant_type", "refresh_token"), ("client_id", client), ("refresh_token", token)];
    fields.extend(scope.map(|scope| ("scope", scope)));
    auth.client.request(Method::POST, "/oauth/token").form(&fields).await
}

#[tokio::test]
async fn an_id_token_is_signed_as_the_client_wishes() {
    let auth = TestAuth::start().await;
    let user = auth.user(&[]).await;
    let set = auth.client.get("/.well-known/jwks.json").await.expect(200).json();
    for (algorithm, of_library) in [
        ("RS256", jsonwebtoken::Algorithm::RS256),
        ("ES256", jsonwebtoken::Algorithm::ES256),
        ("EdDSA", jsonwebtoken::Algorithm::EdDSA),
    ] {
        let wished = if algorithm == "RS256" { json!({}) } else { json!({ "idTokenSignedResponseAlg": algorithm }) };
        let client = make(&auth, wished).await;
        let token = begin(&auth, &user, &client, &["openid", "profile"]).await;
        let answer = refresh(&auth, &client, &token, None).await.expect(200).json();
        let id_token = answer["id_token"].as_str().unwrap();
        assert_eq!((&header(id_token)["alg"], &header(id_token)["typ"]), (&json!(algorithm), &json!("JWT")));
        let kid = header(id_token)["kid"].clone();
        let key = set["keys"].as_array().unwrap().iter().find(|key| key["kid"] == kid).unwrap();
        let key: jsonwebtoken::jwk::Jwk = serde_json::from_value(key.clone()).unwrap();
        let mut rules = jsonwebtoken::Validation::new(of_library);
        rules.set_audience(&[&client]);
        rules.set_issuer(&[&auth.config.identity.issuer]);
        let read = jsonwebtoken::decode::<Value>(id_token, &jsonwebtoken::DecodingKey::from_jwk(&key).unwrap(), &rules);
        let said = read.unwrap().claims;
        assert_eq!((&said["sub"], &said["preferred_username"]), (&json!(user.id), &json!(user.username)));
        assert_eq!(said.get("at_hash").is_some(), algorithm != "EdDSA");
        assert!(!auth.is_active(id_token).await, "an ID token is no access token");
    }
}

#[tokio::test]
async fn a_third_partys_token_holds_what_client_user_and_scope_have_in_common() {
    let auth = TestAuth::start().await;
    let user = auth.user(&["*:read", "users:write"]).await;
    let client = make(&auth, json!({})).await;
    let token = begin(&auth, &user, &client, &["openid"]).await;
    let answer = refresh(&auth, &client, &token, None).await.expect(200).json();
    let said = claims(answer["access_token"].as_str().unwrap());
    assert_eq!((&said["permissions"], &said["roles"]), (&json!(["logs:read"]), &json!([])));
    assert_eq!(said["scope"], "openid logs:read");
    let token = begin(&auth, &user, &client, &["openid", "logs:*"]).await;
    let narrowed = refresh(&auth, &client, &token, Some("logs:read")).await.expect(200).json();
    assert_eq!(narrowed["scope"], "logs:read");
    assert!(narrowed.get("id_token").is_none());
    let next = narrowed["refresh_token"].as_str().unwrap();
    assert_eq!(refresh(&auth, &client, next, Some("users:write")).await.json()["error"], "invalid_scope");
    assert!(refresh(&auth, &client, next, None).await.expect(200).json()["id_token"].is_string(), "nothing was lost");
    let ours = make(&auth, json!({ "firstParty": true, "permissions": [] })).await;
    let token = begin(&auth, &user, &ours, &["openid"]).await;
    let answer = refresh(&auth, &ours, &token, None).await.expect(200).json();
    assert_eq!(claims(answer["access_token"].as_str().unwrap())["permissions"], json!(["*:read", "users:write"]));
}

#[tokio::test]
async fn a_refresh_token_is_its_clients_alone_and_ends_with_it() {
    let auth = TestAuth::start().await;
    let user = auth.user(&["logs:read"]).await;
    let (client, other) = (make(&auth, json!({})).await, make(&auth, json!({})).await);
    let token = begin(&auth, &user, &client, &["openid"]).await;
    for thief in [other.as_str(), "kronos"] {
        assert_eq!(refresh(&auth, thief, &token, None).await.json()["error"], "invalid_grant");
    }
    auth.try_refresh(&token).await.expect_problem(401, "invalid_refresh_token");
    let answer = refresh(&auth, &client, &token, None).await.expect(200).json();
    let access = answer["access_token"].as_str().unwrap();
    assert!(auth.is_active(access).await);
    auth.admin().await.delete(&format!("/oauth/clients/{client}")).await.expect(204);
    assert!(!auth.is_active(access).await, "its users' tokens end with the client");
}
