//! Request and reply: who asks waits, or comes back; at any instance.

use serde_json::{Value, json};

use crate::harness::{ALL, Harness, take_from, text};

#[tokio::test]
async fn who_asks_waits_for_the_reply_whichever_instance_gets_it() {
    let messaging = Harness::start().await;
    let another = messaging.another().await;
    for kind in ["queue", "stream"] {
        messaging.topic(kind, kind, &json!({})).await;
        for answerer in [messaging.client(), messaging.client_at(&another)] {
            let ask = async {
                let body = json!({ "payload": { "robot": "R-42" }, "headers": { "a": "1" } });
                messaging.client().post(&format!("/request/{kind}?timeoutMs=20000"), &body).await.expect(200).json()
            };
            let answer = async {
                let taken = take_from(&answerer, kind, "&group=g").await;
                let to = text(&taken["headers"], "reply-to").to_owned();
                assert_eq!(to, format!("/reply/{}", text(&taken, "messageId")));
                assert_eq!(taken["headers"]["a"], "1");
                answerer.post(&to, &json!({ "payload": { "battery": 81 }, "headers": { "b": "2" } })).await.expect(204);
                answerer.post(&to, &json!({ "payload": 2 })).await.expect_problem(409, "already_replied");
                answerer.post(&format!("/ack/{}", text(&taken, "deliveryId")), &json!(null)).await.expect(204);
            };
            let (reply, ()) = tokio::join!(ask, answer);
            assert_eq!(
                (&reply["status"], &reply["payload"]),
                (&json!("replied"), &json!({ "battery": 81 })),
                "{reply}"
            );
            assert_eq!((&reply["headers"], &reply["repliedBy"]), (&json!({ "b": "2" }), &json!("tester")));
        }
    }
    another.stop().await;
    messaging.stop().await;
}

#[tokio::test]
async fn without_a_reply_in_time_the_answer_is_a_504_and_a_late_reply_is_refused() {
    let messaging = Harness::start().await;
    messaging.topic("q", "queue", &json!({})).await;
    let client = messaging.client();
    // Somebody must take it before its time is over, on a busy machine too.
    messaging.nothing_comes("q", "", 50).await;
    let ask = async {
        client.post("/request/q?timeoutMs=3000", &json!({ "payload": 1 })).await.expect_problem(504, "no_reply")
    };
    let (answer, taken) = tokio::join!(ask, messaging.take("q", ""));
    let id = text(&taken, "messageId");
    assert!(answer.text().contains(id), "{answer}");
    client.post(&format!("/reply/{id}"), &json!({ "payload": 1 })).await.expect_problem(409, "request_expired");
    assert_eq!(client.get(&format!("/requests/{id}")).await.expect(200).json()["status"], "expired");
    let metrics = kronos_testkit::http(messaging.running.operations).get("/metrics").await.text();
    assert!(metrics.contains("kronos_messaging_late_replies_total 1"), "{metrics}");
    // What nobody took in time is not handed out any more.
    client.post("/request/q?timeoutMs=1", &json!({ "payload": 2 })).await.expect_problem(504, "no_reply");
    messaging.nothing_comes("q", "", 300).await;
    messaging.stop().await;
}

#[tokio::test]
async fn who_prefers_to_come_back_finds_the_reply_at_the_location() {
    let messaging = Harness::start().await;
    let another = messaging.another().await;
    messaging.topic("q", "queue", &json!({})).await;
    let client = messaging.client();
    let asked =
        client.post("/request/q", &json!({ "payload": 1 })).header("prefer", "wait=5, respond-async").await.expect(202);
    assert_eq!(
        (asked.header("preference-applied"), asked.json()["status"].clone()),
        (Some("respond-async"), json!("waiting"))
    );
    let location = asked.header("location").unwrap().to_owned();
    let there = messaging.client_at(&another);
    assert_eq!(there.get(&location).await.expect(200).json()["status"], "waiting");
    let taken = messaging.take("q", "").await;
    there.post(text(&taken["headers"], "reply-to"), &json!({ "payload": [1, null] })).await.expect(204);
    assert_eq!(client.get(&location).await.expect(200).json()["payload"], json!([1, null]));
    // It is nobody else's.
    messaging.client_as("stranger", &ALL).get(&location).await.expect_problem(404, "unknown_request");
    another.stop().await;
    messaging.stop().await;
}

#[tokio::test]
async fn a_bad_request_or_reply_is_refused() {
    let messaging = Harness::start_with(|config| config.publish.max_payload_bytes = 1000).await;
    messaging.topic("q", "queue", &json!({})).await;
    let client = messaging.client();
    let good = json!({ "payload": 1 });
    client.post("/request/none", &good).await.expect_problem(404, "unknown_topic");
    for query in ["timeoutMs=0", "timeoutMs=30001", "timeoutMs=x"] {
        client.post(&format!("/request/q?{query}"), &good).await.expect_problem(400, "invalid_query");
    }
    client.post("/request/q", &json!({ "topic": "q" })).await.expect_problem(422, "invalid_request");
    for id in ["x".to_owned(), messaging.publish("q", 1).await] {
        client.post(&format!("/reply/{id}"), &good).await.expect_problem(404, "unknown_request");
        client.get(&format!("/requests/{id}")).await.expect_problem(404, "unknown_request");
    }
    let large: Value = json!({ "payload": "x".repeat(1000) });
    client.post("/reply/x", &large).await.expect_problem(413, "payload_too_large");
    client.post("/request/q", &large).await.expect_problem(413, "payload_too_large");
    messaging.stop().await;
}
