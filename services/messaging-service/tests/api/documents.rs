//! The AsyncAPI document.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::harness::Harness;

/// Every `$ref` in a document.
fn references(document: &Value, found: &mut BTreeSet<String>) {
    match document {
        Value::Object(fields) => {
            found.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
            fields.values().for_each(|value| references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[tokio::test]
async fn the_asyncapi_document_describes_every_topic_and_refers_to_nothing_that_is_not_there() {
    let messaging = Harness::start().await;
    let schema = json!({ "type": "object", "required": ["robot"] });
    messaging.topic("robot.events", "stream", &json!({ "schema": schema })).await;
    messaging.topic("robot_events", "queue", &json!({})).await;
    messaging.topic("alerts", "broadcast", &json!({})).await;
    let document = messaging.client().get("/asyncapi.json").await.expect(200).json();
    assert_eq!(document["asyncapi"], "3.0.0");
    let addresses: BTreeSet<&str> = document["channels"]
        .as_object()
        .unwrap()
        .values()
        .map(|channel| channel["address"].as_str().unwrap())
        .collect();
    assert_eq!(addresses, BTreeSet::from(["alerts", "robot.events", "robot_events"]));
    let messages = document["components"]["messages"].as_object().unwrap();
    assert!(messages.values().any(|message| message["payload"] == schema));
    // Publish and subscribe for each; request for what one subscriber takes.
    assert_eq!(document["operations"].as_object().unwrap().len(), 8);
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
    messaging.stop().await;
}
