//! Bodies of any media type, and CloudEvents in the three modes of their HTTP binding.

use kronos_testkit::{TestRequest, TestResponse};
use serde_json::{Value, json};

use crate::harness::{Harness, text};

fn post(messaging: &Harness, path: &str, media_type: &str) -> TestRequest {
    messaging.client().request("POST".parse().unwrap(), path).header("content-type", media_type)
}

async fn event(messaging: &Harness, body: &Value) -> TestResponse {
    post(messaging, "/publish?topic=q", "application/cloudevents+json").body(body.to_string()).await
}

#[tokio::test]
async fn a_binary_payload_arrives_as_it_was() {
    let messaging = Harness::start_with(|config| config.publish.max_payload_bytes = 1000).await;
    for kind in ["queue", "stream", "broadcast"] {
        messaging.topic(kind, kind, &json!({})).await;
        messaging.nothing_comes(kind, "&group=g", 50).await;
        let bytes: Vec<u8> = (0..=255).collect();
        post(&messaging, &format!("/publish?topic={kind}&key=k"), "image/png").body(bytes.clone()).await.expect(201);
        let taken = messaging.take(kind, "&group=g").await;
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        assert_eq!(STANDARD.decode(text(&taken, "payload")).unwrap(), bytes);
        let headers = json!({ "content-type": "image/png", "content-transfer-encoding": "base64" });
        assert_eq!((&taken["headers"], &taken["key"]), (&headers, &json!("k")));
        let large = vec![0; 1001];
        let answer = post(&messaging, &format!("/publish?topic={kind}"), "image/png").body(large).await;
        answer.expect_problem(413, "payload_too_large");
    }
    post(&messaging, "/publish?topic=queue", "application/json").body("{\"a\": 1}").await.expect(201);
    assert_eq!(messaging.take("queue", "").await["payload"], json!({ "a": 1 }));
    post(&messaging, "/publish?topic=queue", "application/json").body("{").await.expect_problem(400, "malformed_json");
    post(&messaging, "/publish", "image/png").body("x").await.expect_problem(415, "unsupported_media_type");
    let answer = post(&messaging, "/publish?topic=queue&priority=999", "image/png").body("x").await;
    answer.expect_problem(422, "invalid_request");
    messaging.stop().await;
}

#[tokio::test]
async fn a_cloud_event_is_published_in_each_mode() {
    let messaging = Harness::start().await;
    messaging.topic("q", "queue", &json!({})).await;
    let binary = post(&messaging, "/publish?topic=q", "application/json")
        .header("ce-specversion", "1.0")
        .header("ce-id", "1")
        .header("ce-source", "/robots/R%2042")
        .header("ce-type", "robot.moved")
        .header("ce-partitionkey", "R-42")
        .body("{\"x\":1}");
    binary.await.expect(201);
    let taken = messaging.take("q", "").await;
    assert_eq!((&taken["payload"], &taken["key"]), (&json!({ "x": 1 }), &json!("R-42")));
    assert_eq!(
        (&taken["headers"]["ce-source"], &taken["headers"]["ce-type"]),
        (&json!("/robots/R 42"), &json!("robot.moved"))
    );

    let whole = json!({ "specversion": "1.0", "id": "2", "source": "/s", "type": "t", "sequence": 7, "data": [1, 2] });
    event(&messaging, &whole).await.expect(201);
    let taken = messaging.take("q", "").await;
    assert_eq!((&taken["payload"], &taken["headers"]["ce-sequence"]), (&json!([1, 2]), &json!("7")));

    let bytes = json!({ "specversion": "1.0", "id": "3", "source": "/s", "type": "t", "data_base64": "AAEC" });
    let bad = json!({ "specversion": "0.3", "id": "4", "source": "", "data": {} });
    let batch = post(&messaging, "/publish?topic=q", "application/cloudevents-batch+json");
    let results = batch.body(json!([bytes, bad]).to_string()).await.expect(207).json();
    assert_eq!(results["results"][0]["status"], "confirmed", "{results}");
    let errors = results["results"][1]["problem"]["errors"].as_array().unwrap();
    let mut pointers: Vec<&str> = errors.iter().map(|error| text(error, "pointer")).collect();
    pointers.sort_unstable();
    assert_eq!(pointers, ["/1/source", "/1/specversion", "/1/type"]);
    let taken = messaging.take("q", "").await;
    assert_eq!((&taken["payload"], &taken["headers"]["content-transfer-encoding"]), (&json!("AAEC"), &json!("base64")));

    for body in [
        json!([]),
        json!(1),
        json!({ "specversion": "1.0", "id": "5", "source": "/", "type": "t", "data": 1, "data_base64": "" }),
    ] {
        event(&messaging, &body).await.expect_problem(422, "invalid_request");
    }
    let nowhere = post(&messaging, "/publish", "application/cloudevents+json").body(whole.to_string()).await;
    nowhere.expect_problem(400, "invalid_query");
    messaging.stop().await;
}

#[tokio::test]
async fn a_cloud_event_sent_twice_is_delivered_once() {
    let messaging = Harness::start().await;
    for kind in ["queue", "stream"] {
        let name = if kind == "queue" { "q" } else { "s" };
        messaging.topic(name, kind, &json!({})).await;
        messaging.nothing_comes(name, "&group=g", 50).await;
        let body = json!({ "specversion": "1.0", "id": "1", "source": "/s", "type": "t", "data": 1 }).to_string();
        let send = async || {
            let path = format!("/publish?topic={name}");
            post(&messaging, &path, "application/cloudevents+json").body(body.clone()).await.expect(201).json()
        };
        let (first, second) = (send().await, send().await);
        assert_eq!(first["messageId"], second["messageId"]);
        let taken = messaging.take(name, "&group=g").await;
        assert_eq!(taken["messageId"], first["messageId"]);
        messaging.client().post(&format!("/ack/{}", text(&taken, "deliveryId")), &json!(null)).await.expect(204);
        messaging.nothing_comes(name, "&group=g", 500).await;
    }
    messaging.stop().await;
}

#[tokio::test]
async fn an_idempotency_key_holds_for_a_binary_body_too() {
    let messaging = Harness::start().await;
    messaging.topic("q", "queue", &json!({})).await;
    let send = |body: &'static str| {
        post(&messaging, "/publish?topic=q", "text/plain").header("idempotency-key", "k1").body(body)
    };
    let first = send("one").await.expect(201).json();
    let again = send("one").await.expect(201);
    assert_eq!((again.json(), again.header("idempotent-replayed")), (first, Some("true")));
    send("two").await.expect_problem(422, "idempotency_key_reused");
    messaging.take("q", "").await;
    messaging.nothing_comes("q", "", 300).await;
    messaging.stop().await;
}
