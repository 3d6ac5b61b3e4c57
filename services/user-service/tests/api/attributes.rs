//! Attributes that the administrator defines: their types, merge patches of them, filters on them, and those that are sealed.

use kronos_testkit::wait_until;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};

use crate::harness::{Fixture, Platform};

/// One of each type; the phone is sealed.
fn schema() -> Value {
    json!({"attributes": {
        "customerNumber": {"type": "string", "maxLength": 8, "description": "As on the invoice"},
        "robots": {"type": "integer"},
        "discount": {"type": "number"},
        "newsletter": {"type": "boolean"},
        "since": {"type": "dateTime"},
        "languages": {"type": "stringList"},
        "phone": {"type": "string", "sealed": true},
    }})
}

async fn fixture() -> Fixture {
    let fixture = Fixture::new().await;
    fixture.admin.put("/users/schema", &schema()).await.expect(200);
    fixture
}

async fn user(fixture: &Fixture, name: &str, attributes: Value) -> String {
    let email = format!("{name}@example.com");
    let body = json!({"username": name, "email": email, "displayName": name, "attributes": attributes});
    let user = fixture.admin.post("/users", &body).await.expect(201).json();
    user["id"].as_str().unwrap().to_owned()
}

async fn found(fixture: &Fixture, filter: &str) -> Vec<String> {
    let filter: String = filter.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let page = fixture.admin.get(&format!("/users?filter={filter}")).await.expect(200).json();
    page["items"].as_array().unwrap().iter().map(|user| user["username"].as_str().unwrap().to_owned()).collect()
}

fn pointers(problem: &Value) -> Vec<&str> {
    problem["errors"].as_array().unwrap().iter().map(|error| error["pointer"].as_str().unwrap()).collect()
}

async fn database(platform: &Platform) -> PgConnection {
    PgConnection::connect(&platform.database.url("kronos_users")).await.unwrap()
}

#[tokio::test]
async fn people_have_the_attributes_of_the_schema_and_no_others() {
    let fixture = fixture().await;
    let attributes = json!({
        "customerNumber": "C-17", "robots": 3.0, "discount": 2.5, "newsletter": true,
        "since": "2026-11-21T21:00:00+01:00", "languages": ["fr", "en"], "phone": "+33 1 23",
    });
    let id = user(&fixture, "camille", attributes).await;
    let shown = fixture.admin.get(&format!("/users/{id}")).await.expect(200).json();
    let expected = json!({
        "customerNumber": "C-17", "robots": 3, "discount": 2.5, "newsletter": true,
        "since": "2026-11-21T20:00:00.000000Z", "languages": ["fr", "en"], "phone": "+33 1 23",
    });
    assert_eq!(shown["attributes"], expected);
    let listed = fixture.admin.get("/users").await.expect(200).json();
    assert_eq!(listed["items"][0]["attributes"], expected);
    let bad = json!({
        "customerNumber": "123456789", "robots": 1.5, "discount": "2", "newsletter": "yes", "since": "yesterday",
        "languages": ["fr", 7], "phone": 7, "colour": "red",
    });
    let body = json!({"username": "bad", "email": "bad@example.com", "displayName": "Bad", "attributes": bad});
    let refused = fixture.admin.post("/users", &body).await.expect_problem(422, "invalid_request").json();
    let mut found = pointers(&refused);
    found.sort_unstable();
    let names = ["colour", "customerNumber", "discount", "languages", "newsletter", "phone", "robots", "since"];
    assert_eq!(found, names.map(|name| format!("/attributes/{name}")));
    // Directories know nothing of the schema, and change nothing of it.
    let scim = json!({"userName": "camille", "title": "Dr.", "emails": [{"value": "camille@example.com"}]});
    fixture.admin.put(&format!("/scim/v2/Users/{id}"), &scim).await.expect(200);
    assert_eq!(fixture.admin.get(&format!("/users/{id}")).await.json()["attributes"], expected);
}

#[tokio::test]
async fn a_merge_patch_takes_away_what_is_null_and_leaves_what_is_absent() {
    let fixture = fixture().await;
    let id = user(&fixture, "camille", json!({"customerNumber": "C-17", "robots": 3, "phone": "1"})).await;
    let path = format!("/users/{id}");
    let patch = |body: Value| {
        let request = fixture.admin.patch(&path, &body);
        request.header("content-type", "application/merge-patch+json")
    };
    let patched = patch(json!({"attributes": {"robots": 4, "customerNumber": null, "phone": "2"}})).await.expect(200);
    assert_eq!(patched.json()["attributes"], json!({"robots": 4, "phone": "2"}));
    let tag = patched.header("etag").unwrap().to_owned();
    let named = patch(json!({"displayName": "Camille"})).header("if-match", &tag).await.expect(200);
    assert_eq!(named.json()["attributes"], json!({"robots": 4, "phone": "2"}));
    let late = patch(json!({"attributes": {"robots": 5}})).header("if-match", &tag);
    late.await.expect_problem(412, "precondition_failed");
    let unchanged = patch(json!({"attributes": {"robots": 4.0, "newsletter": null}})).await.expect(200);
    assert_eq!(unchanged.header("etag"), named.header("etag"), "nothing has changed");
    assert_eq!(patch(json!({"attributes": null})).await.expect(200).json()["attributes"], json!({}));
    patch(json!({"username": null})).await.expect_problem(422, "invalid_request");
    patch(json!({"attributes": {"robots": {"a": 1}}})).await.expect_problem(422, "invalid_request");
    assert_eq!(fixture.admin.get(&path).await.json()["attributes"], json!({}));
}

#[tokio::test]
async fn what_is_required_cannot_be_missing() {
    let fixture = fixture().await;
    let old = fixture.user("old").await;
    let mut schema = schema();
    schema["attributes"]["customerNumber"]["required"] = true.into();
    fixture.admin.put("/users/schema", &schema).await.expect(200);
    let body = json!({"username": "new", "email": "new@example.com", "displayName": "New"});
    let refused = fixture.admin.post("/users", &body).await.expect_problem(422, "invalid_request").json();
    assert_eq!(pointers(&refused), ["/attributes/customerNumber"]);
    let id = user(&fixture, "new", json!({"customerNumber": "C-1"})).await;
    let null = json!({"attributes": {"customerNumber": null}});
    fixture.admin.patch(&format!("/users/{id}"), &null).await.expect_problem(422, "invalid_request");
    // Who was there before can be disabled all the same.
    fixture.admin.patch(&format!("/users/{old}"), &json!({"disabled": true})).await.expect(200);
    let some = json!({"attributes": {"robots": 1}});
    fixture.admin.patch(&format!("/users/{old}"), &some).await.expect_problem(422, "invalid_request");
}

#[tokio::test]
async fn people_are_found_by_their_attributes() {
    let fixture = fixture().await;
    for (name, attributes) in [
        ("anna", json!({"customerNumber": "C-17", "robots": 3, "languages": ["fr", "en_GB"], "phone": "+33 1"})),
        ("ben", json!({"customerNumber": "c-17", "robots": 20, "newsletter": true, "phone": "+33 2"})),
        ("carl", json!({"customerNumber": "50%\"x", "discount": 2.5, "since": "2026-11-21T20:00:00Z"})),
        ("dora", json!({})),
    ] {
        user(&fixture, name, attributes).await;
    }
    for (filter, expected) in [
        (r#"attributes.customerNumber eq "C-17""#, vec!["anna"]),
        (r#"attributes.CUSTOMERNUMBER eq "C-17""#, vec!["anna"]),
        (r#"attributes.customerNumber ne "C-17""#, vec!["ben", "carl", "dora"]),
        (r#"attributes.customerNumber ew "-17""#, vec!["anna", "ben"]),
        (r#"attributes.customerNumber sw "c-1""#, vec!["ben"]),
        (r#"attributes.customerNumber co "0%\"""#, vec!["carl"]),
        (r#"attributes.customerNumber co "%\"x""#, vec!["carl"]),
        (r#"attributes.customerNumber gt "C""#, vec!["anna", "ben"]),
        ("attributes.robots gt 3", vec!["ben"]),
        ("attributes.robots le 20 and not (attributes.robots eq 3.0)", vec!["ben"]),
        ("attributes.discount eq 2.5 or attributes.newsletter eq true", vec!["ben", "carl"]),
        (r#"attributes.since eq "2026-11-21T21:00:00+01:00""#, vec!["carl"]),
        (r#"attributes.since lt "2026-11-21T20:00:01Z""#, vec!["carl"]),
        (r#"attributes.languages eq "fr""#, vec!["anna"]),
        (r#"attributes.languages co "_GB""#, vec!["anna"]),
        (r#"attributes.languages eq "f""#, vec![]),
        ("attributes.languages pr", vec!["anna"]),
        ("attributes.robots eq null", vec!["carl", "dora"]),
        (r#"attributes.phone eq "+33 1""#, vec!["anna"]),
        (r#"attributes.phone ne "+33 1" and attributes.phone pr"#, vec!["ben"]),
        (r#"attributes.phone eq "+33""#, vec![]),
        (r#"displayName eq "ANNA" and emails.value co "@EXAMPLE""#, vec!["anna"]),
        (r#"userName co "ARL""#, vec!["carl"]),
    ] {
        assert_eq!(found(&fixture, filter).await, expected, "{filter}");
    }
    for bad in [
        r#"attributes.phone co "33""#,
        r#"attributes.phone gt "+33""#,
        "attributes.colour pr",
        "attributes.robots co 1",
        r#"attributes.robots eq "many""#,
        "attributes.newsletter gt true",
    ] {
        let filter: String = bad.bytes().map(|byte| format!("%{byte:02x}")).collect();
        fixture.admin.get(&format!("/users?filter={filter}")).await.expect_problem(400, "invalid_filter");
    }
}

#[tokio::test]
async fn sealed_attributes_are_nowhere_in_clear_and_outlive_a_new_key() {
    let fixture = fixture().await;
    let mut events = fixture.listen("kronos.user.*").await;
    let id = user(&fixture, "camille", json!({"customerNumber": "C-17", "phone": "0123456789"})).await;
    fixture.admin.patch(&format!("/users/{id}"), &json!({"attributes": {"phone": "9876543210"}})).await.expect(200);
    events.next().await;
    let updated = events.next().await;
    assert_eq!(updated.data["changed"], json!(["attributes.phone"]));
    let mut database = database(&fixture.platform).await;
    let sql = "select row_to_json(u)::text, position('9876543210'::bytea in sealed) > 0 from users u";
    let (row, is_clear): (String, bool) = sqlx::query_as(sql).fetch_one(&mut database).await.unwrap();
    assert!(row.contains("C-17") && !row.contains("9876543210") && !is_clear, "{row}");
    let outbox: Vec<String> =
        sqlx::query_scalar("select o::text from outbox o").fetch_all(&mut database).await.unwrap();
    assert!(!(outbox.concat() + &updated.encode()).contains("9876543210"));

    let Fixture { platform, running, .. } = fixture;
    running.stop().await;
    let mut config = platform.config();
    config.sealing.keys.insert("second".to_owned(), "ISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+P0A=".into());
    config.sealing.active = "second".to_owned();
    let running = user_service::start(config.clone()).await.unwrap();
    wait_until("it is sealed under the new key", async || {
        let sql = "select convert_from(substring(sealed from 3 for get_byte(sealed, 1)), 'LATIN1') from users";
        let key: String = sqlx::query_scalar(sql).fetch_one(&mut database).await.unwrap();
        key == "second"
    })
    .await;
    running.stop().await;
    config.sealing.keys.remove("first");
    let running = user_service::start(config).await.unwrap();
    let admin = platform.caller(&running, "root", &["*:*"]);
    let fixture = Fixture { platform, running, admin };
    assert_eq!(found(&fixture, r#"attributes.phone eq "9876543210""#).await, ["camille"]);
    let shown = fixture.admin.get(&format!("/users/{id}")).await.expect(200).json();
    assert_eq!(shown["attributes"]["phone"], "9876543210");
}

#[tokio::test]
async fn the_schema_can_grow_but_takes_nothing_from_anybody() {
    let fixture = fixture().await;
    let tag = fixture.admin.get("/users/schema").await.expect(200).header("etag").unwrap().to_owned();
    user(&fixture, "camille", json!({"robots": 3, "phone": "1", "customerNumber": "C-17"})).await;
    let put = async |change: &dyn Fn(&mut Value)| {
        let mut schema = schema();
        change(&mut schema["attributes"]);
        fixture.admin.put("/users/schema", &schema).await
    };
    let remove =
        |name: &'static str| move |attributes: &mut Value| _ = attributes.as_object_mut().unwrap().remove(name);
    put(&remove("robots")).await.expect_problem(409, "attribute_in_use");
    put(&remove("phone")).await.expect_problem(409, "attribute_in_use");
    put(&|attributes| attributes["phone"]["sealed"] = false.into()).await.expect_problem(409, "attribute_in_use");
    put(&|attributes| attributes["customerNumber"]["maxLength"] = 7.into())
        .await
        .expect_problem(409, "attribute_in_use");
    put(&|attributes| attributes["robots"]["type"] = "number".into()).await.expect(200);
    let mut wider = schema();
    wider["attributes"]["robots"]["type"] = "number".into();
    wider["attributes"].as_object_mut().unwrap().remove("languages");
    fixture
        .admin
        .put("/users/schema", &wider)
        .header("if-match", &tag)
        .await
        .expect_problem(412, "precondition_failed");
    fixture.admin.put("/users/schema", &wider).await.expect(200);
    assert_eq!(fixture.admin.get("/users/schema").await.json()["attributes"]["robots"]["type"], "number");
    let bad = json!({"attributes": {
        "a b": {"type": "string"}, "x": {"type": "string", "maxLength": 0}, "X": {"type": "string"}, "y": {"type": "colour"},
    }});
    fixture.admin.put("/users/schema", &bad).await.expect_problem(422, "invalid_request");
    fixture.caller(&["users:write"]).put("/users/schema", &schema()).await.expect_problem(403, "permission_denied");
}

#[tokio::test]
async fn without_a_key_nothing_can_be_sealed() {
    let platform = Platform::new().await;
    let mut config = platform.config();
    config.sealing.active = String::new();
    let running = user_service::start(config).await.unwrap();
    let admin = platform.caller(&running, "root", &["*:*"]);
    admin.put("/users/schema", &schema()).await.expect_problem(503, "no_sealing_key");
    let mut plain = schema();
    plain["attributes"]["phone"]["sealed"] = false.into();
    admin.put("/users/schema", &plain).await.expect(200);
}

#[tokio::test]
async fn ten_megabytes_of_attributes_are_refused_and_change_nothing() {
    let fixture = fixture().await;
    let id = user(&fixture, "camille", json!({"customerNumber": "C-17"})).await;
    let large = json!({"attributes": {"customerNumber": "x".repeat(10 << 20)}});
    fixture.admin.patch(&format!("/users/{id}"), &large).await.expect_problem(413, "body_too_large");
    let shown = fixture.admin.get(&format!("/users/{id}")).await.expect(200).json();
    assert_eq!(shown["attributes"], json!({"customerNumber": "C-17"}));
}
