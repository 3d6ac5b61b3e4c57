//! Security events: what is recorded, and the hash chain over it. Canonical bytes hold each field with its length before it and
//! the time in whole microseconds, which is what the database keeps, so that a hash can be computed again from a row.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;

/// Begins the canonical bytes of this form.
const FORM: &[u8] = b"kronos audit 1";

/// Something that concerns the security of an account or a client. Never a password, token or address.
#[derive(Debug, Clone)]
pub struct SecurityEvent {
    /// The event's type after `kronos.auth.`.
    pub kind: &'static str,
    /// Whom it happened to: user id or client id.
    pub subject: Option<String>,
    /// Who did it.
    pub actor: Option<String>,
    pub data: Value,
}

impl SecurityEvent {
    /// An event about a known subject.
    pub fn about(kind: &'static str, subject: impl Into<String>, actor: Option<&str>, data: Value) -> Self {
        Self { kind, subject: Some(subject.into()), actor: actor.map(str::to_owned), data }
    }
}

/// A row of the chain.
#[derive(Debug, Clone, Serialize, sqlx::FromRow, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditEntry {
    pub sequence: i64,
    pub at: DateTime<Utc>,
    pub kind: String,
    pub subject: Option<String>,
    pub actor: Option<String>,
    /// JSON, byte for byte as it is hashed.
    pub data: String,
    #[serde(serialize_with = "as_hex")]
    #[schema(value_type = String)]
    pub prev_hash: Vec<u8>,
    #[serde(serialize_with = "as_hex")]
    #[schema(value_type = String)]
    pub hash: Vec<u8>,
}

fn as_hex<S: serde::Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// The bytes that are hashed.
pub fn canonical(
    sequence: i64,
    at: DateTime<Utc>,
    kind: &str,
    subject: Option<&str>,
    actor: Option<&str>,
    data: &str,
) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(128 + data.len());
    let mut field = |content: Option<&[u8]>| match content {
        None => bytes.push(0),
        Some(content) => {
            bytes.push(1);
            bytes.extend_from_slice(&(content.len() as u64).to_be_bytes());
            bytes.extend_from_slice(content);
        }
    };
    field(Some(FORM));
    field(Some(&sequence.to_be_bytes()));
    field(Some(&at.timestamp_micros().to_be_bytes()));
    field(Some(kind.as_bytes()));
    field(subject.map(str::as_bytes));
    field(actor.map(str::as_bytes));
    field(Some(data.as_bytes()));
    bytes
}

/// The hash of a row.
pub fn link(prev_hash: &[u8], canonical: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(prev_hash).chain_update(canonical).finalize().into()
}

/// The sequence of the first entry that does not follow from the one before it, if any. `entries` are consecutive.
pub fn first_broken(entries: &[AuditEntry]) -> Option<i64> {
    let mut before: Option<&AuditEntry> = None;
    for entry in entries {
        let follows = before.is_none_or(|before| {
            before.hash == entry.prev_hash && before.sequence.checked_add(1) == Some(entry.sequence)
        });
        let (subject, actor) = (entry.subject.as_deref(), entry.actor.as_deref());
        let canonical = canonical(entry.sequence, entry.at, &entry.kind, subject, actor, &entry.data);
        if !follows || link(&entry.prev_hash, &canonical)[..] != entry.hash {
            return Some(entry.sequence);
        }
        before = Some(entry);
    }
    None
}
