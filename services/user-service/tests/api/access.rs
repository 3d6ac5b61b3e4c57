//! The questions: what may they do, may they do this, and why.

use serde_json::json;

use crate::harness::Fixture;

#[tokio::test]
async fn a_yes_tells_the_path_that_grants_it() {
    let fixture = Fixture::new().await;
    fixture.role("customer", &["robots:*"], &[]).await;
    fixture.role("technician", &["logs:read"], &["customer"]).await;
    let user = fixture.user("theo").await;
    fixture.give(&user, "technician", json!({"resource": "customer:17/*", "expiresAt": "2100-01-01T00:00:00Z"})).await;
    let answer = fixture.access(&user, "permission=robots:use&resource=customer:17/robot:R-42").await;
    let why = json!([
        "theo has the role technician on customer:17/* until 2100-01-01T00:00:00Z",
        "technician inherits customer",
        "customer grants robots:*, which covers robots:use",
    ]);
    let grant = json!({
        "path": ["technician", "customer"], "permission": "robots:*", "resource": "customer:17/*",
        "expiresAt": "2100-01-01T00:00:00Z",
    });
    assert_eq!(answer, json!({"allowed": true, "why": why, "grant": grant, "epoch": 2}));
}

#[tokio::test]
async fn a_no_tells_what_is_missing_and_what_comes_nearest() {
    let fixture = Fixture::new().await;
    fixture.role("customer", &["robots:use", "logs:read"], &[]).await;
    fixture.role("author", &["logs:write"], &[]).await;
    let user = fixture.user("camille").await;
    let why = |answer: serde_json::Value| {
        answer["why"]
            .as_array()
            .unwrap()
            .iter()
            .map(|line| line.as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
            .join("; ")
    };

    let none = why(fixture.access(&user, "permission=robots:use").await);
    assert!(none.contains("camille has no role") && none.contains("roles that grant it: customer"), "{none}");
    fixture.give(&user, "customer", json!({"resource": "robot:R-1"})).await;
    let answer = fixture.access(&user, "permission=robots:use&resource=robot:R-2").await;
    let nearest = json!({
        "because": "other_resource", "path": ["customer"], "permission": "robots:use", "resource": "robot:R-1",
        "expiresAt": null,
    });
    let missing = json!({
        "permission": "robots:use", "resource": "robot:R-2", "nearest": [nearest], "roles": ["customer"],
    });
    assert_eq!(answer["missing"], missing);
    let elsewhere = why(answer);
    assert!(elsewhere.contains("camille may robots:use on robot:R-1, by the role customer"), "{elsewhere}");
    let nowhere = why(fixture.access(&user, "permission=robots:use").await);
    assert!(nowhere.contains("names no resource"), "{nowhere}");
    let near = why(fixture.access(&user, "permission=logs:write&resource=robot:R-1").await);
    assert!(near.contains("the nearest that camille holds: logs:read") && near.contains("author"), "{near}");
    let nothing = why(fixture.access(&user, "permission=moon:land").await);
    assert!(nothing.contains("no role grants moon:land"), "{nothing}");
    fixture.admin.patch(&format!("/users/{user}"), &json!({"disabled": true})).await.expect(200);
    let disabled = fixture.access(&user, "permission=robots:use&resource=robot:R-1").await;
    assert_eq!(disabled, json!({"allowed": false, "why": ["camille is disabled"], "epoch": 3}));
}

#[tokio::test]
async fn the_grants_are_what_tokens_are_made_of() {
    let fixture = Fixture::new().await;
    fixture.role("customer", &["robots:use", "cache:read"], &[]).await;
    fixture.role("technician", &["logs:read"], &["customer"]).await;
    fixture.role("guest", &["robots:see"], &[]).await;
    let user = fixture.user("theo").await;
    fixture.give(&user, "technician", json!({})).await;
    fixture.give(&user, "guest", json!({"resource": "robot:R-42", "expiresAt": "2100-01-01T00:00:00Z"})).await;
    let expected = json!({
        "userId": user, "username": "theo", "disabled": false, "roles": ["customer", "technician"],
        "permissions": ["cache:read", "logs:read", "robots:use"],
        "scoped": [{"permission": "robots:see", "resource": "robot:R-42", "expiresAt": "2100-01-01T00:00:00Z"}],
        "epoch": 3, "validUntil": "2100-01-01T00:00:00Z",
    });
    assert_eq!(fixture.grants(&user).await, expected);
    fixture.admin.patch(&format!("/users/{user}"), &json!({"disabled": true})).await.expect(200);
    let grants = fixture.grants(&user).await;
    assert_eq!(
        (&grants["disabled"], &grants["roles"], &grants["permissions"], &grants["scoped"]),
        (&json!(true), &json!([]), &json!([]), &json!([]))
    );
    assert_eq!(grants["epoch"], 4);
}

#[tokio::test]
async fn a_question_is_answered_to_whoever_may_ask_it() {
    let fixture = Fixture::new().await;
    let user = fixture.user("camille").await;
    let path = format!("/users/{user}/access?permission=robots:use");
    for permission in ["access:check", "grants:read"] {
        fixture.caller(&[permission]).get(&path).await.expect(200);
    }
    let refused = fixture.caller(&["users:read"]).get(&path).await.expect_problem(403, "permission_denied");
    assert!(refused.text().contains("access:check"), "{refused}");
    let nobody = "/users/01890a5d-ac96-774b-bcce-b302099a8057";
    fixture.admin.get(&format!("{nobody}/access?permission=robots:use")).await.expect_problem(404, "not_found");
    fixture.admin.get(&format!("{nobody}/grants")).await.expect_problem(404, "not_found");
    for bad in [
        "",
        "permission=robots",
        "permission=robots:*",
        "permission=robots:use&resource=robot:*",
        "permission=robots:use&resource=%2F",
        "permission=a:b&x=1",
    ] {
        fixture.admin.get(&format!("/users/{user}/access?{bad}")).await.expect_problem(400, "invalid_query");
    }
}
