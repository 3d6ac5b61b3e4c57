//! The other forms in which `POST /publish?topic=` takes a message: a body of any media type, and the three content modes of
//! the CloudEvents HTTP binding (CloudEvents 1.0.2): binary, structured, batched. No I/O.
//!
//! An event's attributes become the message's headers under the names of the binding's binary mode (`ce-type`, …), and
//! `datacontenttype` its `content-type`. What is no JSON is a payload in Base64, with the header
//! `content-transfer-encoding: base64` (RFC 2045 section 6).

use std::collections::BTreeMap;

use axum::http::{HeaderMap, header};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use kronos_common::problem::{FieldError, Problem, Result};
use serde_json::{Value, value::RawValue};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::message::Headers;

const CONTENT_TYPE: &str = "content-type";
const ENCODING: &str = "content-transfer-encoding";
/// Attributes that every event has.
const REQUIRED: [&str; 4] = ["id", "source", "specversion", "type"];

/// What a request carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// The service's own JSON.
    Own,
    /// A body of any media type.
    Raw,
    /// One event, its attributes in the headers.
    Binary,
    /// One event as JSON.
    Structured,
    /// Several events as JSON.
    Batch,
}

/// A message, as far as its body and headers say.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) payload: Box<RawValue>,
    /// Bytes before any encoding.
    pub(super) size: usize,
    pub(super) headers: Headers,
    /// The event's `partitionkey`.
    pub(super) key: Option<String>,
    /// The event's `source` and `id`, which tell one event from another.
    pub(super) identity: Option<(String, String)>,
}

/// The form of a request; a body of any media type is one only where the query names the topic.
pub(super) fn form(headers: &HeaderMap, names_topic: bool) -> Form {
    match essence(headers).as_str() {
        "application/cloudevents+json" => Form::Structured,
        "application/cloudevents-batch+json" => Form::Batch,
        _ if headers.contains_key("ce-specversion") => Form::Binary,
        _ if names_topic => Form::Raw,
        _ => Form::Own,
    }
}

/// A body of any media type, and the attributes of an event in the headers, should there be some.
///
/// # Errors
/// 400 `malformed_json`; 422 for attributes.
pub(super) fn of_body(headers: &HeaderMap, body: &[u8], is_event: bool) -> Result<Content> {
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let mut content = encode(body, media_type.as_deref())?;
    if is_event {
        let mut attributes = BTreeMap::new();
        for (name, value) in headers {
            if let Some(name) = name.as_str().strip_prefix("ce-") {
                attributes.insert(name.to_owned(), Value::String(percent_decoded(value.as_bytes())));
            }
        }
        attribute(&mut content, attributes, "")?;
    }
    Ok(content)
}

/// An event as JSON; its errors' pointers are below `at`.
///
/// # Errors
/// 400 `malformed_json`, 422.
pub(super) fn of_event(event: &RawValue, at: &str) -> Result<Content> {
    let mut parts: BTreeMap<String, Box<RawValue>> = serde_json::from_str(event.get())
        .map_err(|_| Problem::field(at, "wrong_type", "a CloudEvent is a JSON object"))?;
    let media_type = parts.remove("datacontenttype").and_then(|value| serde_json::from_str(value.get()).ok());
    let media_type: Option<String> = media_type;
    let mut content = match (parts.remove("data"), parts.remove("data_base64")) {
        (Some(_), Some(_)) => {
            let detail = "an event has data or data_base64, not both";
            return Err(Problem::field(format!("{at}/data_base64"), "not_allowed", detail));
        }
        (data, None) => {
            let payload = data.unwrap_or_else(|| RawValue::NULL.to_owned());
            let mut headers = Headers::new();
            headers.extend(media_type.map(|media_type| (CONTENT_TYPE.to_owned(), media_type)));
            Content { size: payload.get().len(), payload, headers, key: None, identity: None }
        }
        (None, Some(encoded)) => {
            let bytes = serde_json::from_str::<String>(encoded.get()).ok().and_then(|text| STANDARD.decode(text).ok());
            let detail = "it must be Base64 (RFC 4648 section 4)";
            let bytes = bytes.ok_or_else(|| Problem::field(format!("{at}/data_base64"), "wrong_form", detail))?;
            encode(&bytes, media_type.as_deref().or(Some("application/octet-stream")))?
        }
    };
    let attributes = parts.into_iter().map(|(name, value)| {
        let value = serde_json::from_str(value.get()).unwrap_or(Value::Null);
        (name, value)
    });
    attribute(&mut content, attributes.collect(), at)?;
    Ok(content)
}

/// The id of an event's message: the same for the same event of the same publisher in the same topic, so that a group that
/// was handed it is not handed it again. A UUID of version 8 (RFC 9562 section 5.8).
pub(super) fn message_id(topic_id: Uuid, publisher: &str, (source, id): &(String, String)) -> Uuid {
    let mut hash = Sha256::new();
    hash.update(topic_id.as_bytes());
    for part in [publisher, source, id] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let digest = hash.finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

fn encode(body: &[u8], media_type: Option<&str>) -> Result<Content> {
    let mut headers = Headers::new();
    let json = media_type.is_none_or(is_json);
    let payload = if body.is_empty() {
        RawValue::NULL.to_owned()
    } else if json {
        serde_json::from_slice::<Box<RawValue>>(body)
            .map_err(|error| Problem::bad_request("malformed_json", format!("the body is not valid JSON: {error}")))?
    } else {
        headers.insert(ENCODING.to_owned(), "base64".to_owned());
        serde_json::value::to_raw_value(&STANDARD.encode(body)).map_err(Problem::internal)?
    };
    headers.extend(media_type.map(|media_type| (CONTENT_TYPE.to_owned(), media_type.to_owned())));
    Ok(Content { size: body.len(), payload, headers, key: None, identity: None })
}

fn attribute(content: &mut Content, attributes: BTreeMap<String, Value>, at: &str) -> Result<()> {
    let mut errors = Vec::new();
    for name in REQUIRED {
        match attributes.get(name) {
            Some(Value::String(text)) if name == "specversion" && text != "1.0" => {
                errors.push(FieldError::new(
                    format!("{at}/{name}"),
                    "not_allowed",
                    "this service speaks CloudEvents 1.0",
                ));
            }
            Some(Value::String(text)) if !text.is_empty() => {}
            Some(_) => errors.push(FieldError::new(format!("{at}/{name}"), "wrong_type", "a text that is not empty")),
            None => errors.push(FieldError::new(format!("{at}/{name}"), "missing", "every event has this attribute")),
        }
    }
    for (name, value) in attributes {
        let text = match value {
            Value::String(text) => text,
            Value::Number(number) => number.to_string(),
            Value::Bool(truth) => truth.to_string(),
            Value::Null => continue,
            Value::Array(_) | Value::Object(_) => {
                let detail = "an attribute is a text, a number or a truth value";
                errors.push(FieldError::new(format!("{at}/{name}"), "wrong_type", detail));
                continue;
            }
        };
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()) {
            let detail = "an attribute's name has lowercase letters and digits";
            let name = name.replace('~', "~0").replace('/', "~1");
            errors.push(FieldError::new(format!("{at}/{name}"), "wrong_form", detail));
            continue;
        }
        if name == "partitionkey" {
            content.key = Some(text.clone());
        }
        content.headers.insert(format!("ce-{name}"), text);
    }
    if !errors.is_empty() {
        return Err(Problem::invalid(errors));
    }
    let text = |name: &str| content.headers.get(name).cloned().unwrap_or_default();
    content.identity = Some((text("ce-source"), text("ce-id")));
    Ok(())
}

fn essence(headers: &HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn is_json(media_type: &str) -> bool {
    let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || essence.ends_with("+json")
}

/// Header values of events are percent-encoded UTF-8 (HTTP binding, section 3.1.3.2).
fn percent_decoded(value: &[u8]) -> String {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let mut decoded = Vec::with_capacity(value.len());
    let mut rest = value;
    while let [first, tail @ ..] = rest {
        match (first, digit(tail.first()), digit(tail.get(1))) {
            (b'%', Some(high), Some(low)) => {
                decoded.push(u8::try_from(high * 16 + low).unwrap_or(b'?'));
                rest = &tail[2..];
            }
            _ => {
                decoded.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}
