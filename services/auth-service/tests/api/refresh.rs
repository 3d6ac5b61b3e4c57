//! Refreshing and logging out.

use std::collections::HashSet;

use kronos_testkit::wait_until;
use serde_json::json;

use crate::{
    fake_users::Mode,
    harness::{TestAuth, claims, tokens},
};

#[tokio::test]
async fn a_refresh_brings_the_next_tokens_and_the_new_rights() {
    let auth = TestAuth::start().await;
    let user = auth.user(&["logs:read"]).await;
    let (first, refresh) = auth.login(&user).await;
    auth.users.grant(user.id, &user.username, &["logs:write"], 2);
    auth.move_epoch(&user, 2, &first).await;
    let answer = auth.try_refresh(&refresh).await.expect(200);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let (access, next) = tokens(&answer);
    assert_ne!(next, refresh);
    assert_eq!(claims(&access)["permissions"], json!(["logs:write"]));
    assert_eq!(claims(&access)["epoch"], 2);
    assert_eq!(claims(&access)["sid"], claims(&first)["sid"]);
    auth.try_refresh(&next).await.expect(200);
}

#[tokio::test]
async fn twenty_refreshes_at_once_bring_one_successor() {
    let auth = TestAuth::start().await;
    let other = auth.second().await;
    let user = auth.user(&[]).await;
    let (_, refresh) = auth.login(&user).await;
    let refreshes =
        (0..20).map(|index| if index % 2 == 0 { &auth } else { &other }).map(|auth| auth.try_refresh(&refresh));
    let answers = futures::future::join_all(refreshes).await;
    let successors: HashSet<String> = answers.into_iter().map(|answer| tokens(&answer.expect(200)).1).collect();
    assert_eq!(successors.len(), 1);
    let successor = successors.into_iter().next().unwrap();
    auth.try_refresh(&successor).await.expect(200);
}

#[tokio::test]
async fn a_lost_answer_costs_no_login() {
    let auth = TestAuth::start().await;
    let user = auth.user(&[]).await;
    let (_, refresh) = auth.login(&user).await;
    let (_, lost) = tokens(&auth.try_refresh(&refresh).await.expect(200));
    let (access, again) = tokens(&auth.try_refresh(&refresh).await.expect(200));
    assert_eq!(again, lost);
    assert!(auth.is_active(&access).await);
}

#[tokio::test]
async fn an_old_token_ends_its_session_and_no_other() {
    let auth = TestAuth::start().await;
    let user = auth.user(&[]).await;
    let (other_access, other_refresh) = auth.login(&user).await;
    let (_, first) = auth.login(&user).await;
    let (_, second) = tokens(&auth.try_refresh(&first).await.expect(200));
    let (access, third) = tokens(&auth.try_refresh(&second).await.expect(200));
    auth.try_refresh(&first).await.expect_problem(401, "invalid_refresh_token");
    auth.try_refresh(&third).await.expect_problem(401, "invalid_refresh_token");
    assert!(!auth.is_active(&access).await, "the thief's access token is dead too");
    assert!(auth.is_active(&other_access).await);
    auth.try_refresh(&other_refresh).await.expect(200);
    let recorded: i64 = sqlx::query_scalar("select count(*) from audit where kind = 'refresh-reused' and subject = $1")
        .bind(user.id.to_string())
        .fetch_one(&auth.pool)
        .await
        .unwrap();
    assert_eq!(recorded, 1);
}

#[tokio::test]
async fn after_the_grace_a_used_token_ends_the_session() {
    let auth = TestAuth::start().await;
    let user = auth.user(&[]).await;
    let (_, first) = auth.login(&user).await;
    let (_, second) = tokens(&auth.try_refresh(&first).await.expect(200));
    sqlx::query("update sessions set rotated_at = rotated_at - interval '11 seconds'")
        .execute(&auth.pool)
        .await
        .unwrap();
    auth.try_refresh(&first).await.expect_problem(401, "invalid_refresh_token");
    auth.try_refresh(&second).await.expect_problem(401, "invalid_refresh_token");
}

#[tokio::test]
async fn a_session_ends_when_it_is_idle_and_in_the_end() {
    let auth = TestAuth::start().await;
    let user = auth.user(&[]).await;
    for column in ["idle_expires_at", "expires_at"] {
        let (_, refresh) = auth.login(&user).await;
        let expire = format!("update sessions set {column} = now() - interval '1 second'");
        sqlx::query(sqlx::AssertSqlSafe(expire)).execute(&auth.pool).await.unwrap();
        auth.try_refresh(&refresh).await.expect_problem(401, "invalid_refresh_token");
    }
}

#[tokio::test]
async fn tokens_that_were_never_issued_are_refused() {
    let auth = TestAuth::start().await;
    let user = auth.user(&[]).await;
    let (access, refresh) = auth.login(&user).await;
    let flipped = format!("{}{}", &refresh[..refresh.len() - 2], if refresh.ends_with("AA") { "BB" } else { "AA" });
    let long = "x".repeat(5_000);
    for bad in ["", "krt_", "krt_AAAA", "null", access.as_str(), flipped.as_str(), long.as_str()] {
        auth.try_refresh(bad).await.expect_problem(401, "invalid_refresh_token");
    }
    auth.try_refresh(&refresh).await.expect(200);
}

#[tokio::test]
async fn while_user_service_is_away_a_refresh_goes_by_what_was_last_known() {
    let auth = TestAuth::start().await;
    let user = auth.user(&["logs:read"]).await;
    let (_, refresh) = auth.login(&user).await;
    auth.users.set_mode(Mode::Fails);
    let (access, refresh) = tokens(&auth.try_refresh(&refresh).await.expect(200));
    assert_eq!(claims(&access)["permissions"], json!(["logs:read"]));
    // A change was heard of, but not which: no token with the old rights, and the refresh token is not used up.
    auth.move_epoch(&user, 2, &access).await;
    auth.try_refresh(&refresh).await.expect_problem(503, "store_unavailable");
    auth.users.set_mode(Mode::Answers);
    auth.users.grant(user.id, &user.username, &[], 2);
    let (access, _) = tokens(&auth.try_refresh(&refresh).await.expect(200));
    assert_eq!(claims(&access)["permissions"], json!([]));
}

#[tokio::test]
async fn user_service_is_asked_only_when_rights_moved_or_the_copy_is_old() {
    let auth = TestAuth::start().await;
    let user = auth.user(&["logs:read"]).await;
    let (_, refresh) = auth.login(&user).await;
    // It would answer otherwise now, but nobody said that anything changed.
    auth.users.grant(user.id, &user.username, &[], 1);
    let (access, refresh) = tokens(&auth.try_refresh(&refresh).await.expect(200));
    assert_eq!(claims(&access)["permissions"], json!(["logs:read"]));
    let age = "update grants set fetched_at = fetched_at - interval '840 seconds'";
    sqlx::query(age).execute(&auth.pool).await.unwrap();
    let (access, _) = tokens(&auth.try_refresh(&refresh).await.expect(200));
    assert_eq!(claims(&access)["permissions"], json!([]));
}

#[tokio::test]
async fn a_refresh_against_an_ending_leaves_no_living_token() {
    let auth = TestAuth::start().await;
    let other = auth.second().await;
    let user = auth.user(&[]).await;
    for _ in 0..5 {
        let (access, refresh) = auth.login(&user).await;
        let (ended, refreshed) =
            tokio::join!(auth.client.post("/auth/logout", &json!({})).bearer(&access), other.try_refresh(&refresh));
        ended.expect(204);
        if refreshed.status == 200 {
            let (access, next) = tokens(&refreshed);
            auth.try_refresh(&next).await.expect_problem(401, "invalid_refresh_token");
            assert!(!auth.is_active(&access).await, "the session's last token is dead too");
        } else {
            refreshed.expect_problem(401, "invalid_refresh_token");
        }
    }
}

#[tokio::test]
async fn a_disabled_user_gets_no_next_token() {
    let auth = TestAuth::start().await;
    let user = auth.user(&[]).await;
    let (access, refresh) = auth.login(&user).await;
    auth.users.change(user.id, "disabled", json!(true));
    auth.move_epoch(&user, 2, &access).await;
    auth.try_refresh(&refresh).await.expect_problem(401, "invalid_refresh_token");
    assert!(!auth.is_active(&access).await);
}

#[tokio::test]
async fn a_logout_ends_both_tokens_on_every_instance() {
    let auth = TestAuth::start().await;
    let other = auth.second().await;
    let user = auth.user(&[]).await;
    let (access, refresh) = auth.login(&user).await;
    let (another, _) = auth.login(&user).await;
    assert!(other.is_active(&access).await);
    auth.client.post("/auth/logout", &json!({})).bearer(&access).await.expect(204);
    assert!(!auth.is_active(&access).await);
    auth.client.post("/auth/logout", &json!({})).bearer(&access).await.expect_problem(401, "token_revoked");
    auth.try_refresh(&refresh).await.expect_problem(401, "invalid_refresh_token");
    wait_until("the other instance knows", async || !other.is_active(&access).await).await;
    assert!(other.is_active(&another).await);
}

#[tokio::test]
async fn a_client_has_no_session_to_log_out_of() {
    let auth = TestAuth::start().await;
    auth.admin().await.post("/auth/logout", &json!({})).await.expect_problem(400, "no_session");
    auth.client.post("/auth/logout", &json!({})).await.expect_problem(401, "token_missing");
}
