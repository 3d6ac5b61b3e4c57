//! `/auth/verify` and `/auth/check`.

use serde_json::{Value, json};

use crate::{
    fake_users::Mode,
    harness::{ADMIN, TestAuth, claims},
};

async fn check(auth: &TestAuth, body: Value) -> Value {
    auth.with_permissions(&["access:check"]).await.post("/auth/check", &body).await.expect(200).json()
}

#[tokio::test]
async fn a_good_token_is_described() {
    let auth = TestAuth::start().await;
    let user = auth.user(&["logs:read"]).await;
    let (access, _) = auth.login(&user).await;
    let answer = auth.verify(&access).await;
    let expires = chrono::DateTime::from_timestamp(claims(&access)["exp"].as_i64().unwrap(), 0).unwrap();
    assert_eq!(answer["active"], true);
    assert_eq!(answer["subject"], user.id.to_string());
    assert_eq!(answer["username"], user.username);
    assert_eq!(answer["clientId"], "kronos");
    assert_eq!((&answer["roles"], &answer["permissions"]), (&json!(["technician"]), &json!(["logs:read"])));
    assert_eq!(answer["expiresAt"].as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>().unwrap(), expires);
    let client = auth.verify(&auth.client_token(ADMIN, crate::harness::ADMIN_SECRET).await).await;
    assert_eq!((&client["subject"], &client["clientId"]), (&json!(ADMIN), &json!(ADMIN)));
    assert!(client.get("username").is_none());
}

#[tokio::test]
async fn of_a_bad_token_nothing_is_told() {
    let auth = TestAuth::start().await;
    for bad in ["", "x", "a.b.c", "krt_AAAA", &"x".repeat(20_000)] {
        assert_eq!(auth.verify(bad).await, json!({ "active": false }), "{bad:.20}");
    }
}

#[tokio::test]
async fn asking_needs_permission() {
    let auth = TestAuth::start().await;
    let nobody = auth.with_permissions(&[]).await;
    nobody.post("/auth/verify", &json!({ "token": "x" })).await.expect_problem(403, "permission_denied");
    let body = json!({ "subject": "x", "permission": "logs:read" });
    nobody.post("/auth/check", &body).await.expect_problem(403, "permission_denied");
    auth.client.post("/auth/check", &body).await.expect_problem(401, "token_missing");
    auth.client.post("/auth/verify", &json!({ "token": "x" })).await.expect_problem(401, "token_missing");
}

#[tokio::test]
async fn a_users_access_is_what_user_service_says_now() {
    let auth = TestAuth::start().await;
    let user = auth.user(&["robots:repair"]).await;
    auth.users.change(user.id, "scoped", json!([{ "permission": "robots:move", "resource": "robot:R-42/ä&b" }]));
    let ask = |permission: &str, resource: Option<&str>| {
        check(&auth, json!({ "subject": user.id, "permission": permission, "resource": resource }))
    };
    assert_eq!(ask("robots:repair", None).await["allowed"], true);
    assert_eq!(ask("robots:move", None).await["allowed"], false);
    assert_eq!(ask("robots:move", Some("robot:R-42/ä&b")).await["allowed"], true);
    auth.users.grant(user.id, &user.username, &[], 2);
    let refused = ask("robots:repair", None).await;
    assert_eq!((&refused["allowed"], &refused["why"]), (&json!(false), &json!(["no role grants it"])));
}

#[tokio::test]
async fn while_user_service_is_away_the_last_known_rights_decide_and_it_is_said() {
    let auth = TestAuth::start_with(|config| config.services.user_deadline_ms = 2000).await;
    let user = auth.user(&["robots:*"]).await;
    let tomorrow = chrono::Utc::now() + chrono::TimeDelta::days(1);
    let yesterday = chrono::Utc::now() - chrono::TimeDelta::days(1);
    auth.users.change(
        user.id,
        "scoped",
        json!([
            { "permission": "logs:read", "resource": "robot:R-1", "expiresAt": tomorrow },
            { "permission": "logs:read", "resource": "robot:R-2", "expiresAt": yesterday },
            { "permission": "logs:read", "resource": "customer:17/*" },
        ]),
    );
    auth.login(&user).await;
    let ask = |subject: String, permission: &str, resource: Option<&str>| {
        check(&auth, json!({ "subject": subject, "permission": permission, "resource": resource }))
    };
    let id = user.id.to_string();
    for mode in [Mode::Fails, Mode::Hangs] {
        auth.users.set_mode(mode);
        let allowed = ask(id.clone(), "robots:repair", None).await;
        assert_eq!(allowed["allowed"], true, "{allowed}");
        assert!(allowed["why"].to_string().contains("user-service does not answer"), "{allowed}");
    }
    auth.users.set_mode(Mode::Fails);
    assert_eq!(ask(id.clone(), "logs:read", Some("robot:R-1")).await["allowed"], true);
    assert_eq!(ask(id.clone(), "logs:read", Some("robot:R-2")).await["allowed"], false, "it has ended");
    assert_eq!(ask(id.clone(), "logs:read", None).await["allowed"], false);
    for (resource, allowed) in [
        ("customer:17/robot:R-9", true),
        ("customer:17", false),
        ("customer:17/", false),
        ("customer:171/robot:R-9", false),
    ] {
        assert_eq!(ask(id.clone(), "logs:read", Some(resource)).await["allowed"], allowed, "{resource}");
    }
    assert_eq!(ask(uuid::Uuid::now_v7().to_string(), "logs:read", None).await["allowed"], false);
    sqlx::query("update grants set newest_epoch = epoch + 1").execute(&auth.pool).await.unwrap();
    let refused = ask(id, "robots:repair", None).await;
    assert_eq!(refused["allowed"], false, "rights that are known to have changed are not gone by: {refused}");
}

#[tokio::test]
async fn who_has_seen_a_change_gets_no_answer_from_before_it() {
    let auth = TestAuth::start_with(|config| config.services.user_deadline_ms = 2000).await;
    let user = auth.user(&["robots:*"]).await;
    auth.login(&user).await;
    let ask =
        |epoch: i64| check(&auth, json!({ "subject": user.id, "permission": "robots:repair", "minEpoch": epoch }));
    assert_eq!(ask(7).await["why"], json!(["as of 7"]), "user-service is asked for it");
    auth.users.set_mode(Mode::Fails);
    let known: i64 = sqlx::query_scalar("select epoch from grants where user_id = $1")
        .bind(user.id)
        .fetch_one(&auth.pool)
        .await
        .unwrap();
    assert_eq!(ask(known).await["allowed"], true);
    let refused = ask(known + 1).await;
    assert_eq!(refused["allowed"], false, "{refused}");
    assert!(refused["why"].to_string().contains("older than that epoch"), "{refused}");
}

#[tokio::test]
async fn a_client_is_judged_by_its_own_permissions() {
    let auth = TestAuth::start().await;
    let allowed = check(&auth, json!({ "subject": "ouranos-crm", "permission": "users:read" })).await;
    assert_eq!((&allowed["allowed"], &allowed["why"]), (&json!(true), &json!(["the client holds users:read"])));
    let covered = check(&auth, json!({ "subject": ADMIN, "permission": "users:read" })).await;
    assert_eq!(covered["why"], json!(["the client holds *:*, which covers users:read"]));
    assert_eq!(check(&auth, json!({ "subject": "ouranos-crm", "permission": "logs:read" })).await["allowed"], false);
    let nobody = check(&auth, json!({ "subject": "nobody", "permission": "logs:read" })).await;
    assert_eq!((&nobody["allowed"], &nobody["why"]), (&json!(false), &json!(["there is no such subject"])));
}

#[tokio::test]
async fn a_client_may_do_some_things_on_some_resources_alone() {
    let auth = TestAuth::start().await;
    let admin = auth.with_permissions(&["clients:write", "messages:publish"]).await;
    let scoped = |permission: &str, resource: &str| json!([{ "permission": permission, "resource": resource }]);
    let make = |scoped: Value| json!({ "clientId": "line-7", "name": "Line 7", "grantTypes": ["client_credentials"], "scopedPermissions": scoped });
    // Nobody hands out, even on one resource, what they do not hold.
    let beyond = admin.post("/oauth/clients", &make(scoped("logs:read", "topic:orders.*"))).await;
    beyond.expect_problem(403, "permission_denied");
    for resource in ["orders", "topic:", "topic:*x", "*"] {
        let refused = admin.post("/oauth/clients", &make(scoped("messages:publish", resource))).await;
        refused.expect_problem(422, "invalid_request");
    }
    let made =
        admin.post("/oauth/clients", &make(scoped("messages:publish", "topic:orders.*"))).await.expect(201).json();
    assert_eq!(made["scopedPermissions"][0]["resource"], "topic:orders.*");
    let may = async |resource: Option<&str>| {
        check(&auth, json!({ "subject": "line-7", "permission": "messages:publish", "resource": resource })).await
    };
    assert_eq!(may(Some("topic:orders.eu")).await["allowed"], true);
    let refused = may(Some("topic:bills")).await;
    assert_eq!(
        (&refused["allowed"], &refused["missing"]["nearest"][0]["because"]),
        (&json!(false), &json!("other_resource"))
    );
    assert_eq!(may(None).await["allowed"], false);
    // A new secret and other settings leave it as it is; an empty list takes it away, and ends the tokens.
    admin.patch("/oauth/clients/line-7", &json!({ "name": "Line seven" })).await.expect(200);
    assert_eq!(may(Some("topic:orders.eu")).await["allowed"], true);
    let ended = admin.patch("/oauth/clients/line-7", &json!({ "scopedPermissions": [] })).await.expect(200).json();
    assert!(ended["epoch"].as_i64() > made["epoch"].as_i64());
    assert_eq!(may(Some("topic:orders.eu")).await["allowed"], false);
}

#[tokio::test]
async fn a_question_with_a_wildcard_is_refused() {
    let auth = TestAuth::start().await;
    let asker = auth.with_permissions(&["access:check"]).await;
    for permission in ["*:*", "logs:*", "logs", "", "logs:read:", "LOGS:READ"] {
        let body = json!({ "subject": ADMIN, "permission": permission });
        asker.post("/auth/check", &body).await.expect_problem(422, "invalid_request");
    }
}

#[tokio::test]
async fn a_resource_that_user_service_does_not_understand_is_the_askers_mistake() {
    let auth = TestAuth::start().await;
    let user = auth.user(&[]).await;
    let asker = auth.with_permissions(&["access:check"]).await;
    let body = json!({ "subject": user.id, "permission": "logs:read", "resource": "no resource" });
    asker.post("/auth/check", &body).await.expect_problem(422, "invalid_request");
    let body = json!({ "subject": user.id, "permission": "logs:read", "resource": "nul\u{0}" });
    asker.post("/auth/check", &body).await.expect_problem(422, "invalid_request");
}
