//! A domain event: CloudEvents 1.0 (<https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md>) in structured
//! JSON. Written by [`crate::outbox`], read by [`crate::events`].

use chrono::{DateTime, SubsecRound as _, Utc};
use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

use crate::trace::{self, TraceContext};

/// The exchange that carries every service's events; routing key = event type.
pub const EXCHANGE: &str = "kronos.events";
/// The media type of an event.
pub const CONTENT_TYPE: &str = "application/cloudevents+json";

/// Something that happened, told once it is committed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    specversion: Version,
    /// Unique within `source`; consumers deduplicate by both.
    #[serde(deserialize_with = "non_empty")]
    pub id: String,
    /// Who tells it, such as `/kronos/user`.
    #[serde(deserialize_with = "non_empty")]
    pub source: String,
    /// What happened, such as `kronos.user.rights-changed`; also the routing key.
    #[serde(rename = "type", deserialize_with = "non_empty")]
    pub type_: String,
    /// Whom or what it happened to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// When.
    pub time: DateTime<Utc>,
    /// The media type of `data`; only JSON is read.
    #[serde(default = "json", rename = "datacontenttype")]
    pub data_content_type: String,
    /// The rest, as the type defines it.
    #[serde(default)]
    pub data: serde_json::Value,
    /// The W3C trace that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

/// The only version there is, checked when read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Version {
    #[serde(rename = "1.0")]
    One,
}

impl Event {
    /// An event that happens now, in the current trace. `type_` is `kronos.<area>.<what>`; the source is `/kronos/<area>`.
    pub fn new(type_: impl Into<String>, subject: impl Into<String>, data: serde_json::Value) -> Self {
        let type_ = type_.into();
        let area = type_.rsplit_once('.').map_or(type_.as_str(), |(area, _)| area);
        Self {
            specversion: Version::One,
            id: Uuid::now_v7().to_string(),
            source: format!("/{}", area.replace('.', "/")),
            subject: Some(subject.into()),
            // What Postgres and most readers keep; so an event is equal to itself after a journey.
            time: Utc::now().trunc_subsecs(6),
            data_content_type: json(),
            data,
            traceparent: trace::current().map(|context| context.to_string()),
            type_,
        }
    }

    /// The trace that the event belongs to, if it names one.
    pub fn trace(&self) -> Option<TraceContext> {
        self.traceparent.as_deref().and_then(TraceContext::parse)
    }

    /// The event as it travels.
    pub fn encode(&self) -> String {
        serde_json::to_string(self).expect("a struct of strings and JSON values serialises")
    }

    /// Reads what [`Event::encode`] or any other CloudEvents producer wrote.
    ///
    /// # Errors
    /// Not JSON, another version, an attribute that is missing or empty, or binary data.
    pub fn decode(bytes: &[u8]) -> anyhow::Result<Self> {
        let event: Self = serde_json::from_slice(bytes)?;
        let essence = event.data_content_type.split(';').next().unwrap_or_default().trim();
        anyhow::ensure!(
            essence == "application/json" || essence.ends_with("+json"),
            "data of type {essence} instead of JSON"
        );
        Ok(event)
    }
}

fn json() -> String {
    "application/json".to_owned()
}

fn non_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() { Err(serde::de::Error::custom("an attribute is empty")) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn the_source_is_the_area_of_the_type() {
        let event = Event::new("kronos.user.rights-changed", "u1", json!({}));
        assert_eq!(event.source, "/kronos/user");
        assert_eq!(event.subject.as_deref(), Some("u1"));
    }

    #[test]
    fn the_attributes_are_those_of_cloudevents() {
        let wire: serde_json::Value =
            serde_json::from_str(&Event::new("kronos.user.created", "u1", json!({"a": 1})).encode()).expect("JSON");
        assert_eq!(wire["specversion"], "1.0");
        assert_eq!(wire["type"], "kronos.user.created");
        assert_eq!(wire["datacontenttype"], "application/json");
        assert_eq!(wire["data"]["a"], 1);
        assert!(wire.get("traceparent").is_none());
    }

    #[test]
    fn an_event_without_an_attribute_or_of_another_version_is_refused() {
        let whole =
            json!({"specversion": "1.0", "id": "1", "source": "/x", "type": "t", "time": "2026-01-01T00:00:00Z"});
        Event::decode(whole.to_string().as_bytes()).expect("valid");
        for (attribute, value) in
            [("specversion", json!("0.3")), ("id", json!("")), ("source", json!(null)), ("time", json!("noon"))]
        {
            let mut event = whole.clone();
            event[attribute] = value;
            assert!(Event::decode(event.to_string().as_bytes()).is_err(), "{event}");
        }
        let mut binary = whole;
        binary["datacontenttype"] = json!("image/png");
        assert!(Event::decode(binary.to_string().as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(type_ in "[a-z.]{1,40}", subject in ".{0,40}", text in any::<String>(), number: i64) {
            let event = Event::new(type_, subject, json!({"text": text, "number": number}));
            prop_assert_eq!(Event::decode(event.encode().as_bytes()).expect("own event"), event);
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Event::decode(&bytes);
        }
    }
}
