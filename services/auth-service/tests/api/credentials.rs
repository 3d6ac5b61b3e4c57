//! Credentials, as user-service sets them.

use serde_json::json;
use uuid::Uuid;

use crate::harness::{PASSWORD, TestAuth, TestUser};

#[tokio::test]
async fn only_who_may_write_credentials_does() {
    let auth = TestAuth::start().await;
    let path = format!("/auth/credentials/{}", Uuid::now_v7());
    let body = json!({ "username": "eve", "email": "eve@kronos.test", "password": PASSWORD });
    auth.client.put(&path, &body).await.expect_problem(401, "token_missing");
    auth.client.delete(&path).await.expect_problem(401, "token_missing");
    let other = auth.with_permissions(&["users:write"]).await;
    other.put(&path, &body).await.expect_problem(403, "permission_denied");
    other.delete(&path).await.expect_problem(403, "permission_denied");
    auth.with_permissions(&["credentials:write"]).await.put(&path, &body).await.expect(204);
}

#[tokio::test]
async fn bad_fields_are_named_at_once_and_change_nothing() {
    let auth = TestAuth::start().await;
    let admin = auth.admin().await;
    let path = format!("/auth/credentials/{}", Uuid::now_v7());
    let answer = admin.put(&path, &json!({ "username": "", "email": "none", "password": 7, "role": "admin" })).await;
    answer.clone().expect_problem(422, "invalid_request");
    let errors = answer.json()["errors"].as_array().unwrap().len();
    assert_eq!(errors, 4, "{answer}");
    admin
        .put(&path, &json!({ "username": "ada", "email": "a@b", "password": "short" }))
        .await
        .expect_problem(422, "invalid_request");
    admin
        .put("/auth/credentials/not-a-uuid", &json!({ "username": "ada", "email": "a@b" }))
        .await
        .expect_problem(400, "invalid_path");
    let rows: i64 = sqlx::query_scalar("select count(*) from credentials").fetch_one(&auth.pool).await.unwrap();
    assert_eq!(rows, 0);
}

#[tokio::test]
async fn a_changed_password_ends_the_sessions_and_the_same_one_does_not() {
    let auth = TestAuth::start().await;
    let user = auth.user(&[]).await;
    let (access, refresh) = auth.login(&user).await;
    auth.set_password(&user, PASSWORD).await;
    assert!(auth.is_active(&access).await);
    auth.set_password(&user, "another long password").await;
    assert!(!auth.is_active(&access).await);
    auth.try_refresh(&refresh).await.expect(401);
    auth.try_login(&user.username, PASSWORD).await.expect(401);
    auth.try_login(&user.username, "another long password").await.expect(200);
}

#[tokio::test]
async fn without_a_password_the_present_one_stays() {
    let auth = TestAuth::start().await;
    let user = auth.user(&[]).await;
    let renamed = TestUser { id: user.id, username: format!("{}-2", user.username) };
    let body = json!({ "username": renamed.username, "email": "new@kronos.test" });
    auth.admin().await.put(&format!("/auth/credentials/{}", user.id), &body).await.expect(204);
    auth.login(&renamed).await;
    auth.try_login(&user.username, PASSWORD).await.expect(401);
}

#[tokio::test]
async fn a_name_goes_to_whom_user_service_gives_it() {
    let auth = TestAuth::start().await;
    let older = auth.user(&[]).await;
    let (access, _) = auth.login(&older).await;
    let newer = TestUser { id: Uuid::now_v7(), username: older.username.to_uppercase() };
    auth.users.grant(newer.id, &newer.username, &[], 1);
    auth.set_password(&newer, "the newer one's password").await;
    assert!(!auth.is_active(&access).await);
    auth.try_login(&older.username, PASSWORD).await.expect(401);
    let answer = auth.try_login(&older.username, "the newer one's password").await.expect(200);
    let (access, _) = crate::harness::tokens(&answer);
    assert_eq!(crate::harness::claims(&access)["sub"], newer.id.to_string());
}

#[tokio::test]
async fn removed_credentials_end_everything_and_removing_again_is_no_error() {
    let auth = TestAuth::start().await;
    let user = auth.user(&[]).await;
    let (access, refresh) = auth.login(&user).await;
    let (admin, path) = (auth.admin().await, format!("/auth/credentials/{}", user.id));
    admin.delete(&path).await.expect(204);
    assert!(!auth.is_active(&access).await);
    auth.try_refresh(&refresh).await.expect(401);
    auth.try_login(&user.username, PASSWORD).await.expect_problem(401, "invalid_credentials");
    admin.delete(&path).await.expect(204);
}
