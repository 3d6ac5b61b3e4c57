//! Tokens for tests: a signing key, its JWKS behind a real HTTP server on port 0, and every kind of bad token.

use std::{
    net::SocketAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use axum::{
    Form, Json, Router,
    extract::State,
    http::HeaderMap,
    routing::{get, post, put},
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use kronos_common::{
    config::Identity,
    identity::{JwkSet, permission_matches, resource_matches},
};
use serde_json::{Map, Value, json};
use std::sync::{Arc, Mutex};

const ISSUER: &str = "http://kronos.test";
const AUDIENCE: &str = "kronos";
const LIFE_SECONDS: i64 = 600;

/// Plays auth-service: serves `/.well-known/jwks.json`, and `POST /oauth/token`, which gives any client a token of its own
/// with the permission `*:*`, and `POST /auth/check`. Ends with the test's runtime.
#[derive(Clone)]
pub struct Issuer(Arc<Inner>);

struct Inner {
    key: Ed25519KeyPair,
    other: Ed25519KeyPair,
    kid: String,
    address: SocketAddr,
    /// Subject, permission, resource pattern.
    grants: Mutex<Vec<(String, String, String)>>,
}

impl Issuer {
    /// Starts the server with a fresh key.
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let issuer = Self(Arc::new(Inner {
            key: Ed25519KeyPair::generate().expect("generate a key"),
            other: Ed25519KeyPair::generate().expect("generate a key"),
            kid: uuid::Uuid::now_v7().to_string(),
            address: listener.local_addr().expect("a bound listener has an address"),
            grants: Mutex::default(),
        }));
        let router = Router::new()
            .route("/.well-known/jwks.json", get(async |State(issuer): State<Issuer>| Json(issuer.key_set())))
            .route("/oauth/token", post(give_token))
            // As user-service takes them.
            .route("/permissions/{service}", put(async || Json(json!([]))))
            .route("/auth/check", post(check_access))
            .with_state(issuer.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.expect("serve") });
        issuer
    }

    /// What a service's `[identity]` section must say to believe this issuer.
    pub fn config(&self) -> Identity {
        let base = format!("http://{}", self.0.address);
        Identity {
            issuer: ISSUER.into(),
            audience: AUDIENCE.into(),
            jwks_url: format!("{base}/.well-known/jwks.json"),
            auth_url: base.clone(),
            user_url: base,
            client_id: "test-service".into(),
            client_secret: "not-checked".to_owned().into(),
        }
    }

    /// Lets `/auth/check` say that the subject holds a permission on the resources that the pattern covers.
    pub fn grant(&self, subject: &str, permission: &str, pattern: &str) {
        let grant = [subject, permission, pattern].map(str::to_owned).into();
        self.0.grants.lock().expect("nobody panics while holding it").push(grant);
    }

    /// The public keys.
    pub fn key_set(&self) -> JwkSet {
        let x = URL_SAFE_NO_PAD.encode(self.0.key.public_key());
        let key = json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": self.0.kid, "x": x});
        JwkSet { keys: vec![key] }
    }

    /// A good token for the subject with these permissions.
    pub fn token(&self, sub: &str, permissions: &[&str]) -> String {
        self.build(sub).permissions(permissions).sign()
    }

    /// A token that ended a minute ago.
    pub fn expired(&self, sub: &str, permissions: &[&str]) -> String {
        self.build(sub).permissions(permissions).issued_ago(LIFE_SECONDS + 60).sign()
    }

    /// A token that says all the right things, signed with another key.
    pub fn forged(&self, sub: &str, permissions: &[&str]) -> String {
        self.build(sub).permissions(permissions).forge()
    }

    /// A token to be changed before it is signed. Without more it has no permission, epoch 0, no session.
    pub fn build(&self, sub: &str) -> TokenBuilder {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let now = i64::try_from(now).expect("before the year 292277026596");
        let claims = json!({
            "iss": ISSUER, "sub": sub, "aud": AUDIENCE, "iat": now, "exp": now + LIFE_SECONDS,
            "jti": uuid::Uuid::now_v7().to_string(), "client_id": "test-client", "roles": [], "permissions": [], "epoch": 0,
        });
        let header = json!({"alg": "EdDSA", "typ": "at+jwt", "kid": self.0.kid});
        TokenBuilder { issuer: self.clone(), header: object(header), claims: object(claims) }
    }
}

/// A token in the making.
#[derive(Clone)]
pub struct TokenBuilder {
    issuer: Issuer,
    header: Map<String, Value>,
    claims: Map<String, Value>,
}

impl TokenBuilder {
    /// Permissions held everywhere.
    pub fn permissions(self, permissions: &[&str]) -> Self {
        self.claim("permissions", permissions)
    }

    /// Names of roles.
    pub fn roles(self, roles: &[&str]) -> Self {
        self.claim("roles", roles)
    }

    /// The version of the subject's rights.
    pub fn epoch(self, epoch: i64) -> Self {
        self.claim("epoch", epoch)
    }

    /// The session.
    pub fn sid(self, sid: &str) -> Self {
        self.claim("sid", sid)
    }

    /// The OAuth client; the same as the subject for client credentials.
    pub fn client_id(self, client_id: &str) -> Self {
        self.claim("client_id", client_id)
    }

    /// The user's name.
    pub fn username(self, username: &str) -> Self {
        self.claim("username", username)
    }

    /// Moves the token's whole life into the past, by seconds.
    pub fn issued_ago(mut self, seconds: i64) -> Self {
        for name in ["iat", "exp"] {
            let moved = self.claims[name].as_i64().expect("a time") - seconds;
            self = self.claim(name, moved);
        }
        self
    }

    /// How long it lives, in seconds.
    pub fn life(self, seconds: i64) -> Self {
        let issued = self.claims["iat"].as_i64().expect("a time");
        self.claim("exp", issued + seconds)
    }

    /// Sets any claim.
    pub fn claim(mut self, name: &str, value: impl serde::Serialize) -> Self {
        self.claims.insert(name.into(), json!(value));
        self
    }

    /// Leaves a claim out.
    pub fn without(mut self, name: &str) -> Self {
        self.claims.remove(name);
        self
    }

    /// Sets any member of the header.
    pub fn header(mut self, name: &str, value: impl serde::Serialize) -> Self {
        self.header.insert(name.into(), json!(value));
        self
    }

    /// Leaves a member of the header out.
    pub fn without_header(mut self, name: &str) -> Self {
        self.header.remove(name);
        self
    }

    /// The token, signed with the issuer's key.
    pub fn sign(&self) -> String {
        self.finish(|message| self.issuer.0.key.sign(message).as_ref().to_vec())
    }

    /// The token, signed with a key that is not the issuer's.
    pub fn forge(&self) -> String {
        self.finish(|message| self.issuer.0.other.sign(message).as_ref().to_vec())
    }

    /// The token with whatever signature `sign` makes of `header.payload`.
    pub fn finish(&self, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
        let encode = |part: &Map<String, Value>| URL_SAFE_NO_PAD.encode(Value::Object(part.clone()).to_string());
        let message = format!("{}.{}", encode(&self.header), encode(&self.claims));
        let signature = URL_SAFE_NO_PAD.encode(sign(message.as_bytes()));
        format!("{message}.{signature}")
    }
}

async fn check_access(State(issuer): State<Issuer>, Json(question): Json<Value>) -> Json<Value> {
    let asked = |name: &str| question[name].as_str().unwrap_or_default();
    let grants = issuer.0.grants.lock().expect("nobody panics while holding it");
    let allowed = grants.iter().any(|(subject, permission, pattern)| {
        subject == asked("subject")
            && permission_matches(permission, asked("permission"))
            && resource_matches(pattern, asked("resource"))
    });
    Json(json!({ "allowed": allowed, "why": [] }))
}

async fn give_token(
    State(issuer): State<Issuer>,
    headers: HeaderMap,
    Form(form): Form<std::collections::HashMap<String, String>>,
) -> Json<Value> {
    let basic = headers.get("authorization").and_then(|value| value.to_str().ok()).and_then(|value| {
        let decoded = STANDARD.decode(value.strip_prefix("Basic ")?).ok()?;
        String::from_utf8(decoded).ok()?.split_once(':').map(|(id, _)| id.to_owned())
    });
    let client = basic.or_else(|| form.get("client_id").cloned()).unwrap_or_default();
    let token = issuer.build(&client).client_id(&client).permissions(&["*:*"]).sign();
    Json(json!({"access_token": token, "token_type": "Bearer", "expires_in": LIFE_SECONDS}))
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => panic!("not an object: {other}"),
    }
}
