//! What is refused, how, and that nothing was changed by it.

use axum::http::Method;

use crate::harness::Service;

const OPERATIONS: [(Method, &str, &str); 4] = [
    (Method::GET, "/cache/a/k", "cache:read"),
    (Method::PUT, "/cache/a/k", "cache:write"),
    (Method::DELETE, "/cache/a/k", "cache:write"),
    (Method::DELETE, "/cache/a/tags/t", "cache:write"),
];

#[tokio::test]
async fn every_operation_wants_a_good_token_with_its_permission() {
    let service = Service::start().await;
    service.put("/cache/a/k", "kept").header("cache-tags", "t").await.expect(201);
    let issuer = &service.issuer;
    for (method, path, permission) in OPERATIONS {
        let other = if permission == "cache:read" { "cache:write" } else { "cache:read" };
        let request = || service.client.request(method.clone(), path);
        request().anonymous().await.expect_problem(401, "token_missing");
        request().bearer("nonsense").await.expect_problem(401, "token_malformed");
        request().bearer(issuer.expired("robot", &[permission])).await.expect_problem(401, "token_expired");
        request().bearer(issuer.forged("robot", &[permission])).await.expect_problem(401, "token_invalid");
        for held in [&[][..], &[other], &["logs:*"]] {
            let answer = request().bearer(issuer.token("robot", held)).await.expect_problem(403, "permission_denied");
            assert!(answer.text().contains(permission), "{answer}");
        }
    }
    assert_eq!(service.client.get("/cache/a/k").await.expect(200).text(), "kept");
    let wide = issuer.token("admin", &["*:*"]);
    service.put("/cache/a/k", "new").bearer(&wide).await.expect(204);
}

#[tokio::test]
async fn a_bad_path_is_a_problem() {
    let service = Service::start().await;
    let (long_key, long_namespace) = ("k".repeat(513), "n".repeat(65));
    for path in [
        "/cache/Upper/k",
        "/cache/-a/k",
        "/cache/a%2Fb/k",
        "/cache/a%7Bb%7D/k",
        "/cache/%E2%82%AC/k",
        "/cache/a/%FF",
        &format!("/cache/{long_namespace}/k"),
        &format!("/cache/a/{long_key}"),
    ] {
        service.put(path, "x").await.expect_problem(400, "invalid_path");
        service.client.get(path).await.expect_problem(400, "invalid_path");
        service.client.delete(path).await.expect_problem(400, "invalid_path");
    }
    let long_tag = "t".repeat(129);
    for path in ["/cache/a/tags/a%2Cb", "/cache/a/tags/%23", "/cache/A/tags/t", &format!("/cache/a/tags/{long_tag}")] {
        service.client.delete(path).await.expect_problem(400, "invalid_path");
    }
    service.client.get("/cache/a/b/c/d").await.expect_problem(404, "not_found");
    service.client.post("/cache/a/k", "x").await.expect_problem(405, "method_not_allowed");
}

#[tokio::test]
async fn a_bad_time_to_live_is_a_problem() {
    let service = Service::start().await;
    for query in ["ttl=0", "ttl=-1", "ttl=604801", "ttl=soon", "ttl=1.5", "ttl=", "ttl=99999999999999999999", "tll=5"] {
        service.put(&format!("/cache/a/k?{query}"), "x").await.expect_problem(400, "invalid_query");
    }
    service.client.get("/cache/a/k").await.expect_problem(404, "not_found");
    service.put("/cache/a/k?ttl=604800", "x").await.expect(201);
}

#[tokio::test]
async fn bad_tags_are_a_problem() {
    let service = Service::start().await;
    let seventeen = (0..17).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    for tags in ["a b", "a,#", "é", &"t".repeat(129), &seventeen] {
        service.put("/cache/a/k", "x").header("cache-tags", tags).await.expect_problem(400, "invalid_tags");
    }
    let media_type = "t".repeat(256);
    service.put("/cache/a/k", "x").header("content-type", media_type).await.expect_problem(400, "invalid_media_type");
    service.put("/cache/a/k", "x").header("if-match", "bare").await.expect_problem(400, "invalid_condition");
    service.client.get("/cache/a/k").await.expect_problem(404, "not_found");
}

#[tokio::test]
async fn the_openapi_document_names_every_operation() {
    let service = Service::start().await;
    let document = service.client.get("/openapi.json").anonymous().await.expect(200).json();
    let paths = &document["paths"];
    for (path, method) in [
        ("/cache/{namespace}/{key}", "get"),
        ("/cache/{namespace}/{key}", "put"),
        ("/cache/{namespace}/{key}", "delete"),
        ("/cache/{namespace}/tags/{tag}", "delete"),
    ] {
        let operation = &paths[path][method];
        assert!(operation["security"][0]["bearer"].is_array(), "{method} {path}: {operation}");
        assert!(operation["responses"]["401"].is_object(), "{method} {path}");
    }
    let body = &paths["/cache/{namespace}/{key}"]["put"]["requestBody"]["content"];
    assert!(body["application/octet-stream"].is_object(), "{body}");
}
