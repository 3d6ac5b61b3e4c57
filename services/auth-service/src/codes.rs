//! Texts that people and devices carry: recovery codes, claim codes, links. Random, and kept as hashes only.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rand::RngExt as _;
use sha2::{Digest as _, Sha256};

/// Crockford's base 32: no I, L, O, U, so nothing is misread.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// RFC 4648 section 6.
const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
const GROUP: usize = 4;
const LINK_BYTES: usize = 32;

/// A random code of `groups` groups of four characters, 20 bits each: `7K3M-0QRS-…`.
pub fn typed(groups: usize) -> String {
    let mut random = rand::rng();
    let mut text = String::with_capacity(groups * (GROUP + 1));
    for index in 0..groups * GROUP {
        if index > 0 && index % GROUP == 0 {
            text.push('-');
        }
        let five: u8 = random.random();
        text.push(char::from(ALPHABET[usize::from(five & 31)]));
    }
    text
}

/// What was meant by a typed code: any case, with or without hyphens and blanks, O for 0, I and L for 1.
pub fn normal(typed: &str) -> String {
    let kept = typed.chars().filter(|character| !matches!(character, '-' | ' '));
    kept.map(|character| match character.to_ascii_uppercase() {
        'O' => '0',
        'I' | 'L' => '1',
        other => other,
    })
    .collect()
}

/// A random text for a link: 256 bits, safe in a URL.
pub fn link() -> String {
    let bytes: [u8; LINK_BYTES] = rand::rng().random();
    URL_SAFE_NO_PAD.encode(bytes)
}

/// What is stored of a random text. `purpose` keeps one kind from being taken for another.
pub fn hash(purpose: &str, text: &str) -> Vec<u8> {
    Sha256::new().chain_update(purpose).chain_update([0]).chain_update(text).finalize().to_vec()
}

/// RFC 4648 base 32 without padding, as authenticator apps want it.
pub fn base32(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 8 / 5 + 1);
    let (mut buffer, mut bits) = (0_u32, 0_u32);
    for byte in bytes {
        buffer = (buffer << 8) | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            text.push(char::from(BASE32[(buffer >> bits & 31) as usize]));
        }
        buffer &= (1 << bits) - 1;
    }
    if bits > 0 {
        text.push(char::from(BASE32[(buffer << (5 - bits) & 31) as usize]));
    }
    text
}
