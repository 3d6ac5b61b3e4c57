//! Bad input: each gets its problem, and changes nothing.

use kronos_testkit::http;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::Harness;

#[tokio::test(flavor = "multi_thread")]
async fn without_a_good_token_or_the_permission_nothing_is_said() {
    let harness = Harness::start().await;
    let anyone = http(harness.running.api);
    let id = uuid::Uuid::now_v7();
    let operations = [
        (Method::GET, "/db/status".to_owned(), "db:read"),
        (Method::GET, "/db/tables".to_owned(), "db:query"),
        (Method::POST, "/db/query".to_owned(), "db:query"),
        (Method::POST, "/db/backup".to_owned(), "db:backup"),
        (Method::GET, "/db/backups".to_owned(), "db:backup"),
        (Method::GET, format!("/db/backups/{id}"), "db:backup"),
        (Method::GET, format!("/db/backups/{id}/events"), "db:backup"),
    ];
    let all = ["db:read", "db:query", "db:backup"];
    for (method, path, permission) in operations {
        let request = || anyone.request(method.clone(), &path).json(&json!({ "sql": "select 1" }));
        request().await.expect_problem(401, "token_missing");
        let expired = harness.issuer.expired("tester", &all);
        request().bearer(expired).await.expect_problem(401, "token_expired");
        let forged = harness.issuer.forged("tester", &all);
        request().bearer(forged).await.expect_problem(401, "token_invalid");
        request().bearer("nonsense").await.expect(401);
        let others: Vec<&str> = all.into_iter().filter(|other| *other != permission).collect();
        let problem = request().bearer(harness.issuer.token("tester", &others)).await;
        assert!(problem.expect_problem(403, "permission_denied").text().contains(permission), "{path}");
    }
    let pool = harness.database.pool("kronos_dbadmin").await;
    let made: i64 = sqlx::query_scalar("select (select count(*) from backups) + (select count(*) from query_audit)")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(made, 0);
    harness.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_body_is_a_problem_that_names_every_bad_field() {
    let harness = Harness::start().await;
    let client = harness.client();
    let cases: Vec<(Value, &str, &str)> = vec![
        (json!({}), "/sql", "missing"),
        (json!({ "sql": 1 }), "/sql", "wrong_type"),
        (json!({ "sql": "" }), "/sql", ""),
        (json!({ "sql": "x".repeat(70_000) }), "/sql", ""),
        (json!({ "sql": "select 1", "maxRows": 0 }), "/maxRows", ""),
        (json!({ "sql": "select 1", "maxRows": 10_001 }), "/maxRows", ""),
        (json!({ "sql": "select 1", "maxRows": "1" }), "/maxRows", ""),
        (json!({ "sql": "select 1", "params": {} }), "/params", ""),
        (json!({ "sql": "select 1", "params": vec![1; 101] }), "/params", ""),
        (json!({ "sql": "select 1", "other": 1 }), "/other", "unknown_field"),
    ];
    for (body, pointer, code) in cases {
        let problem = client.post("/db/query", &body).await.expect_problem(422, "invalid_request").json();
        let errors = problem["errors"].as_array().unwrap();
        let found = errors.iter().find(|error| error["pointer"] == pointer);
        assert!(found.is_some_and(|error| code.is_empty() || error["code"] == code), "{body}: {problem}");
    }
    let both = client.post("/db/query", &json!({ "sql": 1, "maxRows": 0 })).await.expect(422).json();
    assert!(both["errors"].as_array().unwrap().len() >= 2, "{both}");
    let post = || client.request(Method::POST, "/db/query");
    post().header("content-type", "application/json").body("{").await.expect_problem(400, "malformed_json");
    post().header("content-type", "text/plain").body("{}").await.expect_problem(415, "unsupported_media_type");
    let large = format!("{{\"sql\":\"{}\"}}", "x".repeat(300_000));
    post().header("content-type", "application/json").body(large).await.expect_problem(413, "body_too_large");
    client.get("/db/backups/not-an-id").await.expect_problem(400, "invalid_path");
    client.get(&format!("/db/backups/{}", uuid::Uuid::now_v7())).await.expect_problem(404, "not_found");
    client.get("/db/backups?limit=0").await.expect_problem(400, "invalid_query");
    client.get("/db/backups?cursor=x").await.expect_problem(400, "invalid_cursor");
    client.get("/db/nothing").await.expect(404);
    client.delete("/db/status").await.expect(405);
    harness.stop().await;
}
