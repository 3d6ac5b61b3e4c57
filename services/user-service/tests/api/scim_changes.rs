//! What PATCH, groups and Bulk do, also as Entra sends it.

use serde_json::{Value, json};

use crate::{
    harness::Fixture,
    scim::{expect_error, make},
};

const ENTERPRISE: &str = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User";

fn operations(operations: Value) -> Value {
    json!({"schemas": ["urn:ietf:params:scim:api:messages:2.0:PatchOp"], "Operations": operations})
}

#[tokio::test]
async fn operations_do_what_the_standard_says() {
    let fixture = Fixture::new().await;
    let person = make(
        &fixture,
        &json!({
            "userName": "camille", "displayName": "Camille", "name": {"givenName": "C", "familyName": "M"},
            "emails": [{"value": "w@example.com", "type": "work", "primary": true}, {"value": "h@example.com", "type": "home"}],
        }),
    )
    .await;
    let path = format!("/scim/v2/Users/{}", person["id"].as_str().unwrap());
    let patch = |list: Value| fixture.admin.patch(&path, &operations(list));
    for (list, pointer, expected) in [
        (json!([{"op": "add", "path": "title", "value": "Dr"}]), "/title", json!("Dr")),
        (
            json!([{"op": "replace", "path": "name.givenName", "value": "Cam"}]),
            "/name",
            json!({"givenName": "Cam", "familyName": "M"}),
        ),
        (json!([{"op": "add", "path": "name", "value": {"middleName": "Z"}}]), "/name/familyName", json!("M")),
        (json!([{"op": "remove", "path": "name.middleName"}]), "/name", json!({"givenName": "Cam", "familyName": "M"})),
        (
            json!([{"op": "add", "path": "emails", "value": [{"value": "o@example.com", "primary": true}]}]),
            "/emails/0/primary",
            json!(false),
        ),
        (
            json!([{"op": "replace", "path": "emails[type eq \"home\"].value", "value": "H@example.com"}]),
            "/emails/1/value",
            json!("H@example.com"),
        ),
        (json!([{"op": "remove", "path": "emails[type eq \"home\"]"}]), "/emails/1/value", json!("o@example.com")),
        (json!([{"op": "remove", "path": "emails"}]), "/emails", Value::Null),
        (json!([{"op": "remove", "path": "displayName"}]), "/displayName", Value::Null),
        (json!([{"op": "remove", "path": "title"}]), "/title", Value::Null),
        (json!([{"op": "add", "value": {"nickName": "Cam", "id": "x", "groups": []}}]), "/nickName", json!("Cam")),
        (json!([{"op": "replace", "path": "active", "value": false}]), "/active", json!(false)),
        (json!([{"op": "remove", "path": "active"}]), "/active", Value::Null),
    ] {
        let answer = patch(list.clone()).await.expect(200).json();
        assert_eq!(answer.pointer(pointer).unwrap_or(&Value::Null), &expected, "{list}: {answer}");
        assert_eq!(fixture.admin.get(&path).await.expect(200).json(), answer, "{list}");
    }
    let before = fixture.admin.get(&path).await.json();
    for (list, kind) in [
        (json!([{"op": "replace", "path": "emails[type eq \"pager\"].value", "value": "x"}]), "noTarget"),
        (json!([{"op": "remove"}]), "noTarget"),
        (json!([{"op": "remove", "path": "userName"}]), "mutability"),
        (json!([{"op": "replace", "path": "id", "value": "x"}]), "mutability"),
        (json!([{"op": "add", "path": "groups", "value": [{"value": "x"}]}]), "mutability"),
        (json!([{"op": "add", "path": "colour", "value": "x"}]), "invalidPath"),
        (json!([{"op": "add", "path": "emails[", "value": "x"}]), "invalidPath"),
        (json!([{"op": "add", "path": "title[value eq \"x\"]", "value": "x"}]), "invalidPath"),
        (json!([{"op": "paint", "path": "title"}]), "invalidSyntax"),
        (json!([]), "invalidSyntax"),
        (json!([{"op": "add", "path": "title", "value": {"a": 1}}]), "invalidValue"),
        (
            json!([{"op": "add", "path": "nickName", "value": "X"}, {"op": "add", "path": "active", "value": 7}]),
            "invalidValue",
        ),
    ] {
        expect_error(&patch(list).await, 400, Some(kind));
    }
    assert_eq!(fixture.admin.get(&path).await.json(), before, "all operations or none");
    let replaced = fixture.admin.put(&path, &json!({"userName": "camille", "title": "Dr"})).await.expect(200).json();
    assert_eq!(
        (&replaced["title"], &replaced["nickName"], &replaced["name"]),
        (&json!("Dr"), &Value::Null, &Value::Null)
    );
}

#[tokio::test]
async fn what_entra_sends_is_taken() {
    let fixture = Fixture::new().await;
    let person = make(&fixture, &json!({"userName": "camille@example.com", "active": "True"})).await;
    let path = format!("/scim/v2/Users/{}", person["id"].as_str().unwrap());
    let list = json!([
        {"op": "Replace", "path": "active", "value": "False"},
        {"op": "Add", "path": "emails[type eq \"work\"].value", "value": "camille@example.com"},
        {"op": "Add", "path": format!("{ENTERPRISE}:department"), "value": "Sales"},
        {"op": "Add", "path": format!("{ENTERPRISE}:manager"), "value": person["id"]},
        {"op": "Replace", "value": {"displayName": "Camille", "name.familyName": "Martin", format!("{ENTERPRISE}:employeeNumber"): 7}},
    ]);
    let changed = fixture.admin.patch(&path, &operations(list)).await.expect(200).json();
    assert_eq!(changed["active"], false);
    assert_eq!(changed["emails"], json!([{"type": "work", "value": "camille@example.com"}]));
    assert_eq!(changed["name"], json!({"familyName": "Martin"}));
    let expected = json!({"department": "Sales", "manager": {"value": person["id"]}, "employeeNumber": "7"});
    assert_eq!(changed[ENTERPRISE], expected);
    assert_eq!(changed["schemas"][1], ENTERPRISE);
    let gone = operations(json!([{"op": "Remove", "path": ENTERPRISE}]));
    assert_eq!(fixture.admin.patch(&path, &gone).await.expect(200).json()[ENTERPRISE], Value::Null);
}

#[tokio::test]
async fn a_group_gives_its_roles_to_its_members_as_scim_changes_them() {
    let fixture = Fixture::new().await;
    let mut events = fixture.listen("kronos.group.*").await;
    let (anna, ben) = (fixture.user("anna").await, fixture.user("ben").await);
    let sent = json!({"displayName": "G", "externalId": "g-1", "members": [{"value": anna}]});
    let made = fixture.admin.post("/scim/v2/Groups", &sent).await.expect(201);
    assert!(made.header("kronos-epoch").is_some());
    let group = made.json();
    let id = group["id"].as_str().unwrap();
    let link = |person: &str| {
        let base = group["meta"]["location"].as_str().unwrap().split("/Groups").next().unwrap();
        json!({"value": person, "$ref": format!("{base}/Users/{person}"), "type": "User"})
    };
    assert_eq!(group["members"], json!([link(&anna)]));
    fixture.role("reader", &["x:read"], &[]).await;
    fixture.admin.put(&format!("/groups/{id}/roles/reader"), &json!({})).await.expect(200);
    let path = format!("/scim/v2/Groups/{id}");
    let may = async |person: &str| fixture.access(person, "permission=x:read").await["allowed"] == true;
    assert!(may(&anna).await && !may(&ben).await);

    for (list, members) in [
        (json!([{"op": "Add", "path": "members", "value": [{"value": ben}]}]), vec![&anna, &ben]),
        (json!([{"op": "Remove", "path": format!("members[value eq \"{anna}\"]")}]), vec![&ben]),
        (json!([{"op": "Remove", "path": "members", "value": [{"value": ben}]}]), vec![]),
        (json!([{"op": "add", "value": {"members": [{"value": anna}, {"value": ben}]}}]), vec![&anna, &ben]),
        (json!([{"op": "remove", "path": "members[type eq \"User\"]"}]), vec![]),
        (json!([{"op": "replace", "path": "members", "value": [{"value": ben}]}]), vec![&ben]),
        (
            json!([{"op": "remove", "path": "members"}, {"op": "add", "path": "members", "value": [{"value": anna}]}]),
            vec![&anna],
        ),
    ] {
        let before = fixture.admin.get(&path).await.expect(200).json();
        let answer = fixture.admin.patch(&path, &operations(list.clone())).await.expect(204);
        assert!(answer.header("kronos-epoch").is_some() && answer.body.is_empty());
        let group = fixture.admin.get(&path).await.expect(200).json();
        let expected: Vec<Value> = members.iter().map(|person| link(person)).collect();
        assert_eq!(group["members"].as_array().cloned().unwrap_or_default(), expected, "{list}");
        assert_ne!(group["meta"]["version"], before["meta"]["version"], "members are part of the version");
        assert_eq!((may(&anna).await, may(&ben).await), (members.contains(&&anna), members.contains(&&ben)));
    }
    let shown = fixture.admin.get(&format!("/scim/v2/Users/{anna}")).await.expect(200).json();
    assert_eq!((&shown["groups"][0]["value"], &shown["groups"][0]["display"]), (&json!(id), &json!("G")));
    for (filter, found) in [
        (format!("members eq \"{anna}\""), 1),
        (format!("id eq \"{id}\" and members.value eq \"{ben}\""), 0),
        (format!("not (members[value eq \"{ben}\"]) and externalId eq \"g-1\""), 1),
    ] {
        let body = json!({"filter": filter, "excludedAttributes": ["members"]});
        let answer = fixture.admin.post("/scim/v2/Groups/.search", &body).await.expect(200).json();
        assert_eq!(answer["totalResults"], found, "{filter}");
        assert_eq!(answer["Resources"][0]["members"], Value::Null);
    }
    let stranger = json!([{"op": "add", "path": "members", "value": [{"value": uuid::Uuid::now_v7()}]}]);
    expect_error(&fixture.admin.patch(&path, &operations(stranger)).await, 400, Some("invalidValue"));
    let twin = fixture.admin.post("/scim/v2/Groups", &json!({"displayName": "g"})).await;
    expect_error(&twin, 409, Some("uniqueness"));
    fixture.admin.delete(&path).await.expect(204);
    assert!(!may(&anna).await);
    let first = [events.next().await.type_, events.next().await.type_];
    assert_eq!(first, ["kronos.group.created", "kronos.group.member-added"]);
}

#[tokio::test]
async fn many_operations_in_one_request_may_refer_to_one_another() {
    let fixture = Fixture::new().await;
    let bulk = |fail: Value, list: Value| {
        fixture.admin.post("/scim/v2/Bulk", &json!({"failOnErrors": fail, "Operations": list}))
    };
    let answer = bulk(
        Value::Null,
        json!([
            {"method": "POST", "path": "/Groups", "bulkId": "g", "data": {"displayName": "G", "members": [{"value": "bulkId:a"}]}},
            {"method": "POST", "path": "/Users", "bulkId": "a", "data": {"userName": "anna"}},
            {"method": "POST", "path": "/Users", "bulkId": "twin", "data": {"userName": "ANNA"}},
            {"method": "patch", "path": "/Users/bulkId:a", "data": {"Operations": [{"op": "add", "path": "title", "value": "Dr"}]}},
            {"method": "POST", "path": "/Groups", "bulkId": "never", "data": {"displayName": "N", "members": [{"value": "bulkId:nobody"}]}},
        ]),
    )
    .await
    .expect(200)
    .json();
    let status = |bulk_id: &str| {
        let list = answer["Operations"].as_array().unwrap();
        list.iter().find(|one| one["bulkId"] == bulk_id).unwrap()["status"].as_str().unwrap().to_owned()
    };
    assert_eq!([status("g"), status("a"), status("twin"), status("never")], ["201", "201", "409", "409"]);
    let group = fixture.admin.get("/scim/v2/Groups").await.expect(200).json();
    assert_eq!(group["Resources"][0]["members"].as_array().unwrap().len(), 1);
    let anna = fixture.admin.get("/scim/v2/Users").await.expect(200).json()["Resources"][0].take();
    assert_eq!(anna["title"], "Dr");
    let path = format!("/Users/{}", anna["id"].as_str().unwrap());

    let stopped = bulk(
        json!(1),
        json!([
            {"method": "DELETE", "path": path, "version": "\"v1\""},
            {"method": "POST", "path": "/Users", "bulkId": "b", "data": {"userName": "ben"}},
        ]),
    );
    let stopped = stopped.await.expect(200).json();
    assert_eq!(
        (stopped["Operations"].as_array().unwrap().len(), &stopped["Operations"][0]["status"]),
        (1, &json!("412"))
    );
    let removed = bulk(Value::Null, json!([{"method": "DELETE", "path": path, "version": anna["meta"]["version"]}]));
    assert_eq!(removed.await.expect(200).json()["Operations"][0]["status"], "204");
    assert_eq!(fixture.admin.get("/scim/v2/Users").await.json()["totalResults"], 0);
    expect_error(&fixture.admin.post("/scim/v2/Bulk", &json!({})).await, 400, Some("invalidSyntax"));
    let many = json!(vec![json!({"method": "DELETE", "path": "/Users/x"}); 501]);
    expect_error(&bulk(Value::Null, many).await, 413, None);
}
