//! Passwords are changed and reset.

use std::time::{Duration, Instant};

use kronos_testkit::unique;
use serde_json::json;

use crate::{
    harness::{PASSWORD, TestAuth, TestUser, tokens},
    mailbox::Mailbox,
};

const NEW: &str = "violet tractors hum at dawn";

/// A user with an address of their own.
async fn user_with_address(auth: &TestAuth) -> (TestUser, String) {
    let user = auth.user(&[]).await;
    let email = format!("{}@kronos.test", unique("mail"));
    let body = json!({ "username": user.username, "email": email });
    auth.admin().await.put(&format!("/auth/credentials/{}", user.id), &body).await.expect(204);
    (user, email)
}

async fn reset_token(auth: &TestAuth, mailbox: &mut Mailbox, email: &str) -> String {
    auth.client.post("/auth/password-reset", &json!({ "email": email })).await.expect(202);
    mailbox.take("password-reset", email).await["token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn who_knows_the_old_password_changes_it_and_ends_other_sessions_on_request() {
    let auth = TestAuth::start().await;
    let user = auth.user(&[]).await;
    let (other, _) = auth.login(&user).await;
    let (access, _) = auth.login(&user).await;
    let mine = auth.client.bearer(&access);
    let change = |current: &str, new: &str, end: bool| {
        mine.post("/auth/password", &json!({ "currentPassword": current, "newPassword": new, "endOtherSessions": end }))
    };
    change("a wrong password", NEW, true).await.expect_problem(403, "wrong_password");
    assert!(auth.is_active(&other).await);
    change(PASSWORD, NEW, false).await.expect(204);
    assert!(auth.is_active(&other).await);
    change(NEW, PASSWORD, true).await.expect(204);
    assert!(!auth.is_active(&other).await && auth.is_active(&access).await);
    auth.try_login(&user.username, NEW).await.expect(401);
    auth.login(&user).await;
}

#[tokio::test]
async fn guesses_at_the_old_password_are_throttled_as_logins_are() {
    let auth = TestAuth::start_with(|config| config.throttle.account_network_failures = 2).await;
    let user = auth.user(&[]).await;
    let (access, _) = auth.login(&user).await;
    let body = json!({ "currentPassword": "a guess", "newPassword": NEW });
    for _ in 0..2 {
        auth.client.post("/auth/password", &body).bearer(&access).await.expect(403);
    }
    auth.client.post("/auth/password", &body).bearer(&access).await.expect(429);
}

#[tokio::test]
async fn a_weak_password_is_refused_with_advice_at_its_field() {
    let auth = TestAuth::start().await;
    let user = auth.user(&[]).await;
    let (access, _) = auth.login(&user).await;
    for weak in ["short", "password", "12345678", "qwertyuiop", user.username.as_str()] {
        let body = json!({ "currentPassword": PASSWORD, "newPassword": weak });
        let answer = auth.client.post("/auth/password", &body).bearer(&access).await;
        answer.clone().expect_problem(422, "invalid_request");
        let error = answer.json()["errors"][0].clone();
        assert_eq!(error["pointer"], "/newPassword", "{answer}");
        assert!(["too_short", "too_weak"].contains(&error["code"].as_str().unwrap()), "{answer}");
    }
    let path = format!("/auth/credentials/{}", user.id);
    let body = json!({ "username": user.username, "email": "a@b.test", "password": "password1" });
    let answer = auth.admin().await.put(&path, &body).await;
    assert_eq!(answer.expect(422).json()["errors"][0]["pointer"], "/password");
    let lax = auth.second_with(|config| config.accounts.min_password_score = 0).await;
    let body = json!({ "currentPassword": PASSWORD, "newPassword": "password" });
    lax.client.post("/auth/password", &body).bearer(&access).await.expect(204);
}

#[tokio::test]
async fn a_reset_link_works_once_and_ends_all_sessions() {
    let auth = TestAuth::start().await;
    let mut mailbox = Mailbox::open(&auth).await;
    let (user, email) = user_with_address(&auth).await;
    let (access, refresh) = auth.login(&user).await;
    auth.client
        .post("/auth/password-reset", &json!({ "email": email.to_uppercase() }))
        .header("accept-language", "fr-CH, fr;q=0.9")
        .await
        .expect(202);
    let mail = mailbox.take("password-reset", &email).await;
    assert_eq!((mail["language"].clone(), mail["username"].clone()), (json!("fr"), json!(user.username)));
    let token = mail["token"].as_str().unwrap();
    assert!(mail["link"].as_str().unwrap().ends_with(&format!("/account/reset-password#token={token}")));
    let confirm = |password: &str| {
        auth.client.post("/auth/password-reset/confirm", &json!({ "token": token, "password": password }))
    };
    confirm("password").await.expect(422);
    confirm(NEW).await.expect(204);
    assert!(!auth.is_active(&access).await);
    auth.try_refresh(&refresh).await.expect(401);
    auth.try_login(&user.username, PASSWORD).await.expect(401);
    tokens(&auth.try_login(&user.username, NEW).await.expect(200));
    confirm(PASSWORD).await.expect_problem(400, "invalid_link");
    mailbox.take("password-changed", &email).await;
    let stored: Vec<Vec<u8>> = sqlx::query_scalar("select token_hash from links").fetch_all(&auth.pool).await.unwrap();
    assert!(stored.iter().all(|hash| hash != token.as_bytes()));
    let audited: String =
        sqlx::query_scalar("select string_agg(data, '') from audit").fetch_one(&auth.pool).await.unwrap();
    assert!(!audited.contains(token) && !audited.contains(&email), "{audited}");
}

#[tokio::test]
async fn an_old_link_a_replaced_one_and_a_guess_are_refused_alike() {
    let auth = TestAuth::start_with(|config| config.accounts.guesses_per_network = 4).await;
    let mut mailbox = Mailbox::open(&auth).await;
    let (user, email) = user_with_address(&auth).await;
    let replaced = reset_token(&auth, &mut mailbox, &email).await;
    let newest = reset_token(&auth, &mut mailbox, &email).await;
    let try_token = async |token: String| {
        let body = json!({ "token": token, "password": NEW });
        auth.client.post("/auth/password-reset/confirm", &body).await
    };
    try_token(replaced).await.expect_problem(400, "invalid_link");
    sqlx::query("update links set expires_at = now() - interval '1 second'").execute(&auth.pool).await.unwrap();
    try_token(newest.clone()).await.expect_problem(400, "invalid_link");
    for guess in ["A".repeat(43), "'; drop table links; --".to_owned()] {
        try_token(guess).await.expect_problem(400, "invalid_link");
    }
    try_token("B".repeat(43)).await.expect_problem(429, "rate_limited");
    sqlx::query("update links set expires_at = now() + interval '1 minute'").execute(&auth.pool).await.unwrap();
    try_token(newest).await.expect(204);
    auth.try_login(&user.username, NEW).await.expect(200);
}

#[tokio::test]
async fn one_link_used_by_many_at_once_works_for_one() {
    let auth = TestAuth::start().await;
    let mut mailbox = Mailbox::open(&auth).await;
    let (_, email) = user_with_address(&auth).await;
    let token = reset_token(&auth, &mut mailbox, &email).await;
    let tries = (0..8).map(|index| {
        let body = json!({ "token": token, "password": format!("{NEW} {index}") });
        auth.client.post("/auth/password-reset/confirm", &body)
    });
    let answers = futures::future::join_all(tries.map(|request| async move { request.await.status })).await;
    assert_eq!(answers.iter().filter(|status| **status == 204).count(), 1, "{answers:?}");
}

#[tokio::test]
async fn asking_for_a_link_tells_nothing_of_the_account_by_content_or_time() {
    let auth = TestAuth::start_with(|config| config.accounts.mails_per_network = 1000).await;
    let mut mailbox = Mailbox::open(&auth).await;
    let (_, email) = user_with_address(&auth).await;
    let ask = async |address: &str| {
        let begun = Instant::now();
        let answer = auth.client.post("/auth/password-reset", &json!({ "email": address })).await.expect(202);
        (answer.body.clone(), begun.elapsed())
    };
    let (mut known, mut unknown): (Vec<Duration>, Vec<Duration>) = (Vec::new(), Vec::new());
    for index in 0..40 {
        let (body, time) = ask(&email).await;
        known.push(time);
        let (other, time) = ask(&format!("nobody-{index}@kronos.test")).await;
        unknown.push(time);
        assert_eq!(body, other);
    }
    known.sort();
    unknown.sort();
    let (known, unknown) = (known[20], unknown[20]);
    assert!(known < unknown * 3 && unknown < known * 3, "medians: {known:?} {unknown:?}");
    mailbox.take("password-reset", &email).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mails = mailbox.all().await;
    assert!(mails.len() <= 2, "an account gets few mails, whoever asks: {}", mails.len());
}

#[tokio::test]
async fn the_desk_has_a_link_sent_and_sees_none() {
    let auth = TestAuth::start().await;
    let mut mailbox = Mailbox::open(&auth).await;
    let (user, email) = user_with_address(&auth).await;
    let (access, _) = auth.login(&user).await;
    let path = format!("/auth/credentials/{}/reset", user.id);
    auth.with_permissions(&["credentials:write"]).await.post(&path, &json!({})).await.expect(403);
    let desk = auth.with_permissions(&["credentials:reset"]).await;
    let answer = desk.post(&path, &json!({ "lock": true })).await.expect(202);
    assert!(answer.body.is_empty());
    assert!(!auth.is_active(&access).await);
    auth.try_login(&user.username, PASSWORD).await.expect(401);
    let token = mailbox.take("password-reset", &email).await["token"].clone();
    let body = json!({ "token": token, "password": NEW });
    auth.client.post("/auth/password-reset/confirm", &body).await.expect(204);
    auth.try_login(&user.username, NEW).await.expect(200);
    desk.post(&format!("/auth/credentials/{}/reset", uuid::Uuid::now_v7()), &json!({})).await.expect(404);
}
