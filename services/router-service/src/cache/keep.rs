//! Where answers are kept: near, in this process and bounded in bytes, and in Redis, for all gateways and bounded in time.
//! What was purged is known by number: each purge has the next one, each answer the number of purges before it was asked
//! for, so that no clocks are compared, and an answer that was asked for before a purge is never kept beyond it.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{HeaderMap, HeaderName};
use kronos_common::{redis::RedisStore, service::Context};
use tokio::sync::{Semaphore, watch};

use super::entry::Entry;
use crate::clock;

/// Answers for different headers that are kept near under one URL.
const MOST_VARIANTS: usize = 16;
/// Answers on their way to Redis.
const MOST_WRITES: usize = 64;
/// After Redis failed it is left alone for so long, in milliseconds.
const REST_MS: u64 = 1000;
/// Purges are looked for so often.
const POLL: Duration = Duration::from_millis(500);
/// Purges that are told apart; answers from before the oldest one are not used.
const MOST_PURGES: usize = 10_000;

/// Numbers a purge and remembers its tags. Forgets the oldest, and says up to which number it has.
const PURGE: &str = r"
local number = redis.call('INCR', KEYS[1])
for index = 2, #ARGV do redis.call('ZADD', KEYS[2], number, ARGV[index]) end
local more = redis.call('ZCARD', KEYS[2]) - tonumber(ARGV[1])
if more > 0 then
  local gone = redis.call('ZPOPMIN', KEYS[2], more)
  redis.call('SET', KEYS[3], gone[#gone])
end
return number
";

/// What was purged.
#[derive(Debug, Default)]
struct Purged {
    tags: HashMap<String, i64>,
    /// Answers from before are not used, whatever their tags.
    floor: i64,
}

/// The kept answers of one process.
pub struct Kept {
    near: moka::sync::Cache<String, Arc<Vec<Arc<Entry>>>>,
    redis: RedisStore,
    deadline: Duration,
    resting_until_ms: AtomicU64,
    writes: Arc<Semaphore>,
    purged: RwLock<Purged>,
    generation: AtomicI64,
    /// Some route keeps answers.
    used: AtomicBool,
    /// Those that are being fetched.
    flights: Mutex<HashMap<String, watch::Receiver<()>>>,
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept").field("near", &self.near.entry_count()).finish_non_exhaustive()
    }
}

/// One that is being fetched: who waits for it is woken when this is dropped.
#[derive(Debug)]
pub struct Flight {
    kept: Arc<Kept>,
    key: String,
    _done: watch::Sender<()>,
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.kept.flights.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

impl Kept {
    /// Follows the purges of all gateways.
    pub fn start(redis: RedisStore, near_bytes: u64, deadline: Duration, context: &Context) -> Arc<Self> {
        let near = moka::sync::Cache::builder()
            .max_capacity(near_bytes)
            .weigher(|key: &String, variants: &Arc<Vec<Arc<Entry>>>| {
                let size: u64 = variants.iter().map(|entry| u64::from(entry.size())).sum();
                u32::try_from(size + key.len() as u64).unwrap_or(u32::MAX)
            })
            .build();
        let kept = Arc::new(Self {
            near,
            redis,
            deadline,
            resting_until_ms: AtomicU64::new(0),
            writes: Arc::new(Semaphore::new(MOST_WRITES)),
            purged: RwLock::default(),
            generation: AtomicI64::new(0),
            used: AtomicBool::new(false),
            flights: Mutex::default(),
        });
        let (followed, shutdown) = (Arc::clone(&kept), context.shutdown.clone());
        context.spawn("cache-purges", async move {
            let follow = async {
                loop {
                    if followed.used.load(Relaxed)
                        && let Err(error) = followed.follow().await
                    {
                        tracing::debug!(error = format!("{error:#}"), "purges can't be read now");
                    }
                    tokio::time::sleep(POLL).await;
                }
            };
            tokio::select! { () = shutdown.cancelled() => {}, () = follow => {} }
        });
        kept
    }

    /// The number of purges that are known.
    pub fn generation(&self) -> i64 {
        self.used.store(true, Relaxed);
        self.generation.load(Relaxed)
    }

    /// The one that is being fetched under this key, or the right to fetch it.
    pub fn fly(self: &Arc<Self>, key: &str) -> Result<Flight, watch::Receiver<()>> {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(key) {
            return Err(flight.clone());
        }
        let (done, waiting) = watch::channel(());
        flights.insert(key.to_owned(), waiting);
        Ok(Flight { kept: Arc::clone(self), key: key.to_owned(), _done: done })
    }

    /// What is kept near for a request with these headers.
    pub fn near(&self, key: &str, request: &HeaderMap) -> Option<Arc<Entry>> {
        let variants = self.near.get(key)?;
        variants.iter().find(|entry| entry.suits(request) && self.holds(entry)).cloned()
    }

    /// What is kept in Redis for a request with these headers; then it is kept near as well.
    pub async fn far(&self, key: &str, request: &HeaderMap) -> Option<Arc<Entry>> {
        let found = self.ask(async {
            let mut connection = self.redis.connection().await?;
            let name = self.name(key, "");
            let first: Option<Vec<u8>> = redis::cmd("GET").arg(&name).query_async(&mut connection).await?;
            let Some(first) = first else { return Ok(None) };
            // What depends on headers is kept under their values; here are their names.
            let Some(names) = first.strip_prefix(b"*") else { return Entry::read(first).map(Some) };
            let names: Vec<HeaderName> =
                String::from_utf8_lossy(names).split(',').filter_map(|name| HeaderName::try_from(name).ok()).collect();
            let name = self.name(key, &Entry::variant(&names, request));
            let second: Option<Vec<u8>> = redis::cmd("GET").arg(&name).query_async(&mut connection).await?;
            second.map(Entry::read).transpose()
        });
        let entry = Arc::new(found.await??);
        if !entry.suits(request) || !self.holds(&entry) {
            return None;
        }
        self.keep_near(key, &entry);
        Some(entry)
    }

    /// Keeps an answer; `shared`: in Redis as well, later.
    pub fn keep(self: &Arc<Self>, key: &str, entry: Entry, shared: bool, now: u64, main: &tokio::runtime::Handle) {
        if !self.holds(&entry) {
            return;
        }
        let entry = Arc::new(entry);
        self.keep_near(key, &entry);
        if !shared || self.is_resting() {
            return;
        }
        // Who comes too fast for Redis is kept near alone.
        let Ok(permit) = Arc::clone(&self.writes).try_acquire_owned() else { return };
        let (kept, key, left) = (Arc::clone(self), key.to_owned(), entry.left(now).max(1));
        main.spawn(async move {
            let _permit = permit;
            kept.ask(async {
                let bytes = entry.write()?;
                let mut pipe = redis::pipe();
                let name = kept.name(&key, "");
                if entry.vary.is_empty() {
                    pipe.cmd("SET").arg(&name).arg(bytes).arg("EX").arg(left);
                } else {
                    let names: Vec<HeaderName> = entry.vary.iter().map(|(name, _)| name.clone()).collect();
                    let values: HeaderMap = entry
                        .vary
                        .iter()
                        .filter_map(|(name, value)| Some((name.clone(), value.as_deref()?.parse().ok()?)))
                        .collect();
                    let list = names.iter().map(HeaderName::as_str).collect::<Vec<_>>().join(",");
                    let variant = kept.name(&key, &Entry::variant(&names, &values));
                    pipe.cmd("SET").arg(&name).arg(format!("*{list}")).arg("EX").arg(left);
                    pipe.cmd("SET").arg(variant).arg(bytes).arg("EX").arg(left);
                }
                let mut connection = kept.redis.connection().await?;
                pipe.query_async::<()>(&mut connection).await?;
                Ok(())
            })
            .await;
        });
    }

    /// Purges what has one of these tags, at all gateways: here at once, at the others within a second.
    ///
    /// # Errors
    /// Redis is away: then nothing is purged.
    pub async fn purge(&self, tags: &[String]) -> anyhow::Result<()> {
        let mut connection = self.redis.connection().await?;
        let mut script = redis::cmd("EVAL");
        script.arg(PURGE).arg(3);
        for key in ["generation", "purges", "floor"] {
            script.arg(self.redis.key(format_args!("edge-cache:{key}")));
        }
        let number: i64 = script.arg(MOST_PURGES).arg(tags).query_async(&mut connection).await?;
        drop(connection);
        tracing::info!(number, tags = tags.len(), "answers are purged");
        self.follow().await
    }

    /// What a URL is purged by.
    pub fn tag_of_key(key: &str) -> String {
        format!("url {key}")
    }

    /// What a route is purged by.
    pub fn tag_of_route(name: &str) -> String {
        format!("route {name}")
    }

    fn keep_near(&self, key: &str, entry: &Arc<Entry>) {
        let fresh = Arc::clone(entry);
        self.near.entry(key.to_owned()).and_upsert_with(|known| {
            let mut variants = vec![fresh];
            if let Some(known) = known {
                let known = known.into_value();
                let others = known.iter().filter(|other| other.vary != entry.vary).cloned();
                variants.extend(others.take(MOST_VARIANTS - 1));
            }
            Arc::new(variants)
        });
    }

    /// Whether it was not purged since it was asked for.
    fn holds(&self, entry: &Entry) -> bool {
        let purged = self.purged.read().unwrap_or_else(PoisonError::into_inner);
        entry.generation >= purged.floor
            && entry.tags.iter().all(|tag| purged.tags.get(tag).is_none_or(|number| *number <= entry.generation))
    }

    /// Takes over what was purged since the last look.
    async fn follow(&self) -> anyhow::Result<()> {
        let known = self.generation.load(Relaxed);
        let mut connection = self.redis.connection().await?;
        let key = |key: &str| self.redis.key(format_args!("edge-cache:{key}"));
        let (generation, floor): (Option<i64>, Option<i64>) =
            redis::cmd("MGET").arg(key("generation")).arg(key("floor")).query_async(&mut connection).await?;
        let generation = generation.unwrap_or(0);
        if generation == known {
            return Ok(());
        }
        // Fewer than before: Redis has forgotten all, and so do we.
        let from = if generation < known { 0 } else { known };
        let purges: Vec<(String, i64)> = redis::cmd("ZRANGEBYSCORE")
            .arg(key("purges"))
            .arg(format!("({from}"))
            .arg(generation)
            .arg("WITHSCORES")
            .query_async(&mut connection)
            .await?;
        {
            let mut purged = self.purged.write().unwrap_or_else(PoisonError::into_inner);
            if generation < known {
                *purged = Purged::default();
                self.near.invalidate_all();
            }
            purged.floor = purged.floor.max(floor.unwrap_or(0));
            let floor = purged.floor;
            purged.tags.retain(|_, number| *number > floor);
            purged.tags.extend(purges);
        }
        self.generation.store(generation, Relaxed);
        Ok(())
    }

    fn name(&self, key: &str, variant: &str) -> String {
        use sha2::Digest as _;
        let digest = sha2::Sha256::new().chain_update(key).chain_update([0]).chain_update(variant).finalize();
        let mut hex = String::with_capacity(64);
        for byte in digest {
            use std::fmt::Write as _;
            // Writing to a string can't fail.
            let _ = write!(hex, "{byte:02x}");
        }
        self.redis.key(format_args!("edge-cache:answer:{hex}"))
    }

    fn is_resting(&self) -> bool {
        clock::exact_ms() < self.resting_until_ms.load(Relaxed)
    }

    /// Asks Redis, within the deadline; after a failure not for a while.
    async fn ask<T>(&self, question: impl Future<Output = anyhow::Result<T>>) -> Option<T> {
        if self.is_resting() {
            return None;
        }
        match tokio::time::timeout(self.deadline, question).await {
            Ok(Ok(answer)) => Some(answer),
            Ok(Err(error)) => {
                tracing::debug!(error = format!("{error:#}"), "kept answers can't be reached");
                self.resting_until_ms.store(clock::exact_ms() + REST_MS, Relaxed);
                None
            }
            Err(_) => {
                self.resting_until_ms.store(clock::exact_ms() + REST_MS, Relaxed);
                None
            }
        }
    }
}
