//! Signs access tokens (RFC 9068) and ID tokens (OpenID Connect Core 1.0) with the keys that are active now. Whom to issue one
//! to is decided elsewhere.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use anyhow::ensure;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use kronos_common::{
    config::Identity,
    identity::{Actor, Claims, Confirmation, JwkSet, Verifier},
    problem::Problem,
};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::{
    grants::Grants,
    keys::{Algorithm, SigningKey},
};

/// The OAuth client of who logs in with `/auth/login`: a public one, with no secret.
pub(crate) const LOGIN_CLIENT: &str = "kronos";
/// This service, when it calls another.
pub(crate) const OWN_CLIENT: &str = "auth-service";
/// What this service may do at others.
const OWN_PERMISSIONS: [&str; 4] = ["grants:read", "users:read", "users:write", "logs:write"];
/// An RSA signature costs 0.7 ms of a core: so many wait for a thread at most, and so long.
const SIGNATURES_WAITING: usize = 512;
const SIGNATURE_DEADLINE: Duration = Duration::from_secs(2);

/// The keys that this instance knows now.
pub(crate) struct Keyset {
    /// One for each algorithm.
    active: HashMap<Algorithm, SigningKey>,
    pub public: JwkSet,
}

impl Keyset {
    /// A complete set.
    ///
    /// # Errors
    /// There is no key of an algorithm.
    pub(crate) fn new(active: HashMap<Algorithm, SigningKey>, public: JwkSet) -> anyhow::Result<Self> {
        for algorithm in Algorithm::ALL {
            ensure!(active.contains_key(&algorithm), "no signing key of {} is active", algorithm.name());
        }
        Ok(Self { active, public })
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let same = |algorithm| self.key(algorithm).kid == other.key(algorithm).kid;
        Algorithm::ALL.into_iter().all(same) && self.public.keys == other.public.keys
    }

    fn key(&self, algorithm: Algorithm) -> &SigningKey {
        self.active.get(&algorithm).expect("a key set has a key of each algorithm")
    }
}

/// Signs; cheap to clone.
#[derive(Clone)]
pub(crate) struct Issuer(Arc<Inner>);

struct Inner {
    issuer: String,
    audience: String,
    access_seconds: i64,
    keys: RwLock<Arc<Keyset>>,
    verifier: Verifier,
    /// Who may wait for a thread, and the threads that sign with RSA.
    room: Arc<Semaphore>,
    threads: Arc<Semaphore>,
}

/// Whom a token speaks of.
pub(crate) struct Subject {
    pub sub: String,
    pub client_id: String,
    pub sid: Option<Uuid>,
    pub username: Option<String>,
    pub roles: Vec<String>,
    pub permissions: Vec<String>,
    pub epoch: i64,
    /// The token ends then at the latest.
    pub valid_until: Option<DateTime<Utc>>,
    pub scope: Option<String>,
    /// Whom the token is for; empty: Kronos.
    pub audience: Vec<String>,
    pub actor: Option<Actor>,
    /// The key that it is bound to.
    pub dpop_jkt: Option<String>,
}

/// A signed token.
pub(crate) struct IssuedToken {
    pub token: String,
    /// Its life, in seconds.
    pub expires_in: i64,
}

/// What an ID token says.
#[derive(Serialize)]
pub(crate) struct IdClaims<'a> {
    pub iss: &'a str,
    pub sub: &'a str,
    pub aud: &'a str,
    pub azp: &'a str,
    pub exp: i64,
    pub iat: i64,
    pub auth_time: i64,
    pub sid: String,
    pub amr: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acr: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nonce: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_hash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preferred_username: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email_verified: Option<bool>,
}

impl Subject {
    /// A user's session.
    pub(crate) fn user(grants: Grants, session: Uuid, client_id: &str) -> Self {
        Self {
            sub: grants.user_id.to_string(),
            client_id: client_id.to_owned(),
            sid: Some(session),
            username: Some(grants.username),
            roles: grants.roles,
            permissions: grants.permissions,
            epoch: grants.epoch,
            valid_until: grants.valid_until,
            scope: None,
            audience: Vec::new(),
            actor: None,
            dpop_jkt: None,
        }
    }

    /// A client that speaks for itself.
    pub(crate) fn client(client_id: String, permissions: Vec<String>, epoch: i64) -> Self {
        Self {
            sub: client_id.clone(),
            client_id,
            sid: None,
            username: None,
            roles: Vec::new(),
            permissions,
            epoch,
            valid_until: None,
            scope: None,
            audience: Vec::new(),
            actor: None,
            dpop_jkt: None,
        }
    }
}

impl Issuer {
    /// An issuer; `verifier` is told of every change of keys.
    pub(crate) fn new(identity: &Identity, access_seconds: u64, keys: Keyset, verifier: Verifier) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = cores.saturating_sub(1).max(1);
        Self(Arc::new(Inner {
            issuer: identity.issuer.clone(),
            audience: identity.audience.clone(),
            access_seconds: i64::try_from(access_seconds).unwrap_or(i64::MAX),
            keys: RwLock::new(Arc::new(keys)),
            verifier,
            room: Arc::new(Semaphore::new(threads + SIGNATURES_WAITING)),
            threads: Arc::new(Semaphore::new(threads)),
        }))
    }

    /// The current keys.
    pub(crate) fn keys(&self) -> Arc<Keyset> {
        Arc::clone(&self.0.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The name that tokens carry.
    pub(crate) fn name(&self) -> &str {
        &self.0.issuer
    }

    /// Kronos's own audience.
    pub(crate) fn audience(&self) -> &str {
        &self.0.audience
    }

    /// Signs with these from now on.
    pub(crate) fn replace_keys(&self, keys: Keyset) {
        self.0.verifier.replace_keys(&keys.public);
        *self.0.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
    }

    /// A signed access token.
    pub(crate) fn issue(&self, subject: Subject, now: DateTime<Utc>) -> IssuedToken {
        let iat = now.timestamp();
        let rights_end = subject.valid_until.map_or(i64::MAX, |end| end.timestamp() - iat);
        let expires_in = self.0.access_seconds.min(rights_end).max(1);
        let aud = if subject.audience.is_empty() { vec![self.0.audience.clone()] } else { subject.audience };
        let claims = Claims {
            iss: self.0.issuer.clone(),
            sub: subject.sub,
            aud,
            exp: iat + expires_in,
            iat,
            nbf: None,
            jti: Uuid::new_v4().to_string(),
            sid: subject.sid.map(|sid| sid.to_string()),
            client_id: subject.client_id,
            roles: subject.roles,
            permissions: subject.permissions,
            epoch: subject.epoch,
            username: subject.username,
            scope: subject.scope,
            act: subject.actor,
            cnf: subject.dpop_jkt.map(|jkt| Confirmation { jkt }),
        };
        IssuedToken { token: self.keys().key(Algorithm::EdDsa).sign(&claims), expires_in }
    }

    /// The token with which this service calls others.
    pub(crate) fn issue_own(&self, now: DateTime<Utc>) -> IssuedToken {
        let permissions = OWN_PERMISSIONS.map(str::to_owned).to_vec();
        self.issue(Subject::client(OWN_CLIENT.to_owned(), permissions, now.timestamp_millis()), now)
    }

    /// A signed text of another type than a token, with the key of access tokens.
    pub(crate) fn sign_now(&self, typ: &str, claims: &impl Serialize) -> String {
        self.keys().key(Algorithm::EdDsa).sign_as(typ, claims)
    }

    /// A signed token of another type than an access token, such as `JWT` for ID tokens. RSA is slow, so its signatures are made
    /// on a few threads beside those of the requests.
    ///
    /// # Errors
    /// 503 when too many wait for a signature, or for too long.
    pub(crate) async fn sign(
        &self,
        algorithm: Algorithm,
        typ: &'static str,
        claims: &impl Serialize,
    ) -> Result<String, Problem> {
        let key = self.keys().key(algorithm).clone();
        if algorithm != Algorithm::Rs256 {
            return Ok(key.sign_as(typ, claims));
        }
        let busy = || Problem::unavailable("signing of ID tokens", Duration::from_secs(1));
        let _room = self.0.room.try_acquire().map_err(|_| busy())?;
        let thread = tokio::time::timeout(SIGNATURE_DEADLINE, Arc::clone(&self.0.threads).acquire_owned()).await;
        let thread = thread.map_err(|_| busy())?.map_err(Problem::internal)?;
        let claims = serde_json::to_value(claims).map_err(Problem::internal)?;
        let signed = tokio::task::spawn_blocking(move || {
            let token = key.sign_as(typ, &claims);
            drop(thread);
            token
        });
        signed.await.map_err(Problem::internal)
    }
}

/// The `at_hash` of an ID token (OpenID Connect Core 1.0 section 3.1.3.6). For EdDSA libraries disagree on the hash, and the
/// claim is optional here: there is none.
pub(crate) fn access_token_hash(algorithm: Algorithm, access_token: &str) -> Option<String> {
    let half = || URL_SAFE_NO_PAD.encode(&Sha256::digest(access_token)[..16]);
    (algorithm != Algorithm::EdDsa).then(half)
}
