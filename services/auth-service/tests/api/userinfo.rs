//! What clients learn of a person's address, and userinfo for tokens that are bound to a key.

use axum::http::Method;
use serde_json::{Value, json};

use crate::{
    browser::{Browser, REDIRECT, VERIFIER, parameters},
    harness::{TestAuth, TestUser, claims},
    oauth::Key,
};

async fn log_in(auth: &TestAuth, user: &TestUser, scope: &str) -> Value {
    let app = auth.app(json!({ "firstParty": true })).await;
    let mut browser = Browser::new(auth);
    let code = parameters(&browser.log_in(&app.authorize(&[("scope", scope)]), user).await)["code"].clone();
    auth.redeem(&app, &code).await.expect(200).json()
}

#[tokio::test]
async fn an_address_is_verified_if_its_owner_has_shown_it() {
    let auth = TestAuth::start().await;
    let user = auth.user(&[]).await;
    // As user-service has it, or not; shown, or not.
    let own = format!("{}@kronos.test", user.username);
    for (email, shown, expected) in
        [(own.as_str(), true, true), (own.as_str(), false, false), ("old@kronos.test", true, false)]
    {
        let statement = "update credentials set email = $2, email_key = $2,
             email_verified_at = case when $3 then now() end where user_id = $1";
        sqlx::query(statement).bind(user.id).bind(email).bind(shown).execute(&auth.pool).await.unwrap();
        let tokens = log_in(&auth, &user, "openid email").await;
        let access = tokens["access_token"].as_str().unwrap();
        let info = auth.client.get("/oauth/userinfo").bearer(access).await.expect(200).json();
        assert_eq!((&info["email"], &info["email_verified"]), (&json!(own), &json!(expected)), "{email} {shown}");
        let id = claims(tokens["id_token"].as_str().unwrap());
        assert_eq!((&id["email"], &id["email_verified"]), (&json!(email), &json!(shown)));
    }
    let tokens = log_in(&auth, &user, "openid profile").await;
    let id = claims(tokens["id_token"].as_str().unwrap());
    assert!(id.get("email").is_none() && id.get("email_verified").is_none(), "{id}");
}

#[tokio::test]
async fn userinfo_wants_the_proof_of_a_bound_token() {
    let auth = TestAuth::start().await;
    let (app, user) = (auth.app(json!({ "firstParty": true })).await, auth.user(&[]).await);
    let mut browser = Browser::new(&auth);
    let code = parameters(&browser.log_in(&app.authorize(&[]), &user).await)["code"].clone();
    let (key, thief) = (Key::new(), Key::new());
    let issuer = auth.config.identity.issuer.clone();
    let form = [
        ("grant_type", "authorization_code"),
        ("client_id", app.id.as_str()),
        ("code", &code),
        ("redirect_uri", REDIRECT),
        ("code_verifier", VERIFIER),
    ];
    let proof = key.proof("POST", &format!("{issuer}/oauth/token"), None);
    let answer = auth.client.request(Method::POST, "/oauth/token").header("dpop", &proof).form(&form).await;
    let tokens = answer.expect(200).json();
    let access = tokens["access_token"].as_str().unwrap();
    let userinfo = format!("{issuer}/oauth/userinfo");
    let ask = async |key: &Key, method: &str, address: &str, token: Option<&str>| {
        let request = auth.client.get("/oauth/userinfo").header("authorization", format!("DPoP {access}"));
        request.header("dpop", key.proof(method, address, token)).await
    };
    let info = ask(&key, "GET", &userinfo, Some(access)).await.expect(200).json();
    assert_eq!(info["sub"], user.id.to_string());
    auth.client.get("/oauth/userinfo").bearer(access).await.expect_problem(401, "token_bound");
    ask(&thief, "GET", &userinfo, Some(access)).await.expect(401);
    ask(&key, "POST", &userinfo, Some(access)).await.expect(401);
    ask(&key, "GET", &format!("{issuer}/oauth/token"), Some(access)).await.expect(401);
    ask(&key, "GET", &userinfo, None).await.expect(401);
}
