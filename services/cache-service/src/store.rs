//! Every command to Redis. An entry is a hash with a time to live; each script runs as one step. A tag is a version in the
//! namespace's hash of tags: an entry remembers the versions it was written under, and is served only while they are still
//! the same. So an invalidation costs one write, however many entries there are, and there are no sets of keys to leak.
//!
//! Keys, in one hash slot for each namespace: `{prefix}cache:{namespace}:entry:KEY` and `{prefix}cache:{namespace}:tags`.

use std::{sync::Arc, time::Duration};

use kronos_common::{
    etag::ETag,
    problem::{Problem, Result},
    redis::RedisStore,
};
use redis::{FromRedisValue, Script, Value};
use uuid::Uuid;

use crate::entry::{Key, LONGEST_LIFE, Namespace, Tag, Tags};

/// Versions of tags outlive every entry.
const KEEP_VERSIONS: Duration = Duration::from_secs(LONGEST_LIFE.as_secs() + 24 * 3600);

/// The cache in Redis; cheap to clone.
#[derive(Clone)]
pub struct Store {
    redis: RedisStore,
    scripts: Arc<Scripts>,
}

struct Scripts {
    get: Script,
    etag: Script,
    put: Script,
    delete: Script,
    invalidate: Script,
}

/// What is written.
#[derive(Debug)]
pub struct NewEntry<'a> {
    pub value: &'a [u8],
    pub media_type: &'a str,
    pub etag: &'a ETag,
    pub tags: &'a Tags,
    pub life: Duration,
}

/// What is read.
#[derive(Debug)]
pub struct StoredEntry {
    pub value: Vec<u8>,
    pub media_type: String,
    pub etag: ETag,
    /// With commas between.
    pub tags: String,
    pub age: Duration,
    /// From writing to expiry.
    pub life: Duration,
}

/// What a read found.
#[derive(Debug)]
pub enum Read {
    Hit(Box<StoredEntry>),
    Miss,
    Invalidated,
}

impl Read {
    /// As the metric says it.
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::Hit(_) => "hit",
            Self::Miss => "miss",
            Self::Invalidated => "invalidated",
        }
    }
}

/// What must be there for a write to happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    Anything,
    Nothing,
    Version(ETag),
}

impl Expect {
    fn as_str(&self) -> &str {
        match self {
            Self::Anything => "*",
            Self::Nothing => "",
            Self::Version(etag) => etag.as_str(),
        }
    }
}

/// What a write did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    Created,
    Replaced,
    /// Something else is there than was expected; nothing was changed.
    Refused,
}

impl Store {
    pub fn new(redis: RedisStore) -> Self {
        let script = |body| Script::new(&format!("{}{body}", include_str!("store/live.lua")));
        let scripts = Scripts {
            get: script(include_str!("store/get.lua")),
            etag: script(include_str!("store/etag.lua")),
            put: script(include_str!("store/put.lua")),
            delete: script(include_str!("store/delete.lua")),
            invalidate: Script::new(include_str!("store/invalidate.lua")),
        };
        Self { redis, scripts: Arc::new(scripts) }
    }

    /// # Errors
    /// 503 if Redis is away; so everywhere here.
    pub async fn get(&self, namespace: &Namespace, key: &Key) -> Result<Read> {
        let mut connection = self.redis.connection().await?;
        let answer: Vec<Value> = self
            .scripts
            .get
            .key(self.entry_key(namespace, key))
            .key(self.tags_key(namespace))
            .invoke_async(&mut connection)
            .await?;
        let mut fields = answer.into_iter();
        match next::<String>(&mut fields)?.as_str() {
            "miss" => Ok(Read::Miss),
            "invalidated" => Ok(Read::Invalidated),
            _ => Ok(Read::Hit(Box::new(StoredEntry {
                etag: parse_etag(&next::<String>(&mut fields)?)?,
                value: next(&mut fields)?,
                media_type: next(&mut fields)?,
                tags: next(&mut fields)?,
                age: Duration::from_millis(next(&mut fields)?),
                life: Duration::from_millis(next(&mut fields)?),
            }))),
        }
    }

    /// The version of the entry, if there is one.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn etag(&self, namespace: &Namespace, key: &Key) -> Result<Option<ETag>> {
        let mut connection = self.redis.connection().await?;
        let etag: String = self
            .scripts
            .etag
            .key(self.entry_key(namespace, key))
            .key(self.tags_key(namespace))
            .invoke_async(&mut connection)
            .await?;
        if etag.is_empty() { Ok(None) } else { parse_etag(&etag).map(Some) }
    }

    /// Writes the entry if `expect` holds.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn put(
        &self,
        namespace: &Namespace,
        key: &Key,
        entry: &NewEntry<'_>,
        expect: &Expect,
    ) -> Result<Written> {
        let mut connection = self.redis.connection().await?;
        let written: String = self
            .scripts
            .put
            .key(self.entry_key(namespace, key))
            .key(self.tags_key(namespace))
            .arg(entry.value)
            .arg(entry.media_type)
            .arg(entry.etag.as_str())
            .arg(entry.tags.joined())
            .arg(u64::try_from(entry.life.as_millis()).map_err(Problem::internal)?)
            .arg(expect.as_str())
            .arg(Uuid::now_v7().to_string())
            .invoke_async(&mut connection)
            .await?;
        match written.as_str() {
            "created" => Ok(Written::Created),
            "replaced" => Ok(Written::Replaced),
            _ => Ok(Written::Refused),
        }
    }

    /// Deletes the entry if `expect` holds; says whether it did.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn delete(&self, namespace: &Namespace, key: &Key, expect: &Expect) -> Result<bool> {
        let mut connection = self.redis.connection().await?;
        let deleted = self
            .scripts
            .delete
            .key(self.entry_key(namespace, key))
            .key(self.tags_key(namespace))
            .arg(expect.as_str())
            .invoke_async(&mut connection)
            .await?;
        Ok(deleted)
    }

    /// Gives the tag a new version: every entry that was written under an older one is gone.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn invalidate(&self, namespace: &Namespace, tag: &Tag) -> Result<()> {
        let mut connection = self.redis.connection().await?;
        let () = self
            .scripts
            .invalidate
            .key(self.tags_key(namespace))
            .arg(tag.as_str())
            .arg(Uuid::now_v7().to_string())
            .arg(KEEP_VERSIONS.as_secs())
            .invoke_async(&mut connection)
            .await?;
        Ok(())
    }

    fn entry_key(&self, namespace: &Namespace, key: &Key) -> String {
        let (namespace, key) = (namespace.as_str(), key.as_str());
        self.redis.key(format_args!("cache:{{{namespace}}}:entry:{key}"))
    }

    fn tags_key(&self, namespace: &Namespace) -> String {
        self.redis.key(format_args!("cache:{{{}}}:tags", namespace.as_str()))
    }
}

fn next<T: FromRedisValue>(fields: &mut impl Iterator<Item = Value>) -> Result<T> {
    let field = fields.next().ok_or_else(|| Problem::internal(anyhow::anyhow!("an answer of Redis is too short")))?;
    redis::from_redis_value(field).map_err(Problem::internal)
}

fn parse_etag(text: &str) -> Result<ETag> {
    ETag::parse(text).ok_or_else(|| Problem::internal(anyhow::anyhow!("a stored etag is none: {text}")))
}
