//! OAuth clients: names, secrets, and what one may grant to another. No axum, no store.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use kronos_common::identity::permission_matches;
use rand::RngExt as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq as _};
use utoipa::ToSchema;

/// Bytes of randomness in a secret that is made here.
const SECRET_BYTES: usize = 32;
/// A chosen secret has at least so many characters: 112 bits even if it is hexadecimal.
pub const SHORTEST_SECRET: usize = 28;
pub const LONGEST_SECRET: usize = 256;

/// How a client gets tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum GrantType {
    ClientCredentials,
}

/// A client's row, without its secret.
#[derive(Debug, Clone, Serialize, sqlx::FromRow, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Client {
    pub client_id: String,
    pub name: String,
    pub grant_types: Vec<String>,
    pub permissions: Vec<String>,
    /// Goes up when tokens issued before must be refused.
    pub epoch: i64,
    /// Who made it: a user's or a client's id.
    pub created_by: String,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub secret_rotated_at: DateTime<Utc>,
}

/// What a secret is compared with.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct StoredSecrets {
    pub secret_hash: Vec<u8>,
    pub previous_secret_hash: Option<Vec<u8>>,
    pub previous_valid_until: Option<DateTime<Utc>>,
}

/// A new random secret.
pub fn new_secret() -> String {
    let bytes: [u8; SECRET_BYTES] = rand::rng().random();
    URL_SAFE_NO_PAD.encode(bytes)
}

/// What is stored of a secret. A plain hash is enough, because secrets are random and long.
pub fn hash_secret(secret: &str) -> Vec<u8> {
    Sha256::digest(secret).to_vec()
}

impl StoredSecrets {
    /// Whether `secret` is the current one, or the one before while its overlap lasts; in constant time.
    pub fn accept(&self, secret: &str, now: DateTime<Utc>) -> bool {
        let hash = hash_secret(secret);
        let current = hash.ct_eq(&self.secret_hash);
        let previous = match (&self.previous_secret_hash, self.previous_valid_until) {
            (Some(previous), Some(until)) if now < until => hash.ct_eq(previous),
            _ => Choice::from(0),
        };
        (current | previous).into()
    }
}

/// Whether a text has the form of a permission: two to four segments of lowercase letters, digits and hyphens, or `*`.
pub fn is_permission(text: &str) -> bool {
    let segment = |segment: &str| {
        segment == "*"
            || (segment.starts_with(|first: char| first.is_ascii_lowercase())
                && segment.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-')))
    };
    text.len() <= 128 && (2..=4).contains(&text.split(':').count()) && text.split(':').all(segment)
}

/// The first of `wanted` that `held` does not cover: nobody hands out what they do not have.
pub fn first_not_held<'w>(held: &[String], wanted: &'w [String]) -> Option<&'w String> {
    wanted.iter().find(|wanted| !held.iter().any(|granted| permission_matches(granted, wanted)))
}

/// The permissions of a token for `scope` (RFC 6749 section 3.3): all that the client holds, or those that it names, each of
/// which the client must hold. The error is the first that it does not.
pub fn narrow(held: &[String], scope: Option<&str>) -> Result<Vec<String>, String> {
    let Some(scope) = scope.map(str::trim).filter(|scope| !scope.is_empty()) else {
        return Ok(held.to_vec());
    };
    let mut wanted: Vec<String> = scope.split_ascii_whitespace().map(str::to_owned).collect();
    wanted.sort();
    wanted.dedup();
    match first_not_held(held, &wanted) {
        None => Ok(wanted),
        Some(missing) => Err(missing.clone()),
    }
}

/// A client's next epoch: later than any before it, even one of a deleted client of the same name.
pub fn next_epoch(now: DateTime<Utc>, current: Option<i64>) -> i64 {
    now.timestamp_millis().max(current.map_or(0, |epoch| epoch + 1))
}
