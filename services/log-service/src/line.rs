//! A log line: what callers send, what is kept, what is handed out. No I/O.

use std::{fmt, str::FromStr};

use chrono::{DateTime, Datelike as _, SubsecRound as _, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{redact, terms};

pub const MAX_SERVICE_CHARS: usize = 100;
pub const MAX_MESSAGE_CHARS: usize = 32_768;
pub const MAX_ID_CHARS: usize = 128;
pub const MAX_TRACE_ID_CHARS: usize = 64;
/// Of the attributes as JSON.
pub const MAX_ATTRIBUTES_BYTES: usize = 65_536;

/// How bad it is; ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", try_from = "String")]
pub enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
    Fatal,
}

impl Level {
    pub const ALL: [Self; 6] = [Self::Trace, Self::Debug, Self::Info, Self::Warn, Self::Error, Self::Fatal];

    /// The one spelling that is kept.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
            Self::Fatal => "fatal",
        }
    }

    /// OpenTelemetry's severity number, 1 to 24; 0 is unspecified.
    pub fn from_severity(number: i32) -> Self {
        match number {
            1..=4 => Self::Trace,
            5..=8 => Self::Debug,
            13..=16 => Self::Warn,
            17..=20 => Self::Error,
            21.. => Self::Fatal,
            _ => Self::Info,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no level.
#[derive(Debug, thiserror::Error)]
#[error("a level is one of trace, debug, info, warn, error, fatal")]
pub struct UnknownLevel;

impl FromStr for Level {
    type Err = UnknownLevel;

    /// Any case, and the names that other systems use.
    fn from_str(text: &str) -> Result<Self, UnknownLevel> {
        match text.trim().to_ascii_lowercase().as_str() {
            "trace" | "finest" | "verbose" => Ok(Self::Trace),
            "debug" | "fine" => Ok(Self::Debug),
            "info" | "information" | "informational" | "notice" => Ok(Self::Info),
            "warn" | "warning" => Ok(Self::Warn),
            "error" | "err" | "severe" => Ok(Self::Error),
            "fatal" | "critical" | "crit" | "alert" | "emerg" | "emergency" | "panic" => Ok(Self::Fatal),
            _ => Err(UnknownLevel),
        }
    }
}

impl TryFrom<String> for Level {
    type Error = UnknownLevel;

    fn try_from(text: String) -> Result<Self, UnknownLevel> {
        text.parse()
    }
}

/// One line as a caller sends it.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewLine {
    /// When it happened; absent: now. Kept to the microsecond.
    pub timestamp: Option<DateTime<Utc>>,
    /// What wrote it: a service, a robot, a system.
    #[schema(min_length = 1, max_length = 100)]
    pub service: String,
    /// `trace`, `debug`, `info`, `warn`, `error` or `fatal`; any case, and usual synonyms.
    #[schema(value_type = String, example = "info")]
    pub level: Level,
    #[schema(max_length = 32768)]
    pub message: String,
    /// Anything else, as an object. Values of keys such as `password` or `token` are replaced before they are kept.
    #[schema(value_type = Option<Object>)]
    pub attributes: Option<Map<String, Value>>,
    #[schema(min_length = 1, max_length = 64)]
    pub trace_id: Option<String>,
    /// The caller's own name for this line: the same service and id are kept once.
    #[schema(min_length = 1, max_length = 128)]
    pub id: Option<String>,
}

/// Why a line is not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub field: &'static str,
    pub code: &'static str,
    pub detail: String,
}

/// A line as it is kept: checked, redacted, with its search terms.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Its place in the order of commits; 0 until the store gave it one.
    pub seq: i64,
    /// Its identity in both stores.
    pub key: Uuid,
    /// Whether the caller named it, so that it may come twice.
    pub named: bool,
    pub id: String,
    pub occurred_at: DateTime<Utc>,
    pub received_at: DateTime<Utc>,
    pub service: String,
    pub level: Level,
    pub message: String,
    pub attributes: Map<String, Value>,
    pub trace_id: Option<String>,
    pub terms: String,
}

impl NewLine {
    /// Checks, redacts and completes the line.
    ///
    /// # Errors
    /// Every field that is not as it must be.
    pub fn accept(self, now: DateTime<Utc>) -> Result<Line, Vec<Refusal>> {
        let mut refusals = Vec::new();
        let mut refuse = |field, code, detail: String| refusals.push(Refusal { field, code, detail });
        let service = self.service.trim();
        if service.is_empty() {
            refuse("service", "too_short", "at least 1 character".into());
        } else if service.chars().count() > MAX_SERVICE_CHARS {
            refuse("service", "too_long", format!("at most {MAX_SERVICE_CHARS} characters"));
        } else if service.chars().any(char::is_control) {
            refuse("service", "wrong_form", "no control characters".into());
        }
        if self.message.chars().count() > MAX_MESSAGE_CHARS {
            refuse("message", "too_long", format!("at most {MAX_MESSAGE_CHARS} characters"));
        }
        let mut check = |field, text: &Option<String>, limit| match text {
            Some(text) if text.is_empty() => refuse(field, "too_short", "at least 1 character".into()),
            Some(text) if text.chars().count() > limit => {
                refuse(field, "too_long", format!("at most {limit} characters"));
            }
            Some(text) if text.chars().any(char::is_control) => {
                refuse(field, "wrong_form", "no control characters".into());
            }
            _ => {}
        };
        check("id", &self.id, MAX_ID_CHARS);
        check("traceId", &self.trace_id, MAX_TRACE_ID_CHARS);
        let occurred_at = self.timestamp.unwrap_or(now).trunc_subsecs(6);
        if !(1970..=9999).contains(&occurred_at.year()) {
            refuse("timestamp", "out_of_range", "a year from 1970 to 9999".into());
        }
        let attributes = self.attributes.unwrap_or_default();
        if attributes_bytes(&attributes) > MAX_ATTRIBUTES_BYTES {
            refuse("attributes", "too_large", format!("at most {MAX_ATTRIBUTES_BYTES} bytes as JSON"));
        }
        if !refusals.is_empty() {
            return Err(refusals);
        }
        let named = self.id.is_some();
        let (key, id) = match self.id {
            Some(id) => (key_of(service, &id), id),
            None => {
                let made = Uuid::now_v7();
                (made, made.to_string())
            }
        };
        let attributes = redact::attributes(attributes);
        let message = redact::message(&self.message);
        Ok(Line {
            seq: 0,
            key,
            named,
            id,
            occurred_at,
            received_at: now.trunc_subsecs(6),
            service: service.to_owned(),
            level: self.level,
            terms: terms::of(&message, &attributes),
            message,
            attributes,
            trace_id: self.trace_id,
        })
    }
}

impl Line {
    /// Roughly what it takes in memory, in bytes.
    pub fn weight(&self) -> usize {
        512 + self.message.len() + 3 * self.terms.len()
    }
}

/// The identity of a line that its service named: the same service and id are the same line.
pub fn key_of(service: &str, id: &str) -> Uuid {
    let mut hash = Sha256::new();
    hash.update((service.len() as u64).to_be_bytes());
    hash.update(service);
    hash.update(id);
    let digest = hash.finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

fn attributes_bytes(attributes: &Map<String, Value>) -> usize {
    if attributes.is_empty() { 0 } else { serde_json::to_vec(attributes).map_or(usize::MAX, |json| json.len()) }
}
