//! The rules of a delivery: its receipt, the back-off, and which delivery an id means. No I/O.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use uuid::Uuid;

/// The form of receipts that this version writes.
const VERSION: u8 = 1;
const RECEIPT_BYTES: usize = 1 + 8 + 16;

/// One hand-out of one message in one group. Its lease id is random, so a receipt can't be guessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Receipt {
    pub delivery_id: i64,
    pub lease_id: Uuid,
}

impl Receipt {
    /// The `deliveryId` of the wire: opaque, URL-safe.
    pub fn encode(self) -> String {
        let mut bytes = [0; RECEIPT_BYTES];
        bytes[0] = VERSION;
        bytes[1..9].copy_from_slice(&self.delivery_id.to_be_bytes());
        bytes[9..].copy_from_slice(self.lease_id.as_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// `None` for what [`Receipt::encode`] never writes.
    pub fn decode(text: &str) -> Option<Self> {
        let bytes: [u8; RECEIPT_BYTES] = URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?;
        let (version, rest) = bytes.split_first()?;
        let (delivery_id, lease_id) = rest.split_at(8);
        (*version == VERSION).then_some(Self {
            delivery_id: i64::from_be_bytes(delivery_id.try_into().ok()?),
            lease_id: Uuid::from_slice(lease_id).ok()?,
        })
    }
}

/// What the id in a path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Id {
    /// Exactly one hand-out.
    Receipt(Receipt),
    /// A published message, in whichever group it is.
    Message(Uuid),
}

impl Id {
    /// `None`: no id of ours, so there is no such delivery.
    pub fn parse(text: &str) -> Option<Self> {
        Uuid::try_parse(text).ok().map(Self::Message).or_else(|| Receipt::decode(text).map(Self::Receipt))
    }
}

/// The wait before the attempt after `attempt` (from 1): `base` doubled for each attempt so far, at most `longest`, and a
/// random part of a quarter taken off, so that what failed together is not tried together. `random` is from 0 to 1.
pub fn backoff(base: Duration, longest: Duration, attempt: u32, random: f64) -> Duration {
    let doubled = base.saturating_mul(2_u32.saturating_pow(attempt.saturating_sub(1)));
    let part = 1.0 - 0.25 * random.clamp(0.0, 1.0);
    doubled.min(longest).mul_f64(part)
}

/// One group's copy of a message, as far as deciding needs it.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Candidate {
    pub delivery_id: i64,
    pub topic: String,
    pub group_id: Uuid,
    pub group_name: String,
    pub state: String,
    /// Leased, and the lease has not ended.
    pub held: bool,
    pub lease_id: Option<Uuid>,
    pub principal: Option<String>,
    pub attempt: i32,
    pub max_attempts: i32,
    pub backoff_ms: i64,
    pub max_backoff_ms: Option<i64>,
    pub lease_ms: i64,
}

impl Candidate {
    /// The current or last hand-out.
    pub fn receipt(&self) -> Option<Receipt> {
        self.lease_id.map(|lease_id| Receipt { delivery_id: self.delivery_id, lease_id })
    }
}

/// Which delivery an id means.
#[derive(Debug, Clone)]
pub enum Meaning {
    /// Leased now, to the caller.
    Held(Candidate),
    /// Acknowledged before, by this very receipt or caller.
    Settled,
    /// A dead letter.
    Dead(Candidate),
    /// It was handed out, but that hand-out is over.
    Stale,
    /// Several groups; the caller must say which.
    Ambiguous,
    Unknown,
}

/// By receipt: the row it names, if any.
pub fn by_receipt(row: Option<Candidate>, receipt: Receipt) -> Meaning {
    match row {
        None => Meaning::Unknown,
        Some(row) if row.lease_id != Some(receipt.lease_id) => Meaning::Stale,
        Some(row) if row.held => Meaning::Held(row),
        Some(row) if row.state == "settled" => Meaning::Settled,
        Some(row) if row.state == "dead" => Meaning::Dead(row),
        Some(_) => Meaning::Stale,
    }
}

/// By message id: of all groups' copies the one that the caller holds, or else the one that is dead.
pub fn by_message(rows: Vec<Candidate>, caller: &str, group: Option<&str>, attempt: Option<i32>) -> Meaning {
    let rows: Vec<Candidate> =
        rows.into_iter().filter(|row| group.is_none_or(|group| row.group_name == group)).collect();
    if rows.is_empty() {
        return Meaning::Unknown;
    }
    let mine = |row: &&Candidate| row.principal.as_deref() == Some(caller);
    let tried = |row: &&Candidate| attempt.is_none_or(|attempt| row.attempt == attempt);
    let pick = |found: Vec<&Candidate>, meaning: fn(Candidate) -> Meaning| match found.as_slice() {
        [] => None,
        [one] => Some(meaning((*one).clone())),
        _ => Some(Meaning::Ambiguous),
    };
    let held = rows.iter().filter(|row| row.held).filter(mine).filter(tried).collect();
    let dead = rows.iter().filter(|row| row.state == "dead").collect();
    pick(held, Meaning::Held).or_else(|| pick(dead, Meaning::Dead)).unwrap_or_else(|| {
        let settled = rows.iter().filter(|row| row.state == "settled").filter(mine).filter(tried).count();
        if settled == rows.len() { Meaning::Settled } else { Meaning::Stale }
    })
}

/// A message that was given up, as it is listed.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct DeadLetter {
    pub delivery_id: i64,
    pub lease_id: Option<Uuid>,
    pub message_id: Uuid,
    pub topic: String,
    pub group_name: String,
    pub key: Option<String>,
    pub payload: Vec<u8>,
    pub headers: String,
    pub attempt: i32,
    pub reason: Option<String>,
    pub published_at: DateTime<Utc>,
    /// The payload is sealed.
    pub sealed: bool,
    pub dead_at: DateTime<Utc>,
}
