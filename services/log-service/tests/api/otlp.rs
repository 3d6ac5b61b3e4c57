//! `POST /v1/logs`: OpenTelemetry's logs in both encodings.

use log_service::otlp::{
    AnyKind, AnyValue, Export, Exported, KeyValue, LogRecord, Resource, ResourceLogs, Scope, ScopeLogs,
};
use prost::Message as _;
use serde_json::json;

use crate::harness::Harness;

fn text(value: &str) -> Option<AnyValue> {
    Some(AnyValue { kind: Some(AnyKind::StringValue(value.into())) })
}

#[tokio::test]
async fn json_records_become_lines_of_their_service() {
    let logs = Harness::start().await;
    let body = json!({ "resourceLogs": [{
        "resource": { "attributes": [
            { "key": "service.name", "value": { "stringValue": "auth-service" } },
            { "key": "host.name", "value": { "stringValue": "node-1" } }] },
        "scopeLogs": [{ "scope": { "name": "kronos" }, "logRecords": [
            { "timeUnixNano": "1767323045123456789", "severityNumber": 17, "severityText": "error", "body": { "stringValue": "it broke" },
              "attributes": [
                { "key": "count", "value": { "intValue": "3" } }, { "key": "ratio", "value": { "doubleValue": 0.5 } },
                { "key": "list", "value": { "arrayValue": { "values": [{ "boolValue": true }] } } }, { "key": "none" }],
              "traceId": "5b8efff798038103d269b633813fc60c", "spanId": "eee19b7ec3c1b174", "flags": 1 },
            { "body": { "stringValue": "no time, no level" } }] }]
    }] });
    let answer = logs.client_with(&["logs:write"]).post("/v1/logs", &body).await.expect(200).json();
    assert_eq!(answer, json!({ "partialSuccess": {} }));
    let items = logs.find("service=auth-service&level=error", 1).await;
    assert_eq!(items[0]["timestamp"], "2026-01-02T03:04:05.123456Z");
    assert_eq!(items[0]["message"], "it broke");
    assert_eq!(items[0]["traceId"], "5b8efff798038103d269b633813fc60c");
    let attributes = &items[0]["attributes"];
    assert_eq!((&attributes["count"], &attributes["ratio"]), (&json!(3), &json!(0.5)));
    assert_eq!((&attributes["host.name"], &attributes["scope"]), (&json!("node-1"), &json!("kronos")));
    assert_eq!((&attributes["list"], &attributes["spanId"]), (&json!([true]), &json!("eee19b7ec3c1b174")));
    logs.find("service=auth-service&level=info", 1).await;
    logs.stop().await;
}

#[tokio::test]
async fn protobuf_is_answered_in_protobuf_and_a_named_record_is_kept_once() {
    let logs = Harness::start().await;
    let record = LogRecord {
        time_unix_nano: 1_767_323_045_000_000_000,
        severity_number: 9,
        body: text("from protobuf"),
        attributes: vec![KeyValue { key: "log.record.uid".into(), value: text("u1") }],
        trace_id: vec![0xab; 16],
        ..LogRecord::default()
    };
    let resource = Resource { attributes: vec![KeyValue { key: "service.name".into(), value: text("gaia") }] };
    let scope_logs = vec![ScopeLogs { scope: Some(Scope { name: "s".into() }), log_records: vec![record] }];
    let export = Export { resource_logs: vec![ResourceLogs { resource: Some(resource), scope_logs }] };
    for _ in 0..2 {
        let request =
            logs.client().request(reqwest::Method::POST, "/v1/logs").header("content-type", "application/x-protobuf");
        let answer = request.body(export.encode_to_vec()).await.expect(200);
        assert_eq!(answer.header("content-type"), Some("application/x-protobuf"));
        assert_eq!(Exported::decode(answer.body.as_slice()).unwrap(), Exported::default());
    }
    let items = logs.find("service=gaia", 1).await;
    assert_eq!((&items[0]["message"], &items[0]["traceId"]), (&json!("from protobuf"), &json!("ab".repeat(16))));
    logs.stop().await;
}

#[tokio::test]
async fn a_record_that_cannot_be_kept_is_counted_and_the_rest_is_kept() {
    let logs = Harness::start().await;
    let body = json!({ "resourceLogs": [{ "scopeLogs": [{ "logRecords": [
        { "body": { "stringValue": "good" } },
        { "timeUnixNano": "9000000000000000000", "body": { "stringValue": "also good" } },
        { "body": { "stringValue": "bad" }, "attributes": [{ "key": "log.record.uid", "value": { "stringValue": "x".repeat(200) } }] },
    ] }] }] });
    let answer = logs.client().post("/v1/logs", &body).await.expect(200).json();
    assert_eq!(answer["partialSuccess"]["rejectedLogRecords"], "1");
    assert!(answer["partialSuccess"]["errorMessage"].as_str().unwrap().contains("id"));
    logs.find("service=unknown_service", 2).await;
    logs.stop().await;
}

#[tokio::test]
async fn what_is_no_export_is_a_problem() {
    let logs = Harness::start().await;
    let post = |content_type: &'static str, body: &'static str| {
        logs.client().request(reqwest::Method::POST, "/v1/logs").header("content-type", content_type).body(body)
    };
    post("application/json", "{").await.expect_problem(400, "malformed_json");
    post("application/json", "[1]").await.expect_problem(422, "invalid_request");
    post("application/x-protobuf", "\u{7f}\u{7f}").await.expect_problem(400, "malformed_protobuf");
    post("text/plain", "{}").await.expect_problem(415, "unsupported_media_type");
    logs.stop().await;
}
