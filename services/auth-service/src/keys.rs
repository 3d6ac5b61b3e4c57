//! Signing keys: what one is, and the rule by which keys of one algorithm follow one another: published → active → retiring →
//! removed. No clock and no store here; `jobs` applies the plan.

use std::sync::Arc;

use anyhow::{Context as _, ensure};
use aws_lc_rs::{
    encoding::AsDer as _,
    rand::SystemRandom,
    rsa,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
    },
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};
use kronos_common::identity::JwkSet;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;

use crate::config;

/// How a token is signed (RFC 7518, RFC 8037).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema, sqlx::Type)]
#[sqlx(type_name = "text")]
pub enum Algorithm {
    /// Ed25519: every access token.
    #[serde(rename = "EdDSA")]
    #[sqlx(rename = "EdDSA")]
    EdDsa,
    /// RSA 2048, PKCS#1 v1.5: ID tokens unless the client wishes another, because every library knows it.
    #[serde(rename = "RS256")]
    #[sqlx(rename = "RS256")]
    Rs256,
    /// P-256.
    #[serde(rename = "ES256")]
    #[sqlx(rename = "ES256")]
    Es256,
}

impl Algorithm {
    /// All that there is a key for.
    pub const ALL: [Self; 3] = [Self::EdDsa, Self::Rs256, Self::Es256];

    /// Its name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::EdDsa => "EdDSA",
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
        }
    }
}

/// Where a key is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum State {
    /// In the key set, so that verifiers know it before it signs.
    Published,
    /// Signs.
    Active,
    /// Signs no more; its last tokens are still good.
    Retiring,
    /// Out of the key set, private part erased.
    Removed,
}

/// A key's row, without its private part.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct KeyRecord {
    pub kid: String,
    pub algorithm: Algorithm,
    /// Ed25519: 32 bytes; P-256: the uncompressed point; RSA: `RSAPublicKey` in DER (RFC 8017).
    pub public_key: Vec<u8>,
    pub state: State,
    pub created_at: DateTime<Utc>,
    pub activated_at: Option<DateTime<Utc>>,
    pub retiring_at: Option<DateTime<Utc>>,
}

/// One thing to do to the keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make a key, in this state.
    Create(State),
    Activate(String),
    Retire(String),
    Remove(String),
}

/// What is due now to the keys of one algorithm, in the order in which it must be done.
pub fn plan(keys: &[KeyRecord], policy: &config::Keys, now: DateTime<Utc>) -> Vec<Step> {
    let seconds = |seconds: u64| TimeDelta::seconds(i64::try_from(seconds).unwrap_or(i64::MAX / 1000));
    let in_state = |state| keys.iter().filter(move |key| key.state == state);
    let mut steps = Vec::new();
    let oldest_published = in_state(State::Published).min_by_key(|key| key.created_at);
    match (in_state(State::Active).next(), oldest_published) {
        (None, None) => steps.push(Step::Create(State::Active)),
        // Better a key that few know yet than none.
        (None, Some(next)) => steps.push(Step::Activate(next.kid.clone())),
        (Some(active), next) => {
            let age = now - active.activated_at.unwrap_or(active.created_at);
            match next {
                None if age >= seconds(policy.active_seconds.saturating_sub(policy.publish_seconds)) => {
                    steps.push(Step::Create(State::Published));
                }
                Some(next)
                    if age >= seconds(policy.active_seconds)
                        && now - next.created_at >= seconds(policy.publish_seconds) =>
                {
                    steps.push(Step::Retire(active.kid.clone()));
                    steps.push(Step::Activate(next.kid.clone()));
                }
                _ => {}
            }
        }
    }
    let retired = in_state(State::Retiring)
        .filter(|key| key.retiring_at.is_some_and(|since| now - since >= seconds(policy.retire_seconds)));
    steps.extend(retired.map(|key| Step::Remove(key.kid.clone())));
    steps
}

/// A fresh key as it is stored: id, public part, PKCS#8 to seal.
#[derive(Clone)]
pub struct NewKey {
    pub kid: String,
    pub algorithm: Algorithm,
    pub public_key: Vec<u8>,
    pub pkcs8: Vec<u8>,
}

/// Makes a key from the system's randomness. An RSA key takes some tenths of a second.
///
/// # Errors
/// The system has none.
pub fn generate(algorithm: Algorithm) -> anyhow::Result<NewKey> {
    let (pkcs8, public_key) = match algorithm {
        Algorithm::EdDsa => {
            let pair = Ed25519KeyPair::generate().context("generate an Ed25519 key")?;
            let pkcs8 = pair.to_pkcs8().context("write an Ed25519 key")?.as_ref().to_vec();
            (pkcs8, pair.public_key().as_ref().to_vec())
        }
        Algorithm::Rs256 => {
            let pair = RsaKeyPair::generate(rsa::KeySize::Rsa2048).context("generate an RSA key")?;
            let pkcs8 = pair.as_der().context("write an RSA key")?.as_ref().to_vec();
            (pkcs8, pair.public_key().as_ref().to_vec())
        }
        Algorithm::Es256 => {
            let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).context("generate a P-256 key")?;
            let pkcs8 = pair.to_pkcs8v1().context("write a P-256 key")?.as_ref().to_vec();
            (pkcs8, pair.public_key().as_ref().to_vec())
        }
    };
    Ok(NewKey { kid: thumbprint(algorithm, &public_key)?, algorithm, public_key, pkcs8 })
}

/// RFC 7638, over the members that RFC 7638 and RFC 8037 section 2 name, in their order.
fn thumbprint(algorithm: Algorithm, public_key: &[u8]) -> anyhow::Result<String> {
    let members = public_members(algorithm, public_key)?;
    let canonical = match algorithm {
        Algorithm::EdDsa => format!(r#"{{"crv":"Ed25519","kty":"OKP","x":{}}}"#, members["x"]),
        Algorithm::Rs256 => format!(r#"{{"e":{},"kty":"RSA","n":{}}}"#, members["e"], members["n"]),
        Algorithm::Es256 => format!(r#"{{"crv":"P-256","kty":"EC","x":{},"y":{}}}"#, members["x"], members["y"]),
    };
    Ok(URL_SAFE_NO_PAD.encode(Sha256::digest(canonical)))
}

fn public_members(algorithm: Algorithm, public_key: &[u8]) -> anyhow::Result<Value> {
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    Ok(match algorithm {
        Algorithm::EdDsa => json!({ "kty": "OKP", "crv": "Ed25519", "x": encode(public_key) }),
        Algorithm::Rs256 => {
            let (n, e) = rsa_components(public_key).context("read an RSA public key")?;
            json!({ "kty": "RSA", "n": encode(n), "e": encode(e) })
        }
        Algorithm::Es256 => {
            ensure!(public_key.len() == 65 && public_key[0] == 4, "not an uncompressed P-256 point");
            json!({ "kty": "EC", "crv": "P-256", "x": encode(&public_key[1..33]), "y": encode(&public_key[33..]) })
        }
    })
}

/// Modulus and exponent of `RSAPublicKey ::= SEQUENCE { INTEGER, INTEGER }`, without leading zeros.
fn rsa_components(der: &[u8]) -> Option<(&[u8], &[u8])> {
    fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
        let (&found, rest) = der.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match usize::from(first) {
            short @ 0..=0x7f => (short, rest),
            long => {
                let (bytes, rest) = rest.split_at_checked(long & 0x7f)?;
                (bytes.iter().fold(0, |length, byte| (length << 8) | usize::from(*byte)), rest)
            }
        };
        (found == tag).then(|| rest.split_at_checked(length)).flatten()
    }
    let positive = |integer: &'_ [u8]| integer.iter().take_while(|byte| **byte == 0).count();
    let (sequence, _) = element(der, 0x30)?;
    let (n, rest) = element(sequence, 0x02)?;
    let (e, _) = element(rest, 0x02)?;
    Some((&n[positive(n)..], &e[positive(e)..]))
}

/// The public key set: every key that verifies now or soon.
pub fn key_set(keys: &[KeyRecord]) -> JwkSet {
    let jwk = |key: &KeyRecord| {
        let mut jwk = public_members(key.algorithm, &key.public_key).ok()?;
        jwk["kid"] = json!(key.kid);
        jwk["alg"] = json!(key.algorithm.name());
        jwk["use"] = json!("sig");
        Some(jwk)
    };
    JwkSet { keys: keys.iter().filter(|key| key.state != State::Removed).filter_map(jwk).collect() }
}

/// The `typ` of access tokens (RFC 9068 section 2.1): no ID token is one.
const ACCESS_TOKEN: &str = "at+jwt";

/// A key that signs, opened; cheap to clone.
#[derive(Clone)]
pub struct SigningKey {
    pub kid: String,
    pub algorithm: Algorithm,
    /// An access token's first part, which is the same for all of them.
    header: Arc<str>,
    pair: Arc<Pair>,
}

enum Pair {
    Ed25519(Ed25519KeyPair),
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
}

impl SigningKey {
    /// Reads an unsealed key.
    ///
    /// # Errors
    /// Not a PKCS#8 key of this algorithm.
    pub fn open(kid: &str, algorithm: Algorithm, pkcs8: &[u8]) -> anyhow::Result<Self> {
        let pair = match algorithm {
            Algorithm::EdDsa => Ed25519KeyPair::from_pkcs8(pkcs8).map(Pair::Ed25519),
            Algorithm::Rs256 => RsaKeyPair::from_pkcs8(pkcs8).map(Pair::Rsa),
            Algorithm::Es256 => EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8).map(Pair::P256),
        };
        let pair = pair.map_err(|error| anyhow::anyhow!("read signing key: {error}"))?;
        let header = encode_header(algorithm, ACCESS_TOKEN, kid).into();
        Ok(Self { kid: kid.to_owned(), algorithm, header, pair: Arc::new(pair) })
    }

    /// A signed access token (RFC 7515 compact form).
    pub fn sign(&self, claims: &impl Serialize) -> String {
        self.finish(&self.header, claims)
    }

    /// A signed token of another type, such as `JWT` for ID tokens.
    pub fn sign_as(&self, typ: &str, claims: &impl Serialize) -> String {
        self.finish(&encode_header(self.algorithm, typ, &self.kid), claims)
    }

    fn finish(&self, header: &str, claims: &impl Serialize) -> String {
        let claims = serde_json::to_vec(claims).expect("claims are plain data");
        let mut token = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims));
        let signature = match &*self.pair {
            Pair::Ed25519(pair) => pair.sign(token.as_bytes()).as_ref().to_vec(),
            Pair::P256(pair) => {
                let signed = pair.sign(&SystemRandom::new(), token.as_bytes());
                signed.expect("a P-256 key signs").as_ref().to_vec()
            }
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                let signed = pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), token.as_bytes(), &mut signature);
                signed.expect("an RSA key signs into a buffer of its length");
                signature
            }
        };
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        token
    }
}

fn encode_header(algorithm: Algorithm, typ: &str, kid: &str) -> String {
    URL_SAFE_NO_PAD.encode(json!({ "alg": algorithm.name(), "typ": typ, "kid": kid }).to_string())
}
