//! Groups: made, joined, given roles; and what that means for members.

use std::time::Instant;

use chrono::{SecondsFormat, Utc};
use kronos_testkit::{http, wait_until};
use serde_json::json;

use crate::harness::Fixture;

#[tokio::test]
async fn a_group_is_made_read_renamed_listed_and_removed() {
    let fixture = Fixture::new().await;
    let made = fixture.admin.post("/groups", &json!({"name": "Lyon", "description": "There"})).await.expect(201);
    let group = made.json();
    let path = format!("/groups/{}", group["id"].as_str().unwrap());
    assert_eq!(made.header("location"), Some(path.as_str()));
    fixture.admin.post("/groups", &json!({"name": "ＬＹＯＮ"})).await.expect_problem(409, "group_exists");
    let tag = made.header("etag").unwrap().to_owned();
    fixture.admin.get(&path).header("if-none-match", &tag).await.expect(304);
    let renamed = fixture.admin.patch(&path, &json!({"name": "Paris"})).header("if-match", &tag).await.expect(200);
    assert_eq!((&renamed.json()["name"], &renamed.json()["description"]), (&json!("Paris"), &json!("There")));
    let lost = fixture.admin.patch(&path, &json!({"name": "Nice"})).header("if-match", &tag).await;
    lost.expect_problem(412, "precondition_failed");
    fixture.group("Arles").await;
    let first = fixture.admin.get("/groups?limit=1").await.expect(200).json();
    assert_eq!(first["items"][0]["name"], "Arles");
    let next = format!("/groups?limit=1&cursor={}", first["nextCursor"].as_str().unwrap());
    assert_eq!(fixture.admin.get(&next).await.expect(200).json()["items"][0]["name"], "Paris");
    fixture.admin.delete(&path).await.expect(204);
    fixture.admin.get(&path).await.expect_problem(404, "not_found");
}

#[tokio::test]
async fn a_member_has_the_groups_roles_as_long_as_they_are_one() {
    let fixture = Fixture::new().await;
    fixture.role("customer", &["robots:use"], &[]).await;
    fixture.role("technician", &["logs:read"], &["customer"]).await;
    let (user, group) = (fixture.user("theo").await, fixture.group("Lyon").await);
    let roles = format!("/groups/{group}/roles/technician");
    fixture.admin.put(&roles, &json!({"resource": "customer:17/*"})).await.expect(200);
    let joined = fixture.join(&group, &user).await;
    let question = "permission=robots:use&resource=customer:17/robot:R-42";
    let answer = fixture.access(&user, question).await;
    assert_eq!(
        answer["why"],
        json!([
            "theo is a member of Lyon",
            "Lyon has the role technician on customer:17/*",
            "technician inherits customer",
            "customer grants robots:use",
        ])
    );
    assert_eq!((&answer["grant"]["group"], &answer["epoch"]), (&json!("Lyon"), &json!(joined)));
    let again = fixture.admin.put(&format!("/groups/{group}/members/{user}"), &json!({})).await.expect(204);
    assert_eq!(again.header("kronos-epoch"), None, "the same again changes nothing");
    let members = fixture.admin.get(&format!("/groups/{group}/members")).await.expect(200).json();
    assert_eq!(members["items"][0]["username"], "theo");
    let groups = fixture.admin.get(&format!("/users/{user}/groups")).await.expect(200).json();
    assert_eq!(groups["items"][0]["name"], "Lyon");

    fixture.admin.delete(&format!("/groups/{group}/members/{user}")).await.expect(204);
    assert_eq!(fixture.access(&user, question).await["allowed"], false);
    fixture.admin.delete(&format!("/groups/{group}/members/{user}")).await.expect_problem(404, "not_found");
    fixture.join(&group, &user).await;
    fixture.admin.delete(&format!("{roles}?resource=customer:17/*")).await.expect(204);
    assert_eq!(fixture.access(&user, question).await["allowed"], false);
    fixture.admin.put(&roles, &json!({})).await.expect(200);
    assert_eq!(fixture.grants(&user).await["permissions"], json!(["logs:read", "robots:use"]));
    fixture.admin.delete(&format!("/groups/{group}")).await.expect(204);
    assert_eq!(fixture.grants(&user).await["permissions"], json!([]));
}

#[tokio::test]
async fn what_a_group_has_ends_on_time_and_is_told() {
    let fixture = Fixture::new().await;
    fixture.role("customer", &["robots:use"], &[]).await;
    let (user, group) = (fixture.user("camille").await, fixture.group("Trial").await);
    fixture.join(&group, &user).await;
    let mut ended = fixture.listen("kronos.group.role-ended").await;
    let end = Utc::now() + chrono::TimeDelta::milliseconds(700);
    let path = format!("/groups/{group}/roles/customer");
    let past = json!({"expiresAt": "2020-01-01T00:00:00Z"});
    fixture.admin.put(&path, &past).await.expect_problem(422, "invalid_request");
    let body = json!({"expiresAt": end.to_rfc3339_opts(SecondsFormat::Millis, true)});
    let given = fixture.admin.put(&path, &body).await.expect(200);
    assert_eq!(fixture.access(&user, "permission=robots:use").await["allowed"], true);
    let event = ended.next().await;
    let late = (Utc::now() - end).num_milliseconds();
    assert!((0..1_000).contains(&late), "{late} ms late");
    assert_eq!((event.subject.as_deref(), &event.data["role"]), (Some(group.as_str()), &json!("customer")));
    assert_eq!(fixture.access(&user, "permission=robots:use").await["allowed"], false);
    let before: i64 = given.header("kronos-epoch").unwrap().parse().unwrap();
    assert!(fixture.epoch(&user).await > before);
}

#[tokio::test]
async fn a_members_token_ends_when_the_group_changes() {
    let fixture = Fixture::new().await;
    fixture.role("reader", &["users:read"], &[]).await;
    let (user, group) = (fixture.user("camille").await, fixture.group("Readers").await);
    fixture.admin.put(&format!("/groups/{group}/roles/reader"), &json!({})).await.expect(200);
    let epoch = fixture.join(&group, &user).await;
    let token = fixture.platform.issuer.build(&user).permissions(&["users:read"]).epoch(epoch).sign();
    let client = http(fixture.running.api).bearer(&token);
    client.get("/users").await.expect(200);
    fixture.admin.delete(&format!("/groups/{group}/roles/reader")).await.expect(204);
    let answered = Instant::now();
    wait_until("the old token is refused", async || client.get("/users").await.code() == "token_revoked").await;
    assert!(answered.elapsed().as_millis() < 250, "{:?}", answered.elapsed());
}

#[tokio::test]
async fn an_administrator_by_a_group_counts_and_the_last_one_stays_by_whatever_way() {
    let fixture = Fixture::new().await;
    fixture.role("administrator", &["*:*"], &[]).await;
    fixture.role("deputy", &[], &["administrator"]).await;
    let (first, second) = (fixture.user("first").await, fixture.user("second").await);
    let group = fixture.group("Administrators").await;
    let membership = format!("/groups/{group}/members/{second}");
    fixture.join(&group, &second).await;
    fixture.admin.put(&format!("/groups/{group}/roles/deputy"), &json!({})).await.expect(200);
    fixture.give(&first, "administrator", json!({})).await;
    // The group still has one.
    fixture.admin.delete(&format!("/users/{first}/roles/administrator")).await.expect(204);
    let last = async |answer: kronos_testkit::TestResponse| drop(answer.expect_problem(409, "last_administrator"));
    last(fixture.admin.delete(&membership).await).await;
    last(fixture.admin.delete(&format!("/groups/{group}")).await).await;
    last(fixture.admin.delete(&format!("/groups/{group}/roles/deputy")).await).await;
    let ending = json!({"expiresAt": "2100-01-01T00:00:00Z"});
    last(fixture.admin.put(&format!("/groups/{group}/roles/deputy"), &ending).await).await;
    last(fixture.admin.put("/roles/deputy", &json!({"permissions": []})).await).await;
    last(fixture.admin.delete("/roles/deputy").await).await;
    last(fixture.admin.patch(&format!("/users/{second}"), &json!({"disabled": true})).await).await;
    last(fixture.admin.delete(&format!("/users/{second}")).await).await;
    assert_eq!(fixture.grants(&second).await["permissions"], json!(["*:*"]));

    let crm = fixture.caller(&["users:read", "users:write"]);
    let outsider = fixture.user("outsider").await;
    for refused in [
        crm.put(&format!("/groups/{group}/members/{outsider}"), &json!({})),
        crm.delete(&membership),
        crm.delete(&format!("/groups/{group}")),
        crm.patch(&format!("/groups/{group}"), &json!({"name": "x"})),
        crm.put(&format!("/groups/{group}/roles/administrator"), &json!({})),
        crm.patch(&format!("/users/{second}"), &json!({"displayName": "x"})),
    ] {
        refused.await.expect_problem(403, "permission_denied");
    }
}
