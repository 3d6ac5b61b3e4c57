//! The SCRAM-SHA-256 verifier that PostgreSQL keeps instead of a password (RFC 5802, RFC 7677), made on this side,
//! so that no password ever stands in a statement, and so in no log of the server's.

use anyhow::ensure;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

/// As many as PostgreSQL's own default.
const ITERATIONS: u32 = 4096;

/// Makes the verifier of `password` with a fresh salt.
///
/// # Errors
/// When the password is empty, or has characters outside printable ASCII: those would have to be normalised
/// (RFC 4013) in the same way by every client.
pub(super) fn verifier(password: &str) -> anyhow::Result<String> {
    ensure!(!password.is_empty(), "the password is empty");
    ensure!(password.bytes().all(|b| (0x20..0x7f).contains(&b)), "the password has characters outside printable ASCII");
    let salt: [u8; 16] = rand::random();
    Ok(verifier_with(password, &salt))
}

fn verifier_with(password: &str, salt: &[u8]) -> String {
    let salted = stretch(password.as_bytes(), salt);
    let client_key = mac(&salted, b"Client Key");
    let stored_key = Sha256::digest(client_key);
    let server_key = mac(&salted, b"Server Key");
    format!(
        "SCRAM-SHA-256${ITERATIONS}:{}${}:{}",
        STANDARD.encode(salt),
        STANDARD.encode(stored_key),
        STANDARD.encode(server_key)
    )
}

/// `Hi` of RFC 5802: PBKDF2 with one block.
fn stretch(password: &[u8], salt: &[u8]) -> [u8; 32] {
    let mut block = mac(password, &[salt, &1u32.to_be_bytes()].concat());
    let mut sum = block;
    for _ in 1..ITERATIONS {
        block = mac(password, &block);
        for (sum, byte) in sum.iter_mut().zip(block) {
            *sum ^= byte;
        }
    }
    sum
}

fn mac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(message);
    mac.finalize().into_bytes().into()
}
