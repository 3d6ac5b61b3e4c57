//! API keys, as every service takes them: `kro_`, the key's id, a secret, a checksum. A text with a wrong checksum is refused
//! without asking anybody. A plausible one is exchanged at auth-service for an access token, which is verified like any other
//! and remembered for a moment; its `sid` is the key's id, so a revoked key ends wherever revocations are heard.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use moka::future::Cache;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::Claims;
use crate::{config::Identity, problem::Problem};

/// How every key begins.
pub const PREFIX: &str = "kro_";
/// Random bytes of a secret.
pub const SECRET_BYTES: usize = 20;

const ID_CHARS: usize = 32;
const SECRET_CHARS: usize = SECRET_BYTES * 2;
const CHECK_CHARS: usize = 8;
/// An answer, yes or no, is remembered so long.
const REMEMBER: Duration = Duration::from_secs(30);
const MOST_REMEMBERED: u64 = 20_000;
/// Exchanges at one time; more wait, then are told to come back: strangers' keys can't flood auth-service.
const AT_ONCE: usize = 16;
const WAIT: Duration = Duration::from_millis(500);
const TIMEOUT: Duration = Duration::from_secs(2);

/// Gives the access token for a key; `None` if there is no such good key.
pub type Exchange = Arc<dyn Fn(String) -> BoxFuture<'static, Result<Option<String>, Problem>> + Send + Sync>;

/// A key's text.
pub fn text(id: Uuid, secret: &[u8; SECRET_BYTES]) -> String {
    let body = format!("{PREFIX}{}{}", id.simple(), hex::encode(secret));
    format!("{body}{}", checksum(&body))
}

/// Id and secret of a text that is a key by its form and checksum.
pub fn parts(text: &str) -> Option<(Uuid, &str)> {
    let (body, check) = text.split_at_checked(PREFIX.len() + ID_CHARS + SECRET_CHARS)?;
    let hexadecimal = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let (id, secret) = body.strip_prefix(PREFIX)?.split_at_checked(ID_CHARS)?;
    let good = hexadecimal(id) && hexadecimal(secret) && check == checksum(body);
    if good { Uuid::try_parse(id).ok().map(|id| (id, secret)) } else { None }
}

/// What is stored of a secret: it is random, so a plain hash is enough.
pub fn hash_secret(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

fn checksum(body: &str) -> String {
    let mut check = hex::encode(Sha256::digest(body.as_bytes()));
    check.truncate(CHECK_CHARS);
    check
}

/// Exchanges keys and remembers what became of it.
pub(super) struct ApiKeys {
    exchange: Exchange,
    memory: Cache<[u8; 32], Option<Arc<Claims>>>,
    room: Semaphore,
}

impl ApiKeys {
    pub(super) fn new(exchange: Exchange) -> Self {
        let memory = Cache::builder().max_capacity(MOST_REMEMBERED).time_to_live(REMEMBER).build();
        Self { exchange, memory, room: Semaphore::new(AT_ONCE) }
    }

    /// At auth-service over HTTP.
    pub(super) fn remote(config: &Identity) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(TIMEOUT)
            .build()?;
        let url = format!("{}/auth/api-keys/token", config.auth_url.trim_end_matches('/'));
        Ok(Self::new(Arc::new(move |key| {
            let request = http.post(&url).bearer_auth(key);
            Box::pin(async move { over_http(request).await })
        })))
    }

    /// The claims behind a key; of many who ask for the same one, one exchanges it. `verify` looks at the token.
    pub(super) async fn claims<V>(
        &self,
        key: &str,
        verify: impl FnOnce(String) -> V,
    ) -> Result<Option<Arc<Claims>>, Problem>
    where
        V: Future<Output = Result<Arc<Claims>, Problem>>,
    {
        let found = self.memory.try_get_with(hash(key), async {
            let room = tokio::time::timeout(WAIT, self.room.acquire()).await;
            let _room = room.ok().and_then(Result::ok).ok_or_else(unavailable)?;
            match (self.exchange)(key.to_owned()).await? {
                Some(token) => verify(token).await.map(Some),
                None => Ok(None),
            }
        });
        found.await.map_err(|problem: Arc<Problem>| {
            Problem::new(problem.status(), problem.code().to_owned(), problem.detail().to_owned())
        })
    }

    /// Asks again next time.
    pub(super) async fn forget(&self, key: &str) {
        self.memory.invalidate(&hash(key)).await;
    }
}

fn hash(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

fn unavailable() -> Problem {
    Problem::unavailable("API keys", Duration::from_secs(1))
}

async fn over_http(request: reqwest::RequestBuilder) -> Result<Option<String>, Problem> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Answer {
        access_token: String,
    }

    let answer = request.send().await.map_err(|error| unavailable().caused_by(error))?;
    match answer.status().as_u16() {
        200 => {
            let answer: Answer = answer.json().await.map_err(|error| unavailable().caused_by(error))?;
            Ok(Some(answer.access_token))
        }
        401 => Ok(None),
        status => Err(unavailable().caused_by(anyhow::anyhow!("auth-service answered {status} to an API key"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_it_was_written_and_no_other_way() {
        let (id, secret) = (Uuid::now_v7(), [7; SECRET_BYTES]);
        let key = text(id, &secret);
        assert_eq!(parts(&key), Some((id, hex::encode(secret).as_str())));
        for index in 0..key.len() {
            let mut bytes = key.clone().into_bytes();
            bytes[index] = if bytes[index] == b'0' { b'1' } else { b'0' };
            assert_eq!(parts(&String::from_utf8(bytes).unwrap_or_default()), None, "at {index}");
        }
        for odd in ["", "kro_", "kro_é", &key[1..], &key[..key.len() - 1], &format!("{key}0"), &key.to_uppercase()] {
            assert_eq!(parts(odd), None, "{odd}");
        }
    }
}
