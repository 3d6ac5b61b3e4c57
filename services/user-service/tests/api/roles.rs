//! Roles: what they inherit, who is touched by a change, and why there are no circles.

use serde_json::json;

use crate::harness::Fixture;

#[tokio::test]
async fn a_role_is_made_read_replaced_and_removed() {
    let fixture = Fixture::new().await;
    fixture.role("customer", &["robots:use"], &[]).await;
    let body = json!({"name": "technician", "description": "Repairs", "permissions": ["logs:read", "cache:*"], "inherits": ["customer"]});
    let made = fixture.admin.post("/roles", &body).await.expect(201);
    assert_eq!(made.header("location"), Some("/roles/technician"));
    let role = made.json();
    assert_eq!((&role["permissions"], &role["inherits"]), (&json!(["cache:*", "logs:read"]), &json!(["customer"])));
    fixture.admin.post("/roles", &body).await.expect_problem(409, "role_exists");

    let read = fixture.admin.get("/roles/technician").await.expect(200);
    let tag = read.header("etag").unwrap().to_owned();
    fixture.admin.get("/roles/technician").header("if-none-match", &tag).await.expect(304);
    let replacement = json!({"permissions": ["logs:read"]});
    let replaced = fixture.admin.put("/roles/technician", &replacement).header("if-match", &tag).await.expect(200);
    assert_eq!((&replaced.json()["inherits"], &replaced.json()["description"]), (&json!([]), &json!("")));
    fixture
        .admin
        .put("/roles/technician", &replacement)
        .header("if-match", &tag)
        .await
        .expect_problem(412, "precondition_failed");
    let other_name = json!({"name": "other", "permissions": []});
    fixture.admin.put("/roles/technician", &other_name).await.expect_problem(422, "invalid_request");

    let list = fixture.admin.get("/roles?limit=1").await.expect(200).json();
    assert_eq!(list["items"][0]["name"], "customer");
    let next = format!("/roles?limit=1&cursor={}", list["nextCursor"].as_str().unwrap());
    assert_eq!(fixture.admin.get(&next).await.expect(200).json()["items"][0]["name"], "technician");

    fixture.admin.delete("/roles/technician").await.expect(204);
    fixture.admin.get("/roles/technician").await.expect_problem(404, "not_found");
    fixture.admin.put("/roles/technician", &replacement).await.expect_problem(404, "not_found");
}

#[tokio::test]
async fn a_circle_is_refused_and_named_and_nothing_changes() {
    let fixture = Fixture::new().await;
    fixture.role("a", &["x:a"], &[]).await;
    fixture.role("b", &["x:b"], &["a"]).await;
    fixture.role("c", &["x:c"], &["b"]).await;
    let circle = json!({"permissions": ["x:a"], "inherits": ["c"]});
    let refused = fixture.admin.put("/roles/a", &circle).await.expect_problem(409, "role_cycle");
    assert!(refused.json()["detail"].as_str().unwrap().contains("a → c → b → a"), "{refused}");
    let itself = json!({"permissions": [], "inherits": ["b"]});
    let refused = fixture.admin.put("/roles/b", &itself).await.expect_problem(409, "role_cycle");
    assert!(refused.json()["detail"].as_str().unwrap().contains("b → b"), "{refused}");
    assert_eq!(fixture.admin.get("/roles/a").await.json()["inherits"], json!([]));
}

#[tokio::test]
async fn a_role_cannot_inherit_what_there_is_not() {
    let fixture = Fixture::new().await;
    let body = json!({"name": "a", "inherits": ["nobody", "nothing"]});
    let refused = fixture.admin.post("/roles", &body).await.expect_problem(422, "invalid_request");
    let errors = refused.json()["errors"].clone();
    assert_eq!((errors[0]["code"].as_str(), errors.as_array().unwrap().len()), (Some("unknown_role"), 2), "{refused}");
    fixture.admin.get("/roles/a").await.expect_problem(404, "not_found");
}

#[tokio::test]
async fn a_changed_role_makes_a_new_epoch_for_whoever_has_it_by_any_way_and_for_nobody_else() {
    let fixture = Fixture::new().await;
    fixture.role("base", &["x:read"], &[]).await;
    fixture.role("heir", &[], &["base"]).await;
    fixture.role("other", &["y:read"], &[]).await;
    let (direct, by_heir, scoped, outside) =
        (fixture.user("u1").await, fixture.user("u2").await, fixture.user("u3").await, fixture.user("u4").await);
    fixture.give(&direct, "base", json!({})).await;
    fixture.give(&by_heir, "heir", json!({})).await;
    fixture.give(&scoped, "heir", json!({"resource": "robot:R-42"})).await;
    fixture.give(&outside, "other", json!({})).await;
    let described = json!({"description": "only words", "permissions": ["x:read"]});
    fixture.admin.put("/roles/base", &described).await.expect(200);
    for (user, epoch) in [(&direct, 2), (&by_heir, 3), (&scoped, 4), (&outside, 5)] {
        assert_eq!(fixture.epoch(user).await, epoch, "words are no rights");
    }
    let changed = fixture.admin.put("/roles/base", &json!({"permissions": ["x:write"]})).await.expect(200);
    assert_eq!(changed.header("kronos-epoch"), Some("6"));
    for (user, epoch) in [(&direct, 6), (&by_heir, 6), (&scoped, 6), (&outside, 5)] {
        assert_eq!(fixture.epoch(user).await, epoch);
    }
    assert_eq!(fixture.grants(&by_heir).await["permissions"], json!(["x:write"]));
}

#[tokio::test]
async fn a_removed_role_is_gone_from_everybody_but_not_while_another_inherits_it() {
    let fixture = Fixture::new().await;
    fixture.role("base", &["x:read"], &[]).await;
    fixture.role("heir", &[], &["base"]).await;
    let user = fixture.user("camille").await;
    let given = fixture.give(&user, "base", json!({})).await;
    let refused = fixture.admin.delete("/roles/base").await.expect_problem(409, "role_inherited");
    assert!(refused.text().contains("heir"), "{refused}");
    fixture.admin.put("/roles/heir", &json!({"permissions": []})).await.expect(200);
    fixture.admin.delete("/roles/base").await.expect(204);
    let grants = fixture.grants(&user).await;
    assert_eq!(grants["roles"], json!([]));
    assert!(grants["epoch"].as_i64() > Some(given), "{grants}");
}

#[tokio::test]
async fn the_closure_is_kept_when_the_middle_of_a_chain_changes() {
    let fixture = Fixture::new().await;
    for (name, inherits) in [("a", &[][..]), ("b", &["a"]), ("c", &["b"]), ("d", &["c"]), ("e", &["a"])] {
        fixture.role(name, &[&format!("x:{name}")], inherits).await;
    }
    fixture.admin.put("/roles/b", &json!({"permissions": ["x:b"], "inherits": ["e"]})).await.expect(200);
    let pool = fixture.platform.database.pool("kronos_users").await;
    let paths: Vec<(String, Vec<String>)> =
        sqlx::query_as("select includes, path from role_closure where role = 'd' order by includes")
            .fetch_all(&pool)
            .await
            .unwrap();
    let expected = [("a", "d c b e a"), ("b", "d c b"), ("c", "d c"), ("d", "d"), ("e", "d c b e")];
    let expected = expected.map(|(name, path)| (name.to_owned(), path.split(' ').map(str::to_owned).collect()));
    assert_eq!(paths, expected);
}
