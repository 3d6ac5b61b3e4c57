//! `/openapi.json` and `/docs`.

use axum::{Json, routing::get};
use serde_json::json;

use crate::harness::{Instance, World};

#[tokio::test]
async fn the_services_documents_are_one() {
    let document = |path: &'static str, kind: &'static str| {
        let document = json!({"openapi": "3.1.0", "paths": {path: {"get": {"tags": ["x"], "responses": {"200": {"content":
            {"application/json": {"schema": {"$ref": "#/components/schemas/Entry"}}}}}}}},
            "components": {"schemas": {"Entry": {"type": kind}}}});
        axum::Router::new().route("/openapi.json", get(async move || Json(document)))
    };
    let (auth, log) =
        (Instance::serve("auth", document("/auth/x", "string")), Instance::serve("log", document("/logs", "integer")));
    let mut world = World::new().await;
    world.config.services.auth_url = auth.url();
    world.config.services.log_url = log.url();
    world.config.gateway.openapi_cache_ms = 0;
    for url in [
        &mut world.config.services.user_url,
        &mut world.config.services.cache_url,
        &mut world.config.services.messaging_url,
        &mut world.config.services.database_admin_url,
    ] {
        "http://127.0.0.1:1".clone_into(url);
    }
    let gateway = world.start().await;
    let answer = gateway.client.get("/openapi.json").await.expect(200);
    assert_eq!(
        answer.header("x-kronos-missing"),
        Some("user-service, cache-service, messaging-service, database-admin")
    );
    let merged = answer.json();
    for path in ["/routes", "/routes/{id}", "/upstreams", "/upstreams/{id}", "/auth/x", "/logs"] {
        assert!(merged["paths"][path].is_object(), "{path}");
    }
    let reference = |path: &str| {
        merged["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].clone()
    };
    assert_eq!(reference("/auth/x"), "#/components/schemas/Entry");
    assert_eq!(reference("/logs"), "#/components/schemas/LogServiceEntry");
    assert_eq!(merged["components"]["schemas"]["LogServiceEntry"]["type"], "integer");
    assert!(merged["components"]["securitySchemes"]["bearer"].is_object());
    log.kill();
    let answer = gateway.client.get("/openapi.json").await.expect(200);
    assert!(answer.header("x-kronos-missing").unwrap().contains("log-service"));
    assert!(answer.json()["paths"]["/logs"].is_null());
}

#[tokio::test]
async fn every_operation_says_who_may_and_what_may_go_wrong() {
    let gateway = World::new().await.start().await;
    let document = gateway.client.get("/openapi.json").await.expect(200).json();
    let mut operations = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            operations += 1;
            assert!(operation["security"][0]["bearer"].is_array(), "{method} {path}");
            for status in ["401", "403"] {
                assert!(operation["responses"][status].is_object(), "{method} {path} {status}");
            }
        }
    }
    assert_eq!(operations, 20);
}

#[tokio::test]
async fn the_page_brings_all_that_it_needs() {
    let gateway = World::new().await.start().await;
    let page = gateway.client.get("/docs").await.expect(200);
    assert!(page.header("content-type").unwrap().starts_with("text/html"));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.contains("default-src 'none'") && policy.contains("script-src 'self'"), "{policy}");
    for (path, kind) in [("/docs/page.js", "text/javascript"), ("/docs/page.css", "text/css")] {
        assert!(page.text().contains(path));
        let file = gateway.client.get(path).await.expect(200);
        assert!(file.header("content-type").unwrap().starts_with(kind));
        assert!(!file.text().contains("http://") && !file.text().contains("https://"), "nothing from elsewhere");
    }
}
