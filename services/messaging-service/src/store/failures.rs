//! Dead letters that are tried again, one or many, and table `failed_attempts`: what became of a message's attempts.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Error, Store};

/// Which dead letters are meant; what is not given does not matter.
#[derive(Debug, Clone, Default)]
pub struct DeadFilter {
    pub group: Option<String>,
    pub key: Option<String>,
    /// Part of the reason, whatever its case.
    pub reason: Option<String>,
    pub message_ids: Option<Vec<Uuid>>,
    pub dead_after: Option<DateTime<Utc>>,
    pub dead_before: Option<DateTime<Utc>>,
}

/// One group's copy of a message, and how it is.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Copy {
    pub delivery_id: i64,
    pub topic: String,
    pub group_name: String,
    pub state: String,
    pub attempt: i32,
    pub principal: Option<String>,
    pub reason: Option<String>,
    pub published_at: DateTime<Utc>,
    /// Ready: due from then; leased: until then; dead or settled: since then.
    pub due_at: DateTime<Utc>,
}

/// An attempt that failed, or a replay.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct FailedAttempt {
    pub delivery_id: i64,
    pub attempt: i32,
    /// `retried`, `lease_ended`, `replayed`.
    pub outcome: String,
    pub reason: Option<String>,
    pub principal: Option<String>,
    pub ended_at: DateTime<Utc>,
}

/// The dead letters of the topic `$1` that the filter `$2` to `$7` means.
macro_rules! meant {
    () => {
        "from deliveries d join consumer_groups g using (group_id) \
         where d.state = 'dead' and g.topic_id = $1 and ($2::text is null or g.name = $2) \
           and ($3::text is null or d.key = $3) \
           and ($4::text is null or position(lower($4) in lower(coalesce(d.reason, ''))) > 0) \
           and ($5::uuid[] is null or d.message_id = any($5)) \
           and ($6::timestamptz is null or d.due_at >= $6) and d.due_at < coalesce($7::timestamptz, now())"
    };
}

impl Store {
    /// Gives a dead letter all its attempts again. `None`: it is dead no more.
    ///
    /// # Errors
    /// Those of the statement.
    pub async fn replay(
        &self,
        delivery_id: i64,
        delay_ms: i64,
        principal: &str,
    ) -> Result<Option<DateTime<Utc>>, Error> {
        let row: Option<(DateTime<Utc>,)> = sqlx::query_as(
            "with before as (select delivery_id, message_id, attempt from deliveries \
                 where delivery_id = $1 and state = 'dead' for update), \
             revived as (update deliveries d set state = 'ready', attempt = 0, lease_id = null, principal = null, \
                    subscriber_id = null, expires_at = null, due_at = now() + $2::float8 * interval '1 ms' \
                 from before where d.delivery_id = before.delivery_id returning d.due_at), \
             noted as (insert into failed_attempts (delivery_id, message_id, attempt, outcome, principal) \
                 select delivery_id, message_id, attempt, 'replayed', $3 from before) \
             select due_at from revived",
        )
        .bind(delivery_id)
        .bind(delay_ms)
        .bind(principal)
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.map(|(due_at,)| due_at))
    }

    /// How many dead letters a filter means.
    ///
    /// # Errors
    /// Those of the statement.
    pub async fn count_dead(&self, topic_id: Uuid, filter: &DeadFilter) -> Result<i64, Error> {
        sqlx::query_scalar(concat!("select count(*) ", meant!()))
            .bind(topic_id)
            .bind(&filter.group)
            .bind(&filter.key)
            .bind(&filter.reason)
            .bind(&filter.message_ids)
            .bind(filter.dead_after)
            .bind(filter.dead_before)
            .fetch_one(&self.pool)
            .await
    }

    /// Gives at most `limit` of the dead letters that a filter means all their attempts again, the oldest first; gives the
    /// group of each.
    ///
    /// # Errors
    /// Those of the statement.
    pub async fn replay_many(
        &self,
        topic_id: Uuid,
        filter: &DeadFilter,
        principal: &str,
        limit: i64,
    ) -> Result<Vec<Uuid>, Error> {
        sqlx::query_scalar(concat!(
            "with before as (select d.delivery_id, d.message_id, d.attempt ",
            meant!(),
            " order by d.due_at, d.delivery_id limit $9 for update of d skip locked), \
             revived as (update deliveries d set state = 'ready', attempt = 0, lease_id = null, principal = null, \
                    subscriber_id = null, expires_at = null, due_at = now() \
                 from before where d.delivery_id = before.delivery_id returning d.group_id), \
             noted as (insert into failed_attempts (delivery_id, message_id, attempt, outcome, principal) \
                 select delivery_id, message_id, attempt, 'replayed', $8 from before) \
             select group_id from revived"
        ))
        .bind(topic_id)
        .bind(&filter.group)
        .bind(&filter.key)
        .bind(&filter.reason)
        .bind(&filter.message_ids)
        .bind(filter.dead_after)
        .bind(filter.dead_before)
        .bind(principal)
        .bind(limit)
        .fetch_all(&self.pool)
        .await
    }

    /// Every group's copy of a message.
    ///
    /// # Errors
    /// Those of the statement.
    pub async fn copies(&self, message_id: Uuid) -> Result<Vec<Copy>, Error> {
        sqlx::query_as::<_, Copy>(
            "select d.delivery_id, t.name as topic, g.name as group_name, d.state, d.attempt, d.principal, d.reason, \
                    d.published_at, d.due_at \
             from deliveries d join consumer_groups g using (group_id) join topics t using (topic_id) \
             where d.message_id = $1 order by t.name, g.name",
        )
        .bind(message_id)
        .fetch_all(&self.pool)
        .await
    }

    /// A message's failed attempts, in every group, in the order of their ends.
    ///
    /// # Errors
    /// Those of the statement.
    pub async fn failed_attempts(&self, message_id: Uuid) -> Result<Vec<FailedAttempt>, Error> {
        sqlx::query_as::<_, FailedAttempt>(
            "select delivery_id, attempt, outcome, reason, principal, ended_at from failed_attempts \
             where message_id = $1 order by failed_attempt_id",
        )
        .bind(message_id)
        .fetch_all(&self.pool)
        .await
    }

    /// Forgets attempts that ended so many seconds ago, of deliveries that are forgotten.
    ///
    /// # Errors
    /// Those of the statement.
    pub async fn forget_attempts(&self, seconds: i64, limit: i64) -> Result<u64, Error> {
        let forgotten = sqlx::query(
            "delete from failed_attempts where failed_attempt_id = any (array( \
                 select failed_attempt_id from failed_attempts f where ended_at < now() - $1::float8 * interval '1 second' \
                 and not exists (select 1 from deliveries d where d.delivery_id = f.delivery_id) \
                 order by ended_at limit $2 for update skip locked))",
        )
        .bind(seconds)
        .bind(limit)
        .execute(&self.pool)
        .await?;
        Ok(forgotten.rows_affected())
    }
}
