//! The public keys of auth-service (RFC 7517): fetched once, refreshed in the background, and once more when a token names
//! a key that is not known. The last good set stays in force while auth-service is away. Only Ed25519 signature keys count.

use std::{
    collections::HashMap,
    sync::{
        Arc, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::DecodingKey;
use serde::{Deserialize, Serialize};

/// After a fetch for an unknown key, the next such fetch waits so long: strangers can't make us flood auth-service.
pub const COOL_DOWN: Duration = Duration::from_secs(30);

/// How often the set is read again, so that a key that was withdrawn stops being believed.
const REFRESH_EVERY: Duration = Duration::from_secs(60);
const FETCH_TIMEOUT: Duration = Duration::from_secs(2);
const LARGEST_DOCUMENT_BYTES: usize = 256 * 1024;
const MOST_KEYS: usize = 64;
const LONGEST_KID: usize = 128;

/// The document behind `jwks_uri`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JwkSet {
    /// The keys; those of other kinds than Ed25519 are ignored.
    pub keys: Vec<serde_json::Value>,
}

/// The members that say how a key may be used (RFC 8037).
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    crv: String,
    x: String,
    kid: String,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
}

pub(super) type Keys = HashMap<String, DecodingKey>;

impl JwkSet {
    /// The keys that may verify an access token, by their id. What a key is good for is what its own record says.
    fn usable(&self) -> Keys {
        let mut usable = Keys::new();
        for value in self.keys.iter().take(MOST_KEYS) {
            let Ok(key) = Jwk::deserialize(value) else { continue };
            let fits = key.kty == "OKP"
                && key.crv == "Ed25519"
                && key.alg.as_deref().is_none_or(|alg| alg == "EdDSA")
                && key.usage.as_deref().is_none_or(|usage| usage == "sig")
                && is_plausible_kid(&key.kid);
            let length = URL_SAFE_NO_PAD.decode(&key.x).map(|x| x.len());
            if fits
                && length == Ok(32)
                && let Ok(decoding) = DecodingKey::from_ed_components(&key.x)
            {
                usable.insert(key.kid, decoding);
            }
        }
        usable
    }
}

/// Whether a key id can be one of ours; nothing else is looked up, let alone fetched.
pub(super) fn is_plausible_kid(kid: &str) -> bool {
    (1..=LONGEST_KID).contains(&kid.len())
        && kid.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// What [`KeyStore::find`] knows.
pub(super) enum Found {
    Key(DecodingKey),
    Unknown,
    /// No set was ever read: nothing can be said of any token.
    NoKeysYet,
}

/// The current key set and its source.
pub(super) struct KeyStore {
    keys: RwLock<Arc<Keys>>,
    loaded: AtomicBool,
    source: Option<Source>,
}

struct Source {
    http: reqwest::Client,
    url: String,
    /// When a fetch for an unknown key was last made; the lock makes it the only one.
    asked: tokio::sync::Mutex<Option<Instant>>,
}

impl KeyStore {
    /// A store that fetches from `url`; empty until the first fetch.
    pub(super) fn remote(url: &str) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(FETCH_TIMEOUT)
            .timeout(FETCH_TIMEOUT)
            .build()
            .context("build the HTTP client for the key set")?;
        url::Url::parse(url).with_context(|| format!("identity.jwks_url is not a URL: {url}"))?;
        let source = Source { http, url: url.to_owned(), asked: tokio::sync::Mutex::new(None) };
        Ok(Self { keys: RwLock::default(), loaded: AtomicBool::new(false), source: Some(source) })
    }

    /// A store that holds what it is given.
    pub(super) fn fixed(set: &JwkSet) -> Self {
        Self { keys: RwLock::new(Arc::new(set.usable())), loaded: AtomicBool::new(true), source: None }
    }

    pub(super) fn is_loaded(&self) -> bool {
        self.loaded.load(Ordering::Acquire)
    }

    /// Takes a new set; says whether a key that was believed before is gone.
    pub(super) fn replace(&self, set: &JwkSet) -> bool {
        let new = Arc::new(set.usable());
        let mut keys = self.keys.write().expect("no holder panics");
        let withdrawn = keys.keys().any(|kid| !new.contains_key(kid));
        *keys = new;
        self.loaded.store(true, Ordering::Release);
        withdrawn
    }

    /// Looks a key up, and fetches the set once if it is not there and the cool-down allows it. The flag says whether
    /// that withdrew another key.
    pub(super) async fn find(&self, kid: &str) -> (Found, bool) {
        if let Some(key) = self.get(kid) {
            return (Found::Key(key), false);
        }
        let Some(source) = &self.source else {
            return (Found::Unknown, false);
        };
        if !self.is_loaded() {
            return (Found::NoKeysYet, false);
        }
        let mut asked = source.asked.lock().await;
        if let Some(key) = self.get(kid) {
            return (Found::Key(key), false);
        }
        if asked.is_some_and(|at| at.elapsed() < COOL_DOWN) {
            return (Found::Unknown, false);
        }
        *asked = Some(Instant::now());
        let withdrawn = self.refresh_logged().await;
        (self.get(kid).map_or(Found::Unknown, Found::Key), withdrawn)
    }

    fn get(&self, kid: &str) -> Option<DecodingKey> {
        self.keys.read().expect("no holder panics").get(kid).cloned()
    }

    async fn refresh_logged(&self) -> bool {
        self.refresh().await.unwrap_or_else(|error| {
            tracing::warn!(error = format!("{error:#}"), "key set can't be read, the last good one stays");
            false
        })
    }

    /// Fetches the set. An empty or unreadable one is refused, so that the last good one stays.
    pub(super) async fn refresh(&self) -> anyhow::Result<bool> {
        let Some(source) = &self.source else { return Ok(false) };
        let response = source.http.get(&source.url).send().await.context("fetch the key set")?;
        let mut response = response.error_for_status().context("fetch the key set")?;
        let mut document = Vec::new();
        while let Some(chunk) = response.chunk().await.context("read the key set")? {
            ensure!(document.len() + chunk.len() <= LARGEST_DOCUMENT_BYTES, "the key set is too large");
            document.extend_from_slice(&chunk);
        }
        let set: JwkSet = serde_json::from_slice(&document).context("parse the key set")?;
        ensure!(!set.usable().is_empty(), "the key set has no Ed25519 signature key");
        Ok(self.replace(&set))
    }

    /// Keeps the set fresh: often until the first success, then once a minute. `on_withdrawal` hears of removed keys.
    pub(super) async fn keep_fresh(&self, on_withdrawal: impl Fn()) {
        let mut delay = Duration::from_millis(100);
        loop {
            let wait = if self.is_loaded() { REFRESH_EVERY } else { delay };
            tokio::time::sleep(wait).await;
            match self.refresh().await {
                Ok(true) => on_withdrawal(),
                Ok(false) => {}
                Err(error) if self.is_loaded() => {
                    tracing::warn!(error = format!("{error:#}"), "key set can't be read, the last good one stays");
                }
                Err(error) => {
                    tracing::debug!(error = format!("{error:#}"), "key set can't be read yet");
                    delay = (delay * 2).min(Duration::from_secs(2));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_ed25519_signature_keys_are_usable() {
        let x = URL_SAFE_NO_PAD.encode([7u8; 32]);
        let good = json!({"kty": "OKP", "crv": "Ed25519", "x": x, "kid": "good", "alg": "EdDSA", "use": "sig"});
        let with = |name: &str, value: serde_json::Value| {
            let mut key = good.clone();
            key["kid"] = json!(format!("bad-{name}"));
            key[name] = value;
            key
        };
        let set = JwkSet {
            keys: vec![
                good.clone(),
                with("kty", json!("oct")),
                with("crv", json!("X25519")),
                with("alg", json!("HS256")),
                with("alg", json!("none")),
                with("use", json!("enc")),
                with("x", json!(URL_SAFE_NO_PAD.encode([7u8; 31]))),
                with("x", json!(7)),
                with("kid", json!("../../etc/passwd")),
                with("kid", json!("")),
                json!("not an object"),
            ],
        };
        assert_eq!(set.usable().keys().collect::<Vec<_>>(), ["good"]);
    }
}
