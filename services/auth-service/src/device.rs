//! Device codes (RFC 8628): how a person types one, and what a poll is answered. No axum, no store.

use chrono::{DateTime, TimeDelta, Utc};
use rand::RngExt as _;

/// No vowels, so that no word comes out; nothing that looks like something else (RFC 8628 section 6.1).
const ALPHABET: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";
const LETTERS: usize = 8;
/// Seconds between two polls.
pub const INTERVAL_SECONDS: i32 = 5;
/// How long a person has to type the code.
pub const LIFE_SECONDS: i64 = 600;

/// A new code, without its hyphen: 34 bits, and ten tries for who guesses.
pub fn new_user_code() -> String {
    let mut rng = rand::rng();
    (0..LETTERS).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())])).collect()
}

/// As it is shown.
pub fn show(user_code: &str) -> String {
    match user_code.split_at_checked(LETTERS / 2) {
        Some((first, second)) => format!("{first}-{second}"),
        None => user_code.to_owned(),
    }
}

/// What somebody typed, in the stored form; `None` if it cannot be one.
pub fn read(typed: &str) -> Option<String> {
    let letters: String = typed
        .chars()
        .filter(|letter| letter.is_ascii_alphanumeric())
        .map(|letter| letter.to_ascii_uppercase())
        .collect();
    (letters.len() == LETTERS && letters.bytes().all(|letter| ALPHABET.contains(&letter))).then_some(letters)
}

/// Where a device's request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Pending,
    Approved,
    Denied,
    Used,
}

impl State {
    /// Reads the column.
    pub fn parse(text: &str) -> Self {
        match text {
            "approved" => Self::Approved,
            "denied" => Self::Denied,
            "used" => Self::Used,
            _ => Self::Pending,
        }
    }
}

/// What a poll is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Poll {
    Issue,
    Pending,
    /// From now on the device waits 5 s longer.
    SlowDown,
    Expired,
    Denied,
    /// It was good once.
    Used,
}

/// Judges a poll (RFC 8628 section 3.5).
pub fn judge(
    state: State,
    expires_at: DateTime<Utc>,
    last_polled_at: Option<DateTime<Utc>>,
    interval: TimeDelta,
    now: DateTime<Utc>,
) -> Poll {
    // The network may bring two polls a little closer together than they were sent.
    let tolerance = TimeDelta::milliseconds(500);
    match state {
        State::Used => Poll::Used,
        State::Denied => Poll::Denied,
        _ if now >= expires_at => Poll::Expired,
        State::Approved => Poll::Issue,
        State::Pending if last_polled_at.is_some_and(|last| now - last + tolerance < interval) => Poll::SlowDown,
        State::Pending => Poll::Pending,
    }
}
