//! The tokens that one core has seen lately, with their claims, so that a token that is shown again costs one look-up. That
//! they still hold (expiry, revocation) is asked on every use; verifying them is `Verifier`'s work.

use std::sync::Arc;

use foldhash::HashMap;
use kronos_common::identity::{Claims, Verifier};

/// Tokens of one half of the memory; when the younger half is full, the older one is forgotten.
const HALF: usize = 8192;
/// Longer ones are verified each time.
const LONGEST: usize = 2048;

/// The memory.
#[derive(Debug, Default)]
pub struct Tokens {
    generation: u64,
    young: HashMap<Box<str>, Arc<Claims>>,
    old: HashMap<Box<str>, Arc<Claims>>,
}

impl Tokens {
    /// The claims of a token that was seen and still holds.
    pub fn get(&mut self, token: &str, verifier: &Verifier) -> Option<&Arc<Claims>> {
        let generation = verifier.generation();
        if self.generation != generation {
            *self = Self { generation, ..Self::default() };
            return None;
        }
        if !self.young.contains_key(token) {
            let (token, claims) = self.old.remove_entry(token)?;
            self.keep(token, claims);
        }
        self.young.get(token).filter(|claims| verifier.holds(claims))
    }

    /// Remembers a bearer token that was verified in this generation. Others (bound to a key, or API keys, which have claims
    /// of their own that change) must not come here.
    pub fn insert(&mut self, token: &str, claims: Arc<Claims>, generation: u64) {
        if generation == self.generation && token.len() <= LONGEST {
            self.keep(token.into(), claims);
        }
    }

    fn keep(&mut self, token: Box<str>, claims: Arc<Claims>) {
        if self.young.len() >= HALF {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(token, claims);
    }
}
