//! A line as Elasticsearch keeps it, and the template of the daily indices. The mapping is fixed: no line adds a field.

use std::collections::BTreeMap;

use anyhow::Context as _;
use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::Attributes;
use crate::{
    config,
    line::{Level, Line},
    terms,
};

/// What is written.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Document<'a> {
    seq: i64,
    /// The time again, to the microsecond: dates here are kept to the millisecond, and an order must be total.
    micros: i64,
    #[serde(rename = "@timestamp")]
    timestamp: String,
    received_at: String,
    id: &'a str,
    service: &'a str,
    level: Level,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<&'a str>,
    /// As they came; kept, not searched.
    raw: &'a Map<String, Value>,
    /// For the search: words, and attributes as text by path.
    terms: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    attributes: Option<BTreeMap<String, Vec<String>>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pairs: Vec<String>,
}

/// What is read.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Source {
    seq: i64,
    micros: i64,
    received_at: DateTime<Utc>,
    id: String,
    service: String,
    level: Level,
    message: String,
    trace_id: Option<String>,
    raw: Map<String, Value>,
}

/// The fields of [`Source`]; the rest is not worth its way.
pub(super) const SOURCE_FIELDS: [&str; 9] =
    ["seq", "micros", "receivedAt", "id", "service", "level", "message", "traceId", "raw"];

impl<'a> Document<'a> {
    pub(super) fn of(line: &'a Line, kind: Attributes) -> Self {
        // The exact pairs at the end of the terms are for the others; here attributes have a field of their own.
        let words = line.terms.find(" =").map_or(line.terms.as_str(), |end| &line.terms[..end]);
        let mut attributes: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut pairs = Vec::new();
        for (path, value) in terms::pairs(&line.attributes) {
            if value.chars().count() <= terms::MAX_VALUE_CHARS {
                match kind {
                    Attributes::Flattened => attributes.entry(path).or_default().push(value),
                    Attributes::Pairs => pairs.push(terms::pair(&path, &value)),
                }
            }
        }
        Self {
            seq: line.seq,
            micros: line.occurred_at.timestamp_micros(),
            timestamp: line.occurred_at.to_rfc3339_opts(SecondsFormat::Micros, true),
            received_at: line.received_at.to_rfc3339_opts(SecondsFormat::Micros, true),
            id: &line.id,
            service: &line.service,
            level: line.level,
            message: &line.message,
            trace_id: line.trace_id.as_deref(),
            raw: &line.attributes,
            terms: words,
            attributes: (!attributes.is_empty()).then_some(attributes),
            pairs,
        }
    }
}

/// The line that a hit holds; without terms.
pub(super) fn line(key: &str, source: Source) -> anyhow::Result<Line> {
    Ok(Line {
        seq: source.seq,
        key: key.parse().context("read a document's id")?,
        named: false,
        id: source.id,
        occurred_at: DateTime::from_timestamp_micros(source.micros).context("read a document's time")?,
        received_at: source.received_at,
        service: source.service,
        level: source.level,
        message: source.message,
        attributes: source.raw,
        trace_id: source.trace_id,
        terms: String::new(),
    })
}

/// The index template.
pub(super) fn template(config: &config::Elasticsearch, pattern: &str, attributes: Attributes) -> Value {
    let keyword = json!({ "type": "keyword", "ignore_above": 512 });
    let attributes = match attributes {
        Attributes::Flattened => json!({ "type": "flattened", "ignore_above": 1024 }),
        Attributes::Pairs => json!({ "type": "object", "enabled": false }),
    };
    json!({
        "index_patterns": [pattern],
        "priority": 200,
        "template": {
            "settings": {
                "number_of_shards": 1,
                "number_of_replicas": config.replicas,
                "refresh_interval": format!("{}ms", config.refresh_interval_ms),
                "mapping.ignore_malformed": true,
            },
            "mappings": {
                "dynamic": false,
                "properties": {
                    "seq": { "type": "long" },
                    "micros": { "type": "long" },
                    "@timestamp": { "type": "date" },
                    "receivedAt": { "type": "date" },
                    "id": keyword,
                    "service": keyword,
                    "level": keyword,
                    "traceId": keyword,
                    "message": { "type": "keyword", "index": false, "doc_values": false },
                    "raw": { "type": "object", "enabled": false },
                    // Words are cut before they come here, so that every store cuts them alike.
                    "terms": { "type": "text", "analyzer": "whitespace" },
                    "attributes": attributes,
                    "pairs": { "type": "keyword" },
                },
            },
        },
    })
}
