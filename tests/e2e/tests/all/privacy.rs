//! What all of Kronos holds on a person, in one answer; and that all of it is forgotten, also by a service that was away.

use std::time::Duration;

use kronos_e2e::api::Api;
use kronos_testkit::wait_up_to;
use serde_json::{Value, json};

use crate::platform::{Platform, SERVICES};

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn every_service_declares_its_permissions_when_it_starts() {
    let platform = Platform::start().await;
    let admin = Api::administrator(&platform.target).await.unwrap();
    for service in SERVICES {
        let page = admin.get(&format!("/permissions?service={service}")).await.unwrap().expect(200).unwrap();
        assert!(!page["items"].as_array().unwrap().is_empty(), "{service} has declared nothing");
    }
    // Callers that are clients can have what the services ask for.
    let role = json!({ "name": "reader", "permissions": ["logs:read", "cache:read", "topics:read", "db:read", "routes:read"] });
    admin.post("/roles", &role).await.unwrap().expect(201).unwrap();
}

#[tokio::test]
async fn a_person_is_shown_whole_and_forgotten_whole_by_every_service() {
    let mut platform = Platform::start().await;
    let admin = Api::administrator(&platform.target).await.unwrap();
    let (name, password) = ("camille.martin", "a long enough password 7");
    let body =
        json!({ "username": name, "email": "camille@example.com", "displayName": "Camille", "password": password });
    let user = admin.post("/users", &body).await.unwrap().expect(201).unwrap();
    let id = user["id"].as_str().unwrap().to_owned();
    Api::login(&platform.target, name, password).await.unwrap();

    let export = |api: Api| {
        let path = format!("/users/{id}/privacy-export");
        async move { api.post(&path, &json!({})).await.unwrap() }
    };
    wait_up_to(PATIENCE, "the events about the person are in the log", async || {
        let answer = export(admin.clone()).await.expect(200).unwrap();
        !answer["services"]["log-service"]["lines"].as_array().unwrap().is_empty()
    })
    .await;
    let all = export(admin.clone()).await.expect(200).unwrap();
    let services = &all["services"];
    assert_eq!(services["user-service"]["person"]["username"], name);
    assert_eq!(services["auth-service"]["account"]["email"], "camille@example.com");
    assert_eq!(services["auth-service"]["sessions"].as_array().unwrap().len(), 1);
    assert!(!services["auth-service"]["audit"].as_array().unwrap().is_empty());
    assert!(services["database-admin"]["queries"].is_array());
    assert!(!all.to_string().contains("argon2"), "no secret is in an export");
    let powerless = Api::client(&platform.target, "ouranos-crm").await.unwrap();
    export(powerless).await.refused(403, "permission_denied").unwrap();

    platform.kill("log-service").await;
    export(admin.clone()).await.refused(503, "service_unavailable").unwrap();
    let receipt = admin.post(&format!("/users/{id}/erase"), &json!({})).await.unwrap().expect(202).unwrap();
    assert!(receipt["finishedAt"].is_null());
    let path = format!("/users/{id}/erasure");
    let part = |receipt: &Value, service: &str| -> Value {
        let parts = receipt["services"].as_array().unwrap();
        parts.iter().find(|part| part["service"] == service).unwrap().clone()
    };
    wait_up_to(PATIENCE, "all but the one that is away have forgotten", async || {
        let receipt = admin.get(&path).await.unwrap().expect(200).unwrap();
        ["auth-service", "user-service", "database-admin"]
            .iter()
            .all(|service| !part(&receipt, service)["acknowledgedAt"].is_null())
            && part(&receipt, "log-service")["error"].is_string()
    })
    .await;
    let receipt = admin.get(&path).await.unwrap().expect(200).unwrap();
    assert!(receipt["finishedAt"].is_null(), "{receipt}");
    assert!(Api::login(&platform.target, name, password).await.is_err(), "the account is gone before all is forgotten");
    // The one who remembers what is to be done may be away too.
    platform.kill("user-service").await;
    platform.restart("log-service").await;
    platform.restart("user-service").await;
    wait_up_to(PATIENCE, "everybody has forgotten", async || {
        let receipt = admin.get(&path).await.unwrap();
        receipt.status == 200 && !receipt.json["finishedAt"].is_null()
    })
    .await;
    let receipt = admin.get(&path).await.unwrap().expect(200).unwrap();
    assert!(part(&receipt, "log-service")["removed"]["lines"].as_i64().unwrap() > 0, "{receipt}");
    assert!(!receipt.to_string().contains("camille"), "{receipt}");

    assert!(Api::login(&platform.target, name, password).await.is_err());
    export(admin.clone()).await.refused(404, "not_found").unwrap();
    let lines = admin.get("/logs?q=camille").await.unwrap().expect(200).unwrap();
    assert_eq!(lines["items"].as_array().map(Vec::len), Some(0), "{lines}");
    assert!(platform.audit_verifies(&admin).await, "the chain is whole without the person");
    let repeated = admin.post(&format!("/users/{id}/erase"), &json!({})).await.unwrap().expect(202).unwrap();
    assert_eq!(repeated, receipt);
    let again = admin.post("/users", &body).await.unwrap().expect(201).unwrap();
    assert_ne!(again["id"], receipt["userId"]);
}
