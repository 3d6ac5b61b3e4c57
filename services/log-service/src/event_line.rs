//! A domain event as a log line. No I/O.

use kronos_common::event::Event;
use serde_json::{Map, Value};

use crate::line::{Level, MAX_ID_CHARS, MAX_SERVICE_CHARS, NewLine};

/// Endings of event types that someone may have to look at.
const WORRYING: [&str; 9] =
    ["failed", "refused", "rejected", "denied", "revoked", "dead", "dead-lettered", "alert", "critical"];

/// The line that keeps the event: service = who told it, attributes = its data. Secrets are taken out as in any line.
pub fn line_of(event: Event) -> NewLine {
    let source = event.source.trim_start_matches('/').replace('/', ".");
    let service: String = if source.is_empty() { "kronos".to_owned() } else { source };
    let mut attributes = match event.data {
        Value::Object(map) => map,
        Value::Null => Map::new(),
        other => Map::from_iter([("data".to_owned(), other)]),
    };
    attributes.insert("eventType".into(), event.type_.clone().into());
    attributes.insert("eventId".into(), event.id.clone().into());
    if let Some(subject) = &event.subject {
        attributes.insert("eventSubject".into(), subject.clone().into());
    }
    let what = event.type_.rsplit('.').next().unwrap_or_default();
    let worrying = WORRYING.iter().any(|word| what == *word || what.ends_with(&format!("-{word}")));
    let id: String = event.id.chars().filter(|c| !c.is_control()).take(MAX_ID_CHARS).collect();
    NewLine {
        timestamp: Some(event.time),
        service: service.chars().filter(|c| !c.is_control()).take(MAX_SERVICE_CHARS).collect(),
        level: if worrying { Level::Warn } else { Level::Info },
        message: match event.subject {
            Some(subject) => format!("{} {subject}", event.type_),
            None => event.type_,
        },
        attributes: Some(attributes),
        // The second field of a traceparent.
        trace_id: event
            .traceparent
            .and_then(|parent| parent.split('-').nth(1).map(str::to_owned))
            .filter(|id| id.len() == 32),
        id: (!id.is_empty()).then_some(id),
    }
}
