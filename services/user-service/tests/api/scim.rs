//! SCIM as a directory uses it: people, groups, lists, discovery, rights, errors.

use serde_json::{Value, json};

use crate::harness::Fixture;

const ENTERPRISE: &str = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User";

/// Panics if this is no SCIM error of this status and kind.
#[track_caller]
pub(crate) fn expect_error(answer: &kronos_testkit::TestResponse, status: u16, kind: Option<&str>) {
    assert_eq!(answer.status, status, "{answer}");
    assert_eq!(answer.header("content-type"), Some("application/scim+json"), "{answer}");
    let error = answer.json();
    assert_eq!(error["schemas"], json!(["urn:ietf:params:scim:api:messages:2.0:Error"]));
    assert_eq!(error["status"], json!(status.to_string()));
    assert_eq!(error.get("scimType"), kind.map(|kind| json!(kind)).as_ref(), "{answer}");
    assert!(error["detail"].as_str().is_some_and(|detail| !detail.is_empty()));
}

pub(crate) async fn make(fixture: &Fixture, person: &Value) -> Value {
    fixture.admin.post("/scim/v2/Users", person).await.expect(201).json()
}

#[tokio::test]
async fn a_person_is_the_same_for_scim_and_for_rest() {
    let fixture = Fixture::new().await;
    let sent = json!({
        "schemas": ["urn:ietf:params:scim:schemas:core:2.0:User", ENTERPRISE], "USERNAME": "Camille", "externalId": "x-1",
        "name": {"givenName": "Camille", "familyName": "Martin"}, "password": "correct horse", "nonsense": 1, "id": "mine",
        "emails": [{"value": "old@example.com"}, {"value": "c@example.com", "type": "work", "primary": "True"}],
        ENTERPRISE: {"Department": "Sales"},
    });
    let made = fixture.admin.post("/scim/v2/Users", &sent).await.expect(201);
    let person = made.json();
    let id = person["id"].as_str().unwrap();
    assert_eq!(made.header("etag"), person["meta"]["version"].as_str());
    assert_eq!(made.header("location"), person["meta"]["location"].as_str());
    assert!(made.header("location").unwrap().ends_with(&format!("/scim/v2/Users/{id}")));
    assert_eq!((&person["userName"], &person["active"]), (&json!("Camille"), &json!(true)));
    assert_eq!(person["emails"][1], json!({"value": "c@example.com", "type": "work", "primary": true}));
    assert_eq!(person[ENTERPRISE], json!({"department": "Sales"}));
    assert_eq!([&person["password"], &person["nonsense"], &person["displayName"]], [&Value::Null; 3]);
    assert_eq!(fixture.platform.auth.taken()[0].1["password"], "correct horse");

    let rest = fixture.admin.get(&format!("/users/{id}")).await.expect(200).json();
    assert_eq!((&rest["email"], &rest["displayName"]), (&json!("c@example.com"), &json!("Camille Martin")));
    let change = json!({"email": "new@example.com", "displayName": "C", "disabled": true});
    fixture.admin.patch(&format!("/users/{id}"), &change).await.expect(200);
    let seen = fixture.admin.get(&format!("/scim/v2/Users/{id}")).await.expect(200).json();
    assert_eq!(seen["emails"][1], json!({"value": "new@example.com", "type": "work", "primary": true}));
    assert_eq!((&seen["displayName"], &seen["active"]), (&json!("C"), &json!(false)));

    let rest_made = fixture.user("theo").await;
    let seen = fixture.admin.get(&format!("/scim/v2/Users/{rest_made}")).await.expect(200).json();
    assert_eq!(seen["emails"], json!([{"value": "theo@example.com", "primary": true}]));
    fixture.admin.delete(&format!("/scim/v2/Users/{id}")).await.expect(204);
    expect_error(&fixture.admin.get(&format!("/scim/v2/Users/{id}")).await, 404, None);
}

#[tokio::test]
async fn what_is_wrong_is_said_in_scims_words_and_changes_nothing() {
    let fixture = Fixture::new().await;
    let id = make(&fixture, &json!({"userName": "camille"})).await["id"].as_str().unwrap().to_owned();
    let post = |body: Value| fixture.admin.post("/scim/v2/Users", &body);
    for (body, status, kind) in [
        (json!({}), 400, "invalidValue"),
        (json!([]), 400, "invalidSyntax"),
        (json!(42), 400, "invalidSyntax"),
        (json!({"userName": "two words"}), 400, "invalidValue"),
        (json!({"userName": "CAMILLE"}), 409, "uniqueness"),
        (json!({"userName": "x", "active": "perhaps"}), 400, "invalidValue"),
        (json!({"userName": "x", "title": "\u{0}"}), 400, "invalidValue"),
        (json!({"userName": "x", "name": "Camille"}), 400, "invalidValue"),
        (json!({"userName": "x", "emails": [{"value": "no address"}]}), 400, "invalidValue"),
        (
            json!({"userName": "x", "emails": [{"value": "a@b.c", "primary": true}, {"value": "d@b.c", "primary": true}]}),
            400,
            "invalidValue",
        ),
        (json!({"userName": "x", "title": "x".repeat(100_000)}), 400, "invalidValue"),
    ] {
        expect_error(&post(body).await, status, Some(kind));
    }
    expect_error(&post(json!({"userName": "x", "title": "x".repeat(10 << 20)})).await, 413, None);
    let malformed = fixture.admin.request(axum::http::Method::POST, "/scim/v2/Users");
    let malformed = malformed.header("content-type", "application/scim+json").body("{");
    expect_error(&malformed.await, 400, Some("invalidSyntax"));
    let nested = format!("{}title pr{}", "(".repeat(1_000), ")".repeat(1_000));
    expect_error(&fixture.admin.get(&format!("/scim/v2/Users?filter={nested}")).await, 400, Some("invalidFilter"));
    expect_error(&fixture.admin.get("/scim/v2/Users?filter=colour%20pr").await, 400, Some("invalidFilter"));
    expect_error(&fixture.admin.get("/scim/v2/Users?filter=password%20sw%20%22a%22").await, 400, Some("invalidFilter"));
    expect_error(&fixture.admin.get("/scim/v2/Users?sortBy=name").await, 400, Some("invalidPath"));
    expect_error(&fixture.admin.get("/scim/v2/Robots").await, 404, None);
    expect_error(&fixture.admin.get("/scim/v2/a/b/c/d").await, 404, None);
    expect_error(&fixture.admin.get("/scim/v2/ServiceProviderConfig/x").await, 404, None);
    expect_error(&fixture.admin.get("/scim/v2/Users/x").await, 404, None);
    let stale = fixture
        .admin
        .patch(&format!("/scim/v2/Users/{id}"), &json!({"Operations": [{"op": "add", "path": "title", "value": "x"}]}));
    expect_error(&stale.header("if-match", "\"v7\"").await, 412, None);
    let all = fixture.admin.get("/scim/v2/Users").await.expect(200).json();
    assert_eq!((&all["totalResults"], &all["Resources"][0]["meta"]["version"]), (&json!(1), &json!("\"v1\"")));
}

#[tokio::test]
async fn scim_gives_nobody_more_than_rest_does() {
    let fixture = Fixture::new().await;
    fixture.role("boss", &["*:*"], &[]).await;
    let boss = fixture.user("boss").await;
    fixture.give(&boss, "boss", json!({})).await;
    let group = fixture.admin.post("/scim/v2/Groups", &json!({"displayName": "Bosses"})).await.expect(201).json();
    let group = group["id"].as_str().unwrap();
    fixture.admin.put(&format!("/groups/{group}/roles/boss"), &json!({})).await.expect(200);
    let (anybody, reader) = (fixture.caller(&[]), fixture.caller(&["users:read"]));
    let writer = fixture.caller(&["users:read", "users:write"]);
    let change = json!({"Operations": [{"op": "replace", "path": "active", "value": false}]});
    let join = json!({"Operations": [{"op": "add", "path": "members", "value": [{"value": boss}]}]});

    expect_error(&anybody.get("/scim/v2/Users").anonymous().await, 401, None);
    for refused in [
        anybody.get("/scim/v2/Users"),
        anybody.get(&format!("/scim/v2/Users/{boss}")),
        anybody.post("/scim/v2/.search", &json!({})),
        reader.post("/scim/v2/Users", &json!({"userName": "x"})),
        reader.post("/scim/v2/Bulk", &json!({"Operations": []})),
        reader.delete(&format!("/scim/v2/Groups/{group}")),
        writer.patch(&format!("/scim/v2/Users/{boss}"), &change),
        writer.put(&format!("/scim/v2/Users/{boss}"), &json!({"userName": "boss", "password": "mine now"})),
        writer.delete(&format!("/scim/v2/Users/{boss}")),
        writer.patch(&format!("/scim/v2/Groups/{group}"), &join),
        writer
            .put(&format!("/scim/v2/Groups/{group}"), &json!({"displayName": "Bosses", "members": [{"value": boss}]})),
    ] {
        expect_error(&refused.await, 403, None);
    }
    let bulk = json!({"Operations": [{"method": "PATCH", "path": format!("/Users/{boss}"), "data": change}]});
    let answer = writer.post("/scim/v2/Bulk", &bulk).await.expect(200).json();
    assert_eq!(answer["Operations"][0]["status"], "403", "{answer}");
    // Nor does it take the last administrator away.
    expect_error(&fixture.admin.patch(&format!("/scim/v2/Users/{boss}"), &change).await, 409, None);
    expect_error(&fixture.admin.delete(&format!("/scim/v2/Users/{boss}")).await, 409, None);
    fixture.admin.get("/scim/v2/Schemas").anonymous().await.expect(200);
}

#[tokio::test]
async fn who_asks_is_me() {
    let fixture = Fixture::new().await;
    let id = fixture.user("camille").await;
    let own = fixture.platform.caller(&fixture.running, &id, &[]);
    assert_eq!(own.get("/scim/v2/Me").await.expect(200).json()["userName"], "camille");
    let change = json!({"Operations": [{"op": "add", "path": "nickName", "value": "Cam"}]});
    expect_error(&own.patch("/scim/v2/Me", &change).await, 403, None);
    let writer = fixture.platform.caller(&fixture.running, &id, &["users:write"]);
    assert_eq!(writer.patch("/scim/v2/Me", &change).await.expect(200).json()["nickName"], "Cam");
    expect_error(&fixture.caller(&[]).get("/scim/v2/Me").await, 404, None);
}

#[tokio::test]
async fn lists_have_an_order_pages_and_the_attributes_that_are_asked_for() {
    let fixture = Fixture::new().await;
    for (name, title) in [("anna", "b"), ("ben", "A"), ("carl", ""), ("dora", "c")] {
        let title = if title.is_empty() { Value::Null } else { title.into() };
        make(&fixture, &json!({"userName": name, "title": title, "name": {"givenName": name, "familyName": "X"}}))
            .await;
    }
    let list = async |query: &str| {
        let answer = fixture.admin.get(&format!("/scim/v2/Users?{query}")).await.expect(200).json();
        let names = answer["Resources"].as_array().unwrap().iter();
        let names = names.map(|person| person["userName"].as_str().unwrap().to_owned()).collect::<Vec<_>>().join(" ");
        (answer["totalResults"].as_i64().unwrap(), answer["startIndex"].as_i64().unwrap(), names)
    };
    for (query, expected) in [
        ("", (4, 1, "dora carl ben anna")),
        ("count=2", (4, 1, "dora carl")),
        ("startIndex=3&count=2", (4, 3, "ben anna")),
        ("startIndex=5", (4, 5, "")),
        ("startIndex=-7&count=1", (4, 1, "dora")),
        ("count=0", (4, 1, "")),
        ("count=-1", (4, 1, "")),
        ("sortBy=userName", (4, 1, "anna ben carl dora")),
        ("sortBy=title", (4, 1, "ben anna dora carl")),
        ("sortBy=title&sortOrder=descending", (4, 1, "carl dora anna ben")),
        ("sortBy=name.givenName&sortOrder=Descending", (4, 1, "dora carl ben anna")),
        ("sortBy=emails", (4, 1, "dora carl ben anna")),
        ("filter=title%20pr%20and%20userName%20ne%20%22BEN%22", (2, 1, "dora anna")),
    ] {
        let (total, start, names) = list(query).await;
        assert_eq!((total, start, names.as_str()), expected, "{query}");
    }
    let shown = async |query: &str| {
        let query = format!("/scim/v2/Users?filter=userName%20eq%20%22anna%22&{query}");
        let mut person = fixture.admin.get(&query).await.expect(200).json()["Resources"][0].take();
        assert!(person["id"].take().is_string() && person["schemas"].take().is_array());
        person.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        person
    };
    assert_eq!(shown("attributes=title,name.givenName").await, json!({"title": "b", "name": {"givenName": "anna"}}));
    let urn = "urn:ietf:params:scim:schemas:core:2.0:User:USERNAME";
    assert_eq!(shown(&format!("attributes={urn}")).await, json!({"userName": "anna"}));
    let without = shown("excludedAttributes=meta,id,name.familyName,active").await;
    assert_eq!(without, json!({"userName": "anna", "title": "b", "name": {"givenName": "anna"}}));

    let group = json!({"displayName": "G"});
    fixture.admin.post("/scim/v2/Groups", &group).await.expect(201);
    let all = fixture.admin.post("/scim/v2/.search", &json!({"count": 2})).await.expect(200).json();
    assert_eq!((&all["totalResults"], &all["Resources"][0]["displayName"]), (&json!(5), &json!("G")));
    let some = json!({"filter": "displayName pr or title pr", "sortBy": "displayName"});
    let some = fixture.admin.post("/scim/v2/.search", &some).await.expect(200).json();
    assert_eq!(some["totalResults"], 3, "groups have no title, so this says nothing of them: {some}");
}

#[tokio::test]
async fn discovery_says_what_there_is() {
    let fixture = Fixture::new().await;
    let config = fixture.admin.get("/scim/v2/ServiceProviderConfig").await.expect(200);
    assert_eq!(config.header("content-type"), Some("application/scim+json"));
    for what in ["patch", "bulk", "filter", "changePassword", "sort", "etag"] {
        assert_eq!(config.json()[what]["supported"], true, "{what}");
    }
    let types = fixture.admin.get("/scim/v2/ResourceTypes").await.expect(200).json();
    assert_eq!(types["totalResults"], 2);
    let schemas = fixture.admin.get("/scim/v2/Schemas").await.expect(200).json();
    for schema in schemas["Resources"].as_array().unwrap() {
        let one = fixture.admin.get(&format!("/scim/v2/Schemas/{}", schema["id"].as_str().unwrap())).await.expect(200);
        assert_eq!(&one.json(), schema);
    }
    expect_error(&fixture.admin.get("/scim/v2/Schemas/x").await, 404, None);
    fixture.admin.post("/scim/v2/Schemas", &json!({})).await.expect(405);
}

#[tokio::test]
async fn every_operation_refuses_in_scims_form() {
    let fixture = Fixture::new().await;
    let issuer = &fixture.platform.issuer;
    let document = kronos_testkit::http(fixture.running.api).get("/openapi.json").await.expect(200).json();
    let mut walked = 0;
    for (path, item) in document["paths"].as_object().unwrap().iter().filter(|(path, _)| path.starts_with("/scim/")) {
        let path = path.replace("{resources}", "Users").replace("{id}", "01890a5d-ac96-774b-bcce-b302099a8057");
        for (method, operation) in item.as_object().unwrap() {
            if operation["security"].as_array().is_none_or(Vec::is_empty) {
                continue;
            }
            walked += 1;
            let method: axum::http::Method = method.to_uppercase().parse().unwrap();
            let takes_body = operation.get("requestBody").is_some();
            let send = |token: &str, body: &str| {
                let request = fixture.admin.request(method.clone(), &path).bearer(token);
                let request = request.header("content-type", "application/scim+json");
                if takes_body { request.body(body.to_owned()) } else { request }
            };
            let good = issuer.token("u", &["*:*"]);
            expect_error(&send(&issuer.expired("u", &["*:*"]), "{}").await, 401, None);
            expect_error(&send(&issuer.forged("u", &["*:*"]), "{}").await, 401, None);
            if path != "/scim/v2/Me" {
                expect_error(&send(&issuer.token("u", &["robots:use"]), "{}").await, 403, None);
            }
            if takes_body {
                expect_error(&send(&good, "{").await, 400, Some("invalidSyntax"));
                let large = format!("\"{}\"", "x".repeat(1 << 20));
                expect_error(&send(&good, &large).await, 413, None);
                let text = fixture.admin.request(method.clone(), &path).header("content-type", "text/plain").body("{}");
                expect_error(&text.await, 415, None);
            }
        }
    }
    assert_eq!(walked, 13);
}
