//! What happened to a person, and what a refusal says of what they had.

use chrono::{Duration, Utc};
use kronos_testkit::wait_until;
use serde_json::{Value, json};

use crate::harness::Fixture;

#[tokio::test]
async fn the_history_says_who_changed_what_before_and_after_and_nothing_that_is_sealed() {
    let fixture = Fixture::new().await;
    let schema = json!({"attributes": {"note": {"type": "string"}, "phone": {"type": "string", "sealed": true}}});
    fixture.admin.put("/users/schema", &schema).await.expect(200);
    fixture.role("customer", &["robots:use"], &[]).await;
    let id = fixture.user("camille").await;
    let patch = json!({"displayName": "Cam", "attributes": {"note": "new", "phone": "0123456789"}});
    fixture.admin.patch(&format!("/users/{id}"), &patch).await.expect(200);
    fixture.admin.patch(&format!("/users/{id}"), &json!({"attributes": {"phone": "999999"}})).await.expect(200);
    fixture.give(&id, "customer", json!({"resource": "robot:R-42"})).await;
    let group = fixture.group("Lyon").await;
    fixture.join(&group, &id).await;
    fixture.admin.delete(&format!("/users/{id}/roles/customer?resource=robot:R-42")).await.expect(204);
    let history = fixture.admin.get(&format!("/users/{id}/history")).await.expect(200);
    assert!(!history.text().contains("0123456789") && !history.text().contains("999999"), "{history}");
    let history = history.json();
    let entries = history["items"].as_array().unwrap();
    let what: Vec<&str> = entries.iter().map(|entry| entry["what"].as_str().unwrap()).collect();
    assert_eq!(what, ["role-taken", "group-joined", "role-given", "updated", "updated", "created"]);
    assert!(entries.iter().all(|entry| entry["by"]["subject"] == "root"));
    let role = json!({"role": "customer", "resource": "robot:R-42", "expiresAt": null});
    assert_eq!((&entries[0]["before"], &entries[0]["after"]), (&role, &Value::Null));
    assert_eq!((&entries[2]["before"], &entries[2]["after"]), (&Value::Null, &role));
    assert_eq!(entries[1]["after"], json!({"group": group}));
    let sealed = json!({"attributes.phone": {"sealed": true}});
    assert_eq!((&entries[3]["before"], &entries[3]["after"]), (&sealed, &sealed));
    assert_eq!(entries[4]["before"], json!({"displayName": "camille"}));
    let after = json!({"displayName": "Cam", "attributes.note": "new", "attributes.phone": {"sealed": true}});
    assert_eq!(entries[4]["after"], after);
    assert_eq!(entries[5]["after"]["username"], "camille");

    let first = fixture.admin.get(&format!("/users/{id}/history?limit=4")).await.expect(200).json();
    let next = format!("/users/{id}/history?cursor={}", first["nextCursor"].as_str().unwrap());
    assert_eq!(fixture.admin.get(&next).await.expect(200).json()["items"], json!(entries[4..]));
    fixture.caller(&["users:read", "users:write"]).get(&next).await.expect_problem(403, "permission_denied");
}

#[tokio::test]
async fn a_refusal_says_until_when_somebody_had_what_they_miss() {
    let fixture = Fixture::new().await;
    fixture.role("customer", &["robots:use"], &[]).await;
    let (id, member) = (fixture.user("camille").await, fixture.user("mario").await);
    let group = fixture.group("Lyon").await;
    fixture.join(&group, &member).await;
    let end = Utc::now() + Duration::seconds(2);
    let assignment = json!({"resource": "robot:R-42", "expiresAt": end});
    let mut events = fixture.listen("kronos.*.role-ended").await;
    fixture.give(&id, "customer", assignment.clone()).await;
    fixture.admin.put(&format!("/groups/{group}/roles/customer"), &assignment).await.expect(200);
    for _ in 0..2 {
        events.next().await;
    }
    let mut epochs = Vec::new();
    for user in [&id, &member] {
        let list = fixture.admin.get(&format!("/users/{user}/roles")).await.expect(200).json();
        assert_eq!(list["items"], json!([]), "it is held no more");
        wait_until("the refusal tells the end", async || {
            let refused = fixture.access(user, "permission=robots:use&resource=robot:R-42").await;
            assert_eq!(refused["allowed"], false);
            let near = &refused["missing"]["nearest"][0];
            near["because"] == "ended" && !near["expiresAt"].is_null()
        })
        .await;
        epochs.push(fixture.epoch(user).await);
    }
    // What has ended does not concern them any more.
    fixture.admin.put("/roles/customer", &json!({"permissions": ["robots:see"]})).await.expect(200);
    for (user, epoch) in [&id, &member].into_iter().zip(epochs) {
        assert_eq!(fixture.epoch(user).await, epoch);
    }
}
