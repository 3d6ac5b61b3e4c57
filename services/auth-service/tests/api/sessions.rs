//! Sessions that a user sees and ends.

use serde_json::json;

use crate::harness::{PASSWORD, TestAuth, claims};

#[tokio::test]
async fn a_user_sees_the_sessions_and_which_one_this_is() {
    let auth = TestAuth::start().await;
    let (user, stranger) = (auth.user(&[]).await, auth.user(&[]).await);
    auth.login(&stranger).await;
    let body = json!({ "username": user.username, "password": PASSWORD });
    auth.client.post("/auth/login", &body).header("user-agent", "Robot Console 7").await.expect(200);
    let (access, _) = auth.login(&user).await;
    let mine = auth.client.bearer(&access);
    let list = mine.get("/auth/sessions").await.expect(200).json();
    let items = list["items"].as_array().unwrap();
    assert_eq!(items.len(), 2);
    assert_eq!((items[0]["id"].clone(), items[0]["current"].clone()), (claims(&access)["sid"].clone(), json!(true)));
    assert_eq!((items[1]["device"].clone(), items[1]["current"].clone()), (json!("Robot Console 7"), json!(false)));
    let first = mine.get("/auth/sessions?limit=1").await.expect(200).json();
    let next = mine
        .get(&format!("/auth/sessions?limit=1&cursor={}", first["nextCursor"].as_str().unwrap()))
        .await
        .expect(200)
        .json();
    assert_eq!((next["items"][0]["id"].clone(), next["nextCursor"].clone()), (items[1]["id"].clone(), json!(null)));
    mine.get("/auth/sessions?limit=0").await.expect_problem(400, "invalid_query");
    mine.get("/auth/sessions?cursor=AAAA").await.expect_problem(400, "invalid_cursor");
}

#[tokio::test]
async fn a_user_ends_one_session_or_all() {
    let auth = TestAuth::start().await;
    let user = auth.user(&[]).await;
    let (first, first_refresh) = auth.login(&user).await;
    let (second, second_refresh) = auth.login(&user).await;
    let mine = auth.client.bearer(&first);
    let id = claims(&second)["sid"].as_str().unwrap().to_owned();
    mine.delete(&format!("/auth/sessions/{id}")).await.expect(204);
    mine.delete(&format!("/auth/sessions/{id}")).await.expect_problem(404, "not_found");
    assert!(!auth.is_active(&second).await && auth.is_active(&first).await);
    auth.try_refresh(&second_refresh).await.expect(401);
    mine.delete("/auth/sessions").await.expect(204);
    assert!(!auth.is_active(&first).await);
    auth.try_refresh(&first_refresh).await.expect(401);
}

#[tokio::test]
async fn a_user_names_a_device_and_ends_all_other_sessions() {
    let auth = TestAuth::start().await;
    let (user, stranger) = (auth.user(&[]).await, auth.user(&[]).await);
    let (other, _) = auth.login(&user).await;
    let (access, _) = auth.login(&user).await;
    let mine = auth.client.bearer(&access);
    let path = format!("/auth/sessions/{}", claims(&access)["sid"].as_str().unwrap());
    mine.patch(&path, &json!({ "name": "Workshop tablet" })).await.expect(204);
    mine.patch(&path, &json!({ "name": " " })).await.expect(422);
    let (strange, _) = auth.login(&stranger).await;
    auth.client.bearer(&strange).patch(&path, &json!({ "name": "mine" })).await.expect_problem(404, "not_found");
    let first = mine.get("/auth/sessions").await.expect(200).json()["items"][0].clone();
    assert_eq!((first["name"].clone(), first["amr"].clone()), (json!("Workshop tablet"), json!(["pwd"])));
    assert_eq!(first["network"], "127.0.0.0");
    mine.delete("/auth/sessions?keepCurrent=true").await.expect(204);
    assert!(!auth.is_active(&other).await && auth.is_active(&access).await && auth.is_active(&strange).await);
}

#[tokio::test]
async fn a_strangers_session_is_out_of_reach_but_not_for_an_administrator() {
    let auth = TestAuth::start().await;
    let (user, stranger) = (auth.user(&[]).await, auth.user(&["logs:read"]).await);
    let (access, _) = auth.login(&user).await;
    let (strange, _) = auth.login(&stranger).await;
    let path = format!("/auth/sessions/{}", claims(&access)["sid"].as_str().unwrap());
    auth.client.bearer(&strange).delete(&path).await.expect_problem(404, "not_found");
    assert!(auth.is_active(&access).await);
    auth.with_permissions(&["sessions:write"]).await.delete(&path).await.expect(204);
    assert!(!auth.is_active(&access).await);
}
