//! Envelope encryption for sensitive columns: AES-256-GCM under a fresh data key for each value, which is itself sealed
//! under one of the configured keys. A key is rotated by making another one active; [`Keyring::needs_resealing`] says what
//! still hangs on the old one.
//!
//! Layout: version (1) · length of key id · key id · nonce (12) · sealed data key (32 + 16) · nonce (12) · sealed value
//! (n + 16). All that comes before the sealed value is authenticated with it, and so is the caller's `aad`.

use std::collections::BTreeMap;

use anyhow::Context as _;
use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey},
    hmac, rand,
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use secrecy::{ExposeSecret as _, zeroize::Zeroizing};

use crate::config;

const VERSION: u8 = 1;
const KEY: usize = 32;
const TAG: usize = 16;
const NONCE: usize = 12;
const LONGEST_ID: usize = 64;
/// What a key for blind indexes is derived for, so that it is no other key.
const BLINDING: &[u8] = b"kronos blind index 1";

/// The configured keys.
pub struct Keyring {
    active: String,
    keys: BTreeMap<String, Key>,
}

struct Key {
    sealing: RandomizedNonceKey,
    blinding: hmac::Key,
}

/// Why a sealed value cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Too short, or not made by [`Keyring::seal`].
    #[error("the sealed value is malformed")]
    Malformed,
    /// Made by a later version of Kronos.
    #[error("the sealed value is of the unknown version {0}")]
    UnknownVersion(u8),
    /// Its key is not in `[sealing] keys`.
    #[error("the sealing key {0:?} is not configured")]
    UnknownKey(String),
    /// Changed since, sealed under another key of the same id, or for another purpose (`aad`).
    #[error("the sealed value is not authentic")]
    Refused,
}

impl Keyring {
    /// Reads the keys.
    ///
    /// # Errors
    /// No active key, a key that is not base64 of 32 bytes, or an id that is empty or longer than 64 bytes; the message
    /// names the id, never the key.
    pub fn new(config: &config::Sealing) -> anyhow::Result<Self> {
        let mut keys = BTreeMap::new();
        for (id, key) in &config.keys {
            anyhow::ensure!((1..=LONGEST_ID).contains(&id.len()), "sealing key id {id:?} is not 1 to 64 bytes long");
            let bytes = Zeroizing::new(STANDARD.decode(key.expose_secret().trim()).unwrap_or_default());
            anyhow::ensure!(bytes.len() == KEY, "configuration key `sealing.keys.{id}` is not base64 of 32 bytes");
            let sealing = RandomizedNonceKey::new(&AES_256_GCM, &bytes).ok().context("make AES-256-GCM key")?;
            let blinding = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &bytes), BLINDING);
            let blinding = hmac::Key::new(hmac::HMAC_SHA256, blinding.as_ref());
            keys.insert(id.clone(), Key { sealing, blinding });
        }
        let active = config.active.clone();
        anyhow::ensure!(keys.contains_key(&active), "sealing key {active:?} is active but not in `sealing.keys`");
        Ok(Self { active, keys })
    }

    /// Seals `plaintext` under the active key. `aad` says what it is and whose, such as `totp:<user id>`, so that a value
    /// copied to another row does not open there.
    pub fn seal(&self, plaintext: &[u8], aad: &[u8]) -> Vec<u8> {
        let master = &self.active().sealing;
        let mut data_key = Zeroizing::new([0_u8; KEY]);
        rand::fill(data_key.as_mut_slice()).expect("the system has randomness");

        let mut envelope = vec![VERSION, u8::try_from(self.active.len()).expect("at most 64 bytes")];
        envelope.extend_from_slice(self.active.as_bytes());
        let mut wrapped = data_key.to_vec();
        let nonce = master
            .seal_in_place_append_tag(Aad::from(envelope.as_slice()), &mut wrapped)
            .expect("32 bytes can be sealed");
        envelope.extend_from_slice(nonce.as_ref());
        envelope.extend_from_slice(&wrapped);

        let data_key = RandomizedNonceKey::new(&AES_256_GCM, data_key.as_slice()).expect("the key has 32 bytes");
        let mut sealed = plaintext.to_vec();
        let nonce = data_key
            .seal_in_place_append_tag(Aad::from(bound(&envelope, aad)), &mut sealed)
            .expect("less than 64 GiB can be sealed");
        envelope.extend_from_slice(nonce.as_ref());
        envelope.extend_from_slice(&sealed);
        envelope
    }

    /// Opens what [`Keyring::seal`] made with the same `aad`.
    ///
    /// # Errors
    /// See [`SealError`].
    pub fn open(&self, sealed: &[u8], aad: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let id = key_id(sealed)?;
        let master = self.keys.get(id).ok_or_else(|| SealError::UnknownKey(id.to_owned()))?;
        let head = 2 + id.len();
        let (envelope, rest) = sealed.split_at_checked(head + NONCE + KEY + TAG).ok_or(SealError::Malformed)?;
        let (nonce, wrapped) = envelope[head..].split_at(NONCE);
        let mut data_key = Zeroizing::new(wrapped.to_vec());
        let data_key = master
            .sealing
            .open_in_place(nonce_of(nonce)?, Aad::from(&envelope[..head]), &mut data_key)
            .map_err(|_| SealError::Refused)?;
        let data_key = RandomizedNonceKey::new(&AES_256_GCM, data_key).map_err(|_| SealError::Malformed)?;
        let (nonce, ciphertext) = rest.split_at_checked(NONCE).ok_or(SealError::Malformed)?;
        let mut plaintext = Zeroizing::new(ciphertext.to_vec());
        let length = data_key
            .open_in_place(nonce_of(nonce)?, Aad::from(bound(envelope, aad)), &mut plaintext)
            .map_err(|_| SealError::Refused)?
            .len();
        plaintext.truncate(length);
        Ok(plaintext)
    }

    /// Keyed hashes of a value, by which it is found while it is sealed: the first is under the active key, and to be kept;
    /// look for all of them, because what is kept may be older. Equal values have equal hashes, which is what they give away:
    /// `aad` says what the value is, such as `attribute:phone`, so that equal values of other kinds have others.
    pub fn blind_indexes(&self, value: &[u8], aad: &[u8]) -> Vec<String> {
        let others = self.keys.iter().filter(|(id, _)| **id != self.active).map(|(_, key)| key);
        let length = (aad.len() as u64).to_be_bytes();
        let message = [&length, aad, value].concat();
        std::iter::once(self.active())
            .chain(others)
            .map(|key| URL_SAFE_NO_PAD.encode(hmac::sign(&key.blinding, &message)))
            .collect()
    }

    /// The id of the active key.
    pub fn active_id(&self) -> &str {
        &self.active
    }

    fn active(&self) -> &Key {
        self.keys.get(&self.active).expect("checked when the keyring was made")
    }

    /// Whether `sealed` is not under the active key: open it, seal it again, and the old key can go.
    pub fn needs_resealing(&self, sealed: &[u8]) -> bool {
        key_id(sealed).map_or(true, |id| id != self.active)
    }
}

/// The id of the key that `sealed` is under.
///
/// # Errors
/// Malformed, or of an unknown version.
pub fn key_id(sealed: &[u8]) -> Result<&str, SealError> {
    let (&version, rest) = sealed.split_first().ok_or(SealError::Malformed)?;
    if version != VERSION {
        return Err(SealError::UnknownVersion(version));
    }
    let (&length, rest) = rest.split_first().ok_or(SealError::Malformed)?;
    let id = rest.get(..usize::from(length)).ok_or(SealError::Malformed)?;
    std::str::from_utf8(id).map_err(|_| SealError::Malformed)
}

/// The envelope's length follows from its own beginning, so that the two parts cannot be mistaken for one another.
fn bound(envelope: &[u8], aad: &[u8]) -> Vec<u8> {
    [envelope, aad].concat()
}

fn nonce_of(bytes: &[u8]) -> Result<Nonce, SealError> {
    Nonce::try_assume_unique_for_key(bytes).map_err(|_| SealError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keyring(active: &str, keys: &[(&str, u8)]) -> Keyring {
        let keys = keys.iter().map(|(id, byte)| ((*id).to_owned(), STANDARD.encode([*byte; KEY]).into())).collect();
        Keyring::new(&config::Sealing { active: active.to_owned(), keys }).expect("valid")
    }

    #[test]
    fn a_rotated_key_still_opens_and_asks_for_resealing() {
        let sealed = keyring("k1", &[("k1", 1)]).seal(b"hush", b"totp:1");
        let rotated = keyring("k2", &[("k1", 1), ("k2", 2)]);
        assert!(rotated.needs_resealing(&sealed));
        let opened = rotated.open(&sealed, b"totp:1").expect("old key is still there");
        assert_eq!(opened.as_slice(), b"hush");
        assert!(!rotated.needs_resealing(&rotated.seal(&opened, b"totp:1")));
    }

    #[test]
    fn a_blind_index_is_of_one_value_one_kind_and_one_key_and_outlives_rotation() {
        let first = keyring("k1", &[("k1", 1)]).blind_indexes(b"hush", b"phone");
        let rotated = keyring("k2", &[("k1", 1), ("k2", 2)]).blind_indexes(b"hush", b"phone");
        assert_eq!((first.len(), rotated.len()), (1, 2));
        assert_eq!(rotated[1], first[0], "what was kept under the old key is found");
        assert_ne!(rotated[0], first[0]);
        let keys = keyring("k1", &[("k1", 1)]);
        assert_ne!(keys.blind_indexes(b"hush!", b"phone"), first);
        assert_ne!(keys.blind_indexes(b"ehush", b"phon"), first);
        assert!(!first[0].contains("hush"));
    }

    #[test]
    fn the_error_names_the_key_that_is_missing() {
        let sealed = keyring("k1", &[("k1", 1)]).seal(b"hush", b"");
        let other = keyring("k2", &[("k2", 2)]);
        assert_eq!(other.open(&sealed, b""), Err(SealError::UnknownKey("k1".to_owned())));
        assert!(other.open(&sealed, b"").expect_err("unknown").to_string().contains("k1"));
    }

    #[test]
    fn a_value_does_not_open_for_another_purpose_or_under_another_key_of_the_same_id() {
        let ring = keyring("k1", &[("k1", 1)]);
        let sealed = ring.seal(b"hush", b"totp:1");
        assert_eq!(ring.open(&sealed, b"totp:2"), Err(SealError::Refused));
        assert_eq!(keyring("k1", &[("k1", 9)]).open(&sealed, b"totp:1"), Err(SealError::Refused));
    }

    #[test]
    fn a_bad_key_is_named_and_not_shown() {
        let keys = [("short".to_owned(), STANDARD.encode(b"hush").into())].into();
        let error = Keyring::new(&config::Sealing { active: "short".to_owned(), keys }).err().expect("too short");
        assert!(error.to_string().contains("sealing.keys.short") && !error.to_string().contains("aHVzaA"));
        let missing = Keyring::new(&config::Sealing { active: "none".to_owned(), keys: BTreeMap::new() });
        assert!(missing.is_err());
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens_and_never_twice_the_same(
            plaintext in proptest::collection::vec(any::<u8>(), 0..300),
            aad in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let ring = keyring("k1", &[("k1", 1)]);
            let sealed = ring.seal(&plaintext, &aad);
            let opened = ring.open(&sealed, &aad).expect("own");
            prop_assert_eq!(opened.as_slice(), plaintext.as_slice());
            prop_assert_ne!(ring.seal(&plaintext, &aad), sealed);
        }

        #[test]
        fn any_changed_byte_and_any_cut_is_noticed(position: prop::sample::Index, bit in 0..8_u8, cut: prop::sample::Index) {
            let ring = keyring("k1", &[("k1", 1)]);
            let sealed = ring.seal(b"thirty-two bytes of robot secret", b"r");
            let mut changed = sealed.clone();
            changed[position.index(sealed.len())] ^= 1 << bit;
            prop_assert!(ring.open(&changed, b"r").is_err());
            prop_assert!(ring.open(&sealed[..cut.index(sealed.len())], b"r").is_err());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(keyring("k1", &[("k1", 1)]).open(&bytes, b"").is_err());
        }
    }
}
