//! Logging in, and not.

use std::time::{Duration, Instant};

use kronos_testkit::wait_until;
use serde_json::json;

use crate::{
    fake_users::Mode,
    harness::{PASSWORD, TestAuth, TestUser, claims, header, tokens},
};

#[tokio::test]
async fn a_login_brings_tokens_that_say_who_may_what() {
    let auth = TestAuth::start().await;
    let user = auth.user(&["logs:read"]).await;
    let answer = auth.try_login(&user.username, PASSWORD).await.expect(200);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!((answer.json()["tokenType"].clone(), answer.json()["expiresIn"].clone()), (json!("Bearer"), json!(600)));
    let (access, refresh) = tokens(&answer);
    assert!(refresh.starts_with("krt_"));
    assert_eq!((header(&access)["alg"].clone(), header(&access)["typ"].clone()), (json!("EdDSA"), json!("at+jwt")));
    let claims = claims(&access);
    assert_eq!(claims["sub"], user.id.to_string());
    assert_eq!(claims["username"], user.username);
    assert_eq!(claims["permissions"], json!(["logs:read"]));
    assert_eq!(claims["roles"], json!(["technician"]));
    assert_eq!(claims["epoch"], 1);
    assert_eq!(claims["aud"], "kronos");
    assert_eq!(claims["iss"], auth.config.identity.issuer);
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 600);
    assert!(claims["sid"].is_string() && claims["jti"].is_string());
    assert!(auth.is_active(&access).await);
}

#[tokio::test]
async fn a_name_is_known_without_its_case() {
    let auth = TestAuth::start().await;
    let user = auth.user(&[]).await;
    auth.try_login(&format!(" {} ", user.username.to_uppercase()), PASSWORD).await.expect(200);
}

#[tokio::test]
async fn unknown_disabled_wrong_empty_and_passwordless_get_the_same_answer() {
    let auth = TestAuth::start().await;
    let (user, disabled, passwordless) = (auth.user(&[]).await, auth.user(&[]).await, auth.user(&[]).await);
    auth.users.change(disabled.id, "disabled", json!(true));
    sqlx::query("update credentials set password_phc = null where user_id = $1")
        .bind(passwordless.id)
        .execute(&auth.pool)
        .await
        .unwrap();
    let mut answers = Vec::new();
    for (name, password) in [
        ("nobody", PASSWORD),
        ("", ""),
        (user.username.as_str(), "wrong password"),
        (user.username.as_str(), ""),
        (disabled.username.as_str(), PASSWORD),
        (passwordless.username.as_str(), PASSWORD),
        (passwordless.username.as_str(), ""),
        // What the dummy hash was made of is nobody's password either.
        ("nobody", "nobody has this password"),
    ] {
        let answer = auth.try_login(name, password).await;
        answer.clone().expect_problem(401, "invalid_credentials");
        let mut body = answer.json();
        body.as_object_mut().unwrap().remove("traceId");
        let mut headers: Vec<_> =
            answer.headers.iter().filter(|(name, _)| *name != "date" && *name != "content-length").collect();
        headers.sort_by_key(|(name, _)| name.as_str());
        answers.push(format!("{body} {headers:?}"));
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:#?}");
}

#[tokio::test]
async fn unknown_disabled_wrong_and_empty_take_the_same_time() {
    // A hash that takes long enough to be seen beside everything else.
    let auth = TestAuth::start_with(|config| {
        config.passwords.memory_kib = 16 * 1024;
        config.passwords.iterations = 3;
        config.throttle.account_network_failures = 1000;
        config.throttle.network_failures = 1000;
        config.throttle.account_failures = 1000;
    })
    .await;
    let (user, disabled, passwordless) = (auth.user(&[]).await, auth.user(&[]).await, auth.user(&[]).await);
    for (statement, user) in [
        ("update credentials set disabled = true where user_id = $1", &disabled),
        ("update credentials set password_phc = null where user_id = $1", &passwordless),
    ] {
        sqlx::query(statement).bind(user.id).execute(&auth.pool).await.unwrap();
    }
    let cases = [
        (user.username.as_str(), "wrong"),
        ("nobody", "wrong"),
        (disabled.username.as_str(), PASSWORD),
        (passwordless.username.as_str(), PASSWORD),
        (user.username.as_str(), ""),
        ("nobody", ""),
    ];
    // The fastest of each: other tests run beside this one. A hash that is left out would take most of the time away, in every
    // series; what the machine does besides spoils some of them.
    let mut seen = [Duration::ZERO; 6];
    for _ in 0..5 {
        seen = [Duration::MAX; 6];
        for _ in 0..15 {
            for ((name, password), fastest) in cases.iter().zip(&mut seen) {
                let begun = Instant::now();
                auth.try_login(name, password).await.expect(401);
                *fastest = begun.elapsed().min(*fastest);
            }
        }
        if seen.iter().all(|time| time.abs_diff(seen[0]) < seen[0] / 2) {
            return;
        }
    }
    panic!("a wrong password takes {:?}, the other cases {seen:?}: {cases:?}", seen[0]);
}

#[tokio::test]
async fn while_user_service_is_away_logins_go_by_what_was_last_known() {
    let auth = TestAuth::start_with(|config| config.services.user_deadline_ms = 2000).await;
    let (known, unknown) = (auth.user(&["logs:read"]).await, auth.user(&[]).await);
    auth.login(&known).await;
    for mode in [Mode::Fails, Mode::Hangs] {
        auth.users.set_mode(mode);
        let (access, _) = auth.login(&known).await;
        assert_eq!(claims(&access)["permissions"], json!(["logs:read"]));
        let refused = auth.try_login(&unknown.username, PASSWORD).await;
        refused.clone().expect_problem(503, "store_unavailable");
        assert!(refused.header("retry-after").is_some());
    }
}

#[tokio::test]
async fn a_user_whom_user_service_does_not_know_cannot_log_in() {
    let auth = TestAuth::start().await;
    let user = auth.user(&[]).await;
    auth.users.forget(user.id);
    auth.try_login(&user.username, PASSWORD).await.expect_problem(401, "invalid_credentials");
}

#[tokio::test]
async fn user_service_is_asked_under_a_token_that_auth_service_signed_itself() {
    let auth = TestAuth::start().await;
    let user = auth.user(&[]).await;
    auth.login(&user).await;
    let bearer = auth.users.last_bearer().unwrap();
    assert!(auth.is_active(&bearer).await);
    let claims = claims(&bearer);
    assert_eq!(claims["sub"], "auth-service");
    assert!(claims["permissions"].as_array().unwrap().contains(&json!("grants:read")));
}

#[tokio::test]
async fn a_login_renews_a_hash_with_outdated_parameters() {
    let auth = TestAuth::start().await;
    let user = auth.user(&[]).await;
    let stored = async || {
        sqlx::query_scalar::<_, String>("select password_phc from credentials where user_id = $1")
            .bind(user.id)
            .fetch_one(&auth.pool)
            .await
            .unwrap()
    };
    let before = stored().await;
    assert!(before.starts_with("$argon2id$v=19$m=64,t=1,p=1$"), "{before}");
    let stronger = auth.second_with(|config| config.passwords.iterations = 2).await;
    stronger.try_login(&user.username, "wrong password").await.expect(401);
    assert_eq!(stored().await, before);
    stronger.login(&user).await;
    let after = stored().await;
    assert!(after.starts_with("$argon2id$v=19$m=64,t=2,p=1$"), "{after}");
    stronger.login(&user).await;
    assert_eq!(stored().await, after);
    auth.login(&user).await;
}

#[tokio::test]
async fn too_many_logins_at_once_are_told_to_wait() {
    let auth = TestAuth::start_with(|config| {
        config.passwords.memory_kib = 4096;
        config.passwords.iterations = 4;
        config.passwords.threads = 1;
        config.passwords.queue = 2;
        config.throttle.account_network_failures = 100;
    })
    .await;
    let user = auth.user(&[]).await;
    let attempts = (0..30).map(|_| auth.try_login(&user.username, PASSWORD));
    let answers = futures::future::join_all(attempts).await;
    let (good, shed): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 200);
    assert!(!good.is_empty() && !shed.is_empty(), "{} good, {} shed", good.len(), shed.len());
    for answer in shed {
        answer.clone().expect_problem(503, "store_unavailable");
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    let metrics = auth.operations().get("/metrics").await.expect(200).text();
    assert!(metrics.contains("kronos_auth_password_hashes_shed_total"), "{metrics}");
    wait_until("the flood is over", async || auth.try_login(&user.username, PASSWORD).await.status == 200).await;
}

#[tokio::test]
async fn bad_bodies_are_problems_that_name_every_field() {
    let auth = TestAuth::start().await;
    let post = |body: serde_json::Value| auth.client.post("/auth/login", &body);
    let answer = post(json!({ "username": 7, "extra": true })).await;
    answer.clone().expect_problem(422, "invalid_request");
    let pointers: Vec<String> = answer.json()["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| error["pointer"].as_str().unwrap().to_owned())
        .collect();
    for pointer in ["/username", "/password", "/extra"] {
        assert!(pointers.iter().any(|found| found == pointer), "{pointer} in {pointers:?}");
    }
    post(json!({ "username": "a".repeat(255), "password": "x" })).await.expect_problem(422, "invalid_request");
    post(json!({ "username": "a", "password": "x".repeat(1025) })).await.expect_problem(422, "invalid_request");
    post(json!({ "username": "a", "password": "x".repeat(100_000) })).await.expect_problem(413, "body_too_large");
    post(json!({ "username": "nul\u{0}", "password": "\u{0}" })).await.expect_problem(401, "invalid_credentials");
    auth.client.get("/auth/login").await.expect_problem(405, "method_not_allowed");
}

#[tokio::test]
async fn a_code_of_a_second_factor_is_taken_and_changes_nothing() {
    let auth = TestAuth::start().await;
    let user = auth.user(&[]).await;
    let body = json!({ "username": user.username, "password": PASSWORD, "totp": "123456" });
    auth.client.post("/auth/login", &body).await.expect(200);
}

#[tokio::test]
async fn credentials_removed_during_a_login_leave_no_session() {
    let auth = TestAuth::start_with(|config| config.services.user_deadline_ms = 2_000).await;
    let user = auth.user(&[]).await;
    auth.login(&user).await;
    auth.users.set_mode(Mode::Hangs);
    let (username, path) = (user.username.clone(), format!("/auth/credentials/{}", user.id));
    let admin = auth.admin().await;
    let body = json!({ "username": username, "password": PASSWORD });
    let client = auth.client.clone();
    let login = tokio::spawn(async move { client.post("/auth/login", &body).await });
    wait_until("user-service is asked", async || auth.users.last_bearer().is_some()).await;
    // Keep the grants that the login goes by, take the credentials.
    sqlx::query("delete from credentials where user_id = $1").bind(user.id).execute(&auth.pool).await.unwrap();
    login.await.unwrap().expect_problem(401, "invalid_credentials");
    auth.users.set_mode(Mode::Answers);
    admin.delete(&path).await.expect(204);
    let alive: i64 = sqlx::query_scalar("select count(*) from sessions where user_id = $1 and ended_at is null")
        .bind(user.id)
        .fetch_one(&auth.pool)
        .await
        .unwrap();
    assert_eq!(alive, 0);
}

#[tokio::test]
async fn a_wrong_password_is_in_no_record() {
    let auth = TestAuth::start().await;
    let typed = TestUser { id: uuid::Uuid::now_v7(), username: "my-secret-typed-as-a-name".to_owned() };
    auth.try_login(&typed.username, "my-other-secret").await.expect(401);
    let rows: Vec<String> =
        sqlx::query_scalar("select data || coalesce(subject, '') || encode(canonical, 'escape') from audit")
            .fetch_all(&auth.pool)
            .await
            .unwrap();
    assert!(!rows.is_empty() && !rows.iter().any(|row| row.contains("secret")), "{rows:?}");
}

#[tokio::test]
async fn no_token_outlives_a_right_that_ends_by_itself() {
    let auth = TestAuth::start().await;
    let user = auth.user(&["robots:repair"]).await;
    let end = chrono::Utc::now() + chrono::TimeDelta::seconds(100);
    auth.users.change(user.id, "validUntil", json!(end));
    let answer = auth.try_login(&user.username, PASSWORD).await.expect(200).json();
    assert!((90..=100).contains(&answer["expiresIn"].as_i64().unwrap()), "{answer}");
    assert!(claims(answer["accessToken"].as_str().unwrap())["exp"].as_i64().unwrap() <= end.timestamp());
    // And what was last known is not gone by after that.
    sqlx::query("update grants set valid_until = now()").execute(&auth.pool).await.unwrap();
    auth.users.set_mode(Mode::Fails);
    auth.try_login(&user.username, PASSWORD).await.expect_problem(503, "store_unavailable");
}
