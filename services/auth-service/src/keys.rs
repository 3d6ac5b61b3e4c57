//! Signing keys: what one is, and the rule by which keys follow one another: published → active → retiring → removed. No
//! clock and no store here; `jobs` applies the plan.

use std::sync::Arc;

use anyhow::Context as _;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};
use kronos_common::identity::JwkSet;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::config;

/// The only algorithm of access tokens (RFC 8037).
pub const ALGORITHM: &str = "EdDSA";

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

/// What is due now, in the order in which it must be done.
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
pub struct NewKey {
    pub kid: String,
    pub public_key: Vec<u8>,
    pub pkcs8: Vec<u8>,
}

/// Makes a key from the system's randomness.
///
/// # Errors
/// The system has none.
pub fn generate() -> anyhow::Result<NewKey> {
    let pair = Ed25519KeyPair::generate().context("generate an Ed25519 key")?;
    let pkcs8 = pair.to_pkcs8().context("write an Ed25519 key")?.as_ref().to_vec();
    let public_key = pair.public_key().as_ref().to_vec();
    Ok(NewKey { kid: thumbprint(&public_key), public_key, pkcs8 })
}

/// RFC 7638, over the members that RFC 8037 section 2 names.
fn thumbprint(public_key: &[u8]) -> String {
    let canonical = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, URL_SAFE_NO_PAD.encode(public_key));
    URL_SAFE_NO_PAD.encode(Sha256::digest(canonical))
}

/// The public key set: every key that verifies now or soon.
pub fn key_set(keys: &[KeyRecord]) -> JwkSet {
    let jwk = |key: &KeyRecord| {
        json!({
            "kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode(&key.public_key),
            "kid": key.kid, "alg": ALGORITHM, "use": "sig",
        })
    };
    JwkSet { keys: keys.iter().filter(|key| key.state != State::Removed).map(jwk).collect() }
}

/// The key that signs, opened.
#[derive(Clone)]
pub struct SigningKey {
    pub kid: String,
    /// The token's first part, which is the same for all of them.
    header: Arc<str>,
    pair: Arc<Ed25519KeyPair>,
}

impl SigningKey {
    /// Reads an unsealed key.
    ///
    /// # Errors
    /// Not a PKCS#8 Ed25519 key.
    pub fn open(kid: &str, pkcs8: &[u8]) -> anyhow::Result<Self> {
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8).map_err(|error| anyhow::anyhow!("read signing key: {error}"))?;
        let header = json!({ "alg": ALGORITHM, "typ": "at+jwt", "kid": kid }).to_string();
        Ok(Self { kid: kid.to_owned(), header: URL_SAFE_NO_PAD.encode(header).into(), pair: Arc::new(pair) })
    }

    /// A signed token (RFC 7515 compact form).
    pub fn sign(&self, claims: &impl serde::Serialize) -> String {
        self.finish(&self.header, claims)
    }

    /// A signed token of another type.
    pub fn sign_as(&self, typ: &str, claims: &impl serde::Serialize) -> String {
        let header = json!({ "alg": ALGORITHM, "typ": typ, "kid": self.kid }).to_string();
        self.finish(&URL_SAFE_NO_PAD.encode(header), claims)
    }

    fn finish(&self, header: &str, claims: &impl serde::Serialize) -> String {
        let claims = serde_json::to_vec(claims).expect("claims are plain data");
        let mut token = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims));
        let signature = self.pair.sign(token.as_bytes());
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature.as_ref(), &mut token);
        token
    }
}
