//! Refresh tokens: `krt_` and base64url of family ‖ generation ‖ HMAC-SHA256. Nothing of a token is stored: because it follows
//! from family and generation, a repeated refresh can be answered with the same successor. No clock, no store here.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use uuid::Uuid;

const PREFIX: &str = "krt_";
const ID_BYTES: usize = 16 + 8;
const TAG_BYTES: usize = 32;
/// Goes before what is authenticated, so that the key's other uses can never make a token.
const DOMAIN: &[u8] = b"kronos refresh token 1";

/// Which token of which family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefreshToken {
    /// The session.
    pub family: Uuid,
    /// How many refreshes came before.
    pub generation: u64,
}

/// Makes and reads tokens; all instances share the secret.
#[derive(Clone)]
pub struct Codec {
    mac: Hmac<Sha256>,
}

impl Codec {
    /// A codec under a secret of at least 32 random bytes.
    pub fn new(secret: &[u8]) -> Self {
        Self { mac: Hmac::new_from_slice(secret).expect("HMAC takes a key of any length") }
    }

    /// The token on the wire.
    pub fn encode(&self, token: RefreshToken) -> String {
        let mut bytes = Vec::with_capacity(ID_BYTES + TAG_BYTES);
        bytes.extend_from_slice(token.family.as_bytes());
        bytes.extend_from_slice(&token.generation.to_be_bytes());
        let tag = self.tag(&bytes).finalize().into_bytes();
        bytes.extend_from_slice(&tag);
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }

    /// The token, if this platform issued it; compared in constant time.
    pub fn decode(&self, text: &str) -> Option<RefreshToken> {
        let bytes = URL_SAFE_NO_PAD.decode(text.strip_prefix(PREFIX)?).ok()?;
        if bytes.len() != ID_BYTES + TAG_BYTES {
            return None;
        }
        let (id, tag) = bytes.split_at(ID_BYTES);
        self.tag(id).verify_slice(tag).ok()?;
        let (family, generation) = id.split_at(16);
        Some(RefreshToken {
            family: Uuid::from_slice(family).ok()?,
            generation: u64::from_be_bytes(generation.try_into().ok()?),
        })
    }

    fn tag(&self, id: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.mac.clone();
        mac.update(DOMAIN);
        mac.update(id);
        mac
    }
}

/// What the family's row says.
#[derive(Debug, Clone, Copy)]
pub struct FamilyState {
    pub generation: u64,
    pub rotated_at: DateTime<Utc>,
    pub ended: bool,
    pub expires_at: DateTime<Utc>,
    pub idle_expires_at: DateTime<Utc>,
}

/// What a presented token means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The good one: rotate.
    Current,
    /// The one before, and the client cannot have seen the answer yet: the same successor again.
    Repeated,
    /// An older one, or one that was never issued: somebody copied it, so this family ends.
    Reused,
    /// The session is over.
    Over,
}

/// Judges a token that the codec accepted.
pub fn judge(presented: u64, family: &FamilyState, now: DateTime<Utc>, grace: TimeDelta) -> Verdict {
    if family.ended || now >= family.expires_at || now >= family.idle_expires_at {
        Verdict::Over
    } else if presented == family.generation {
        Verdict::Current
    } else if Some(presented) == family.generation.checked_sub(1) && now - family.rotated_at <= grace {
        Verdict::Repeated
    } else {
        Verdict::Reused
    }
}
