//! Bad input, on every operation that the service describes: a problem with the right status, and nothing changed.

use axum::http::Method;
use kronos_testkit::{TestRequest, http};
use serde_json::{Value, json};

use crate::harness::Fixture;

/// Every operation of the OpenAPI document, with its path filled in, and whether it takes a body.
async fn operations(fixture: &Fixture) -> Vec<(Method, String, bool)> {
    let document = http(fixture.running.api).get("/openapi.json").await.expect(200).json();
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        if path.starts_with("/scim/") {
            continue; // They have errors and a test of their own.
        }
        let path = path.replace("{id}", "01890a5d-ac96-774b-bcce-b302099a8057").replace("{role}", "customer");
        let path = path.replace("{userId}", "01890a5d-ac96-774b-bcce-b302099a8057");
        let path = path.replace("{service}", "hermes").replace("{permission}", "robots:use");
        for (method, operation) in item.as_object().unwrap() {
            let Ok(method) = Method::from_bytes(method.to_uppercase().as_bytes()) else { continue };
            if operation.get("responses").is_some() {
                let takes_json = |body: &Value| {
                    body["content"]
                        .as_object()
                        .unwrap()
                        .keys()
                        .any(|kind| kind.ends_with("json") && !kind.ends_with("ndjson"))
                };
                operations.push((method, path.clone(), operation.get("requestBody").is_some_and(takes_json)));
            }
        }
    }
    assert!(operations.len() >= 32, "{operations:?}");
    operations
}

fn send(fixture: &Fixture, method: &Method, path: &str, takes_body: bool) -> TestRequest {
    let query = match path {
        _ if path.ends_with("/access") => "?permission=robots:use",
        "/users/export" => "?format=csv",
        _ => "",
    };
    let request = http(fixture.running.api).request(method.clone(), &format!("{path}{query}"));
    if takes_body { request.json(&json!({})) } else { request }
}

#[tokio::test]
async fn every_operation_wants_a_good_token_with_the_permission() {
    let fixture = Fixture::new().await;
    let issuer = &fixture.platform.issuer;
    for (method, path, takes_body) in operations(&fixture).await {
        let request = || send(&fixture, &method, &path, takes_body);
        request().await.expect_problem(401, "token_missing");
        request().bearer(issuer.expired("u", &["*:*"])).await.expect_problem(401, "token_expired");
        request().bearer(issuer.forged("u", &["*:*"])).await.expect_problem(401, "token_invalid");
        request().bearer("x").await.expect_problem(401, "token_malformed");
        request().bearer(issuer.token("u", &["robots:use"])).await.expect_problem(403, "permission_denied");
    }
}

#[tokio::test]
async fn every_body_must_be_json_of_the_right_shape_and_size() {
    let fixture = Fixture::new().await;
    let token = fixture.platform.issuer.token("u", &["*:*"]);
    for (method, path, takes_body) in operations(&fixture).await {
        if !takes_body {
            continue;
        }
        let request = || http(fixture.running.api).request(method.clone(), &path).bearer(&token);
        let json = |body: &str| request().header("content-type", "application/json").body(body.to_owned());
        json("{").await.expect_problem(400, "malformed_json");
        json("[]").await.expect_problem(422, "invalid_request");
        json("7").await.expect_problem(422, "invalid_request");
        let unknown = json(r#"{"colour": "red"}"#).await.expect_problem(422, "invalid_request");
        let pointers: Vec<Value> =
            unknown.json()["errors"].as_array().unwrap().iter().map(|error| error["pointer"].clone()).collect();
        assert!(pointers.contains(&json!("/colour")), "{unknown}");
        request().header("content-type", "text/plain").body("{}").await.expect_problem(415, "unsupported_media_type");
        json(&format!("{{\"x\": \"{}\"}}", "x".repeat(70_000))).await.expect_problem(413, "body_too_large");
    }
}

#[tokio::test]
async fn every_bad_field_is_named_at_once() {
    let fixture = Fixture::new().await;
    let pointers = async |path: &str, body: Value| {
        let refused = fixture.admin.post(path, &body).await.expect_problem(422, "invalid_request");
        let mut found: Vec<String> = refused.json()["errors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|error| error["pointer"].as_str().unwrap().to_owned())
            .collect();
        found.sort();
        found.dedup();
        found
    };
    let user = json!({"username": "", "email": 7, "displayName": "x".repeat(200), "password": "", "admin": true});
    assert_eq!(pointers("/users", user).await, ["/admin", "/displayName", "/email", "/password", "/username"]);
    assert_eq!(pointers("/users", json!({})).await, ["/displayName", "/email", "/username"]);
    let role = json!({"name": "Not A Name", "permissions": ["logs", "logs:read", "a:b:c"], "inherits": "x"});
    assert_eq!(pointers("/roles", role).await, ["/inherits", "/name", "/permissions/0", "/permissions/2"]);
}

#[tokio::test]
async fn texts_that_look_like_others_or_are_none_are_refused() {
    let fixture = Fixture::new().await;
    for username in [" camille", "a b", "a\tb", "a\u{0}b", "a\u{200b}b", "\u{202e}ab", "\u{feff}", &"x".repeat(65)] {
        let body = json!({"username": username, "email": "c@example.com", "displayName": "C"});
        fixture.admin.post("/users", &body).await.expect_problem(422, "invalid_request");
    }
    for email in ["", "c", "@example.com", "c@", "c@a..b", "c@exa mple.com", "c@example.com\n", "c@ex\u{0}ample.com"] {
        let body = json!({"username": "camille", "email": email, "displayName": "C"});
        fixture.admin.post("/users", &body).await.expect_problem(422, "invalid_request");
    }
    let user = fixture.user("camille").await;
    fixture.role("customer", &[], &[]).await;
    for resource in [
        "",
        "*",
        "robot",
        "robot:",
        ":R",
        "robot:*",
        "robot:R/",
        "robot:/R",
        "robot:R/*/x",
        "robot:R*",
        "Robot:R",
        "robot:R\u{0}",
    ] {
        let body = json!({"resource": resource});
        let request = fixture.admin.put(&format!("/users/{user}/roles/customer"), &body);
        assert_eq!(request.await.status, 422, "{resource:?}");
    }
    assert_eq!(fixture.epoch(&user).await, 1);
}

#[tokio::test]
async fn bad_paths_and_methods_are_problems_too() {
    let fixture = Fixture::new().await;
    fixture.admin.get("/users/x").await.expect_problem(400, "invalid_path");
    fixture.admin.get("/roles/NOT%20A%20NAME").await.expect_problem(400, "invalid_path");
    fixture.admin.get("/nothing").await.expect_problem(404, "not_found");
    fixture.admin.post("/roles/customer", &json!({})).await.expect_problem(405, "method_not_allowed");
    fixture.admin.get("/users?limit=0").await.expect_problem(400, "invalid_query");
    fixture.admin.get("/users?colour=red").await.expect_problem(400, "invalid_query");
    let user = fixture.user("camille").await;
    let patch = fixture.admin.patch(&format!("/users/{user}"), &json!({})).header("if-match", "v1");
    patch.await.expect_problem(400, "invalid_condition");
}
