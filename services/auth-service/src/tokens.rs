//! Issues access tokens (RFC 9068) with the key that is active now. Whom to issue one to is decided elsewhere.

use std::sync::{Arc, PoisonError, RwLock};

use chrono::{DateTime, Utc};
use kronos_common::{
    config::Identity,
    identity::{Claims, JwkSet, Verifier},
};
use uuid::Uuid;

use crate::{grants::Grants, keys::SigningKey};

/// The OAuth client of who logs in with `/auth/login`: a public one, with no secret.
pub(crate) const LOGIN_CLIENT: &str = "kronos";
/// This service, when it calls another.
pub(crate) const OWN_CLIENT: &str = "auth-service";
/// What this service may do at others.
const OWN_PERMISSIONS: [&str; 4] = ["grants:read", "users:read", "users:write", "logs:write"];

/// The keys that this instance knows now.
pub(crate) struct Keyset {
    pub active: SigningKey,
    pub public: JwkSet,
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
}

/// A signed token.
pub(crate) struct IssuedToken {
    pub token: String,
    /// Its life, in seconds.
    pub expires_in: i64,
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
        }
    }
}

impl Issuer {
    /// An issuer; `verifier` is told of every change of keys.
    pub(crate) fn new(identity: &Identity, access_seconds: u64, keys: Keyset, verifier: Verifier) -> Self {
        Self(Arc::new(Inner {
            issuer: identity.issuer.clone(),
            audience: identity.audience.clone(),
            access_seconds: i64::try_from(access_seconds).unwrap_or(i64::MAX),
            keys: RwLock::new(Arc::new(keys)),
            verifier,
        }))
    }

    /// The current keys.
    pub(crate) fn keys(&self) -> Arc<Keyset> {
        Arc::clone(&self.0.keys.read().unwrap_or_else(PoisonError::into_inner))
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
        let claims = Claims {
            iss: self.0.issuer.clone(),
            sub: subject.sub,
            aud: vec![self.0.audience.clone()],
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
        };
        IssuedToken { token: self.keys().active.sign(&claims), expires_in }
    }

    /// The token with which this service calls others.
    pub(crate) fn issue_own(&self, now: DateTime<Utc>) -> IssuedToken {
        let permissions = OWN_PERMISSIONS.map(str::to_owned).to_vec();
        self.issue(Subject::client(OWN_CLIENT.to_owned(), permissions, now.timestamp_millis()), now)
    }
}
