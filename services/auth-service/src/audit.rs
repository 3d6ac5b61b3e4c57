//! Security events: what is recorded, and the hash chain over it. Canonical bytes hold each field with its length before it and
//! the time in whole microseconds, which is what the database keeps, so that a hash can be computed again from a row.

pub mod offline;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
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

/// A row of the chain; one of these as JSON is a line of an export.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, sqlx::FromRow, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuditEntry {
    pub sequence: i64,
    pub at: DateTime<Utc>,
    pub kind: String,
    pub subject: Option<String>,
    pub actor: Option<String>,
    /// JSON, byte for byte as it is hashed.
    pub data: String,
    #[serde(with = "hexadecimal")]
    #[schema(value_type = String)]
    pub prev_hash: Vec<u8>,
    #[serde(with = "hexadecimal")]
    #[schema(value_type = String)]
    pub hash: Vec<u8>,
}

/// The end of the chain at some moment. Whoever keeps a signed one elsewhere can tell later whether what was before it is
/// still there, unchanged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    pub iss: String,
    /// When it was signed, unix seconds.
    pub iat: i64,
    pub sequence: i64,
    /// Of the last entry, hexadecimal; zeros before the first.
    pub hash: String,
}

/// The `typ` of a signed checkpoint.
pub const CHECKPOINT_TYPE: &str = "kronos-audit+jwt";

/// The last line of an export.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckpointLine {
    /// A [`Checkpoint`] as a JWS in compact form.
    pub checkpoint: String,
}

mod hexadecimal {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        hex::decode(String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
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

/// Whether the entry's hash is the hash of what it says.
pub fn is_whole(entry: &AuditEntry) -> bool {
    let (subject, actor) = (entry.subject.as_deref(), entry.actor.as_deref());
    let canonical = canonical(entry.sequence, entry.at, &entry.kind, subject, actor, &entry.data);
    link(&entry.prev_hash, &canonical)[..] == entry.hash
}
