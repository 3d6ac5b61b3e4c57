//! Resume tokens: the `id:` of an event, which a subscriber without group sends back as `Last-Event-ID` to go on after it, at
//! any instance. A token says where the topic's log goes on; it is opaque to subscribers and needs no memory here. No I/O.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use uuid::Uuid;

/// The form of tokens that this version writes.
const VERSION: u8 = 1;
const HEAD: usize = 1 + 8 + 1;

/// Where a topic's log goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A stream: the next offset in each partition.
    Offsets(Vec<i64>),
    /// A broadcast: the next offset in its log.
    Offset(i64),
    /// A broadcast of which nothing was seen: what was published since, in milliseconds since 1970.
    Since(i64),
}

impl Place {
    /// The token, for one topic.
    pub fn encode(&self, topic_id: Uuid) -> String {
        let (kind, numbers) = match self {
            Self::Offsets(offsets) => (0, offsets.as_slice()),
            Self::Offset(offset) => (1, std::slice::from_ref(offset)),
            Self::Since(ms) => (2, std::slice::from_ref(ms)),
        };
        let mut bytes = Vec::with_capacity(HEAD + 4 * numbers.len());
        bytes.push(VERSION);
        bytes.extend_from_slice(&topic_id.as_bytes()[8..]);
        bytes.push(kind);
        for number in numbers {
            let mut rest = number.unsigned_abs();
            while rest >= 0x80 {
                bytes.push((rest & 0x7f) as u8 | 0x80);
                rest >>= 7;
            }
            bytes.push(rest as u8);
        }
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// `None` for what [`Place::encode`] never writes, and for another topic's token.
    pub fn decode(text: &str, topic_id: Uuid) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (head, mut rest) = bytes.split_at_checked(HEAD)?;
        if head[0] != VERSION || head[1..9] != topic_id.as_bytes()[8..] {
            return None;
        }
        let mut numbers = Vec::new();
        while !rest.is_empty() {
            let length = rest.iter().position(|byte| byte & 0x80 == 0)? + 1;
            let (digits, tail) = rest.split_at(length);
            let number = digits
                .iter()
                .rev()
                .try_fold(0_i64, |number, digit| number.checked_mul(0x80)?.checked_add(i64::from(digit & 0x7f)))?;
            numbers.push(number);
            rest = tail;
        }
        match (head[9], numbers.as_slice()) {
            (0, offsets) if !offsets.is_empty() => Some(Self::Offsets(numbers)),
            (1, [offset]) => Some(Self::Offset(*offset)),
            (2, [ms]) => Some(Self::Since(*ms)),
            _ => None,
        }
    }
}
