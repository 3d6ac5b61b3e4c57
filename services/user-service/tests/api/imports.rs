//! People from files, and back into them.

use std::time::Duration;

use futures::{StreamExt as _, stream};
use kronos_testkit::{TestClient, wait_until, wait_up_to};
use proptest::prelude::*;
use serde_json::{Value, json};
use user_service::imports::lines::{BadLine, Csv, Line, Plain};

use crate::harness::{Fixture, Platform};

const JSONL: &str = "application/x-ndjson";
const HEADER: &str = "username,email,displayName";

/// Sends a file, and gives the import when it is over.
async fn import(client: &TestClient, query: &str, kind: &str, file: impl Into<Vec<u8>>) -> Value {
    let id = send(client, query, kind, file).await;
    over(client, &id, Duration::from_secs(5)).await
}

async fn send(client: &TestClient, query: &str, kind: &str, file: impl Into<Vec<u8>>) -> String {
    let request = client.request(axum::http::Method::POST, &format!("/users/import{query}"));
    let answer = request.header("content-type", kind).body(file.into()).await.expect(202);
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(answer.header("location"), Some(format!("/users/imports/{id}").as_str()));
    id
}

async fn over(client: &TestClient, id: &str, patience: Duration) -> Value {
    let mut report = Value::Null;
    wait_up_to(patience, "the import is over", async || {
        report = client.get(&format!("/users/imports/{id}")).await.expect(200).json();
        !report["finishedAt"].is_null()
    })
    .await;
    report
}

fn counts(report: &Value) -> (&str, i64, i64, i64) {
    let number = |name: &str| report[name].as_i64().unwrap();
    (report["state"].as_str().unwrap(), number("lines"), number("created"), number("refused"))
}

/// Line, pointer and code of each problem.
fn problems(report: &Value) -> Vec<(i64, &str, &str)> {
    let problems = report["problems"].as_array().unwrap().iter();
    problems
        .map(|problem| {
            (problem["line"].as_i64().unwrap(), problem["pointer"].as_str().unwrap(), problem["code"].as_str().unwrap())
        })
        .collect()
}

async fn export(client: &TestClient, query: &str) -> String {
    client.get(&format!("/users/export?{query}")).await.expect(200).text()
}

async fn schema(fixture: &Fixture) {
    let schema = json!({"attributes": {
        "note": {"type": "string"}, "robots": {"type": "integer"}, "discount": {"type": "number"},
        "newsletter": {"type": "boolean"}, "since": {"type": "dateTime"}, "languages": {"type": "stringList"},
        "phone": {"type": "string", "sealed": true},
    }});
    fixture.admin.put("/users/schema", &schema).await.expect(200);
}

#[tokio::test]
async fn what_is_exported_can_be_imported_and_is_the_same_again() {
    let (from, to, last) = (Fixture::new().await, Fixture::new().await, Fixture::new().await);
    for fixture in [&from, &to, &last] {
        schema(fixture).await;
    }
    let people = [
        json!({"username": "anna", "email": "anna@example.com", "displayName": "Anna, \"the\" first", "attributes": {
            "note": "two\r\nlines, \"quoted\"", "robots": 3, "discount": 2.5, "newsletter": false,
            "since": "2026-11-21T20:00:00Z", "languages": ["fr", "e,n"], "phone": "+33 1"}}),
        json!({"username": "BÉN", "email": "ben@example.com", "displayName": "Bén"}),
    ];
    for person in &people {
        from.admin.post("/users", person).await.expect(201);
    }
    let scim =
        json!({"userName": "carl", "externalId": "x-1", "active": false, "emails": [{"value": "c@example.com"}]});
    from.admin.post("/scim/v2/Users", &scim).await.expect(201);
    // What is imported is somebody new.
    let same = |file: &str| -> Vec<Value> {
        let lines = file.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let lines = lines.map(|mut line| {
            for name in ["id", "createdAt", "updatedAt"] {
                assert!(line.as_object_mut().unwrap().remove(name).is_some());
            }
            line
        });
        lines.collect()
    };
    let jsonl = export(&from.admin, "format=jsonl").await;
    let csv = export(&from.admin, "format=csv").await;
    assert_eq!(counts(&import(&to.admin, "", JSONL, jsonl.clone()).await), ("done", 3, 3, 0));
    assert_eq!(same(&export(&to.admin, "format=jsonl").await), same(&jsonl));
    assert_eq!(counts(&import(&last.admin, "", "text/csv; charset=utf-8", csv).await), ("done", 3, 3, 0));
    assert_eq!(same(&export(&last.admin, "format=jsonl").await), same(&jsonl));
    assert_eq!(same(&jsonl)[0]["attributes"]["phone"], "+33 1");
    let some = export(&to.admin, "format=jsonl&filter=attributes.phone%20eq%20%22%2B33%201%22").await;
    assert_eq!(same(&some), same(&jsonl)[..1]);
    to.admin.get("/users/export").await.expect_problem(400, "invalid_query");
    to.admin.get("/users/export?format=csv&filter=colour%20pr").await.expect_problem(400, "invalid_filter");
}

#[tokio::test]
async fn each_bad_line_is_named_and_nobody_is_made_or_the_others_are() {
    let fixture = Fixture::new().await;
    schema(&fixture).await;
    fixture.user("taken").await;
    let file = [
        r#"{"username": "anna", "email": "anna@example.com", "displayName": "Anna"}"#,
        "",
        r#"{"username": "a b", "email": "x", "displayName": 7, "colour": "red", "attributes": {"robots": "many"}}"#,
        r#"{"username": "TAKEN", "email": "t@example.com", "displayName": "Taken"}"#,
        "{",
        r#"["ben"]"#,
        r#"{"username": "ben", "email": "ANNA@example.com", "displayName": "Ben"}"#,
        r#"{"username": "Anna", "email": "other@example.com", "displayName": "Anna"}"#,
        r#"{"username": "carl", "email": "carl@example.com", "displayName": "Carl", "attributes": {"robots": 3}}"#,
    ]
    .join("\n");
    let refused = import(&fixture.admin, "?mode=allOrNothing", JSONL, file.clone()).await;
    assert_eq!(counts(&refused), ("failed", 8, 0, 3));
    let expected = [
        (3, "/attributes/robots", "wrong_type"),
        (3, "/colour", "unknown_field"),
        (3, "/displayName", "wrong_type"),
        (3, "/email", "invalid"),
        (3, "/username", "invalid"),
        (5, "", "malformed_json"),
        (6, "", "malformed_json"),
    ];
    let mut found = problems(&refused);
    found.sort_unstable();
    assert_eq!(found, expected);
    assert_eq!(export(&fixture.admin, "format=jsonl").await.lines().count(), 1);

    let mut events = fixture.listen("kronos.user.imported").await;
    let skipped = import(&fixture.admin, "?mode=skip", JSONL, file).await;
    assert_eq!(counts(&skipped), ("done", 8, 2, 6));
    let mut found = problems(&skipped);
    found.sort_unstable();
    let taken = [(4, "/username", "username_taken"), (7, "/email", "email_taken"), (8, "/username", "username_taken")];
    assert_eq!(found, [&expected[..5], &taken[..1], &expected[5..], &taken[1..]].concat());
    assert_eq!(export(&fixture.admin, "format=jsonl").await.lines().count(), 3);
    let event = events.next().await;
    assert_eq!((&event.data["created"], &event.data["by"]["subject"]), (&json!(2), &json!("root")));

    let lines = r#"{"username": "dora", "email": "dora@example.com", "displayName": "Dora"}
{"username": "taken", "email": "e@example.com", "displayName": "E"}"#;
    let refused = import(&fixture.admin, "", JSONL, lines).await;
    assert_eq!((counts(&refused), problems(&refused)), (("failed", 2, 0, 1), vec![(2, "/username", "username_taken")]));
    assert_eq!(export(&fixture.admin, "format=jsonl").await.lines().count(), 3);
}

#[tokio::test]
async fn a_file_that_is_none_is_refused_at_once() {
    let fixture = Fixture::new().await;
    let post = |kind: &str, body: &str| {
        let request = fixture.admin.request(axum::http::Method::POST, "/users/import");
        request.header("content-type", kind).body(body.to_owned())
    };
    post("application/json", "{}").await.expect_problem(415, "unsupported_media_type");
    let header = post("text/csv", "username,email,colour,email\r\n").await.expect_problem(422, "invalid_request");
    let pointers: Vec<String> = header.json()["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| format!("{} {}", error["pointer"].as_str().unwrap(), error["code"].as_str().unwrap()))
        .collect();
    assert_eq!(pointers, ["/colour unknown_field", "/email duplicate", "/displayName missing"]);
    post("text/csv", "").await.expect_problem(422, "invalid_request");
    post("text/csv", "\"username").await.expect_problem(422, "invalid_request");
    assert_eq!(counts(&import(&fixture.admin, "", JSONL, "").await), ("done", 0, 0, 0));
    let bad = fixture.admin.request(axum::http::Method::POST, "/users/import?mode=perhaps");
    bad.header("content-type", JSONL).body("").await.expect_problem(400, "invalid_query");
    fixture.admin.get(&format!("/users/imports/{}", uuid::Uuid::now_v7())).await.expect_problem(404, "not_found");
}

#[tokio::test]
async fn lines_of_csv_are_counted_as_an_editor_counts_them() {
    let fixture = Fixture::new().await;
    let long = "x".repeat(70_000);
    let file = format!(
        "\u{feff}{HEADER}\r\n\"a\",a@example.com,\"A\n\"\"1\"\"\"\nb\"b,b@example.com,B\n\nc,c@example.com\n{long},d,d\ne,e@example.com,E\n\
         \"f,f@example.com,F\ng,g@example.com,G"
    );
    let report = import(&fixture.admin, "?mode=skip", "text/csv", file).await;
    assert_eq!(counts(&report), ("done", 6, 1, 5));
    let expected = [
        (2, "/displayName", "invalid"),
        (4, "", "bad_quote"),
        (6, "", "wrong_cells"),
        (7, "", "too_long"),
        (9, "", "bad_quote"),
    ];
    assert_eq!(problems(&report), expected);
    let mut file = format!("{HEADER}\n").into_bytes();
    file.extend(b"\xff,h@example.com,H\ni,i@example.com,I");
    let report = import(&fixture.admin, "?mode=skip", "text/csv", file).await;
    assert_eq!((counts(&report), problems(&report)), (("done", 2, 1, 1), vec![(2, "", "not_utf8")]));
}

fn person(number: usize) -> String {
    format!("u{number},u{number}@example.com,Somebody {number}\n")
}

#[tokio::test]
async fn twenty_thousand_people_come_in_and_whoever_waits_is_told() {
    let fixture = Fixture::new().await;
    let file: String = std::iter::once(format!("{HEADER}\n")).chain((0..20_000).map(person)).collect();
    let id = send(&fixture.admin, "", "text/csv", file).await;
    let stream = fixture.admin.get(&format!("/users/imports/{id}/events")).stream().await;
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    let told = tokio::time::timeout(Duration::from_secs(60), stream.text()).await.unwrap().unwrap();
    let last = told.rsplit("event: ").next().unwrap();
    assert!(last.starts_with("end"), "{told}");
    assert!(last.contains("\"created\":20000"), "{told}");
    assert_eq!(counts(&over(&fixture.admin, &id, Duration::from_secs(1)).await), ("done", 20_000, 20_000, 0));
    let exported = export(&fixture.admin, "format=csv").await;
    assert_eq!(exported.lines().count(), 20_001);
    assert!(exported.ends_with("\r\n"));
}

#[tokio::test]
async fn an_import_goes_on_elsewhere_when_its_instance_has_gone() {
    let platform = Platform::new().await;
    let first = platform.start().await;
    let client = platform.caller(&first, "root", &["*:*"]);
    let file: String = std::iter::once(format!("{HEADER}\n")).chain((0..10_000).map(person)).collect();
    let id = send(&client, "?mode=skip", "text/csv", file).await;
    first.stop().await;
    let second = platform.start().await;
    let client = platform.caller(&second, "root", &["*:*"]);
    let report = over(&client, &id, Duration::from_secs(40)).await;
    assert_eq!(counts(&report), ("done", 10_000, 10_000, 0));
    let database = platform.database.pool("kronos_users").await;
    wait_until("nothing is left of the file", async || {
        let left: i64 = sqlx::query_scalar("select count(*) from import_lines").fetch_one(&database).await.unwrap();
        left == 0
    })
    .await;
}

/// In KiB: what this process has in memory now.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
#[ignore = "slow"]
async fn a_million_people_come_in_and_go_out_in_the_memory_of_a_few() {
    const PEOPLE: usize = 1_000_000;
    const PATIENCE: Duration = Duration::from_secs(550);
    let fixture = Fixture::new().await;
    let before = resident();
    let most = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(before));
    let watch = {
        let most = most.clone();
        tokio::spawn(async move {
            loop {
                most.fetch_max(resident(), std::sync::atomic::Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        })
    };
    let chunks = (0..PEOPLE).step_by(500).map(|first| {
        let header = if first == 0 { format!("{HEADER}\n") } else { String::new() };
        Ok::<_, std::io::Error>(header + &(first..first + 500).map(person).collect::<String>())
    });
    let body = reqwest::Body::wrap_stream(stream::iter(chunks));
    let request = fixture.admin.request(axum::http::Method::POST, "/users/import");
    let answer = request.header("content-type", "text/csv").body(body).within(PATIENCE).await.expect(202);
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    let report = over(&fixture.admin, &id, PATIENCE).await;
    assert_eq!(counts(&report), ("done", PEOPLE as i64, PEOPLE as i64, 0));
    let mut export = fixture.admin.get("/users/export?format=csv").stream().await.bytes_stream();
    let mut lines = 0;
    while let Some(chunk) = export.next().await {
        lines += chunk.unwrap().iter().filter(|byte| **byte == b'\n').count();
    }
    assert_eq!(lines, PEOPLE + 1);
    watch.abort();
    let grown = (most.load(std::sync::atomic::Ordering::Relaxed) - before) / 1024;
    assert!(grown < 50, "{grown} MiB more than before");
}

proptest! {
    #[test]
    fn csv_is_read_as_it_was_written_however_it_is_cut(
        rows in proptest::collection::vec(proptest::collection::vec("[a\"',\n\r é]{0,5}", 1..4), 0..6),
        cut in 1_usize..9,
    ) {
        let quoted = |cell: &String| format!("\"{}\"", cell.replace('"', "\"\""));
        let file: String = rows.iter().map(|row| row.iter().map(quoted).collect::<Vec<_>>().join(",") + "\r\n").collect();
        let mut csv = Csv::default();
        let mut read: Vec<Line<Vec<String>>> = file.as_bytes().chunks(cut).flat_map(|chunk| csv.take(chunk)).collect();
        read.extend(csv.end());
        let read: Result<Vec<_>, BadLine> = read.into_iter().map(|line| line.content).collect();
        prop_assert_eq!(read, Ok(rows));
    }

    #[test]
    fn lines_are_the_same_however_they_are_cut(file in "[a\n]{0,40}", cut in 1_usize..9) {
        let read = |cut: usize| {
            let mut plain = Plain::default();
            let mut lines: Vec<_> = file.as_bytes().chunks(cut).flat_map(|chunk| plain.take(chunk)).collect();
            lines.extend(plain.end());
            lines
        };
        let expected: Vec<_> = file.split('\n').zip(1..).filter(|(line, _)| !line.is_empty())
            .map(|(line, number)| Line { number, content: Ok(line.as_bytes().to_vec()) }).collect();
        prop_assert_eq!(read(cut), expected);
    }
}
