//! Second factors: an authenticator app, recovery codes, and what is tried against them.

use auth_service::totp;
use aws_lc_rs::hmac;
use kronos_testkit::{TestClient, TestResponse};
use serde_json::{Value, json};

use crate::{
    browser::{Browser, parameters},
    harness::{PASSWORD, TestAuth, TestUser, claims, tokens},
};

/// RFC 4648, for tests alone.
fn unbase32(text: &str) -> Vec<u8> {
    let (mut bytes, mut buffer, mut bits) = (Vec::new(), 0_u32, 0);
    for character in text.bytes() {
        let five = match character {
            b'A'..=b'Z' => character - b'A',
            _ => character - b'2' + 26,
        };
        buffer = (buffer << 5) | u32::from(five);
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            bytes.push((buffer >> bits) as u8);
        }
    }
    bytes
}

/// The code that an app shows `steps` steps from now.
fn code(secret: &[u8], steps: i64) -> String {
    let step = chrono::Utc::now().timestamp() / totp::STEP_SECONDS + steps;
    totp::code(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret, step, 6)
}

/// Sets an app up; its secret and the recovery codes.
async fn enrol(mine: &TestClient) -> (Vec<u8>, Vec<String>) {
    let begun = mine.post("/auth/factors/totp", &json!({})).await.expect(201).json();
    let secret = unbase32(begun["secret"].as_str().unwrap());
    assert_eq!(secret.len(), 20);
    assert!(begun["uri"].as_str().unwrap().starts_with("otpauth://totp/Kronos:"));
    let confirmed =
        mine.post("/auth/factors/totp/confirm", &json!({ "code": code(&secret, -1) })).await.expect(200).json();
    let codes = confirmed["recoveryCodes"].as_array().unwrap();
    (secret, codes.iter().map(|code| code.as_str().unwrap().to_owned()).collect())
}

async fn login_with(auth: &TestAuth, user: &TestUser, member: &str, value: &str) -> TestResponse {
    let mut body = json!({ "username": user.username, "password": PASSWORD });
    body[member] = Value::String(value.to_owned());
    auth.client.post("/auth/login", &body).await
}

#[test]
fn codes_are_those_of_rfc_6238() {
    let long = b"1234567890123456789012345678901234567890123456789012345678901234";
    let times = [59, 1_111_111_109, 1_111_111_111, 1_234_567_890, 2_000_000_000, 20_000_000_000_i64];
    let vectors = [
        (
            hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            20,
            ["94287082", "07081804", "14050471", "89005924", "69279037", "65353130"],
        ),
        (hmac::HMAC_SHA256, 32, ["46119246", "68084774", "67062674", "91819424", "90698825", "77737706"]),
        (hmac::HMAC_SHA512, 64, ["90693936", "25091201", "99943326", "93441116", "38618901", "47863826"]),
    ];
    for (algorithm, length, expected) in vectors {
        for (time, expected) in times.iter().zip(expected) {
            assert_eq!(totp::code(algorithm, &long[..length], time / totp::STEP_SECONDS, 8), expected);
        }
    }
}

#[test]
fn a_code_is_taken_a_step_early_or_late_and_no_more() {
    let secret = b"12345678901234567890";
    for (offset, taken) in [(-2, false), (-1, true), (0, true), (1, true), (2, false)] {
        let typed = totp::code(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret, 1000 + offset, 6);
        assert_eq!(totp::accepted_step(secret, &typed, 30_007, 0), taken.then_some(1000 + offset), "{offset}");
        assert_eq!(totp::accepted_step(secret, &typed, 30_007, 1001), None, "{offset} after a later one");
    }
}

#[tokio::test]
async fn with_an_app_a_login_needs_its_code() {
    let auth = TestAuth::start().await;
    let user = auth.user(&[]).await;
    let (access, _) = auth.login(&user).await;
    let (secret, codes) = enrol(&auth.client.bearer(&access)).await;
    assert_eq!(codes.len(), 10);
    auth.try_login(&user.username, PASSWORD).await.expect_problem(401, "second_factor_required");
    auth.try_login(&user.username, "a wrong password").await.expect_problem(401, "invalid_credentials");
    login_with(&auth, &user, "totp", "000000").await.expect_problem(401, "invalid_second_factor");
    let (access, _) = tokens(&login_with(&auth, &user, "totp", &code(&secret, 0)).await.expect(200));
    let mine = auth.client.bearer(&access);
    let session = mine.get("/auth/sessions").await.expect(200).json()["items"][0].clone();
    assert_eq!(session["amr"], json!(["pwd", "otp", "mfa"]));
    let held = mine.get("/auth/factors").await.expect(200).json();
    assert_eq!(held, json!({ "totp": true, "passkeys": 0, "recoveryCodes": 10 }));
    mine.post("/auth/factors/totp", &json!({})).await.expect_problem(409, "totp_exists");
    mine.delete("/auth/factors/totp").await.expect(204);
    auth.login(&user).await;
    assert_eq!(mine.get("/auth/factors").await.expect(200).json()["recoveryCodes"], 0);
    let stored: i64 = sqlx::query_scalar("select count(*) from totp").fetch_one(&auth.pool).await.unwrap();
    assert_eq!(stored, 0);
}

#[tokio::test]
async fn an_enrolment_that_was_not_confirmed_asks_nobody_for_a_code() {
    let auth = TestAuth::start().await;
    let user = auth.user(&[]).await;
    let (access, _) = auth.login(&user).await;
    let mine = auth.client.bearer(&access);
    let begun = mine.post("/auth/factors/totp", &json!({})).await.expect(201).json();
    mine.post("/auth/factors/totp/confirm", &json!({ "code": "000000" })).await.expect_problem(422, "invalid_request");
    auth.login(&user).await;
    let sealed: Vec<u8> = sqlx::query_scalar("select sealed_secret from totp").fetch_one(&auth.pool).await.unwrap();
    let secret = unbase32(begun["secret"].as_str().unwrap());
    assert!(!sealed.windows(secret.len()).any(|window| window == secret));
}

#[tokio::test]
async fn a_code_is_good_once_even_for_many_at_once() {
    let auth = TestAuth::start_with(|config| config.accounts.factor_tries = 100).await;
    let user = auth.user(&[]).await;
    let (access, _) = auth.login(&user).await;
    let (secret, _) = enrol(&auth.client.bearer(&access)).await;
    let same = code(&secret, 0);
    let logins = (0..8).map(|_| login_with(&auth, &user, "totp", &same));
    let answers = futures::future::join_all(logins).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 1);
    login_with(&auth, &user, "totp", &same).await.expect_problem(401, "invalid_second_factor");
    // The one before it went with it.
    login_with(&auth, &user, "totp", &code(&secret, -1)).await.expect(401);
}

#[tokio::test]
async fn guesses_at_codes_are_counted_by_person_and_a_stranger_cannot_cause_it() {
    let auth = TestAuth::start_with(|config| config.accounts.factor_tries = 3).await;
    let user = auth.user(&[]).await;
    let (access, _) = auth.login(&user).await;
    let (secret, codes) = enrol(&auth.client.bearer(&access)).await;
    for _ in 0..5 {
        let body = json!({ "username": user.username, "password": "a guess", "totp": "000000" });
        auth.client.post("/auth/login", &body).await.expect_problem(401, "invalid_credentials");
    }
    for _ in 0..3 {
        login_with(&auth, &user, "totp", "000000").await.expect_problem(401, "invalid_second_factor");
    }
    let refused = login_with(&auth, &user, "totp", &code(&secret, 0)).await;
    refused.clone().expect_problem(429, "rate_limited");
    assert!(refused.header("retry-after").is_some());
    login_with(&auth, &user, "recoveryCode", &codes[0]).await.expect(429);
}

#[tokio::test]
async fn a_recovery_code_is_good_once_and_new_ones_end_the_old() {
    let auth = TestAuth::start().await;
    let user = auth.user(&[]).await;
    let (access, _) = auth.login(&user).await;
    let mine = auth.client.bearer(&access);
    mine.post("/auth/factors/recovery-codes", &json!({})).await.expect_problem(409, "no_second_factor");
    let (_, codes) = enrol(&mine).await;
    let typed = codes[0].to_lowercase().replace('-', " ");
    let answer = login_with(&auth, &user, "recoveryCode", &typed).await.expect(200);
    assert!(claims(&tokens(&answer).0)["sid"].is_string());
    login_with(&auth, &user, "recoveryCode", &codes[0]).await.expect_problem(401, "invalid_second_factor");
    assert_eq!(mine.get("/auth/factors").await.expect(200).json()["recoveryCodes"], 9);
    let fresh = mine.post("/auth/factors/recovery-codes", &json!({})).await.expect(201).json();
    login_with(&auth, &user, "recoveryCode", &codes[1]).await.expect(401);
    login_with(&auth, &user, "recoveryCode", fresh["recoveryCodes"][9].as_str().unwrap()).await.expect(200);
    let kinds: Vec<String> = sqlx::query_scalar("select kind from audit where kind like 'recovery%' order by sequence")
        .fetch_all(&auth.pool)
        .await
        .unwrap();
    assert_eq!(kinds, ["recovery-codes-made", "recovery-code-used", "recovery-codes-made", "recovery-code-used"]);
}

#[tokio::test]
async fn a_session_of_long_ago_changes_no_factor() {
    let auth = TestAuth::start().await;
    let user = auth.user(&[]).await;
    let (access, _) = auth.login(&user).await;
    sqlx::query("update sessions set created_at = now() - interval '1 hour'").execute(&auth.pool).await.unwrap();
    let mine = auth.client.bearer(&access);
    mine.post("/auth/factors/totp", &json!({})).await.expect_problem(403, "fresh_login_required");
    mine.delete("/auth/factors/totp").await.expect_problem(403, "fresh_login_required");
    mine.post("/auth/factors/recovery-codes", &json!({})).await.expect_problem(403, "fresh_login_required");
}

#[tokio::test]
async fn the_desk_removes_lost_factors_by_permission() {
    let auth = TestAuth::start().await;
    let user = auth.user(&[]).await;
    let (access, _) = auth.login(&user).await;
    enrol(&auth.client.bearer(&access)).await;
    let path = format!("/auth/credentials/{}/factors", user.id);
    auth.client.bearer(&access).delete(&path).await.expect_problem(403, "permission_denied");
    let desk = auth.with_permissions(&["factors:write"]).await;
    desk.delete(&path).await.expect(204);
    desk.delete(&path).await.expect_problem(404, "not_found");
    auth.login(&user).await;
}

#[tokio::test]
async fn a_browser_is_asked_for_the_second_factor_on_a_page_of_its_own() {
    let auth = TestAuth::start().await;
    let (app, user) = (auth.app(json!({ "firstParty": true })).await, auth.user(&[]).await);
    let (access, _) = auth.login(&user).await;
    let (secret, codes) = enrol(&auth.client.bearer(&access)).await;
    let mut browser = Browser::new(&auth);
    let page = browser.get(&app.authorize(&[])).await.expect(200);
    let typed = [("username", user.username.as_str()), ("password", PASSWORD)];
    let second = browser.submit(&page, &typed).await.expect(200);
    let html = second.text();
    assert!(html.contains("name=\"code\"") && html.contains("one-time-code"), "{html}");
    assert!(!html.contains(PASSWORD) && !html.contains("<script"), "{html}");
    assert!(!second.header("content-security-policy").unwrap().contains("script"), "{second}");
    assert!(!browser.get("/oauth/logged_in").await.text().contains(&user.username), "half a login is none");

    let wrong = browser.submit(&second, &[("code", "000000")]).await.expect(422);
    assert!(wrong.text().contains("href=\"#code\""), "{wrong}");
    // The sealed first step is this browser's alone, and cannot be changed.
    let mut thief = Browser::new(&auth);
    thief.get(&app.authorize(&[])).await.expect(200);
    thief.submit(&second, &[("code", &code(&secret, 0))]).await.expect(400);
    browser.submit(&second, &[("pending", "AAAA"), ("code", &code(&secret, 0))]).await.expect(400);
    browser.submit(&second, &[("csrf", "AAAA"), ("code", &code(&secret, 0))]).await.expect(400);

    let answer = browser.submit(&wrong, &[("code", &code(&secret, 0))]).await.expect(303);
    let code_of_client = parameters(&browser.follow(answer).await)["code"].clone();
    let tokens = auth.redeem(&app, &code_of_client).await.expect(200).json();
    assert_eq!(claims(tokens["id_token"].as_str().unwrap())["amr"], json!(["pwd", "otp", "mfa"]));
    let mut other = Browser::new(&auth);
    let page = other.get(&app.authorize(&[])).await.expect(200);
    let second = other.submit(&page, &typed).await.expect(200);
    let answer = other.submit(&second, &[("recovery_code", &codes[0])]).await.expect(303);
    parameters(&other.follow(answer).await);
}
