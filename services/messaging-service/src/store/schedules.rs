//! Table `schedules`: messages that are published at a time, once or again and again.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Postgres, Transaction};
use uuid::Uuid;

use super::{Error, Store};

/// A schedule.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Schedule {
    pub schedule_id: Uuid,
    pub topic_id: Uuid,
    pub topic: String,
    pub principal: String,
    /// None: once.
    pub cron: Option<String>,
    pub time_zone: String,
    pub next_at: DateTime<Utc>,
    pub key: Option<String>,
    pub payload: Vec<u8>,
    pub headers: String,
    pub priority: i16,
    pub kept_ms: Option<i64>,
    pub created_at: DateTime<Utc>,
    pub last_fired_at: Option<DateTime<Utc>>,
    pub fired: i64,
    /// The payload is sealed.
    pub sealed: bool,
}

impl Store {
    /// # Errors
    /// Constraint `schedules_topic_id_fkey`: the topic was deleted.
    pub async fn insert_schedule(&self, schedule: &Schedule) -> Result<(), Error> {
        sqlx::query(
            "insert into schedules (schedule_id, topic_id, principal, cron, time_zone, next_at, key, payload, headers, \
                    priority, kept_ms, created_at, sealed) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
        )
        .bind(schedule.schedule_id)
        .bind(schedule.topic_id)
        .bind(&schedule.principal)
        .bind(&schedule.cron)
        .bind(&schedule.time_zone)
        .bind(schedule.next_at)
        .bind(&schedule.key)
        .bind(&schedule.payload)
        .bind(&schedule.headers)
        .bind(schedule.priority)
        .bind(schedule.kept_ms)
        .bind(schedule.created_at)
        .bind(schedule.sealed)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Schedules by id, after the id `after`; of one principal and one topic, or of all.
    ///
    /// # Errors
    /// Those of the statement.
    pub async fn schedules(
        &self,
        principal: Option<&str>,
        topic: Option<&str>,
        after: Option<Uuid>,
        limit: i64,
    ) -> Result<Vec<Schedule>, Error> {
        sqlx::query_as::<_, Schedule>(
            "select s.*, t.name as topic from schedules s join topics t using (topic_id) \
             where ($1::text is null or s.principal = $1) and ($2::text is null or t.name = $2) \
               and ($3::uuid is null or s.schedule_id > $3) order by s.schedule_id limit $4",
        )
        .bind(principal)
        .bind(topic)
        .bind(after)
        .bind(limit)
        .fetch_all(&self.pool)
        .await
    }

    /// # Errors
    /// Those of the statement.
    pub async fn schedule(&self, schedule_id: Uuid, principal: Option<&str>) -> Result<Option<Schedule>, Error> {
        sqlx::query_as::<_, Schedule>(
            "select s.*, t.name as topic from schedules s join topics t using (topic_id) \
             where s.schedule_id = $1 and ($2::text is null or s.principal = $2)",
        )
        .bind(schedule_id)
        .bind(principal)
        .fetch_optional(&self.pool)
        .await
    }

    /// False: there is none.
    ///
    /// # Errors
    /// Those of the statement.
    pub async fn delete_schedule(&self, schedule_id: Uuid, principal: Option<&str>) -> Result<bool, Error> {
        let deleted =
            sqlx::query("delete from schedules where schedule_id = $1 and ($2::text is null or principal = $2)")
                .bind(schedule_id)
                .bind(principal)
                .execute(&self.pool)
                .await?;
        Ok(deleted.rows_affected() == 1)
    }

    /// Opens the transaction in which schedules are fired: those that are due are locked, so that no other instance fires
    /// them too.
    ///
    /// # Errors
    /// Those of the statements.
    pub async fn due_schedules(&self, limit: i64) -> Result<(Transaction<'static, Postgres>, Vec<Schedule>), Error> {
        let mut tx = self.pool.begin().await?;
        let due = sqlx::query_as::<_, Schedule>(
            "select s.*, t.name as topic from schedules s join topics t using (topic_id) \
             where s.next_at <= now() order by s.next_at limit $1 for update of s skip locked",
        )
        .bind(limit)
        .fetch_all(&mut *tx)
        .await?;
        Ok((tx, due))
    }

    /// It fired; `next_at` is when it does again, if it does.
    ///
    /// # Errors
    /// Those of the statement.
    pub async fn fired(
        connection: &mut PgConnection,
        schedule_id: Uuid,
        next_at: Option<DateTime<Utc>>,
    ) -> Result<(), Error> {
        let statement = match next_at {
            Some(next_at) => sqlx::query(
                "update schedules set next_at = $2, last_fired_at = now(), fired = fired + 1 where schedule_id = $1",
            )
            .bind(schedule_id)
            .bind(next_at),
            None => sqlx::query("delete from schedules where schedule_id = $1").bind(schedule_id),
        };
        statement.execute(connection).await?;
        Ok(())
    }
}
