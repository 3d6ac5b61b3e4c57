//! The authorization endpoint and its pages, as browsers and clients meet them.

use serde_json::json;

use crate::{
    browser::{Browser, CHALLENGE, REDIRECT, VERIFIER, form_of, parameters, query},
    harness::{TestAuth, claims},
};

#[tokio::test]
async fn a_person_logs_in_says_yes_and_the_client_gets_tokens() {
    let auth = TestAuth::start().await;
    let (app, user) = (auth.app(json!({})).await, auth.user(&["logs:read", "robots:use"]).await);
    let mut browser = Browser::new(&auth);

    let consent = browser.log_in(&app.authorize(&[]), &user).await.expect(200);
    let html = consent.text();
    assert!(html.contains("Tools &amp; &lt;Co&gt;") && html.contains("logs:read"), "{html}");
    assert!(!html.contains("<script") && html.contains("app.kronos.test"), "{html}");
    let policy = consent.header("content-security-policy").unwrap();
    assert!(policy.contains("form-action 'self' https://app.kronos.test;"), "{policy}");
    let answer = browser.allow(consent).await;
    assert_eq!(answer["state"], "af0ifjsldkj");
    assert_eq!(answer["iss"], auth.config.identity.issuer, "RFC 9207");

    let tokens = auth.redeem(&app, &answer["code"]).await.expect(200).json();
    let access = claims(tokens["access_token"].as_str().unwrap());
    assert_eq!((access["sub"].as_str(), access["client_id"].as_str()), (Some(&*user.id.to_string()), Some(&*app.id)));
    assert_eq!(access["permissions"], json!(["logs:read"]), "the user's, as far as the client may and asked");
    let id = claims(tokens["id_token"].as_str().unwrap());
    assert_eq!((id["aud"].as_str(), id["nonce"].as_str()), (Some(&*app.id), Some("n-0S6_WzA2Mj")));
    assert!(id["auth_time"].is_i64() && id["amr"] == json!(["pwd"]), "{id}");
    assert!(tokens["refresh_token"].is_string());
}

#[tokio::test]
async fn consent_is_asked_once_for_each_scope_and_never_for_our_own() {
    let auth = TestAuth::start().await;
    let (app, user) = (auth.app(json!({})).await, auth.user(&["logs:read"]).await);
    let mut browser = Browser::new(&auth);
    let asked = browser.log_in(&app.authorize(&[("scope", "openid logs:read")]), &user).await.expect(200);
    assert!(browser.allow(asked).await.contains_key("code"));

    browser.get(&app.authorize(&[("scope", "openid logs:read")])).await.expect(303);
    browser.get(&app.authorize(&[("scope", "openid email logs:read")])).await.expect(200);
    browser.get(&app.authorize(&[("scope", "openid logs:read"), ("prompt", "consent")])).await.expect(200);
    let widened = browser.get(&app.authorize(&[("scope", "openid")])).await;
    assert_eq!(widened.status, 303, "no permission named means those of the client, which were allowed");

    let own = auth.app(json!({ "firstParty": true })).await;
    assert!(parameters(&browser.get(&own.authorize(&[])).await).contains_key("code"));
}

#[tokio::test]
async fn who_says_no_is_sent_back_with_the_refusal() {
    let auth = TestAuth::start().await;
    let (app, user) = (auth.app(json!({})).await, auth.user(&[]).await);
    let mut browser = Browser::new(&auth);
    let asked = browser.log_in(&app.authorize(&[]), &user).await;
    let answer = parameters(&browser.submit(&asked, &[("decision", "deny")]).await);
    assert_eq!((answer["error"].as_str(), answer["state"].as_str()), ("access_denied", "af0ifjsldkj"));
    assert_eq!(answer["iss"], auth.config.identity.issuer);
}

#[tokio::test]
async fn prompt_and_max_age_decide_what_is_asked() {
    let auth = TestAuth::start().await;
    let (app, user) = (auth.app(json!({ "firstParty": true })).await, auth.user(&[]).await);
    let mut browser = Browser::new(&auth);
    let error = |answer: &kronos_testkit::TestResponse| parameters(answer).get("error").cloned().unwrap_or_default();
    assert_eq!(error(&browser.get(&app.authorize(&[("prompt", "none")])).await), "login_required");
    assert_eq!(error(&browser.get(&app.authorize(&[("prompt", "none login")])).await), "invalid_request");

    browser.log_in(&app.authorize(&[]), &user).await.expect(303);
    assert_eq!(error(&browser.get(&app.authorize(&[("prompt", "none")])).await), "");
    assert_eq!(error(&browser.get(&app.authorize(&[("prompt", "none"), ("max_age", "0")])).await), "login_required");
    browser.get(&app.authorize(&[("max_age", "1000")])).await.expect(303);
    for again in [("prompt", "login"), ("max_age", "0")] {
        let answer = browser.log_in(&app.authorize(&[again]), &user).await;
        assert_eq!(error(&answer), "", "once logged in, the request goes on: {answer}");
    }
    let third = auth.app(json!({})).await;
    assert_eq!(error(&browser.get(&third.authorize(&[("prompt", "none")])).await), "consent_required");
}

#[tokio::test]
async fn what_is_wrong_with_a_request_goes_back_to_a_registered_place() {
    let auth = TestAuth::start().await;
    let app = auth.app(json!({})).await;
    let mut browser = Browser::new(&auth);
    for (change, error) in [
        (("response_type", "token"), "unsupported_response_type"),
        (("response_type", ""), "invalid_request"),
        (("response_mode", "fragment"), "invalid_request"),
        (("request", "eyJhbGciOiJub25lIn0.e30."), "request_not_supported"),
        (("request_uri", "https://evil.test/request"), "request_uri_not_supported"),
        (("scope", "openid users:write"), "invalid_scope"),
        (("max_age", "soon"), "invalid_request"),
        (("prompt", "whatever"), "invalid_request"),
        (("resource", "https://unknown.test"), "invalid_target"),
        (("dpop_jkt", "short"), "invalid_request"),
    ] {
        let answer = parameters(&browser.get(&app.authorize(&[change])).await);
        assert_eq!(answer.get("error").map(String::as_str), Some(error), "{change:?}: {answer:?}");
        assert_eq!(answer["state"], "af0ifjsldkj");
    }
    let twice = format!("{}&scope=openid", app.authorize(&[]));
    assert_eq!(parameters(&browser.get(&twice).await)["error"], "invalid_request");
}

#[tokio::test]
async fn the_answer_can_travel_as_a_form() {
    let auth = TestAuth::start().await;
    let (app, user) = (auth.app(json!({ "firstParty": true })).await, auth.user(&[]).await);
    let mut browser = Browser::new(&auth);
    let page = browser.log_in(&app.authorize(&[("response_mode", "form_post")]), &user).await.expect(200);
    let (action, fields) = form_of(&page.text());
    assert_eq!((action.as_str(), fields["state"].as_str()), (REDIRECT, "af0ifjsldkj"));
    auth.redeem(&app, &fields["code"]).await.expect(200);
}

#[tokio::test]
async fn a_request_as_a_form_becomes_a_get_so_that_the_cookie_comes_along() {
    let auth = TestAuth::start().await;
    let app = auth.app(json!({})).await;
    let mut browser = Browser::new(&auth);
    let path = app.authorize(&[]);
    let pairs: Vec<(String, String)> =
        url::form_urlencoded::parse(path.split_once('?').unwrap().1.as_bytes()).into_owned().collect();
    let form: Vec<(&str, &str)> = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let moved = browser.post("/oauth/authorize", &form).await.expect(303);
    assert_eq!(moved.header("location"), Some(path.as_str()));
}

#[tokio::test]
async fn a_pushed_request_is_used_once_and_only_by_its_client() {
    let auth = TestAuth::start().await;
    let user = auth.user(&[]).await;
    let own = json!({ "firstParty": true, "tokenEndpointAuthMethod": "client_secret_post" });
    let (app, other) = (auth.app(own).await, auth.app(json!({})).await);
    let secret = app.secret.clone().unwrap();
    let push = async |secret: &str, extra: (&str, &str)| {
        let form = [
            ("client_id", app.id.as_str()),
            ("client_secret", secret),
            ("redirect_uri", REDIRECT),
            ("response_type", "code"),
            ("scope", "openid"),
            ("code_challenge", CHALLENGE),
            ("code_challenge_method", "S256"),
            extra,
        ];
        auth.client.request(axum::http::Method::POST, "/oauth/par").form(&form).await
    };
    assert_eq!(push("wrong", ("state", "s")).await.expect(401).json()["error"], "invalid_client");
    assert_eq!(push(&secret, ("request_uri", "urn:x")).await.expect(400).json()["error"], "invalid_request");
    assert_eq!(push(&secret, ("prompt", "?")).await.expect(400).json()["error"], "invalid_request");

    let pushed = push(&secret, ("state", "s")).await.expect(201).json();
    let uri = pushed["request_uri"].as_str().unwrap();
    assert!((60..=90).contains(&pushed["expires_in"].as_i64().unwrap()), "{pushed}");
    let path = |client: &str| format!("/oauth/authorize?{}", query(&[("client_id", client), ("request_uri", uri)]));
    let mut browser = Browser::new(&auth);
    browser.get(&path(&other.id)).await.expect(400);
    let answer = parameters(&browser.log_in(&path(&app.id), &user).await);
    assert_eq!(answer["state"], "s");
    let form = [
        ("grant_type", "authorization_code"),
        ("client_id", app.id.as_str()),
        ("client_secret", &secret),
        ("code", &answer["code"]),
        ("redirect_uri", REDIRECT),
        ("code_verifier", VERIFIER),
    ];
    auth.token(&form).await.expect(200);
    let again = browser.get(&path(&app.id)).await.expect(400);
    assert!(again.text().contains("used before"), "{again}");
}

#[tokio::test]
async fn pages_speak_the_persons_language_and_can_be_read_by_all() {
    let auth = TestAuth::start().await;
    let app = auth.app(json!({})).await;
    let mut browser = Browser::new(&auth);
    browser.language = "de, fr-CA;q=0.8, en;q=0.5";
    let french = browser.get(&app.authorize(&[])).await.expect(200).text();
    assert!(french.contains("<html lang=\"fr\">") && french.contains("Mot de passe"), "{french}");
    let english = browser.get(&app.authorize(&[("ui_locales", "en-GB fr")])).await.expect(200).text();
    assert!(english.contains("<html lang=\"en\">") && english.contains("Password"), "{english}");
    assert!(english.contains("<label for=\"password\">") && english.contains("id=\"password\""), "{english}");

    let page = browser.get(&app.authorize(&[("login_hint", "\"><script>alert(1)</script>")])).await.expect(200);
    assert!(!page.text().contains("<script>") && page.text().contains("&lt;script&gt;"), "{page}");
    let wrong = browser.submit(&page, &[("username", "nobody"), ("password", "wrong")]).await.expect(422);
    let html = wrong.text();
    assert!(html.contains("role=\"alert\"") && html.contains("href=\"#username\""), "{html}");
    assert!(html.contains("aria-invalid=\"true\"") && html.contains("autofocus"), "{html}");
}
