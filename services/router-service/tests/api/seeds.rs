//! What the first start creates, and what it leaves alone.

use serde_json::{Value, json};

use crate::harness::{Gateway, Instance, World};

async fn by_name(gateway: &Gateway, kind: &str, name: &str) -> Option<Value> {
    let page = gateway.admin.get(&format!("/{kind}?limit=200")).await.expect(200).json();
    page["items"].as_array().unwrap().iter().find(|item| item["name"] == name).cloned()
}

#[tokio::test]
async fn the_six_services_are_reached_from_the_first_start_on() {
    let mut world = World::new().await;
    let names = ["auth", "user", "log", "cache", "messaging", "database-admin"];
    let instances = names.map(Instance::start);
    let services = &mut world.config.services;
    for (url, instance) in [
        &mut services.auth_url,
        &mut services.user_url,
        &mut services.log_url,
        &mut services.cache_url,
        &mut services.messaging_url,
        &mut services.database_admin_url,
    ]
    .into_iter()
    .zip(&instances)
    {
        *url = instance.url();
    }
    let gateway = world.start().await;
    let token = world.issuer.token("u", &[]);
    for (path, service) in [
        ("/auth/check", "auth"),
        ("/auth/passkeys", "auth"),
        ("/auth/passkeys/register/begin", "auth"),
        ("/users", "user"),
        ("/roles/x", "user"),
        ("/permissions", "user"),
        ("/groups", "user"),
        ("/logs/tail", "log"),
        ("/v1/logs", "log"),
        ("/cache/robots/7", "cache"),
        ("/topics", "messaging"),
        ("/publish", "messaging"),
        ("/subscribe/x", "messaging"),
        ("/ack/1", "messaging"),
        ("/retry/1", "messaging"),
        ("/extend/1", "messaging"),
        ("/queues/create", "messaging"),
        ("/dead-letters", "messaging"),
        ("/request/x", "messaging"),
        ("/requests/1", "messaging"),
        ("/reply/1", "messaging"),
        ("/schedules", "messaging"),
        ("/asyncapi.json", "messaging"),
        ("/messages/1", "messaging"),
        ("/db/status", "database-admin"),
    ] {
        gateway.client.get(path).await.expect_problem(401, "token_missing");
        assert_eq!(gateway.client.get(path).bearer(&token).await.expect(200).json()["instance"], service, "{path}");
    }
    for path in [
        "/auth/login",
        "/auth/refresh",
        "/auth/register",
        "/auth/password-reset",
        "/auth/password-reset/confirm",
        "/auth/verify-email",
        "/auth/passkeys/login/begin",
        "/auth/passkeys/login/finish",
        "/nodes/enrol",
        "/nodes/rotate",
        "/oauth/token",
        "/oauth/authorize",
        "/oauth/clients",
        "/device",
        "/.well-known/jwks.json",
    ] {
        assert_eq!(gateway.client.post(path, &json!({})).await.expect(200).json()["instance"], "auth", "{path}");
    }
    // Directories want refusals in SCIM's form: user-service looks at the token.
    assert_eq!(gateway.client.get("/scim/v2/Users").await.expect(200).json()["instance"], "user");
    gateway.client.get("/nodes").await.expect_problem(401, "token_missing");
    gateway.client.get("/auth/login/more").await.expect_problem(401, "token_missing");
    gateway.client.get("/live").await.expect_problem(404, "not_found");
    gateway.client.get("/metrics").await.expect_problem(404, "not_found");
}

#[tokio::test]
async fn a_later_start_changes_nothing_that_somebody_changed() {
    let mut world = World::new().await;
    let gateway = world.start().await;
    let edited = by_name(&gateway, "upstreams", "log-service").await.unwrap();
    let own = json!({"name": "log-service", "instances": [{"url": "http://logs.example:1"}]});
    gateway.admin.put(&format!("/upstreams/{}", edited["id"].as_str().unwrap()), &own).await.expect(200);
    let deleted = by_name(&gateway, "routes", "db").await.unwrap();
    gateway.admin.delete(&format!("/routes/{}", deleted["id"].as_str().unwrap())).await.expect(204);
    gateway.running.stop().await;

    "http://auth.example:7".clone_into(&mut world.config.services.auth_url);
    "http://other.example:7".clone_into(&mut world.config.services.log_url);
    let gateway = world.start().await;
    let url = async |name: &str| by_name(&gateway, "upstreams", name).await.unwrap()["instances"][0]["url"].clone();
    assert_eq!(url("auth-service").await, "http://auth.example:7", "the configuration moved it");
    assert_eq!(url("log-service").await, "http://logs.example:1", "a person moved it");
    assert_eq!(url("user-service").await, "http://127.0.0.1:7020");
    assert!(by_name(&gateway, "routes", "db").await.is_none(), "what was deleted stays deleted");
    assert!(by_name(&gateway, "routes", "logs").await.is_some());
}

#[tokio::test]
async fn gateways_that_start_together_create_everything_once() {
    let world = World::new().await;
    let gateways = futures::future::join_all((0..3).map(|_| world.start())).await;
    for gateway in &gateways {
        let page = gateway.admin.get("/upstreams").await.expect(200).json();
        assert_eq!(page["items"].as_array().unwrap().len(), 6);
    }
}
