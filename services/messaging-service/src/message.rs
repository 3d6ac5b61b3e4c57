//! A message from publish to delivery: its parts, its form in the brokers' headers, its form for a subscriber. No I/O.

use std::collections::BTreeMap;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

/// Headers that a publisher adds, name → value.
pub type Headers = BTreeMap<String, String>;

/// Most headers of a message, longest name and value in bytes.
pub const MAX_HEADERS: usize = 64;
pub const MAX_HEADER_NAME: usize = 128;
pub const MAX_HEADER_VALUE: usize = 4096;
/// Longest key, in bytes.
pub const MAX_KEY: usize = 512;

/// Names of the brokers' own headers, in which a message's parts travel.
pub mod wire {
    pub const ID: &str = "kronos-id";
    pub const KEY: &str = "kronos-key";
    pub const HEADERS: &str = "kronos-headers";
    pub const PRIORITY: &str = "kronos-priority";
    pub const PUBLISHED_AT: &str = "kronos-published-at";
    pub const EXPIRES_AT: &str = "kronos-expires-at";
    pub const TRACEPARENT: &str = "traceparent";
    pub const SEALED: &str = "kronos-sealed";
}

/// A message on its way to or from a broker.
#[derive(Debug, Clone)]
pub struct Message {
    pub id: Uuid,
    pub key: Option<String>,
    /// A JSON document on one line.
    pub payload: Bytes,
    /// A JSON object of strings.
    pub headers: String,
    pub priority: i16,
    pub published_at: DateTime<Utc>,
    pub expires_at: Option<DateTime<Utc>>,
    pub traceparent: Option<String>,
    /// The payload is the sealed one, a JSON string.
    pub sealed: bool,
}

impl Message {
    /// The parts that travel as the broker's headers: names and values.
    pub fn wire_headers(&self) -> Vec<(&'static str, String)> {
        let mut headers = vec![
            (wire::ID, self.id.to_string()),
            (wire::PUBLISHED_AT, self.published_at.timestamp_micros().to_string()),
        ];
        if self.headers != "{}" {
            headers.push((wire::HEADERS, self.headers.clone()));
        }
        if self.priority != 0 {
            headers.push((wire::PRIORITY, self.priority.to_string()));
        }
        if let Some(expires_at) = self.expires_at {
            headers.push((wire::EXPIRES_AT, expires_at.timestamp_micros().to_string()));
        }
        if let Some(traceparent) = &self.traceparent {
            headers.push((wire::TRACEPARENT, traceparent.clone()));
        }
        if self.sealed {
            headers.push((wire::SEALED, "1".to_owned()));
        }
        headers
    }

    /// Reads what a broker hands over. What others than Kronos put there is taken as it is: `fallback` is then its id, and
    /// a body that is no JSON becomes a JSON string.
    pub fn from_wire<'a>(
        payload: &[u8],
        key: Option<String>,
        headers: impl Iterator<Item = (&'a str, &'a str)>,
        fallback: Uuid,
        now: DateTime<Utc>,
    ) -> Self {
        let mut message = Self {
            id: fallback,
            key,
            payload: Bytes::new(),
            headers: "{}".to_owned(),
            priority: 0,
            published_at: now,
            expires_at: None,
            traceparent: None,
            sealed: false,
        };
        let time = |text: &str| text.parse().ok().and_then(DateTime::from_timestamp_micros);
        for (name, value) in headers {
            match name {
                wire::ID => message.id = value.parse().unwrap_or(fallback),
                wire::KEY => message.key = Some(value.to_owned()),
                wire::HEADERS if is_object_of_strings(value) => value.clone_into(&mut message.headers),
                wire::PRIORITY => message.priority = value.parse().unwrap_or(0),
                wire::PUBLISHED_AT => message.published_at = time(value).unwrap_or(now),
                wire::EXPIRES_AT => message.expires_at = time(value),
                wire::TRACEPARENT => message.traceparent = Some(value.to_owned()),
                wire::SEALED => message.sealed = true,
                _ => {}
            }
        }
        message.payload = one_line(payload);
        // Postgres refuses a NUL in text; a key may hold one only if it came from elsewhere.
        message.key = message.key.map(|key| key.replace('\0', ""));
        message
    }

    /// What an ungrouped subscriber gets.
    pub fn for_all(&self, topic: &str) -> String {
        render(&Delivered {
            message_id: self.id,
            delivery_id: None,
            topic,
            group: None,
            key: self.key.as_deref(),
            payload: raw(&self.payload),
            headers: raw(self.headers.as_bytes()),
            traceparent: self.traceparent.as_deref(),
            attempt: 1,
            published_at: self.published_at,
            lease_expires_at: None,
        })
    }
}

/// A message as a subscriber sees it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Delivered<'a> {
    pub message_id: Uuid,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery_id: Option<String>,
    pub topic: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<&'a str>,
    pub key: Option<&'a str>,
    pub payload: &'a RawValue,
    pub headers: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<&'a str>,
    pub attempt: i32,
    pub published_at: DateTime<Utc>,
    pub lease_expires_at: Option<DateTime<Utc>>,
}

/// The JSON that a subscriber gets.
pub fn render(delivered: &Delivered<'_>) -> String {
    serde_json::to_string(delivered).expect("strings, numbers and checked JSON serialise")
}

/// Stored JSON as a part of a larger document; `null` should it not be JSON after all.
pub fn raw(json: &[u8]) -> &RawValue {
    serde_json::from_slice(json).unwrap_or(RawValue::NULL)
}

/// JSON without line breaks, so that it fits one `data:` line; anything else as a JSON string.
pub fn one_line(payload: &[u8]) -> Bytes {
    match serde_json::from_slice::<Box<RawValue>>(payload) {
        Ok(document) => json_on_one_line(document),
        Err(_) => Bytes::from(serde_json::to_string(&String::from_utf8_lossy(payload)).expect("a string serialises")),
    }
}

/// The same of what is JSON already.
pub fn json_on_one_line(document: Box<RawValue>) -> Bytes {
    let text = String::from(Box::<str>::from(document));
    // Line breaks inside of strings are escaped, so each one is white space between tokens.
    if text.bytes().any(|byte| matches!(byte, b'\n' | b'\r')) {
        return Bytes::from(text.replace(['\n', '\r'], " "));
    }
    Bytes::from(text)
}

fn is_object_of_strings(text: &str) -> bool {
    serde_json::from_str::<Headers>(text).is_ok()
}
