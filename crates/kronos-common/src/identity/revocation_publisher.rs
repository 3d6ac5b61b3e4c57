//! Tells every service of a revocation: a row in the caller's own transaction, published to Redis right after the commit
//! and, if that fails, by a job. A row knows the life of Redis (marker and server run) it was published in; when Redis
//! lost its data or changed its server, the rows of the last token life are published again. Publishing twice is harmless.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use redis::{AsyncConnectionConfig, Script, aio::MultiplexedConnection};
use sqlx::{PgConnection, PgPool};
use tokio::sync::Mutex;
use uuid::Uuid;

use super::{
    LONGEST_TOKEN_LIFE_SECONDS, Revocation,
    revocation::{Keys, open},
};
use crate::{config, service::Context};

/// What a caller waits at most for its revocation to be on its way.
const FLUSH_WITHIN: Duration = Duration::from_millis(100);
const LOOK_EVERY: Duration = Duration::from_millis(250);
const CLEAN_EVERY: Duration = Duration::from_secs(60);
/// How often rows are looked for that another instance marked as published in a life of Redis that was over by then.
const LOOK_BACK_EVERY: Duration = Duration::from_secs(5);
const BATCH: i64 = 500;
/// Entries kept in the stream; a follower further behind reads the snapshot.
const STREAM_ENTRIES: usize = 4096;

/// Numbers, appends and snapshots in one step. `KEYS`: stream, seq, subjects, expiries, generation. `ARGV`: a generation in
/// case there is none, the longest token life in seconds, the stream's bound, then kind, name and value of each revocation.
///
/// The first number is the time in milliseconds: later than any number of an earlier life, so that no reader waits beyond it.
const PUBLISH: &str = r"
local time = redis.call('TIME')
local now = tonumber(time[1])
local generation = redis.call('GET', KEYS[5])
if not generation then
  generation = ARGV[1]
  redis.call('SET', KEYS[5], generation)
end
if redis.call('EXISTS', KEYS[2]) == 0 then
  redis.call('SET', KEYS[2], string.format('%.0f', now * 1000 + math.floor(tonumber(time[2]) / 1000)))
end
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', '(' .. time[1], 'LIMIT', 0, 1000)) do
  redis.call('ZREM', KEYS[4], member)
  redis.call('HDEL', KEYS[3], member)
end
for i = 4, #ARGV, 3 do
  local kind, name, value = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local member = kind .. ':' .. name
  if kind == 'session' then
    redis.call('ZADD', KEYS[4], 'GT', value, member)
  else
    local known = redis.call('HGET', KEYS[3], member)
    if not known or tonumber(known) < tonumber(value) then
      redis.call('HSET', KEYS[3], member, value)
    end
    redis.call('ZADD', KEYS[4], now + tonumber(ARGV[2]), member)
  end
  local id = string.format('%.0f-0', redis.call('INCR', KEYS[2]))
  redis.call('XADD', KEYS[1], 'MAXLEN', ARGV[3], id, 'kind', kind, 'name', name, 'value', value)
end
return generation
";

/// Publishes revocations; cheap to clone. For services that have the table `revocations`: auth and user.
#[derive(Clone)]
pub struct RevocationPublisher(Arc<Inner>);

struct Inner {
    pool: PgPool,
    client: redis::Client,
    timeout: Duration,
    keys: Keys,
    script: Script,
    /// One publisher at a time, so that whoever waited finds its own row published.
    link: Mutex<Option<Link>>,
    /// How many have asked for a flush, and how many of them were there before one began that left nothing.
    asked: AtomicU64,
    served: AtomicU64,
}

struct Link {
    connection: MultiplexedConnection,
    /// Which start of which server this connection leads to.
    run: String,
    /// The life of Redis that was found to have all that earlier ones had, and when.
    settled: Option<(String, Instant)>,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: Uuid,
    kind: String,
    subject: String,
    value: i64,
}

impl RevocationPublisher {
    /// Starts the job that publishes what is left. Redis may be away.
    ///
    /// # Errors
    /// A Redis URL that is none.
    pub fn start(pool: PgPool, redis: &config::Redis, context: &Context) -> anyhow::Result<Self> {
        let client = open(redis)?;
        let publisher = Self(Arc::new(Inner {
            pool,
            client,
            timeout: Duration::from_millis(redis.timeout_ms),
            keys: Keys::new(&redis.prefix),
            script: Script::new(PUBLISH),
            link: Mutex::new(None),
            asked: AtomicU64::new(0),
            served: AtomicU64::new(0),
        }));
        let (job, shutdown) = (publisher.clone(), context.shutdown.clone());
        context.spawn("revocation-publisher", async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = job.run() => {}
            }
        });
        Ok(publisher)
    }

    /// Records a revocation in the transaction that causes it: both happen, or neither.
    ///
    /// # Errors
    /// What the database says.
    pub async fn in_transaction(transaction: &mut PgConnection, revocation: &Revocation) -> sqlx::Result<()> {
        let (kind, subject, value) = revocation.parts();
        sqlx::query("insert into revocations (id, kind, subject, value) values ($1, $2, $3, $4)")
            .bind(Uuid::now_v7())
            .bind(kind)
            .bind(subject)
            .bind(value)
            .execute(transaction)
            .await?;
        Ok(())
    }

    /// Publishes what was committed; call it after the commit and before the answer. Takes at most 100 ms; what could not
    /// be published then, the job publishes as soon as it can.
    pub async fn flush(&self) {
        let turn = self.0.asked.fetch_add(1, Ordering::SeqCst) + 1;
        match tokio::time::timeout(FLUSH_WITHIN, self.publish_for(turn)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error = format!("{error:#}"), "revocations wait to be published"),
            Err(_) => tracing::warn!("revocations wait to be published: Redis or the database is slow"),
        }
    }

    async fn run(&self) {
        let mut away = false;
        let mut cleaned = tokio::time::Instant::now();
        loop {
            match self.publish_pending().await {
                Ok(published) => {
                    if std::mem::take(&mut away) {
                        tracing::info!(published, "revocations can be published again");
                    }
                    if published >= BATCH {
                        continue;
                    }
                }
                Err(error) if !away => {
                    away = true;
                    tracing::warn!(error = format!("{error:#}"), "revocations can't be published, they wait");
                }
                Err(_) => {}
            }
            if cleaned.elapsed() >= CLEAN_EVERY {
                cleaned = tokio::time::Instant::now();
                if let Err(error) = self.clean().await {
                    tracing::warn!(error = format!("{error:#}"), "old revocations can't be removed");
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Publishes unless somebody has done it since this caller's turn was taken, its rows among theirs.
    async fn publish_for(&self, turn: u64) -> anyhow::Result<()> {
        let mut slot = self.0.link.lock().await;
        while self.0.served.load(Ordering::SeqCst) < turn {
            self.publish(&mut slot).await?;
        }
        Ok(())
    }

    async fn publish_pending(&self) -> anyhow::Result<i64> {
        self.publish(&mut *self.0.link.lock().await).await
    }

    /// Publishes the rows that the present life of Redis does not have; says how many there were, fewer than `BATCH` if those
    /// were all.
    async fn publish(&self, slot: &mut Option<Link>) -> anyhow::Result<i64> {
        let asked = self.0.asked.load(Ordering::SeqCst);
        // Taken out, so that a call which fails or is cancelled leaves no doubtful connection behind.
        let mut link = match slot.take() {
            Some(link) => link,
            None => self.open().await?,
        };
        let published = self.publish_through(&mut link).await?;
        *slot = Some(link);
        if published < BATCH {
            self.0.served.store(asked, Ordering::SeqCst);
        }
        Ok(published)
    }

    async fn publish_through(&self, link: &mut Link) -> anyhow::Result<i64> {
        let marker: Option<String> = redis::cmd("GET")
            .arg(&self.0.keys.generation)
            .query_async(&mut link.connection)
            .await
            .context("read the generation of the revocations")?;
        // Without a marker Redis holds nothing of ours: a text that no row has been published in.
        let present = marker.map(|marker| format!("{marker}/{}", link.run)).unwrap_or_default();
        let mut rows = self.unpublished().await?;
        let is_settled =
            link.settled.as_ref().is_some_and(|(life, at)| *life == present && at.elapsed() < LOOK_BACK_EVERY);
        if !is_settled {
            let lost = self.published_elsewhere(&present).await?;
            if lost.len() < BATCH as usize {
                link.settled = Some((present, Instant::now()));
            }
            rows.extend(lost);
        }
        if rows.is_empty() {
            return Ok(0);
        }
        let keys = &self.0.keys;
        let mut call = self.0.script.prepare_invoke();
        call.key(&keys.stream).key(&keys.seq).key(&keys.subjects).key(&keys.expiries).key(&keys.generation);
        call.arg(Uuid::now_v7().to_string()).arg(LONGEST_TOKEN_LIFE_SECONDS).arg(STREAM_ENTRIES);
        for row in &rows {
            call.arg(&row.kind).arg(&row.subject).arg(row.value);
        }
        let generation: String = call.invoke_async(&mut link.connection).await.context("publish the revocations")?;
        let ids: Vec<Uuid> = rows.iter().map(|row| row.id).collect();
        sqlx::query("update revocations set published_in = $1 where id = any($2)")
            .bind(format!("{generation}/{}", link.run))
            .bind(ids)
            .execute(&self.0.pool)
            .await
            .context("mark the revocations as published")?;
        Ok(i64::try_from(rows.len()).unwrap_or(BATCH))
    }

    /// Rows that no life of Redis has, at most `BATCH`.
    async fn unpublished(&self) -> anyhow::Result<Vec<Row>> {
        sqlx::query_as(
            "select id, kind, subject, value from revocations
             where published_in is null and created_at > now() - make_interval(secs => $1)
             order by created_at limit $2",
        )
        .bind(LONGEST_TOKEN_LIFE_SECONDS as f64)
        .bind(BATCH)
        .fetch_all(&self.0.pool)
        .await
        .context("read the revocations to publish")
    }

    /// Rows that only another life of Redis had, at most `BATCH`. The order is the index's, which passes over those of the
    /// present one, nearly all.
    async fn published_elsewhere(&self, present: &str) -> anyhow::Result<Vec<Row>> {
        sqlx::query_as(
            "(select id, kind, subject, value from revocations
              where published_in < $1 and created_at > now() - make_interval(secs => $2) order by published_in limit $3)
             union all
             (select id, kind, subject, value from revocations
              where published_in > $1 and created_at > now() - make_interval(secs => $2) order by published_in limit $3)
             limit $3",
        )
        .bind(present)
        .bind(LONGEST_TOKEN_LIFE_SECONDS as f64)
        .bind(BATCH)
        .fetch_all(&self.0.pool)
        .await
        .context("read the revocations that Redis has lost")
    }

    async fn open(&self) -> anyhow::Result<Link> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.0.timeout))
            .set_response_timeout(Some(self.0.timeout));
        let mut connection =
            self.0.client.get_multiplexed_async_connection_with_config(&config).await.context("connect to Redis")?;
        // Where INFO is not allowed, only the marker tells one life from another.
        let info: String = redis::cmd("INFO").arg("server").query_async(&mut connection).await.unwrap_or_default();
        let run = info.lines().find_map(|line| line.strip_prefix("run_id:")).unwrap_or_default().trim().to_owned();
        Ok(Link { connection, run, settled: None })
    }

    /// Rows that no living token can need any more; a clock may differ by a minute.
    async fn clean(&self) -> sqlx::Result<()> {
        sqlx::query("delete from revocations where created_at < now() - make_interval(secs => $1)")
            .bind((LONGEST_TOKEN_LIFE_SECONDS + 60) as f64)
            .execute(&self.0.pool)
            .await?;
        Ok(())
    }
}
