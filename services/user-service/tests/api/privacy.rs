//! What Kronos holds on a person, and how it forgets them; the other services are played. All of them together: tests/e2e.

use std::time::Duration;

use kronos_testkit::{TestClient, wait_up_to};
use serde_json::{Value, json};

use crate::harness::{Fixture, Mood};

async fn finished(client: &TestClient, id: &str) -> Value {
    let mut receipt = Value::Null;
    wait_up_to(Duration::from_secs(30), "everybody has forgotten", async || {
        receipt = client.get(&format!("/users/{id}/erasure")).await.expect(200).json();
        !receipt["finishedAt"].is_null()
    })
    .await;
    receipt
}

#[tokio::test]
async fn an_export_has_what_every_service_holds_or_is_none() {
    let fixture = Fixture::new().await;
    let schema = json!({"attributes": {"phone": {"type": "string", "sealed": true}}});
    fixture.admin.put("/users/schema", &schema).await.expect(200);
    fixture.role("customer", &["robots:use"], &[]).await;
    let id = fixture.user("camille").await;
    fixture.admin.patch(&format!("/users/{id}"), &json!({"attributes": {"phone": "1"}})).await.expect(200);
    fixture.give(&id, "customer", json!({})).await;
    let path = format!("/users/{id}/privacy-export");
    let export = fixture.admin.post(&path, &json!({})).await.expect(200);
    assert_eq!(export.header("cache-control"), Some("no-store"));
    let services = &export.json()["services"];
    assert_eq!(services.as_object().unwrap().len(), 4);
    assert_eq!(services["log-service"], json!({"known": "camille"}));
    assert_eq!(services["user-service"]["person"]["attributes"], json!({"phone": "1"}));
    assert_eq!(services["user-service"]["roles"][0]["role"], "customer");
    fixture.platform.auth.set(Mood::Away);
    fixture.admin.post(&path, &json!({})).await.expect_problem(503, "service_unavailable");
    fixture
        .caller(&["users:read", "users:write"])
        .post(&path, &json!({}))
        .await
        .expect_problem(403, "permission_denied");
    // Nobody looks at, or erases, who may more than they.
    fixture.role("chief", &["credentials:write"], &[]).await;
    fixture.give(&id, "chief", json!({})).await;
    for path in [path, format!("/users/{id}/erase")] {
        fixture.caller(&["users:manage"]).post(&path, &json!({})).await.expect_problem(403, "permission_denied");
    }
}

#[tokio::test]
async fn an_erasure_goes_on_until_everybody_has_forgotten_whatever_restarts() {
    let fixture = Fixture::new().await;
    let id = fixture.user("camille").await;
    let mut events = fixture.listen("kronos.user.deleted").await;
    fixture.platform.auth.set(Mood::Away);
    let erase = || fixture.admin.post(&format!("/users/{id}/erase"), &json!({}));
    let begun = erase().await.expect(202);
    assert_eq!(begun.header("location"), Some(format!("/users/{id}/erasure").as_str()));
    assert!(begun.json()["finishedAt"].is_null());
    fixture.admin.get(&format!("/users/{id}")).await.expect_problem(404, "not_found");
    let event = events.next().await;
    assert_eq!((event.subject.as_deref(), &event.data["erased"]), (Some(id.as_str()), &json!(true)));
    assert!(!event.encode().contains("camille"));
    wait_up_to(Duration::from_secs(10), "it was tried", async || {
        let receipt = fixture.admin.get(&format!("/users/{id}/erasure")).await.expect(200).json();
        receipt["services"].as_array().unwrap().iter().filter(|part| part["error"].is_string()).count() == 3
    })
    .await;

    let Fixture { platform, running, .. } = fixture;
    running.stop().await;
    platform.auth.set(Mood::Willing);
    let running = platform.start().await;
    let admin = platform.caller(&running, "root", &["*:*"]);
    let receipt = finished(&admin, &id).await;
    let parts = receipt["services"].as_array().unwrap();
    let names: Vec<&str> = parts.iter().map(|part| part["service"].as_str().unwrap()).collect();
    assert_eq!(names, ["auth-service", "database-admin", "log-service", "user-service"]);
    for part in parts {
        assert!(!part["acknowledgedAt"].is_null() && part.get("error").is_none(), "{part}");
    }
    // Twice, because what was on its way arrives later.
    assert_eq!((&parts[0]["removed"]["things"], &parts[0]["kept"]), (&json!(2), &json!(["nothing of note"])));
    let forgotten = platform.auth.forgotten();
    assert_eq!(forgotten.len(), 6);
    let person = json!({"userId": id, "username": "camille", "email": "camille@example.com"});
    assert!(forgotten.iter().all(|asked| *asked == person), "{forgotten:?}");
    let database = platform.database.pool("kronos_users").await;
    let names: Option<String> = sqlx::query_scalar("select username from erasures").fetch_one(&database).await.unwrap();
    assert_eq!(names, None, "the name is gone with the last acknowledgement");
    let repeated = admin.post(&format!("/users/{id}/erase"), &json!({})).await.expect(202).json();
    assert_eq!(repeated, receipt);
}
