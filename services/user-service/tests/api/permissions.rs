//! The catalogue, who holds what, and what would become of it.

use serde_json::{Value, json};

use crate::harness::Fixture;

#[tokio::test]
async fn a_service_declares_what_it_asks_for_and_roles_grant_nothing_else() {
    let fixture = Fixture::new().await;
    let unknown = json!({"name": "gardener", "permissions": ["garden:water", "robot:use", "x:*", "*:read"]});
    let refused = fixture.admin.post("/roles", &unknown).await.expect_problem(422, "invalid_request");
    let errors = refused.json()["errors"].clone();
    assert_eq!(errors.as_array().unwrap().len(), 2, "{refused}");
    assert_eq!(errors[0]["code"], "unknown_permission");
    assert!(refused.text().contains("garden:water") && refused.text().contains("there are robots:"), "{refused}");

    let hermes = fixture.platform.issuer.build("hermes").client_id("hermes").sign();
    let hermes = kronos_testkit::http(fixture.running.api).bearer(hermes);
    let body = json!({"permissions": [{"name": "garden:water", "description": "Water it"}, {"name": "garden:mow"}]});
    let declared = hermes.put("/permissions/hermes", &body).await.expect(200).json();
    assert_eq!((&declared[1]["name"], &declared[1]["service"]), (&json!("garden:water"), &json!("hermes")));
    hermes.put("/permissions/gaia", &body).await.expect_problem(403, "permission_denied");
    fixture.admin.put("/permissions/gaia", &body).await.expect_problem(409, "permission_taken");
    let theft = json!({"permissions": [{"name": "users:write"}]});
    hermes.put("/permissions/hermes", &theft).await.expect_problem(409, "permission_taken");
    fixture.role("gardener", &["garden:*"], &[]).await;

    // What is declared no more can be put in no role, and stays where it is.
    hermes.put("/permissions/hermes", &json!({"permissions": []})).await.expect(200);
    let kept = json!({"permissions": ["garden:*", "robots:use"]});
    fixture.admin.put("/roles/gardener", &kept).await.expect(200);
    let other = json!({"name": "other", "permissions": ["garden:*"]});
    fixture.admin.post("/roles", &other).await.expect_problem(422, "invalid_request");
    let own = fixture.admin.get("/permissions?service=user-service&limit=2").await.expect(200).json();
    assert_eq!((&own["items"][0]["name"], own["items"].as_array().unwrap().len()), (&json!("grants:read"), 2));
    assert!(own["nextCursor"].is_string());
}

#[tokio::test]
async fn everything_that_a_person_may_is_listed_with_the_way_that_grants_it() {
    let fixture = Fixture::new().await;
    fixture.role("customer", &["robots:use", "robots:see"], &[]).await;
    fixture.role("technician", &["logs:read"], &["customer"]).await;
    let (user, group) = (fixture.user("theo").await, fixture.group("Lyon").await);
    fixture.admin.put(&format!("/groups/{group}/roles/technician"), &json!({})).await.expect(200);
    fixture.give(&user, "customer", json!({"resource": "robot:R-42", "expiresAt": "2100-01-01T00:00:00Z"})).await;
    let epoch = fixture.join(&group, &user).await;
    let mut items: Vec<Value> = Vec::new();
    let mut query = "limit=2".to_owned();
    loop {
        let answer = fixture.admin.get(&format!("/users/{user}/permissions?{query}")).await.expect(200);
        assert_eq!(answer.header("kronos-epoch"), Some(epoch.to_string().as_str()));
        let page = answer.json();
        items.extend(page["items"].as_array().unwrap().iter().cloned());
        match page["nextCursor"].as_str() {
            Some(cursor) => query = format!("limit=2&cursor={cursor}"),
            None => break,
        }
    }
    let by_group = |permission: &str, path: Value| json!({"permission": permission, "path": path, "resource": null, "expiresAt": null, "group": "Lyon"});
    let own = |permission: &str| json!({"permission": permission, "path": ["customer"], "resource": "robot:R-42", "expiresAt": "2100-01-01T00:00:00Z"});
    let expected = [
        by_group("logs:read", json!(["technician"])),
        by_group("robots:see", json!(["technician", "customer"])),
        own("robots:see"),
        by_group("robots:use", json!(["technician", "customer"])),
        own("robots:use"),
    ];
    assert_eq!(items, expected);
}

#[tokio::test]
async fn the_holders_of_a_permission_are_found_by_every_way_page_by_page() {
    let fixture = Fixture::new().await;
    fixture.role("customer", &["robots:use"], &[]).await;
    fixture.role("technician", &["logs:read"], &["customer"]).await;
    fixture.role("keeper", &["robots:*"], &[]).await;
    fixture.role("reader", &["logs:read"], &[]).await;
    let mut users = Vec::new();
    for name in ["u0", "u1", "u2", "u3", "u4", "u5"] {
        users.push(fixture.user(name).await);
    }
    let group = fixture.group("Lyon").await;
    fixture
        .admin
        .put(&format!("/groups/{group}/roles/customer"), &json!({"resource": "customer:17/*"}))
        .await
        .expect(200);
    fixture.give(&users[0], "technician", json!({})).await;
    // The same role on many resources is one holder still.
    for robot in 0..5 {
        fixture.give(&users[1], "keeper", json!({"resource": format!("robot:R-{robot}")})).await;
    }
    fixture.join(&group, &users[2]).await;
    fixture.give(&users[3], "reader", json!({})).await;
    fixture.give(&users[4], "customer", json!({})).await;
    fixture.admin.patch(&format!("/users/{}", users[4]), &json!({"disabled": true})).await.expect(200);
    fixture.give(&users[5], "customer", json!({"resource": "customer:17/robot:R-1"})).await;
    let holders = async |query: &str| {
        let (mut found, mut cursor) = (Vec::new(), String::new());
        loop {
            let path = format!("/permissions/robots:use/holders?limit=1{query}{cursor}");
            let page = fixture.admin.get(&path).await.expect(200).json();
            found.extend(
                page["items"].as_array().unwrap().iter().map(|holder| holder["username"].as_str().unwrap().to_owned()),
            );
            match page["nextCursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return found,
            }
        }
    };
    assert_eq!(holders("").await, ["u0", "u1", "u2", "u5"]);
    assert_eq!(holders("&resource=robot:R-3").await, ["u0", "u1"]);
    assert_eq!(holders("&resource=customer:17/robot:R-1").await, ["u0", "u2", "u5"]);
    let first = fixture.admin.get("/permissions/robots:use/holders?limit=2").await.expect(200).json();
    assert_eq!(first["items"][0]["grants"][0]["path"], json!(["technician", "customer"]));
    assert_eq!(first["items"][1]["grants"].as_array().unwrap().len(), 5);
    fixture.admin.get("/permissions/robots:*/holders").await.expect_problem(400, "invalid_path");
}

#[tokio::test]
async fn a_dry_run_says_who_would_lose_what_and_changes_nothing() {
    let fixture = Fixture::new().await;
    fixture.role("base", &["x:read", "x:write"], &[]).await;
    fixture.role("heir", &["y:read"], &["base"]).await;
    fixture.role("reader", &["x:*"], &[]).await;
    let (direct, by_heir, doubly) = (fixture.user("u1").await, fixture.user("u2").await, fixture.user("u3").await);
    fixture.give(&direct, "base", json!({"resource": "robot:R-1"})).await;
    fixture.give(&by_heir, "heir", json!({})).await;
    fixture.give(&doubly, "base", json!({})).await;
    fixture.give(&doubly, "reader", json!({})).await;
    let before = fixture.admin.get("/roles/base").await.expect(200);
    let changed = json!({"permissions": ["x:read", "y:read"]});
    let answer = fixture.admin.post("/roles/base/dry-run", &changed).await.expect(200).json();
    let told = |answer: &Value, index: usize, what: &str| -> Vec<(String, Value)> {
        let grants = answer["items"][index][what].as_array().unwrap().iter();
        grants.map(|grant| (grant["permission"].as_str().unwrap().to_owned(), grant["resource"].clone())).collect()
    };
    assert_eq!((&answer["holders"], answer["items"].as_array().unwrap().len()), (&json!(3), 3));
    assert_eq!(told(&answer, 0, "loses"), [("x:write".to_owned(), json!("robot:R-1"))]);
    assert_eq!(told(&answer, 0, "gains"), [("y:read".to_owned(), json!("robot:R-1"))]);
    assert_eq!(told(&answer, 1, "loses"), [("x:write".to_owned(), Value::Null)]);
    assert_eq!(told(&answer, 1, "gains"), [], "the heir grants it already");
    assert_eq!(told(&answer, 2, "loses"), [], "another role grants it too");

    let removal = fixture.admin.request(axum::http::Method::POST, "/roles/heir/dry-run").await.expect(200).json();
    assert_eq!(removal["holders"], 1);
    assert_eq!(told(&removal, 0, "loses").len(), 3);
    let circle = json!({"permissions": [], "inherits": ["heir"]});
    fixture.admin.post("/roles/base/dry-run", &circle).await.expect_problem(409, "role_cycle");
    let unknown = json!({"permissions": ["moon:land"]});
    fixture.admin.post("/roles/base/dry-run", &unknown).await.expect_problem(422, "invalid_request");
    let after = fixture.admin.get("/roles/base").await.expect(200);
    assert_eq!((after.header("etag"), after.json()), (before.header("etag"), before.json()));
    assert_eq!(fixture.grants(&by_heir).await["permissions"], json!(["x:read", "x:write", "y:read"]));
}
