//! Tokens for the gateway that is measured, from a key of the benchmark's own.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use axum::{Json, Router, routing::get};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// A key, and its public half behind HTTP.
pub(super) struct Issuer {
    key: Ed25519KeyPair,
    keys: Value,
    base: String,
}

impl Issuer {
    pub(super) const NAME: &str = "http://bench.kronos";

    pub(super) async fn start() -> anyhow::Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let base = format!("http://{}", listener.local_addr()?);
        let key = Ed25519KeyPair::generate().context("generate a key")?;
        let x = URL_SAFE_NO_PAD.encode(key.public_key());
        let keys = json!({"keys": [
            {"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": "bench", "x": x}]});
        let served = keys.clone();
        let router = Router::new().route("/jwks.json", get(async move || Json(served)));
        // It ends with the benchmark.
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self { key, keys, base })
    }

    /// Its JWK set.
    pub(super) fn keys(&self) -> &Value {
        &self.keys
    }

    /// What the gateway's environment must say to believe this issuer.
    pub(super) fn environment(&self) -> [(&'static str, String); 3] {
        [
            ("KRONOS_IDENTITY__ISSUER", Self::NAME.to_owned()),
            ("KRONOS_IDENTITY__JWKS_URL", format!("{}/jwks.json", self.base)),
            ("KRONOS_IDENTITY__AUTH_URL", self.base.clone()),
        ]
    }

    /// A token of ten minutes.
    pub(super) fn token(&self, subject: &str, permissions: &[&str]) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let header = json!({"alg": "EdDSA", "typ": "at+jwt", "kid": "bench"});
        let claims = json!({
            "iss": Self::NAME, "sub": subject, "aud": "kronos", "iat": now, "exp": now + 600, "client_id": "bench",
            "jti": uuid::Uuid::now_v7().to_string(), "roles": [], "permissions": permissions, "epoch": 0,
        });
        let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let message = format!("{}.{}", encode(&header), encode(&claims));
        let signature = URL_SAFE_NO_PAD.encode(self.key.sign(message.as_bytes()));
        format!("{message}.{signature}")
    }
}
