//! `GET /asyncapi.json`: what is said over which topic, as an AsyncAPI 3.0 document
//! (<https://www.asyncapi.com/docs/reference/specification/v3.0.0>). Made of the topics as they are now.

use axum::extract::State;
use kronos_common::{
    extract::Json,
    identity::Allowed,
    problem::{ProblemBody, Result},
};
use serde_json::{Map, Value, json};

use super::CanReadTopics;
use crate::{
    App,
    topic::{Kind, Topic},
};

/// Topics in the document; what comes after them by name is left out.
const MOST: i64 = 2000;

/// Show the AsyncAPI document
///
/// A channel for each topic, with its schema, and the operations on it.
#[utoipa::path(
    get, path = "/asyncapi.json", tag = "messaging-service", security(("bearer" = [])),
    responses(
        (status = 200, description = "AsyncAPI 3.0", body = serde_json::Value), (status = 401, body = ProblemBody),
        (status = 403, body = ProblemBody), (status = 503, body = ProblemBody),
    )
)]
pub(crate) async fn show_asyncapi(State(app): State<App>, _: Allowed<CanReadTopics>) -> Result<Json<Value>> {
    let topics = app.store.list_topics(None, "", MOST).await?;
    Ok(Json(document(&topics)))
}

fn document(topics: &[Topic]) -> Value {
    let mut channels = Map::new();
    let mut operations = Map::new();
    let mut messages = Map::new();
    for topic in topics {
        // Keys of components may have no more than these; two names never become the same.
        let key = topic.name.replace('.', "_-");
        let channel = json!({ "$ref": format!("#/channels/{key}") });
        let said = json!([{ "$ref": format!("#/channels/{key}/messages/message") }]);
        channels.insert(
            key.clone(),
            json!({
                "address": topic.name,
                "title": topic.name,
                "description": description(topic),
                "messages": { "message": { "$ref": format!("#/components/messages/{key}") } },
                "x-kronos-topic": topic,
            }),
        );
        messages.insert(
            key.clone(),
            json!({
                "name": topic.name,
                "contentType": "application/json",
                "headers": { "$ref": "#/components/schemas/headers" },
                "payload": topic.schema.clone().unwrap_or(Value::Bool(true)),
                "traits": [{ "$ref": "#/components/messageTraits/delivered" }],
            }),
        );
        operations.insert(
            format!("publish-{key}"),
            json!({
                "action": "receive", "channel": channel, "messages": said, "security": [bearer()],
                "summary": format!("POST /publish {{\"topic\":\"{}\",\"payload\":…}}", topic.name),
            }),
        );
        operations.insert(
            format!("subscribe-{key}"),
            json!({
                "action": "send", "channel": channel, "messages": said, "security": [bearer()],
                "summary": format!("GET /subscribe/{}: server-sent events, WebSocket or long poll", topic.name),
            }),
        );
        if topic.kind != Kind::Broadcast {
            operations.insert(
                format!("request-{key}"),
                json!({
                    "action": "receive", "channel": channel, "messages": said, "security": [bearer()],
                    "summary": format!("POST /request/{}: publish and wait for the reply", topic.name),
                    "reply": {
                        "address": {
                            "location": "$message.header#/reply-to",
                            "description": "where the subscriber posts its reply",
                        },
                    },
                }),
            );
        }
    }
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Kronos messaging-service",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Publish and subscribe over HTTP. An operation's action is the service's own: it receives what is \
                            published, and sends to subscribers. The HTTP interface is in /openapi.json.",
            "license": { "name": "Apache-2.0" },
        },
        "defaultContentType": "application/json",
        "servers": {
            "http": {
                "host": "{gateway}", "protocol": "http", "security": [bearer()],
                "description": "the gateway: POST /publish, GET /subscribe/{topic} as text/event-stream or JSON",
                "variables": { "gateway": { "default": "127.0.0.1:8080" } },
            },
            "websocket": {
                "host": "{gateway}", "protocol": "ws", "security": [bearer()],
                "description": "the gateway: GET /subscribe/{topic} upgraded to a WebSocket",
                "variables": { "gateway": { "default": "127.0.0.1:8080" } },
            },
        },
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": messages,
            "messageTraits": { "delivered": {
                "description": "A subscriber gets a JSON object: messageId, deliveryId, topic, group, key, payload, headers, \
                                traceparent, attempt, publishedAt, leaseExpiresAt.",
            } },
            "schemas": { "headers": {
                "type": "object",
                "additionalProperties": { "type": "string" },
                "properties": {
                    "reply-to": { "type": "string", "description": "of a request: where to post the reply" },
                    "content-transfer-encoding": { "const": "base64", "description": "the payload is bytes in Base64" },
                    "content-type": { "type": "string" },
                    "schedule-id": { "type": "string", "format": "uuid" },
                },
            } },
            "securitySchemes": { "bearer": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT" } },
        },
    })
}

fn bearer() -> Value {
    json!({ "$ref": "#/components/securitySchemes/bearer" })
}

fn description(topic: &Topic) -> &'static str {
    match topic.kind {
        Kind::Stream => "A stream: every group gets every message, from its own position.",
        Kind::Queue => "A queue: each message is work for one subscriber.",
        Kind::Broadcast => "A broadcast: whoever listens gets every message, and so does every group.",
    }
}
