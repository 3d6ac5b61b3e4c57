//! Whose signatures are good: the Ed25519 keys of nodes, asked of auth-service and remembered for a moment, less if the node's
//! rights change; and which signatures were seen before. Runs on the main runtime.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use kronos_common::{
    identity::{Client, JwkSet, PublicJwk, Revocations},
    problem::Problem,
    redis::RedisStore,
};
use moka::{future, sync};
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::config;

/// Keys are remembered so long, and that there are none.
const REMEMBER: Duration = Duration::from_secs(30);
const MOST_NODES: u64 = 50_000;
/// Questions at one time; strangers can't flood auth-service.
const AT_ONCE: usize = 16;
const WAIT: Duration = Duration::from_millis(500);
/// Signatures that this instance remembers.
const MOST_SEEN: u64 = 500_000;

/// A good key of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeKey {
    /// RFC 7638.
    pub thumbprint: String,
    /// 32 bytes.
    pub public: Vec<u8>,
}

#[derive(Debug)]
struct Known {
    /// What revocations said of the node when its keys were asked for.
    epoch: Option<i64>,
    keys: Vec<NodeKey>,
}

/// Keys of nodes, and signatures that were seen.
pub struct NodeKeys {
    pub rules: config::Signatures,
    client: Client,
    revocations: Revocations,
    known: future::Cache<Uuid, Arc<Known>>,
    room: Semaphore,
    seen: sync::Cache<[u8; 32], ()>,
    redis: RedisStore,
    redis_timeout: Duration,
}

impl NodeKeys {
    pub fn new(
        rules: config::Signatures,
        client: Client,
        revocations: Revocations,
        redis: RedisStore,
        redis_timeout: Duration,
    ) -> Self {
        // Twice the window: a clock may be ahead by one.
        let remember = Duration::from_secs(2 * u64::from(rules.window_seconds));
        Self {
            client,
            revocations,
            known: future::Cache::builder().max_capacity(MOST_NODES).time_to_live(REMEMBER).build(),
            room: Semaphore::new(AT_ONCE),
            seen: sync::Cache::builder().max_capacity(MOST_SEEN).time_to_live(remember).build(),
            rules,
            redis,
            redis_timeout,
        }
    }

    /// The good keys of a node; none of one that is not known, or disabled.
    ///
    /// # Errors
    /// 503 while auth-service can't be asked.
    pub async fn of(&self, node: Uuid) -> Result<Vec<NodeKey>, Problem> {
        let epoch = self.revocations.client_epoch(&node.to_string());
        if let Some(known) = self.known.get(&node).await {
            if known.epoch == epoch {
                return Ok(known.keys.clone());
            }
            self.known.invalidate(&node).await;
        }
        let asked = self.known.try_get_with(node, async {
            let room = tokio::time::timeout(WAIT, self.room.acquire()).await;
            let _room = room.ok().and_then(Result::ok).ok_or_else(unavailable)?;
            let keys = match self.client.get::<JwkSet>(&format!("/nodes/{node}/keys")).await {
                Ok(set) => set.keys.iter().filter_map(read).collect(),
                Err(error) if error.status().is_some_and(|status| status.as_u16() == 404) => Vec::new(),
                Err(error) => return Err(unavailable().caused_by(error)),
            };
            Ok(Arc::new(Known { epoch, keys }))
        });
        let known = asked.await.map_err(|problem: Arc<Problem>| {
            Problem::new(problem.status(), problem.code().to_owned(), problem.detail().to_owned())
        })?;
        Ok(known.keys.clone())
    }

    /// Whether a signature is seen for the first time: by every gateway, or by this one alone while Redis is away.
    pub async fn is_fresh(&self, key_id: &str, signature: &[u8]) -> bool {
        let mut hasher = Sha256::new();
        hasher.update(key_id.as_bytes());
        hasher.update([0]);
        hasher.update(signature);
        let hash: [u8; 32] = hasher.finalize().into();
        if !self.seen.entry(hash).or_insert(()).is_fresh() {
            return false;
        }
        let key = self.redis.key(format_args!("signature:{}", hex(&hash)));
        let remember = 2 * self.rules.window_seconds;
        let asked = async {
            let mut connection = self.redis.connection().await.ok()?;
            let mut command = redis::cmd("SET");
            command.arg(key).arg(1).arg("NX").arg("EX").arg(remember);
            command.query_async::<Option<String>>(&mut connection).await.ok()
        };
        match tokio::time::timeout(self.redis_timeout, asked).await {
            Ok(Some(answer)) => answer.is_some(),
            Ok(None) | Err(_) => true,
        }
    }
}

impl std::fmt::Debug for NodeKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeKeys").field("rules", &self.rules).finish_non_exhaustive()
    }
}

fn read(key: &serde_json::Value) -> Option<NodeKey> {
    let is = |name: &str, wanted: &str| key.get(name).is_some_and(|value| value == wanted);
    if !is("kty", "OKP") || !is("crv", "Ed25519") {
        return None;
    }
    let public = URL_SAFE_NO_PAD.decode(key.get("x")?.as_str()?).ok().filter(|bytes| bytes.len() == 32)?;
    Some(NodeKey { thumbprint: PublicJwk::read(key)?.thumbprint, public })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(64), |mut text, byte| {
        text.push_str(&format!("{byte:02x}"));
        text
    })
}

fn unavailable() -> Problem {
    Problem::unavailable("the keys of nodes", Duration::from_secs(1))
}

/// Seconds since 1970.
pub fn seconds_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    i64::try_from(since).unwrap_or(i64::MAX)
}
