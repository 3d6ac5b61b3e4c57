//! Verifies access tokens: EdDSA only, `at+jwt` only, keys of our own set only, every claim with its right type. A token
//! that was verified is remembered by its hash, so the next request costs a hash and two look-ups; expiry and revocation
//! are asked on every use. What a token carries to help us (`jwk`, `jku`, `x5u`, `x5c`) is never read.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::http::{HeaderMap, HeaderValue, Method, Uri, header};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use futures::FutureExt as _;
use jsonwebtoken::Algorithm;
use moka::sync::Cache;
use serde::{Deserialize, de::IgnoredAny};
use sha2::{Digest as _, Sha256};

use super::{
    Claims, JwkSet, LONGEST_TOKEN_LIFE_SECONDS, Revocations,
    api_key::{self, ApiKeys, Exchange},
    dpop::{PROOF_LIFE_SECONDS, Proof},
    jwks::{Found, KeyStore, is_plausible_kid},
    permission::{Scheme, presented},
};
use crate::{
    config::Identity,
    problem::Problem,
    service::{Context, Criticality},
};

/// Longest token that is looked at, in bytes.
pub const LONGEST_TOKEN_BYTES: usize = 8 * 1024;

/// What to send instead (RFC 9449 section 7.1).
const DPOP: HeaderValue = HeaderValue::from_static("DPoP error=\"invalid_token\", algs=\"ES256 EdDSA RS256\"");
/// How far clocks may differ, in seconds.
const LEEWAY_SECONDS: i64 = 5;
/// Proofs that are remembered.
const PROOFS_REMEMBERED: u64 = 200_000;
/// Bytes of tokens that are remembered.
const MEMORY_BYTES: u64 = 16 * 1024 * 1024;

/// Verifies tokens; cheap to clone.
#[derive(Clone)]
pub struct Verifier(Arc<Inner>);

struct Inner {
    issuer: String,
    audience: String,
    keys: KeyStore,
    memory: Cache<[u8; 32], Remembered>,
    generation: AtomicU64,
    revocations: Revocations,
    api_keys: OnceLock<ApiKeys>,
    /// Proofs that were shown to this instance while they were young enough to be shown again.
    proofs: Cache<[u8; 32], ()>,
}

#[derive(Clone)]
struct Remembered {
    claims: Arc<Claims>,
    bytes: u32,
}

/// The header, as far as it decides anything. Whatever else it says is ignored.
#[derive(Deserialize)]
struct Header {
    alg: String,
    typ: String,
    kid: String,
    /// Extensions that must be understood (RFC 7515 section 4.1.11): we understand none.
    crit: Option<IgnoredAny>,
}

impl Verifier {
    /// A verifier that follows the key set behind `config.jwks_url`. It does not wait for auth-service: until the first
    /// set is read, every token is a 503 and `/ready` says why.
    ///
    /// # Errors
    /// A URL that is none.
    pub async fn connect(config: &Identity, revocations: Revocations, context: &Context) -> anyhow::Result<Self> {
        let verifier = Self::new(config, KeyStore::remote(&config.jwks_url)?, revocations);
        // Just made, so it is empty.
        let _ = verifier.0.api_keys.set(ApiKeys::remote(config)?);
        if let Err(error) = verifier.0.keys.refresh().await {
            tracing::info!(error = format!("{error:#}"), "key set can't be read yet, trying on");
        }
        let asked = verifier.clone();
        context.depends_on("signing-keys", Criticality::Critical, move || {
            let loaded = asked.0.keys.is_loaded();
            async move {
                anyhow::ensure!(loaded, "no key set was read yet");
                Ok(())
            }
            .boxed()
        });
        let (kept, shutdown) = (verifier.clone(), context.shutdown.clone());
        context.spawn("signing-keys", async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = kept.0.keys.keep_fresh(|| kept.forget_all()) => {}
            }
        });
        Ok(verifier)
    }

    /// A verifier with the keys that the caller holds: for auth-service, which owns them, and for tests.
    pub fn with_keys(config: &Identity, keys: &JwkSet, revocations: Revocations) -> Self {
        Self::new(config, KeyStore::fixed(keys), revocations)
    }

    fn new(config: &Identity, keys: KeyStore, revocations: Revocations) -> Self {
        let memory = Cache::builder()
            .max_capacity(MEMORY_BYTES)
            .weigher(|_, remembered: &Remembered| remembered.bytes)
            .time_to_live(Duration::from_secs(LONGEST_TOKEN_LIFE_SECONDS.unsigned_abs()))
            .build();
        Self(Arc::new(Inner {
            issuer: config.issuer.clone(),
            audience: config.audience.clone(),
            keys,
            memory,
            generation: AtomicU64::new(0),
            revocations,
            api_keys: OnceLock::new(),
            proofs: Cache::builder()
                .max_capacity(PROOFS_REMEMBERED)
                .time_to_live(Duration::from_secs(2 * PROOF_LIFE_SECONDS.unsigned_abs()))
                .build(),
        }))
    }

    /// Takes API keys too, which `exchange` turns into tokens: for auth-service, which keeps them, and for tests. Counts once.
    pub fn exchange_api_keys(&self, exchange: Exchange) {
        let _ = self.0.api_keys.set(ApiKeys::new(exchange));
    }

    /// Takes a new key set; tokens under a key that is no longer in it stop being believed at once.
    pub fn replace_keys(&self, keys: &JwkSet) {
        if self.0.keys.replace(keys) {
            self.forget_all();
        }
    }

    /// The claims of a bearer token that may be believed now. A token that is bound to a key is none.
    ///
    /// # Errors
    /// 401 `token_malformed`, `token_invalid`, `token_expired`, `token_revoked`, `token_bound`; 503 while no key set was
    /// ever read.
    pub async fn verify(&self, token: &str) -> Result<Arc<Claims>, Problem> {
        let claims = self.inspect(token).await?;
        if claims.cnf.is_some() {
            let detail = "the token is bound to a key: send `Authorization: DPoP …` with a proof";
            return Err(Problem::unauthorized("token_bound", detail).with_header(header::WWW_AUTHENTICATE, DPOP));
        }
        Ok(claims)
    }

    /// The claims of a token that is good now, whoever shows it: for who is asked about tokens, not for who is asked by one.
    ///
    /// # Errors
    /// As [`verify`](Self::verify), without `token_bound`.
    pub async fn inspect(&self, token: &str) -> Result<Arc<Claims>, Problem> {
        self.verify_at(token, seconds_now()).await
    }

    /// Whoever sent this request: a bearer token, or a token and the proof of its key (RFC 9449). A proof is for the address
    /// as the gateway shows it, and good once at each instance.
    ///
    /// # Errors
    /// 401 `token_missing`, `proof_invalid`, and those of [`verify`](Self::verify).
    pub async fn authenticate(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<Arc<Claims>, Problem> {
        let (scheme, token) = presented(headers)?;
        if scheme == Scheme::Bearer {
            return self.verify(token).await;
        }
        let claims = self.inspect(token).await?;
        let refuse = |detail: &'static str| {
            Problem::unauthorized("proof_invalid", detail).with_header(header::WWW_AUTHENTICATE, DPOP)
        };
        let bound = claims.cnf.as_ref().ok_or_else(|| refuse("the token is not bound to a key: send it as Bearer"))?;
        let mut proofs = headers.get_all("dpop").iter();
        let (Some(proof), None) = (proofs.next(), proofs.next()) else {
            return Err(refuse("send exactly one header `DPoP`"));
        };
        let proof = proof.to_str().map_err(|_| refuse("the proof is no JWT"))?;
        let address = format!("{}{}", self.0.issuer.trim_end_matches('/'), uri.path());
        let proof = Proof::check(proof, method.as_str(), &address, Some(token), seconds_now()).map_err(refuse)?;
        if proof.jkt != bound.jkt {
            return Err(refuse("the proof is of another key than the token's"));
        }
        if !self.0.proofs.entry(proof.fingerprint()).or_insert(()).is_fresh() {
            return Err(refuse("the proof was used before: make one for each request"));
        }
        Ok(claims)
    }

    /// Changes whenever a key was withdrawn: what a caller of its own remembers of tokens is worth nothing then.
    pub fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::Acquire)
    }

    /// Whether claims that this verifier gave out in the present [`generation`](Self::generation) still hold: not expired,
    /// not revoked.
    pub fn holds(&self, claims: &Claims) -> bool {
        self.still_good(claims, seconds_now()).is_ok()
    }

    fn forget_all(&self) {
        self.0.memory.invalidate_all();
        self.0.generation.fetch_add(1, Ordering::Release);
    }

    async fn verify_at(&self, token: &str, now: i64) -> Result<Arc<Claims>, Problem> {
        if token.len() > LONGEST_TOKEN_BYTES {
            return Err(malformed("the token is too long"));
        }
        if token.starts_with(api_key::PREFIX) {
            return self.verify_api_key(token, now).await;
        }
        let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let claims = match self.0.memory.get(&hash) {
            Some(remembered) => remembered.claims,
            None => {
                let claims = Arc::new(self.examine(token).await?);
                self.check_claims(&claims, now)?;
                let bytes = u32::try_from(token.len() * 2 + 256).unwrap_or(u32::MAX);
                self.0.memory.insert(hash, Remembered { claims: Arc::clone(&claims), bytes });
                claims
            }
        };
        self.still_good(&claims, now)?;
        Ok(claims)
    }

    /// An API key is as good as the token that it is exchanged for. That one may be older than the owner's rights: then it
    /// is exchanged once more.
    async fn verify_api_key(&self, key: &str, now: i64) -> Result<Arc<Claims>, Problem> {
        let (Some(api_keys), Some(_)) = (self.0.api_keys.get(), api_key::parts(key)) else {
            return Err(invalid());
        };
        let examine = |token: String| async move {
            let claims = self.examine(&token).await?;
            self.check_claims(&claims, now)?;
            Ok(Arc::new(claims))
        };
        let claims = api_keys.claims(key, examine).await?.ok_or_else(invalid)?;
        if self.still_good(&claims, now).is_ok() {
            return Ok(claims);
        }
        api_keys.forget(key).await;
        let claims = api_keys.claims(key, examine).await?.ok_or_else(invalid)?;
        self.still_good(&claims, now)?;
        Ok(claims)
    }

    fn still_good(&self, claims: &Claims, now: i64) -> Result<(), Problem> {
        if now >= claims.exp.saturating_add(LEEWAY_SECONDS) {
            return Err(Problem::unauthorized("token_expired", "the token has expired: get a new one"));
        }
        if self.0.revocations.is_revoked(claims) {
            let detail = "the token was revoked, or rights changed since: get a new one";
            return Err(Problem::unauthorized("token_revoked", detail));
        }
        Ok(())
    }

    /// Form, header, key, signature; then the claims' types. Nothing unsigned is believed or echoed.
    async fn examine(&self, token: &str) -> Result<Claims, Problem> {
        let mut parts = token.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(malformed("a token has three parts with points between"));
        };
        let header: Header = URL_SAFE_NO_PAD
            .decode(header)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .ok_or_else(|| malformed("the token's header can't be read"))?;
        let right_type = ["at+jwt", "application/at+jwt"].iter().any(|typ| header.typ.eq_ignore_ascii_case(typ));
        if header.alg != "EdDSA" || !right_type || header.crit.is_some() || !is_plausible_kid(&header.kid) {
            return Err(invalid());
        }
        let (found, withdrawn) = self.0.keys.find(&header.kid).await;
        if withdrawn {
            self.forget_all();
        }
        let key = match found {
            Found::Key(key) => key,
            Found::Unknown => return Err(invalid()),
            Found::NoKeysYet => return Err(Problem::unavailable("token verification", Duration::from_secs(1))),
        };
        let signed = &token[..token.len() - signature.len() - 1];
        match jsonwebtoken::crypto::verify(signature, signed.as_bytes(), &key, Algorithm::EdDSA) {
            Ok(true) => {}
            Ok(false) | Err(_) => return Err(invalid()),
        }
        let payload = URL_SAFE_NO_PAD.decode(payload).map_err(|_| invalid())?;
        serde_json::from_slice(&payload).map_err(|_| invalid())
    }

    fn check_claims(&self, claims: &Claims, now: i64) -> Result<(), Problem> {
        let latest = now.saturating_add(LEEWAY_SECONDS);
        let life = claims.exp.saturating_sub(claims.iat);
        let good = claims.iss == self.0.issuer
            && claims.aud.contains(&self.0.audience)
            && claims.iat <= latest
            && claims.nbf.is_none_or(|nbf| nbf <= latest)
            && (1..=LONGEST_TOKEN_LIFE_SECONDS).contains(&life)
            && ![&claims.sub, &claims.jti, &claims.client_id].iter().any(|text| text.is_empty());
        if good { Ok(()) } else { Err(invalid()) }
    }
}

fn seconds_now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    now.try_into().unwrap_or(i64::MAX)
}

fn malformed(detail: &str) -> Problem {
    Problem::unauthorized("token_malformed", detail)
}

fn invalid() -> Problem {
    Problem::unauthorized("token_invalid", "the token is not one that this platform issued for this use")
}

#[cfg(test)]
mod tests;
