//! Signed texts of others (RFC 7515): clients' assertions and proofs, with the public keys that belong to them (RFC 7517). The
//! key's own kind decides the algorithm; what a header wishes must agree with it.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

/// Longest text that is looked at, in bytes.
const LONGEST: usize = 8 * 1024;
const SHORTEST_RSA_BYTES: usize = 256;
const LONGEST_RSA_BYTES: usize = 1024;

/// A public key that may verify: Ed25519, P-256, or RSA of 2048 to 8192 bits.
#[derive(Clone)]
pub struct PublicJwk {
    /// Its name in its set, if it has one.
    pub kid: Option<String>,
    /// RFC 7638, SHA-256, base64url.
    pub thumbprint: String,
    algorithm: Algorithm,
    key: DecodingKey,
}

impl PublicJwk {
    /// Reads a key; `None` for a private or symmetric one, one of another kind, or one that is for encryption.
    pub fn read(value: &Value) -> Option<Self> {
        let members = value.as_object()?;
        if ["d", "p", "q", "dp", "dq", "qi", "oth", "k"].iter().any(|private| members.contains_key(*private)) {
            return None;
        }
        if members.get("use").is_some_and(|usage| usage != "sig") {
            return None;
        }
        let text = |name: &str| members.get(name).and_then(Value::as_str);
        let bytes = |name: &str| URL_SAFE_NO_PAD.decode(text(name)?).ok();
        let is_coordinate = |name: &str| bytes(name).is_some_and(|bytes| bytes.len() == 32);
        let (algorithm, name, key, canonical) = match (text("kty")?, text("crv")) {
            ("OKP", Some("Ed25519")) if is_coordinate("x") => {
                let x = text("x")?;
                let canonical = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#);
                (Algorithm::EdDSA, "EdDSA", DecodingKey::from_ed_components(x).ok()?, canonical)
            }
            ("EC", Some("P-256")) if is_coordinate("x") && is_coordinate("y") => {
                let (x, y) = (text("x")?, text("y")?);
                let canonical = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
                (Algorithm::ES256, "ES256", DecodingKey::from_ec_components(x, y).ok()?, canonical)
            }
            ("RSA", _) => {
                let (n, e) = (text("n")?, text("e")?);
                let length = bytes("n")?.len();
                if !(SHORTEST_RSA_BYTES..=LONGEST_RSA_BYTES).contains(&length) || bytes("e")?.is_empty() {
                    return None;
                }
                let canonical = format!(r#"{{"e":"{e}","kty":"RSA","n":"{n}"}}"#);
                (Algorithm::RS256, "RS256", DecodingKey::from_rsa_components(n, e).ok()?, canonical)
            }
            _ => return None,
        };
        if text("alg").is_some_and(|wished| wished != name) {
            return None;
        }
        let thumbprint = URL_SAFE_NO_PAD.encode(Sha256::digest(canonical));
        Some(Self { kid: text("kid").map(str::to_owned), thumbprint, algorithm, key })
    }

    /// Whether this key signed it, with the one algorithm that it is for.
    pub fn signed(&self, jws: &Jws<'_>) -> bool {
        let name = match self.algorithm {
            Algorithm::EdDSA => "EdDSA",
            Algorithm::ES256 => "ES256",
            _ => "RS256",
        };
        jws.header.get("alg").and_then(Value::as_str) == Some(name)
            && jsonwebtoken::crypto::verify(jws.signature, jws.signed.as_bytes(), &self.key, self.algorithm)
                .unwrap_or(false)
    }
}

/// A text in compact form, taken apart; nothing of it is believed until a key [`signed`](PublicJwk::signed) it.
#[derive(Debug)]
pub struct Jws<'t> {
    /// What the signer wrote about it.
    pub header: Map<String, Value>,
    /// What it says.
    pub claims: Map<String, Value>,
    signed: &'t str,
    signature: &'t str,
}

impl<'t> Jws<'t> {
    /// Takes it apart. `None` if it is too long, not of three parts of JSON, or asks for an extension (`crit`).
    pub fn parse(text: &'t str) -> Option<Self> {
        if text.len() > LONGEST {
            return None;
        }
        let (signed, signature) = text.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let read = |part: &str| serde_json::from_slice::<Map<String, Value>>(&URL_SAFE_NO_PAD.decode(part).ok()?).ok();
        let (header, claims) = (read(header)?, read(claims)?);
        let plain = !header.contains_key("crit") && !signature.is_empty();
        plain.then_some(Self { header, claims, signed, signature })
    }

    /// A claim that is a text.
    pub fn text(&self, claim: &str) -> Option<&str> {
        self.claims.get(claim)?.as_str()
    }

    /// A claim that is a time, in whole seconds since 1970.
    pub fn seconds(&self, claim: &str) -> Option<i64> {
        let value = self.claims.get(claim)?;
        value.as_i64().or_else(|| value.as_f64().filter(|seconds| seconds.abs() < 1e12).map(|seconds| seconds as i64))
    }
}

#[cfg(test)]
mod tests;
