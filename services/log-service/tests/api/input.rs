//! Bad input and callers without the right: refused with the right status, nothing changed.

use serde_json::json;

use crate::harness::{ALL, Harness, line};

#[tokio::test]
async fn every_operation_needs_its_permission() {
    let logs = Harness::start().await;
    let source = json!({ "url": "http://gaia.example" });
    for (method, path, body, permission) in [
        ("POST", "/logs", Some(line("m")), "logs:write"),
        ("POST", "/v1/logs", Some(json!({})), "logs:write"),
        ("GET", "/logs", None, "logs:read"),
        ("GET", "/logs/tail", None, "logs:read"),
        ("GET", "/logs/sources", None, "logs:manage"),
        ("GET", "/logs/sources/gaia", None, "logs:manage"),
        ("PUT", "/logs/sources/gaia", Some(source), "logs:manage"),
        ("DELETE", "/logs/sources/gaia", None, "logs:manage"),
    ] {
        let send = |token: Option<String>| {
            let client = logs.client();
            let request = client.request(method.parse().unwrap(), path);
            let request = match token {
                Some(token) => request.bearer(token),
                None => request.anonymous(),
            };
            match &body {
                Some(body) => request.json(body),
                None => request,
            }
        };
        send(None).await.expect_problem(401, "token_missing");
        send(Some(logs.issuer.expired("t", &ALL))).await.expect_problem(401, "token_expired");
        send(Some(logs.issuer.forged("t", &ALL))).await.expect_problem(401, "token_invalid");
        let others: Vec<&str> = ALL.into_iter().filter(|other| *other != permission).collect();
        let refused = send(Some(logs.issuer.token("t", &others))).await.expect_problem(403, "permission_denied");
        assert!(refused.text().contains(permission), "{refused}");
    }
    let pool = logs.database.pool("kronos_logs").await;
    let kept: i64 = sqlx::query_scalar("select (select count(*) from lines) + (select count(*) from sources)")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(kept, 0);
    logs.stop().await;
}

#[tokio::test]
async fn bodies_that_are_no_lines_are_refused_as_what_they_are() {
    let logs = Harness::start().await;
    let post = |content_type: &'static str, body: String| {
        logs.client().request(reqwest::Method::POST, "/logs").header("content-type", content_type).body(body)
    };
    for body in ["", "{", "[", "nope", "[{]", "{} {}", "\u{0}"] {
        post("application/json", body.to_owned()).await.expect_problem(400, "malformed_json");
    }
    for body in ["null", "7", "\"text\"", "{}", "[[]]", "[null]"] {
        post("application/json", body.to_owned()).await.expect_problem(422, "invalid_request");
    }
    post("application/json", format!("{}1{}", "[".repeat(5_000), "]".repeat(5_000)))
        .await
        .expect_problem(422, "invalid_request");
    post("application/x-ndjson", "nope".to_owned()).await.expect_problem(422, "invalid_request");
    post("text/plain", line("m").to_string()).await.expect_problem(415, "unsupported_media_type");
    let long = json!({ "service": "s".repeat(101), "level": "info", "message": "m".repeat(32_769), "traceId": "t".repeat(65), "id": "i".repeat(129) });
    let problem = logs.client().post("/logs", &long).await.expect_problem(422, "invalid_request").json();
    assert_eq!(problem["errors"].as_array().unwrap().len(), 4, "{problem}");
    let answer = post("application/json", "[]".to_owned()).await.expect(201).json();
    assert_eq!(answer["accepted"], 0);
    logs.stop().await;
}

#[tokio::test]
async fn the_openapi_document_knows_every_operation() {
    let logs = Harness::start().await;
    let document = logs.client().get("/openapi.json").anonymous().await.expect(200).json();
    for (path, methods) in [
        ("/logs", vec!["get", "post"]),
        ("/logs/tail", vec!["get"]),
        ("/v1/logs", vec!["post"]),
        ("/logs/sources", vec!["get"]),
        ("/logs/sources/{name}", vec!["get", "put", "delete"]),
    ] {
        for method in methods {
            assert!(document["paths"][path][method]["security"].is_array(), "{method} {path}");
        }
    }
    logs.stop().await;
}

#[tokio::test]
async fn an_idempotency_key_repeats_the_answer() {
    let logs = Harness::start().await;
    let send = || logs.client().post("/logs", &line("once only")).header("idempotency-key", "k1");
    let (first, second) = (send().await.expect(201), send().await.expect(201));
    assert_eq!(first.body, second.body);
    logs.find("q=once", 1).await;
    logs.stop().await;
}
