//! OpenTelemetry logs (OTLP/HTTP, opentelemetry-proto `logs/v1`), in JSON and in protobuf, as log lines. One set of types
//! reads both encodings: the tags are those of the `.proto` files, the names those of their JSON mapping.

use chrono::{DateTime, Utc};
use prost::{Message, Oneof};
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::{Map, Value};

use crate::line::{Level, MAX_MESSAGE_CHARS, MAX_SERVICE_CHARS, NewLine};

/// `ExportLogsServiceRequest`.
#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Export {
    #[prost(message, repeated, tag = "1")]
    pub resource_logs: Vec<ResourceLogs>,
}

#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ResourceLogs {
    #[prost(message, optional, tag = "1")]
    pub resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    pub scope_logs: Vec<ScopeLogs>,
}

#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub struct Resource {
    #[prost(message, repeated, tag = "1")]
    pub attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ScopeLogs {
    #[prost(message, optional, tag = "1")]
    pub scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    pub log_records: Vec<LogRecord>,
}

#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub struct Scope {
    #[prost(string, tag = "1")]
    pub name: String,
}

#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LogRecord {
    #[prost(fixed64, tag = "1")]
    #[serde(deserialize_with = "number")]
    pub time_unix_nano: u64,
    #[prost(int32, tag = "2")]
    pub severity_number: i32,
    #[prost(string, tag = "3")]
    pub severity_text: String,
    #[prost(message, optional, tag = "5")]
    pub body: Option<AnyValue>,
    #[prost(message, repeated, tag = "6")]
    pub attributes: Vec<KeyValue>,
    #[prost(bytes = "vec", tag = "9")]
    #[serde(deserialize_with = "hexadecimal")]
    pub trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "10")]
    #[serde(deserialize_with = "hexadecimal")]
    pub span_id: Vec<u8>,
    #[prost(fixed64, tag = "11")]
    #[serde(deserialize_with = "number")]
    pub observed_time_unix_nano: u64,
}

#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub struct KeyValue {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(message, optional, tag = "2")]
    pub value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub struct AnyValue {
    #[prost(oneof = "AnyKind", tags = "1, 2, 3, 4, 5, 6, 7")]
    #[serde(flatten)]
    pub kind: Option<AnyKind>,
}

#[derive(Clone, PartialEq, Oneof, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AnyKind {
    #[prost(string, tag = "1")]
    StringValue(String),
    #[prost(bool, tag = "2")]
    BoolValue(bool),
    #[prost(int64, tag = "3")]
    IntValue(#[serde(deserialize_with = "number")] i64),
    #[prost(double, tag = "4")]
    DoubleValue(f64),
    #[prost(message, tag = "5")]
    ArrayValue(Values),
    #[prost(message, tag = "6")]
    KvlistValue(Pairs),
    #[prost(bytes, tag = "7")]
    BytesValue(#[serde(deserialize_with = "text_bytes")] Vec<u8>),
}

#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub struct Values {
    #[prost(message, repeated, tag = "1")]
    pub values: Vec<AnyValue>,
}

#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub struct Pairs {
    #[prost(message, repeated, tag = "1")]
    pub values: Vec<KeyValue>,
}

/// `ExportLogsServiceResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct Exported {
    #[prost(message, optional, tag = "1")]
    pub partial_success: Option<PartialSuccess>,
}

#[derive(Clone, PartialEq, Message)]
pub struct PartialSuccess {
    #[prost(int64, tag = "1")]
    pub rejected_log_records: i64,
    #[prost(string, tag = "2")]
    pub error_message: String,
}

impl Export {
    /// Every record as a line. What OTLP lets be longer than we keep is cut: a sender can't be told to change it.
    pub fn into_lines(self) -> Vec<NewLine> {
        let mut lines = Vec::new();
        for resource_logs in self.resource_logs {
            let mut resource = object(resource_logs.resource.unwrap_or_default().attributes);
            let service = match resource.remove("service.name") {
                Some(Value::String(name)) if !name.trim().is_empty() => clip(name, MAX_SERVICE_CHARS),
                _ => "unknown_service".to_owned(),
            };
            for scope_logs in resource_logs.scope_logs {
                let scope = scope_logs.scope.map(|scope| scope.name).filter(|name| !name.is_empty());
                for record in scope_logs.log_records {
                    lines.push(record.into_line(&service, scope.as_deref(), &resource));
                }
            }
        }
        lines
    }
}

impl LogRecord {
    fn into_line(self, service: &str, scope: Option<&str>, resource: &Map<String, Value>) -> NewLine {
        let mut attributes = resource.clone();
        if let Some(scope) = scope {
            attributes.insert("scope".into(), scope.into());
        }
        attributes.extend(object(self.attributes));
        if !self.span_id.is_empty() {
            attributes.insert("spanId".into(), hex(&self.span_id).into());
        }
        // OpenTelemetry's own name for a record's identity: a repeated export is known by it.
        let id = match attributes.remove("log.record.uid") {
            Some(Value::String(id)) if !id.is_empty() => Some(id),
            _ => None,
        };
        let nanos = if self.time_unix_nano > 0 { self.time_unix_nano } else { self.observed_time_unix_nano };
        let level = match self.severity_number {
            0 => self.severity_text.parse().unwrap_or(Level::Info),
            number => Level::from_severity(number),
        };
        let message = match self.body.and_then(|body| body.kind).map(AnyKind::into_value) {
            None => String::new(),
            Some(Value::String(text)) => text,
            Some(other) => other.to_string(),
        };
        NewLine {
            timestamp: i64::try_from(nanos).ok().filter(|nanos| *nanos > 0).map(DateTime::<Utc>::from_timestamp_nanos),
            service: service.to_owned(),
            level,
            message: clip(message, MAX_MESSAGE_CHARS),
            attributes: Some(attributes),
            trace_id: (!self.trace_id.is_empty()).then(|| hex(&self.trace_id)),
            id,
        }
    }
}

impl AnyKind {
    fn into_value(self) -> Value {
        match self {
            Self::StringValue(text) => text.into(),
            Self::BoolValue(flag) => flag.into(),
            Self::IntValue(number) => number.into(),
            Self::DoubleValue(number) => number.into(),
            Self::ArrayValue(list) => {
                list.values.into_iter().map(|value| value.kind.map_or(Value::Null, Self::into_value)).collect()
            }
            Self::KvlistValue(list) => object(list.values).into(),
            Self::BytesValue(bytes) => hex(&bytes).into(),
        }
    }
}

fn object(pairs: Vec<KeyValue>) -> Map<String, Value> {
    pairs
        .into_iter()
        .map(|pair| (pair.key, pair.value.and_then(|value| value.kind).map_or(Value::Null, AnyKind::into_value)))
        .collect()
}

fn clip(text: String, chars: usize) -> String {
    match text.char_indices().nth(chars) {
        Some((end, _)) => text[..end].to_owned(),
        None => text,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// 64-bit numbers are strings in protobuf's JSON mapping, and numbers from careless senders.
fn number<'de, D, N>(deserializer: D) -> Result<N, D::Error>
where
    D: Deserializer<'de>,
    N: std::str::FromStr,
{
    match Value::deserialize(deserializer)? {
        Value::String(text) => text.parse().map_err(|_| D::Error::custom("expected a 64-bit number")),
        Value::Number(number) => number.to_string().parse().map_err(|_| D::Error::custom("expected a 64-bit number")),
        _ => Err(D::Error::custom("expected a 64-bit number")),
    }
}

/// Trace and span ids are hexadecimal in OTLP's JSON encoding.
fn hexadecimal<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| {
            let pair = std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2);
            pair.and_then(|pair| u8::from_str_radix(pair, 16).ok())
                .ok_or_else(|| D::Error::custom("expected a hexadecimal id"))
        })
        .collect()
}

/// Bytes are base64 in JSON; they are only shown, so they stay as they are.
fn text_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    String::deserialize(deserializer).map(String::into_bytes)
}
