//! `private_key_jwt`: a client shows itself by a text that it signed (RFC 7523 section 3), good once and for a short time.

use std::time::Duration;

use chrono::Utc;
use kronos_common::{
    identity::{Jws, PublicJwk},
    problem::Problem,
};
use moka::future::Cache;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::{App, clients::Client};

/// An assertion may live for so long at most, in seconds.
const LONGEST_LIFE_SECONDS: i64 = 600;
const LEEWAY_SECONDS: i64 = 30;
const LONGEST_ID: usize = 256;
const FETCH_TIMEOUT: Duration = Duration::from_secs(2);
const LARGEST_DOCUMENT_BYTES: usize = 64 * 1024;
const MOST_KEYS: usize = 20;
/// A client's key set is read again after so long; an unknown key has to wait for that.
const REMEMBER: Duration = Duration::from_secs(60);

/// Key sets that clients keep at an address of theirs.
pub(crate) struct RemoteKeys {
    http: reqwest::Client,
    sets: Cache<String, Option<Value>>,
}

impl RemoteKeys {
    /// # Errors
    /// No HTTP client can be made.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(FETCH_TIMEOUT)
            .timeout(FETCH_TIMEOUT)
            .build()?;
        Ok(Self { http, sets: Cache::builder().max_capacity(1000).time_to_live(REMEMBER).build() })
    }

    /// The set behind `uri`, read once a minute at most, by one request at a time.
    async fn get(&self, uri: &str) -> Option<Value> {
        let read = async {
            match self.read(uri).await {
                Ok(set) => Some(set),
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "a client's key set can't be read");
                    None
                }
            }
        };
        self.sets.get_with(uri.to_owned(), read).await
    }

    async fn read(&self, uri: &str) -> anyhow::Result<Value> {
        let mut response = self.http.get(uri).send().await?.error_for_status()?;
        let mut document = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            anyhow::ensure!(document.len() + chunk.len() <= LARGEST_DOCUMENT_BYTES, "the key set is too large");
            document.extend_from_slice(&chunk);
        }
        Ok(serde_json::from_slice(&document)?)
    }
}

/// The client that an assertion speaks of, unverified.
pub(crate) fn claimed_client(assertion: &str) -> Option<String> {
    Jws::parse(assertion)?.text("sub").map(str::to_owned)
}

/// The thumbprint of the client's key that signed it; `None` unless that was for us, just now, and for the first time.
///
/// # Errors
/// None now.
pub(crate) async fn accepts(app: &App, client: &Client, assertion: &str) -> Result<Option<String>, Problem> {
    let Some(jws) = Jws::parse(assertion) else { return Ok(None) };
    let keys = match (&client.jwks, &client.jwks_uri) {
        (Some(jwks), _) => Some(jwks.clone()),
        (None, Some(uri)) => app.remote_keys.get(uri).await,
        (None, None) => None,
    };
    let Some(signer) = signer(&keys.unwrap_or_default(), &jws) else { return Ok(None) };
    Ok(is_meant(app, &client.client_id, &jws).await.then_some(signer.thumbprint))
}

fn signer(set: &Value, jws: &Jws<'_>) -> Option<PublicJwk> {
    let kid = jws.header.get("kid").and_then(Value::as_str);
    let keys = set["keys"].as_array().into_iter().flatten().take(MOST_KEYS).filter_map(PublicJwk::read);
    keys.filter(|key| kid.is_none() || key.kid.is_none() || key.kid.as_deref() == kid).find(|key| key.signed(jws))
}

/// Its claims: issuer and subject are the client, the audience is this server, and it was not seen before.
async fn is_meant(app: &App, client_id: &str, jws: &Jws<'_>) -> bool {
    let now = Utc::now().timestamp();
    let own = |audience: &str| {
        let audience = audience.trim_end_matches('/');
        audience == app.issuer_url
            || audience.strip_prefix(&app.issuer_url).is_some_and(|path| path.starts_with("/oauth/"))
    };
    let for_us = match jws.claims.get("aud") {
        Some(Value::String(audience)) => own(audience),
        Some(Value::Array(audiences)) => audiences.iter().filter_map(Value::as_str).any(own),
        _ => false,
    };
    let (Some(expires), Some(id)) = (jws.seconds("exp"), jws.text("jti")) else { return false };
    let in_time = expires > now - LEEWAY_SECONDS
        && expires <= now + LONGEST_LIFE_SECONDS + LEEWAY_SECONDS
        && ["nbf", "iat"].iter().all(|claim| {
            !jws.claims.contains_key(*claim) || jws.seconds(claim).is_some_and(|since| since <= now + LEEWAY_SECONDS)
        });
    let named = jws.text("iss") == Some(client_id) && jws.text("sub") == Some(client_id);
    if !(named && for_us && in_time && (1..=LONGEST_ID).contains(&id.len())) {
        return false;
    }
    let fingerprint = Sha256::new().chain_update(client_id).chain_update([0]).chain_update(id).finalize();
    app.replay.is_first("assertion", &fingerprint, expires - now + LEEWAY_SECONDS).await
}
