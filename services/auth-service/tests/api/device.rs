//! The device flow (RFC 8628), at the device and at the person's browser.

use serde_json::{Value, json};

use crate::{
    browser::{App, Browser, form_of},
    harness::TestAuth,
};

const GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";

impl TestAuth {
    async fn device(&self, app: &App) -> Value {
        let form = [("client_id", app.id.as_str()), ("scope", "openid logs:read")];
        let path = "/oauth/device_authorization";
        self.client.request(axum::http::Method::POST, path).form(&form).await.expect(200).json()
    }

    async fn poll(&self, app: &App, codes: &Value) -> kronos_testkit::TestResponse {
        let code = codes["device_code"].as_str().unwrap();
        self.token(&[("grant_type", GRANT), ("client_id", &app.id), ("device_code", code)]).await
    }
}

#[tokio::test]
async fn a_device_waits_until_a_person_types_its_code_and_says_yes() {
    let auth = TestAuth::start().await;
    let (app, user) = (auth.app(json!({})).await, auth.user(&["logs:read"]).await);
    let codes = auth.device(&app).await;
    let shown = codes["user_code"].as_str().unwrap();
    assert!(shown.len() == 9 && shown.as_bytes()[4] == b'-', "{shown}");
    assert_eq!(codes["verification_uri"], format!("{}/device", auth.config.identity.issuer));
    assert_eq!(auth.poll(&app, &codes).await.expect(400).json()["error"], "authorization_pending");
    assert_eq!(auth.poll(&app, &codes).await.expect(400).json()["error"], "slow_down");

    let mut browser = Browser::new(&auth);
    let entry = browser.log_in(&format!("/device?user_code={shown}"), &user).await.expect(200);
    assert_eq!(form_of(&entry.text()).1["user_code"], shown, "the link fills the field, and no more");
    let typed = shown.to_lowercase().replace('-', " ");
    let confirm = browser.submit(&entry, &[("user_code", &typed)]).await.expect(200);
    assert!(confirm.text().contains("Tools &amp; &lt;Co&gt;") && confirm.text().contains(shown), "{confirm}");
    browser.submit(&confirm, &[("decision", "allow")]).await.expect(200);

    let tokens = auth.poll(&app, &codes).await.expect(200).json();
    assert!(tokens["id_token"].is_string() && tokens["refresh_token"].is_string(), "{tokens}");
    assert!(auth.is_active(tokens["access_token"].as_str().unwrap()).await);
    assert_eq!(auth.poll(&app, &codes).await.expect(400).json()["error"], "invalid_grant", "once");
}

#[tokio::test]
async fn who_says_no_keeps_the_device_out() {
    let auth = TestAuth::start().await;
    let (app, user) = (auth.app(json!({})).await, auth.user(&[]).await);
    let codes = auth.device(&app).await;
    let mut browser = Browser::new(&auth);
    let entry = browser.log_in("/device", &user).await.expect(200);
    let confirm = browser.submit(&entry, &[("user_code", codes["user_code"].as_str().unwrap())]).await.expect(200);
    browser.submit(&confirm, &[("decision", "deny")]).await.expect(200);
    assert_eq!(auth.poll(&app, &codes).await.expect(400).json()["error"], "access_denied");
}

#[tokio::test]
async fn a_code_that_nobody_typed_in_time_is_expired() {
    let auth = TestAuth::start().await;
    let (app, user) = (auth.app(json!({})).await, auth.user(&[]).await);
    let codes = auth.device(&app).await;
    sqlx::query("update device_codes set expires_at = now() - interval '1 second'").execute(&auth.pool).await.unwrap();
    assert_eq!(auth.poll(&app, &codes).await.expect(400).json()["error"], "expired_token");
    let mut browser = Browser::new(&auth);
    let entry = browser.log_in("/device", &user).await.expect(200);
    browser.submit(&entry, &[("user_code", codes["user_code"].as_str().unwrap())]).await.expect(422);
}

#[tokio::test]
async fn codes_cannot_be_guessed_nor_decided_by_another_sites_form() {
    let auth = TestAuth::start().await;
    let (app, user) = (auth.app(json!({})).await, auth.user(&[]).await);
    let codes = auth.device(&app).await;
    let shown = codes["user_code"].as_str().unwrap();
    let mut browser = Browser::new(&auth);
    browser.post("/device", &[("user_code", shown), ("decision", "allow")]).await.expect(400);
    let entry = browser.log_in("/device", &user).await.expect(200);
    browser.post("/device", &[("user_code", shown), ("decision", "allow"), ("csrf", "AAAA")]).await.expect(400);
    // The proof of the entry form is none of a decision.
    browser.submit(&entry, &[("user_code", shown), ("decision", "allow")]).await.expect(400);
    for _ in 0..auth.config.throttle.account_network_failures {
        browser.submit(&entry, &[("user_code", "BBBB-BBBB")]).await.expect(422);
    }
    browser.submit(&entry, &[("user_code", shown)]).await.expect(429);
    assert_eq!(auth.poll(&app, &codes).await.expect(400).json()["error"], "authorization_pending");
}
