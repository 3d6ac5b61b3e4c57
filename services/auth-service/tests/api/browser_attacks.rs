//! Attacks on browsers and on what travels through them: each must fail.

use axum::http::Method;
use serde_json::json;

use crate::{
    browser::{Browser, CHALLENGE, REDIRECT, VERIFIER, challenge, form_of, parameters},
    harness::{PASSWORD, TestAuth},
};

#[tokio::test]
async fn a_code_works_once_and_a_second_use_ends_what_the_first_brought() {
    let auth = TestAuth::start().await;
    let (app, user) = (auth.app(json!({ "firstParty": true })).await, auth.user(&["logs:read"]).await);
    let mut browser = Browser::new(&auth);
    let code = parameters(&browser.log_in(&app.authorize(&[]), &user).await)["code"].clone();
    let tokens = auth.redeem(&app, &code).await.expect(200).json();
    let access = tokens["access_token"].as_str().unwrap();
    assert!(auth.is_active(access).await);

    assert_eq!(auth.redeem(&app, &code).await.expect(400).json()["error"], "invalid_grant");
    assert!(!auth.is_active(access).await, "the access token ends too");
    let refresh = [
        ("grant_type", "refresh_token"),
        ("client_id", app.id.as_str()),
        ("refresh_token", tokens["refresh_token"].as_str().unwrap()),
    ];
    assert_eq!(auth.token(&refresh).await.expect(400).json()["error"], "invalid_grant");
    let kinds: Vec<String> =
        sqlx::query_scalar("select kind from audit where kind = 'code-reused'").fetch_all(&auth.pool).await.unwrap();
    assert_eq!(kinds.len(), 1);
}

#[tokio::test]
async fn of_many_exchanges_at_once_at_two_instances_one_succeeds() {
    let auth = TestAuth::start().await;
    let second = auth.second().await;
    let (app, user) = (auth.app(json!({ "firstParty": true })).await, auth.user(&[]).await);
    let mut browser = Browser::new(&auth);
    let code = parameters(&browser.log_in(&app.authorize(&[]), &user).await)["code"].clone();
    let tries = (0..10).map(|at| {
        let (auth, app, code) = (if at % 2 == 0 { &auth } else { &second }, &app, &code);
        async move { auth.redeem(app, code).await.status }
    });
    let statuses = futures::future::join_all(tries).await;
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
}

#[tokio::test]
async fn pkce_cannot_be_left_out_weakened_or_guessed() {
    assert_eq!(challenge(VERIFIER), CHALLENGE, "RFC 7636 appendix B");
    let auth = TestAuth::start().await;
    let (app, user) = (auth.app(json!({ "firstParty": true })).await, auth.user(&[]).await);
    let mut browser = Browser::new(&auth);
    for change in [
        vec![("code_challenge", ""), ("code_challenge_method", "")],
        vec![("code_challenge_method", "plain")],
        vec![("code_challenge_method", "")],
        vec![("code_challenge_method", "s256")],
        vec![("code_challenge", VERIFIER), ("code_challenge_method", "plain")],
        vec![("code_challenge", "short")],
    ] {
        let answer = parameters(&browser.get(&app.authorize(&change)).await);
        assert_eq!(answer.get("error").map(String::as_str), Some("invalid_request"), "{change:?}");
    }
    browser.log_in(&app.authorize(&[]), &user).await.expect(303);
    for verifier in [None, Some(CHALLENGE), Some("a"), Some("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXK")] {
        let code = parameters(&browser.get(&app.authorize(&[])).await)["code"].clone();
        let mut form = vec![
            ("grant_type", "authorization_code"),
            ("client_id", app.id.as_str()),
            ("code", &code),
            ("redirect_uri", REDIRECT),
        ];
        form.extend(verifier.map(|verifier| ("code_verifier", verifier)));
        assert_eq!(auth.token(&form).await.expect(400).json()["error"], "invalid_grant", "{verifier:?}");
        let spent = auth.redeem(&app, &code).await.expect(400).json();
        assert_eq!(spent["error"], "invalid_grant", "a wrong guess uses the code up");
    }
}

#[tokio::test]
async fn a_confidential_client_without_pkce_cannot_be_given_a_code_of_somebody_elses_request() {
    let auth = TestAuth::start().await;
    let user = auth.user(&[]).await;
    let change = json!({ "firstParty": true, "requirePkce": false, "tokenEndpointAuthMethod": "client_secret_post" });
    let app = auth.app(change).await;
    let secret = app.secret.clone().unwrap();
    let mut browser = Browser::new(&auth);
    let bare = [("code_challenge", ""), ("code_challenge_method", "")];
    let code = parameters(&browser.log_in(&app.authorize(&bare), &user).await)["code"].clone();
    let form = [
        ("grant_type", "authorization_code"),
        ("client_id", app.id.as_str()),
        ("client_secret", &secret),
        ("code", &code),
        ("redirect_uri", REDIRECT),
        // The client thinks that it sent a challenge: somebody took it out (RFC 9700 section 2.1.1).
        ("code_verifier", VERIFIER),
    ];
    assert_eq!(auth.token(&form).await.expect(400).json()["error"], "invalid_grant");
}

#[tokio::test]
async fn a_redirect_uri_is_the_registered_one_byte_for_byte() {
    let auth = TestAuth::start().await;
    let app = auth.app(json!({})).await;
    let mut browser = Browser::new(&auth);
    for uri in [
        "",
        "https://app.kronos.test/callback/",
        "https://app.kronos.test/callback?x=1",
        "https://app.kronos.test/callback#x",
        "https://app.kronos.test/callback/../evil",
        "https://app.kronos.test/%63allback",
        "https://APP.kronos.test/callback",
        "https://app.kronos.test:443/callback",
        "https://app.kronos.test@evil.test/callback",
        "https://evil.test\\@app.kronos.test/callback",
        "https://app.kronos.test.evil.test/callback",
        "http://app.kronos.test/callback",
        "//app.kronos.test/callback",
        " https://app.kronos.test/callback",
        "javascript:alert(1)//https://app.kronos.test/callback",
        "http://127.0.0.1:80x/cb",
        "http://127.0.0.1:99999/cb",
        "http://127.0.0.1:@evil.test/cb",
        "http://127.0.0.1.evil.test/cb",
        "http://127.0.0.1:1234/other",
        "http://localhost:1234/cb",
        "http://127.0.0.2:1234/cb",
        "https://127.0.0.1:1234/cb",
    ] {
        let answer = browser.get(&app.authorize(&[("redirect_uri", uri)])).await;
        assert_eq!((answer.status, answer.header("location")), (400, None), "{uri}");
        assert!(answer.text().contains("role=\"alert\""), "a page says so: {uri}");
    }
    for uri in [REDIRECT, "http://127.0.0.1/cb", "http://127.0.0.1:49152/cb"] {
        browser.get(&app.authorize(&[("redirect_uri", uri)])).await.expect(200);
    }
    let twice = format!("{}&redirect_uri=https://evil.test/", app.authorize(&[]));
    assert_eq!(parameters(&browser.get(&twice).await)["error"], "invalid_request");
    browser.get(&app.authorize(&[("client_id", "nobody")])).await.expect(400);
}

#[tokio::test]
async fn a_code_is_bound_to_its_client_and_its_redirect_uri() {
    let auth = TestAuth::start().await;
    let (app, user) = (auth.app(json!({ "firstParty": true })).await, auth.user(&[]).await);
    let other = auth.app(json!({})).await;
    let mut browser = Browser::new(&auth);
    let code = parameters(&browser.log_in(&app.authorize(&[]), &user).await)["code"].clone();
    assert_eq!(auth.redeem(&other, &code).await.expect(400).json()["error"], "invalid_grant");
    let form = [
        ("grant_type", "authorization_code"),
        ("client_id", app.id.as_str()),
        ("code", &code),
        ("redirect_uri", "http://127.0.0.1/cb"),
        ("code_verifier", VERIFIER),
    ];
    assert_eq!(auth.token(&form).await.expect(400).json()["error"], "invalid_grant");
}

#[tokio::test]
async fn nobody_is_logged_in_or_says_yes_by_another_sites_form() {
    let auth = TestAuth::start().await;
    let (app, user) = (auth.app(json!({})).await, auth.user(&["logs:read"]).await);
    let mut attacker = Browser::new(&auth);
    let page = attacker.get(&app.authorize(&[])).await.expect(200);
    let (action, mut fields) = form_of(&page.text());
    fields.insert("username".into(), user.username.clone());
    fields.insert("password".into(), PASSWORD.into());
    let form: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();

    let mut victim = Browser::new(&auth);
    victim.post(&action, &form).await.expect(400);
    victim.get(&app.authorize(&[])).await.expect(200);
    victim.post(&action, &form).await.expect(400);
    assert!(!victim.get("/oauth/logged_in").await.text().contains(&user.username), "login CSRF");

    let consent = victim.log_in(&app.authorize(&[]), &user).await.expect(200);
    let (action, fields) = form_of(&consent.text());
    let (request, csrf) = (fields["request"].as_str(), fields["csrf"].as_str());
    let wider = request.replace("logs%3Aread", "offline_access");
    let attempts: [Vec<(&str, &str)>; 3] = [
        vec![("request", request), ("decision", "allow")],
        vec![("request", request), ("decision", "allow"), ("csrf", "AAAA")],
        vec![("request", &wider), ("decision", "allow"), ("csrf", csrf)],
    ];
    for form in &attempts {
        let answer = victim.post(&action, form).await;
        assert_eq!((answer.status, answer.header("location")), (400, None), "{form:?}");
    }
    let good = [("request", request), ("decision", "allow"), ("csrf", csrf)];
    let cross = victim.send(Method::POST, &action, Some(&good), &[("sec-fetch-site", "cross-site")]).await;
    assert_eq!(cross.status, 400, "the browser itself says that another site sent it");
    victim.post(&action, &good).await.expect(303);
}

#[tokio::test]
async fn a_cookie_that_somebody_planted_is_worth_nothing_after_the_login() {
    let auth = TestAuth::start().await;
    let (app, user) = (auth.app(json!({ "firstParty": true })).await, auth.user(&[]).await);
    let mut attacker = Browser::new(&auth);
    attacker.get(&app.authorize(&[])).await.expect(200);
    let planted = attacker.cookies.clone();

    let mut victim = Browser::new(&auth);
    victim.cookies.clone_from(&planted);
    victim.log_in(&app.authorize(&[]), &user).await.expect(303);
    assert_ne!(victim.cookies, planted, "the login brings another one");
    attacker.get(&app.authorize(&[])).await.expect(200);
    let answer = parameters(&attacker.get(&app.authorize(&[("prompt", "none")])).await);
    assert_eq!(answer["error"], "login_required");

    let before = victim.cookies.clone();
    victim.log_in(&app.authorize(&[("prompt", "login")]), &user).await.expect(303);
    let mut old = Browser::new(&auth);
    old.cookies = before;
    assert_eq!(parameters(&old.get(&app.authorize(&[("prompt", "none")])).await)["error"], "login_required");
}

#[tokio::test]
async fn a_login_leads_nowhere_but_to_our_own_pages() {
    let auth = TestAuth::start().await;
    let user = auth.user(&[]).await;
    for next in [
        "https://evil.test/",
        "//evil.test",
        "link?//evil.test",
        "link?../../evil",
        "link?x/../..//evil.test",
        "done?https://evil.test",
        "",
    ] {
        // The form's own proof is made for what it holds: a person who is tricked into another value is refused first.
        let mut browser = Browser::new(&auth);
        let page = browser.get("/oauth/logged_in").await.expect(200);
        let form = [("next", next), ("username", &*user.username), ("password", PASSWORD)];
        browser.submit(&page, &form).await.expect(400);
        let proof = auth_service::browser::Next::parse(next).path("x");
        assert!(proof.starts_with("/oauth/logged_in"), "{next}: {proof}");
    }
    let mut browser = Browser::new(&auth);
    let bye = "/oauth/end_session?post_logout_redirect_uri=https%3A%2F%2Fevil.test%2F";
    browser.get(bye).await.expect(400);
}

#[tokio::test]
async fn cookies_and_pages_carry_what_protects_them() {
    let auth = TestAuth::start_with(|config| config.identity.issuer = "https://kronos.test".into()).await;
    let app = auth.app(json!({})).await;
    let page = auth.client.get(&app.authorize(&[])).await.expect(200);
    let cookie = page.header("set-cookie").unwrap();
    assert!(cookie.starts_with("__Host-kronos="), "{cookie}");
    for attribute in ["; Secure", "; HttpOnly", "; SameSite=Lax", "; Path=/"] {
        assert!(cookie.contains(attribute), "{cookie}");
    }
    assert!(!cookie.contains("Domain"), "{cookie}");
    let policy = page.header("content-security-policy").unwrap();
    for rule in ["default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "style-src 'self'"] {
        assert!(policy.contains(rule), "{policy}");
    }
    // One script, by its whole address; and none where no passkey is asked for.
    assert!(policy.contains("; script-src https://kronos.test/oauth/passkey.js; "), "{policy}");
    assert!(policy.matches("script").count() == 1 && !policy.contains("unsafe"), "{policy}");
    let plain = auth.client.get("/oauth/authorize?client_id=nobody").await.expect(400);
    assert!(!plain.header("content-security-policy").unwrap().contains("script"), "{plain}");
    assert_eq!((page.header("x-frame-options"), page.header("cache-control")), (Some("DENY"), Some("no-store")));
}
