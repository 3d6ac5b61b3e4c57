//! Userinfo, and logout that a client asks for.

use serde_json::json;

use crate::{
    browser::{App, Browser, parameters, query},
    harness::{TestAuth, TestUser},
};

const BYE: &str = "https://app.kronos.test/bye";

struct LoggedIn {
    auth: TestAuth,
    app: App,
    user: TestUser,
    browser: Browser,
    tokens: serde_json::Value,
}

async fn logged_in(scope: &str) -> LoggedIn {
    let auth = TestAuth::start().await;
    let (app, user) = (auth.app(json!({ "firstParty": true })).await, auth.user(&["logs:read"]).await);
    let mut browser = Browser::new(&auth);
    let code = parameters(&browser.log_in(&app.authorize(&[("scope", scope)]), &user).await)["code"].clone();
    let tokens = auth.redeem(&app, &code).await.expect(200).json();
    LoggedIn { auth, app, user, browser, tokens }
}

#[tokio::test]
async fn userinfo_tells_what_the_scope_lets_it() {
    let LoggedIn { auth, user, tokens, .. } = logged_in("openid profile email").await;
    let access = tokens["access_token"].as_str().unwrap();
    for method in [axum::http::Method::GET, axum::http::Method::POST] {
        let info = auth.client.request(method, "/oauth/userinfo").bearer(access).await.expect(200).json();
        assert_eq!(info["sub"], user.id.to_string());
        assert_eq!(info["preferred_username"], user.username);
        assert!(info["email"].as_str().unwrap().contains('@'), "{info}");
    }
    auth.client.get("/oauth/userinfo").await.expect_problem(401, "token_missing");
    let (plain, _) = auth.login(&user).await;
    auth.client.get("/oauth/userinfo").bearer(plain).await.expect_problem(403, "insufficient_scope");
    auth.admin().await.get("/oauth/userinfo").await.expect_problem(403, "insufficient_scope");
}

#[tokio::test]
async fn userinfo_without_profile_tells_nothing_but_the_subject() {
    let LoggedIn { auth, user, tokens, .. } = logged_in("openid").await;
    let info = auth.client.get("/oauth/userinfo").bearer(tokens["access_token"].as_str().unwrap()).await;
    assert_eq!(info.expect(200).json(), json!({ "sub": user.id.to_string() }));
}

#[tokio::test]
async fn logout_with_the_id_token_ends_all_that_came_of_the_login() {
    let LoggedIn { auth, app, mut browser, tokens, .. } = logged_in("openid").await;
    let hint = tokens["id_token"].as_str().unwrap();
    let request = [("id_token_hint", hint), ("post_logout_redirect_uri", BYE), ("state", "x y")];
    let answer = browser.get(&format!("/oauth/end_session?{}", query(&request))).await.expect(303);
    assert_eq!(answer.header("location"), Some("https://app.kronos.test/bye?state=x+y"));
    assert!(!auth.is_active(tokens["access_token"].as_str().unwrap()).await);
    let silent = parameters(&browser.get(&app.authorize(&[("prompt", "none")])).await);
    assert_eq!(silent["error"], "login_required");
}

#[tokio::test]
async fn what_may_outlive_the_browser_does() {
    let LoggedIn { auth, mut browser, tokens, .. } = logged_in("openid offline_access").await;
    let hint = tokens["id_token"].as_str().unwrap();
    browser.get(&format!("/oauth/end_session?{}", query(&[("id_token_hint", hint)]))).await.expect(200);
    assert!(auth.is_active(tokens["access_token"].as_str().unwrap()).await);
}

#[tokio::test]
async fn without_a_good_id_token_the_person_is_asked() {
    let LoggedIn { auth, app, mut browser, tokens, .. } = logged_in("openid").await;
    let access = tokens["access_token"].as_str().unwrap();
    let mut forged = tokens["id_token"].as_str().unwrap().to_owned();
    forged.pop();
    forged.push('!');
    for hint in ["", "nonsense", access, &forged] {
        let request = [("id_token_hint", hint), ("client_id", &*app.id), ("post_logout_redirect_uri", BYE)];
        let page = browser.get(&format!("/oauth/end_session?{}", query(&request))).await.expect(200);
        assert!(page.text().contains("<form"), "{page}");
    }
    assert!(auth.is_active(access).await);
    let request = [("client_id", &*app.id), ("post_logout_redirect_uri", BYE)];
    let page = browser.get(&format!("/oauth/end_session?{}", query(&request))).await.expect(200);
    browser.post("/oauth/end_session", &[("request", ""), ("csrf", "AAAA")]).await.expect(400);
    let answer = browser.submit(&page, &[]).await.expect(303);
    assert_eq!(answer.header("location"), Some(BYE));
    assert!(!auth.is_active(access).await);
}

#[tokio::test]
async fn logout_leads_back_to_registered_places_alone() {
    let LoggedIn { auth, app, mut browser, tokens, .. } = logged_in("openid").await;
    let hint = tokens["id_token"].as_str().unwrap();
    let other = auth.app(json!({ "postLogoutRedirectUris": ["https://other.test/"] })).await;
    for (client, uri) in [
        (&*app.id, "https://evil.test/"),
        (&*app.id, "https://app.kronos.test/bye?x"),
        (&*app.id, "https://app.kronos.test/bye/"),
        (&*other.id, "https://other.test/"),
    ] {
        let request = [("id_token_hint", hint), ("client_id", client), ("post_logout_redirect_uri", uri)];
        let answer = browser.get(&format!("/oauth/end_session?{}", query(&request))).await;
        assert_eq!((answer.status, answer.header("location")), (400, None), "{uri}");
    }
    assert!(auth.is_active(tokens["access_token"].as_str().unwrap()).await);
}

#[tokio::test]
async fn scripts_of_other_origins_may_call_what_needs_no_cookie() {
    let LoggedIn { auth, app, tokens, .. } = logged_in("openid").await;
    for path in ["/oauth/token", "/oauth/userinfo"] {
        let preflight = auth
            .client
            .request(axum::http::Method::OPTIONS, path)
            .header("origin", "https://app.kronos.test")
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization,dpop")
            .await
            .expect(200);
        assert_eq!(preflight.header("access-control-allow-origin"), Some("*"), "{path}");
        assert!(preflight.header("access-control-allow-headers").unwrap().contains("authorization"), "{path}");
        assert_eq!(preflight.header("access-control-allow-credentials"), None);
    }
    let access = tokens["access_token"].as_str().unwrap();
    let info = auth.client.get("/oauth/userinfo").header("origin", "https://app.kronos.test").bearer(access).await;
    assert_eq!(info.expect(200).header("access-control-allow-origin"), Some("*"));
    let page = auth.client.get(&app.authorize(&[])).header("origin", "https://evil.test").await.expect(200);
    assert_eq!(page.header("access-control-allow-origin"), None);
}
