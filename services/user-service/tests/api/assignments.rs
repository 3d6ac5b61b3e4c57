//! Who holds which role: given, taken, ended on time, felt at once.

use std::time::{Duration, Instant};

use chrono::{SecondsFormat, Utc};
use kronos_testkit::{http, wait_until};
use serde_json::json;

use crate::harness::{Fixture, Platform};

#[tokio::test]
async fn a_role_is_given_and_taken_and_each_makes_an_epoch() {
    let fixture = Fixture::new().await;
    fixture.role("customer", &["robots:use"], &[]).await;
    let user = fixture.user("camille").await;
    let path = format!("/users/{user}/roles/customer");
    let given = fixture.admin.request(axum::http::Method::PUT, &path).await.expect(200);
    assert_eq!(given.header("kronos-epoch"), Some("2"), "a body is not needed");
    assert_eq!((&given.json()["role"], &given.json()["resource"]), (&json!("customer"), &json!(null)));
    let again = fixture.admin.put(&path, &json!({})).await.expect(200);
    assert_eq!(again.header("kronos-epoch"), Some("2"), "the same again changes nothing");
    assert_eq!(fixture.access(&user, "permission=robots:use").await["allowed"], true);
    let taken = fixture.admin.delete(&path).await.expect(204);
    assert_eq!(taken.header("kronos-epoch"), Some("3"));
    assert_eq!(fixture.access(&user, "permission=robots:use").await["allowed"], false);
    fixture.admin.delete(&path).await.expect_problem(404, "not_found");
    assert_eq!(fixture.epoch(&user).await, 3);
}

#[tokio::test]
async fn the_same_role_may_be_held_on_several_resources() {
    let fixture = Fixture::new().await;
    fixture.role("customer", &["robots:use"], &[]).await;
    let user = fixture.user("camille").await;
    for resource in ["robot:R-1", "robot:R-2", "customer:17/*"] {
        fixture.give(&user, "customer", json!({"resource": resource})).await;
    }
    fixture.give(&user, "customer", json!({})).await;
    let path = format!("/users/{user}/roles");
    let first = fixture.admin.get(&format!("{path}?limit=3")).await.expect(200).json();
    let next = format!("{path}?limit=3&cursor={}", first["nextCursor"].as_str().unwrap());
    let second = fixture.admin.get(&next).await.expect(200).json();
    let resources: Vec<_> = [&first, &second]
        .into_iter()
        .flat_map(|page| page["items"].as_array().unwrap())
        .map(|held| held["resource"].clone())
        .collect();
    assert_eq!(resources, [json!(null), json!("customer:17/*"), json!("robot:R-1"), json!("robot:R-2")]);

    fixture.admin.delete(&format!("{path}/customer")).await.expect(204);
    let body = json!({"resource": "robot:R-1"});
    fixture.admin.delete(&format!("{path}/customer")).json(&body).await.expect(204);
    fixture.admin.delete(&format!("{path}/customer?resource=robot:R-2")).await.expect(204);
    fixture
        .admin
        .delete(&format!("{path}/customer?resource=robot:R-2"))
        .json(&body)
        .await
        .expect_problem(422, "invalid_request");
    let left = fixture.admin.get(&path).await.expect(200).json();
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_subscription_ends_on_time_by_itself_and_is_told() {
    let fixture = Fixture::new().await;
    fixture.role("customer", &["robots:use"], &[]).await;
    let user = fixture.user("camille").await;
    let mut ended = fixture.listen("kronos.user.role-ended").await;
    let end = Utc::now() + Duration::from_secs(3);
    let end_text = end.to_rfc3339_opts(SecondsFormat::Millis, true);
    let epoch = fixture.give(&user, "customer", json!({"resource": "robot:R-42", "expiresAt": end_text})).await;
    let query = "permission=robots:use&resource=robot:R-42";
    assert_eq!(fixture.access(&user, query).await["allowed"], true);
    let event = ended.next().await;
    let late = Utc::now() - end;
    assert!(
        late >= chrono::TimeDelta::zero() && late.num_milliseconds() < 10_000,
        "{} ms late",
        late.num_milliseconds()
    );
    assert_eq!((event.subject.as_deref(), &event.data["role"]), (Some(user.as_str()), &json!("customer")));
    assert_eq!(fixture.access(&user, query).await["allowed"], false);
    assert_eq!(fixture.epoch(&user).await, epoch + 1);
    let left = fixture.admin.get(&format!("/users/{user}/roles")).await.expect(200).json();
    assert_eq!(left["items"], json!([]));
}

#[tokio::test]
async fn a_subscription_can_be_prolonged_and_cannot_end_in_the_past() {
    let fixture = Fixture::new().await;
    fixture.role("customer", &["robots:use"], &[]).await;
    let user = fixture.user("camille").await;
    let path = format!("/users/{user}/roles/customer");
    let past = json!({"expiresAt": "2020-01-01T00:00:00Z"});
    let refused = fixture.admin.put(&path, &past).await.expect_problem(422, "invalid_request");
    assert_eq!(refused.json()["errors"][0]["code"], "in_the_past");
    let soon = (Utc::now() + Duration::from_secs(2)).to_rfc3339();
    fixture.give(&user, "customer", json!({"expiresAt": soon})).await;
    fixture.give(&user, "customer", json!({"expiresAt": "2100-01-01T00:00:00Z"})).await;
    let until = Instant::now() + Duration::from_millis(2200);
    wait_until("the first end is over", async || Instant::now() > until).await;
    let grants = fixture.grants(&user).await;
    assert_eq!(
        (&grants["permissions"], &grants["validUntil"]),
        (&json!(["robots:use"]), &json!("2100-01-01T00:00:00Z"))
    );
}

#[tokio::test]
async fn what_ended_while_no_instance_ran_is_taken_away_at_the_start() {
    let platform = Platform::new().await;
    let pool = platform.database.pool("kronos_users").await;
    sqlx::query("insert into users (id, username, username_key, email, email_key, display_name, search) values (gen_random_uuid(), 'c', 'c', 'e', 'e', 'c', 'c')").execute(&pool).await.unwrap();
    sqlx::query("insert into roles (name, permissions) values ('customer', '{x:y}')").execute(&pool).await.unwrap();
    sqlx::query("insert into assignments (user_id, role, expires_at) select id, 'customer', now() - interval '1 hour' from users").execute(&pool).await.unwrap();
    let _running = platform.start().await;
    wait_until("it is taken away", async || {
        sqlx::query_scalar::<_, i64>("select count(*) from assignments").fetch_one(&pool).await.unwrap() == 0
    })
    .await;
    let epoch: i64 = sqlx::query_scalar("select epoch from users").fetch_one(&pool).await.unwrap();
    assert_eq!(epoch, 2);
}

#[tokio::test]
async fn a_token_of_an_earlier_epoch_is_refused_as_soon_as_the_change_is_answered() {
    let fixture = Fixture::new().await;
    let other_instance = fixture.platform.start().await;
    fixture.role("reader", &["users:read"], &[]).await;
    let user = fixture.user("camille").await;
    let epoch = fixture.give(&user, "reader", json!({})).await;
    let token = fixture.platform.issuer.build(&user).permissions(&["users:read"]).epoch(epoch).sign();
    let clients = [&fixture.running, &other_instance].map(|running| http(running.api).bearer(&token));
    for client in &clients {
        client.get("/users").await.expect(200);
    }
    fixture.admin.delete(&format!("/users/{user}/roles/reader")).await.expect(204);
    for client in &clients {
        wait_until("the old token is refused", async || client.get("/users").await.code() == "token_revoked").await;
    }
}

#[tokio::test]
async fn changes_of_rights_reach_the_broker_with_their_epoch() {
    let fixture = Fixture::new().await;
    fixture.role("customer", &["robots:use"], &[]).await;
    let user = fixture.user("camille").await;
    let mut events = fixture.listen("kronos.user.rights-changed").await;
    fixture.give(&user, "customer", json!({})).await;
    fixture.admin.delete(&format!("/users/{user}/roles/customer")).await.expect(204);
    for (epoch, cause) in [(2, "role-given"), (3, "role-taken")] {
        let event = events.next().await;
        assert_eq!(event.subject.as_deref(), Some(user.as_str()));
        assert_eq!(event.data, json!({"epoch": epoch, "cause": cause}));
        assert_eq!(event.source, "/kronos/user");
    }
}
