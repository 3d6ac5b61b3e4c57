//! People: made, read, changed, listed, removed; who has which name.

use serde_json::json;

use crate::harness::{Fixture, Mood};

#[tokio::test]
async fn a_person_is_made_read_changed_and_removed() {
    let fixture = Fixture::new().await;
    let body = json!({"username": "camille", "email": "camille@example.com", "displayName": "Camille Martin"});
    let made = fixture.admin.post("/users", &body).await.expect(201);
    let user = made.json();
    let path = format!("/users/{}", user["id"].as_str().unwrap());
    assert_eq!(made.header("location"), Some(path.as_str()));
    assert_eq!((&user["username"], &user["disabled"]), (&json!("camille"), &json!(false)));

    let read = fixture.admin.get(&path).await.expect(200);
    assert_eq!(read.json(), user);
    let tag = read.header("etag").unwrap().to_owned();
    assert_eq!(made.header("etag"), Some(tag.as_str()));
    fixture.admin.get(&path).header("if-none-match", &tag).await.expect(304);

    let patch = json!({"displayName": "Camille M."});
    let changed = fixture.admin.patch(&path, &patch).header("if-match", &tag).await.expect(200);
    assert_eq!(changed.json()["displayName"], "Camille M.");
    assert_eq!(changed.json()["email"], "camille@example.com");
    assert_ne!(changed.header("etag"), Some(tag.as_str()));
    fixture.admin.patch(&path, &patch).header("if-match", &tag).await.expect_problem(412, "precondition_failed");
    fixture.admin.delete(&path).header("if-match", &tag).await.expect_problem(412, "precondition_failed");

    fixture.admin.delete(&path).await.expect(204);
    fixture.admin.get(&path).await.expect_problem(404, "not_found");
    fixture.admin.delete(&path).await.expect_problem(404, "not_found");
    fixture.admin.post("/users", &body).await.expect(201);
}

#[tokio::test]
async fn a_patch_may_come_as_a_merge_patch_and_cannot_remove_a_field() {
    let fixture = Fixture::new().await;
    let path = format!("/users/{}", fixture.user("camille").await);
    let patch = |body: &'static str| {
        let request = fixture.admin.request(axum::http::Method::PATCH, &path);
        request.header("content-type", "application/merge-patch+json").body(body)
    };
    assert_eq!(patch(r#"{"displayName":"C"}"#).await.expect(200).json()["displayName"], "C");
    let before = fixture.admin.get(&path).await;
    assert_eq!(patch("{}").await.expect(200).header("etag"), before.header("etag"), "nothing changes nothing");
    for refused in [r#"{"email":null}"#, r#"{"username":""}"#, r#"{"disabled":"yes"}"#, r#"{"id":"x"}"#, "[]"] {
        patch(refused).await.expect_problem(422, "invalid_request");
    }
    assert_eq!(fixture.admin.get(&path).await.json(), before.json());
}

#[tokio::test]
async fn names_that_differ_in_case_or_unicode_form_are_the_same() {
    let fixture = Fixture::new().await;
    let create = |username: &str, email: &str| {
        let body = json!({"username": username, "email": email, "displayName": "x"});
        fixture.admin.post("/users", &body)
    };
    create("Élodie", "elodie@example.com").await.expect(201);
    create("e\u{301}LODIE", "other@example.com").await.expect_problem(409, "username_taken");
    create("ÉLODIE", "other@example.com").await.expect_problem(409, "username_taken");
    create("theo", "Elodie@EXAMPLE.com").await.expect_problem(409, "email_taken");
    create("ｔｈｅｏ", "theo@example.com").await.expect(201);
    create("theo", "theo2@example.com").await.expect_problem(409, "username_taken");
    let theo = fixture.admin.get("/users?q=THEO").await.expect(200).json();
    let path = format!("/users/{}", theo["items"][0]["id"].as_str().unwrap());
    fixture.admin.patch(&path, &json!({"username": "éLodie"})).await.expect_problem(409, "username_taken");
    fixture.admin.patch(&path, &json!({"username": "THEO"})).await.expect(200);
}

#[tokio::test]
async fn a_password_is_with_auth_service_before_the_person_is_made() {
    let fixture = Fixture::new().await;
    let body =
        json!({"username": "camille", "email": "c@example.com", "displayName": "C", "password": "correct horse"});
    let auth = &fixture.platform.auth;
    auth.set(Mood::Away);
    let refused = fixture.admin.post("/users", &body).await.expect_problem(503, "store_unavailable");
    assert!(refused.header("retry-after").is_some());
    auth.set(Mood::PasswordTooShort);
    let refused = fixture.admin.post("/users", &body).await.expect_problem(422, "invalid_request");
    assert_eq!(refused.json()["errors"][0]["pointer"], "/password");
    let list = fixture.admin.get("/users").await.expect(200).json();
    assert_eq!(list["items"], json!([]), "nothing was made");

    auth.set(Mood::Willing);
    let made = fixture.admin.post("/users", &body).await.expect(201);
    assert!(!made.text().contains("correct horse"));
    let id = made.json()["id"].as_str().unwrap().to_owned();
    let credential = json!({"username": "camille", "email": "c@example.com", "password": "correct horse"});
    assert_eq!(auth.taken(), [(id, credential)]);
}

#[tokio::test]
async fn auth_service_is_told_of_new_names_and_of_nothing_else() {
    let fixture = Fixture::new().await;
    let id = fixture.user("camille").await;
    let path = format!("/users/{id}");
    fixture.admin.patch(&path, &json!({"displayName": "C", "disabled": true})).await.expect(200);
    assert_eq!(fixture.platform.auth.taken(), [], "without a password there is no credential to keep");
    fixture.admin.patch(&path, &json!({"username": "camille2"})).await.expect(200);
    let told = json!({"username": "camille2", "email": "camille@example.com"});
    assert_eq!(fixture.platform.auth.taken(), [(id, told)]);
    fixture.platform.auth.set(Mood::Away);
    fixture.admin.patch(&path, &json!({"username": "camille3"})).await.expect_problem(503, "store_unavailable");
    assert_eq!(fixture.admin.get(&path).await.json()["username"], "camille2");
}

#[tokio::test]
async fn the_list_is_in_order_page_by_page_and_can_be_searched() {
    let fixture = Fixture::new().await;
    let names = ["zoe", "Anna", "élodie", "ben_1", "ben%2", "bert"];
    for (number, name) in names.iter().enumerate() {
        let body = json!({"username": name, "email": format!("u{number}@example.com"), "displayName": format!("{name} Martin")});
        fixture.admin.post("/users", &body).await.expect(201);
    }
    let mut seen = Vec::new();
    let mut query = "limit=2".to_owned();
    loop {
        let page = fixture.admin.get(&format!("/users?{query}")).await.expect(200).json();
        seen.extend(page["items"].as_array().unwrap().iter().map(|user| user["username"].as_str().unwrap().to_owned()));
        match page["nextCursor"].as_str() {
            Some(cursor) => query = format!("limit=2&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(seen, ["Anna", "ben%2", "ben_1", "bert", "zoe", "élodie"]);
    for (sort, expected) in [
        ("-username", ["élodie", "zoe", "bert", "ben_1", "ben%2", "Anna"]),
        ("createdAt", names),
        ("-createdAt", ["bert", "ben%2", "ben_1", "élodie", "Anna", "zoe"]),
    ] {
        let first = fixture.admin.get(&format!("/users?limit=4&sort={sort}")).await.expect(200).json();
        let cursor = first["nextCursor"].as_str().unwrap();
        let second = fixture.admin.get(&format!("/users?limit=4&sort={sort}&cursor={cursor}")).await.expect(200).json();
        let both = [&first, &second].into_iter().flat_map(|page| page["items"].as_array().unwrap());
        assert_eq!(both.map(|user| user["username"].as_str().unwrap()).collect::<Vec<_>>(), expected, "{sort}");
        assert_eq!(second["nextCursor"], json!(null));
        let other = fixture.admin.get(&format!("/users?cursor={cursor}")).await;
        other.expect_problem(400, "invalid_cursor");
    }
    fixture.admin.get("/users?q=ben&sort=username").await.expect_problem(400, "invalid_query");
    fixture.admin.get("/users?sort=email").await.expect_problem(400, "invalid_query");

    for (text, expected) in [
        ("BEN", vec!["ben_1", "ben%2"]),
        ("ben%25", vec!["ben%2"]),
        ("n_1", vec!["ben_1"]),
        ("%C3%89LO", vec!["élodie"]),
        ("u0@", vec!["zoe"]),
        ("nobody", vec![]),
        ("%00", vec![]),
        ("be", vec!["ben_1", "ben%2", "bert"]),
        ("zo", vec!["zoe"]),
        ("oe", vec![]),
    ] {
        let page = fixture.admin.get(&format!("/users?q={text}")).await.expect(200).json();
        let found: Vec<&str> =
            page["items"].as_array().unwrap().iter().map(|user| user["username"].as_str().unwrap()).collect();
        assert_eq!(found, expected, "{text}");
    }
    let martins = fixture.admin.get("/users?q=martin&limit=200").await.expect(200).json();
    assert_eq!(martins["items"].as_array().unwrap().len(), names.len());
    fixture.admin.get("/users?cursor=x").await.expect_problem(400, "invalid_cursor");
}

#[tokio::test]
async fn the_list_takes_the_filters_of_scim() {
    let fixture = Fixture::new().await;
    for name in ["anna", "ben", "carl"] {
        fixture.user(name).await;
    }
    let list = |query: &str| fixture.admin.get(&format!("/users?{query}"));
    for (query, expected) in [
        ("filter=userName%20sw%20%22A%22", vec!["anna"]),
        ("filter=emails.value%20co%20%22@example%22%20and%20not%20(userName%20eq%20%22ben%22)", vec!["anna", "carl"]),
        ("filter=userName%20gt%20%22anna%22&sort=-username&limit=1", vec!["carl"]),
        ("filter=active%20eq%20true&q=en", vec![]),
        ("filter=active%20eq%20true&q=ben", vec!["ben"]),
        ("filter=", vec!["anna", "ben", "carl"]),
    ] {
        let page = list(query).await.expect(200).json();
        let found: Vec<&str> =
            page["items"].as_array().unwrap().iter().map(|user| user["username"].as_str().unwrap()).collect();
        assert_eq!(found, expected, "{query}");
    }
    let first = list("filter=userName%20gt%20%22anna%22&limit=1").await.expect(200).json();
    let cursor = first["nextCursor"].as_str().unwrap();
    let second = list(&format!("filter=userName%20gt%20%22anna%22&limit=1&cursor={cursor}")).await.expect(200).json();
    assert_eq!((&first["items"][0]["username"], &second["items"][0]["username"]), (&json!("ben"), &json!("carl")));
    let nested = format!("{}title%20pr{}", "(".repeat(1_000), ")".repeat(1_000));
    for bad in ["colour%20pr", "userName", "emails%5Bcolour%20pr%5D", nested.as_str()] {
        list(&format!("filter={bad}")).await.expect_problem(400, "invalid_filter");
    }
}

#[tokio::test]
async fn what_happens_to_a_person_is_told() {
    let fixture = Fixture::new().await;
    let mut events = fixture.listen("kronos.user.*").await;
    let id = fixture.user("camille").await;
    let path = format!("/users/{id}");
    fixture.admin.patch(&path, &json!({"disabled": true})).await.expect(200);
    fixture.admin.patch(&path, &json!({"disabled": false})).await.expect(200);
    fixture.admin.delete(&path).await.expect(204);
    let mut told = Vec::new();
    for _ in 0..8 {
        let event = events.next().await;
        assert_eq!(event.subject.as_deref(), Some(id.as_str()));
        assert!(!event.encode().contains("example.com"), "an address is nobody's business");
        if event.type_ == "kronos.user.updated" && event.data["before"]["disabled"] == false {
            let (before, after) = (&event.data["before"], &event.data["after"]);
            assert_eq!((&before["username"], &after["disabled"]), (&json!("camille"), &json!(true)));
            assert_eq!((&event.data["changed"], &event.data["by"]["subject"]), (&json!(["disabled"]), &json!("root")));
        }
        told.push((event.type_.rsplit_once('.').unwrap().1.to_owned(), event.data["epoch"].as_i64().unwrap()));
    }
    let expected = [
        ("created", 1),
        ("rights-changed", 2),
        ("disabled", 2),
        ("updated", 2),
        ("rights-changed", 3),
        ("enabled", 3),
        ("updated", 3),
        ("deleted", 4),
    ];
    assert_eq!(told, expected.map(|(what, epoch)| (what.to_owned(), epoch)));
}

#[tokio::test]
async fn a_repeated_request_makes_one_person() {
    let fixture = Fixture::new().await;
    let body = json!({"username": "camille", "email": "c@example.com", "displayName": "C"});
    let create = || fixture.admin.post("/users", &body).header("idempotency-key", "k1");
    let first = create().await.expect(201);
    let again = create().await.expect(201);
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!((again.json(), again.header("location")), (first.json(), first.header("location")));
}
