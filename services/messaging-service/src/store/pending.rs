//! Table `pending_publishes`: the outbox of messages that were accepted while their broker was away, or with a delay.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Postgres, Transaction};
use uuid::Uuid;

use super::{Error, Store};
use crate::{
    message::Message,
    topic::{Broker, Topic},
};

/// A message that waits.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Pending {
    pub sequence: i64,
    pub message_id: Uuid,
    pub topic_id: Uuid,
    pub priority: i16,
    pub key: Option<String>,
    pub payload: Vec<u8>,
    pub headers: String,
    pub traceparent: Option<String>,
    pub published_at: DateTime<Utc>,
    pub expires_at: Option<DateTime<Utc>>,
    pub sealed: bool,
}

impl From<Pending> for Message {
    fn from(row: Pending) -> Self {
        Self {
            id: row.message_id,
            key: row.key,
            payload: row.payload.into(),
            headers: row.headers,
            priority: row.priority,
            published_at: row.published_at,
            expires_at: row.expires_at,
            traceparent: row.traceparent,
            sealed: row.sealed,
        }
    }
}

impl Store {
    /// Accepts messages, each due after its delay in milliseconds. Committed on return. One that is there already is left.
    ///
    /// # Errors
    /// Constraint `pending_publishes_topic_id_fkey`: a topic was deleted.
    pub async fn insert_pending(&self, rows: &[(&Topic, &Message, Option<i64>)]) -> Result<(), Error> {
        Self::insert_pending_in(&mut *self.pool.acquire().await?, rows).await
    }

    /// As `insert_pending`, in the caller's transaction.
    ///
    /// # Errors
    /// As `insert_pending`.
    pub async fn insert_pending_in(
        connection: &mut PgConnection,
        rows: &[(&Topic, &Message, Option<i64>)],
    ) -> Result<(), Error> {
        let column = rows.iter();
        sqlx::query(
            "insert into pending_publishes (message_id, topic_id, broker, delayed, due_at, priority, key, payload, \
                    headers, traceparent, published_at, expires_at, sealed) \
             select message_id, topic_id, broker, delay_ms is not null, \
                    now() + coalesce(delay_ms, 0)::float8 * interval '1 ms', priority, key, payload, headers, \
                    traceparent, published_at, expires_at, sealed \
             from unnest($1::uuid[], $2::uuid[], $3::text[], $4::bigint[], $5::smallint[], $6::text[], $7::bytea[], \
                    $8::text[], $9::text[], $10::timestamptz[], $11::timestamptz[], $12::boolean[]) \
                  as t (message_id, topic_id, broker, delay_ms, priority, key, payload, headers, traceparent, \
                        published_at, expires_at, sealed) \
             on conflict on constraint pending_publishes_message_id_key do nothing",
        )
        .bind(column.clone().map(|(_, message, _)| message.id).collect::<Vec<_>>())
        .bind(column.clone().map(|(topic, ..)| topic.topic_id).collect::<Vec<_>>())
        .bind(column.clone().map(|(topic, ..)| topic.kind.broker().as_str()).collect::<Vec<_>>())
        .bind(column.clone().map(|(.., delay_ms)| *delay_ms).collect::<Vec<_>>())
        .bind(column.clone().map(|(_, message, _)| message.priority).collect::<Vec<_>>())
        .bind(column.clone().map(|(_, message, _)| message.key.as_deref()).collect::<Vec<_>>())
        .bind(column.clone().map(|(_, message, _)| message.payload.as_ref()).collect::<Vec<_>>())
        .bind(column.clone().map(|(_, message, _)| message.headers.as_str()).collect::<Vec<_>>())
        .bind(column.clone().map(|(_, message, _)| message.traceparent.as_deref()).collect::<Vec<_>>())
        .bind(column.clone().map(|(_, message, _)| message.published_at).collect::<Vec<_>>())
        .bind(column.clone().map(|(_, message, _)| message.expires_at).collect::<Vec<_>>())
        .bind(column.map(|(_, message, _)| message.sealed).collect::<Vec<_>>())
        .execute(connection)
        .await?;
        Ok(())
    }

    /// Of some topics and keys those for which messages wait: later ones must wait behind them.
    ///
    /// # Errors
    /// Those of the statement.
    pub async fn barred(&self, keys: &[(Uuid, String)]) -> Result<HashSet<(Uuid, String)>, Error> {
        let (topics, names): (Vec<Uuid>, Vec<&str>) = keys.iter().map(|(topic, key)| (*topic, key.as_str())).unzip();
        let rows: Vec<(Uuid, String)> = sqlx::query_as(
            "select topic_id, key from unnest($1::uuid[], $2::text[]) as asked (topic_id, key) \
             where exists (select 1 from pending_publishes p \
                           where p.topic_id = asked.topic_id and p.key = asked.key and not p.delayed)",
        )
        .bind(topics)
        .bind(names)
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().collect())
    }

    /// Opens the transaction in which one batch is relayed. Only one instance relays to a broker at a time, or keys would
    /// lose their order; `None`: another one does.
    ///
    /// # Errors
    /// Those of the statements.
    pub async fn begin_relay(&self, broker: Broker) -> Result<Option<Transaction<'static, Postgres>>, Error> {
        let mut tx = self.pool.begin().await?;
        let locked: bool =
            sqlx::query_scalar("select pg_try_advisory_xact_lock(hashtextextended('messaging relay ' || $1, 0))")
                .bind(broker.as_str())
                .fetch_one(&mut *tx)
                .await?;
        Ok(locked.then_some(tx))
    }

    /// Messages that are due, in the order of their acceptance.
    ///
    /// # Errors
    /// Those of the statement.
    pub async fn due(connection: &mut PgConnection, broker: Broker, limit: i64) -> Result<Vec<Pending>, Error> {
        sqlx::query_as::<_, Pending>(
            "(select sequence, message_id, topic_id, priority, key, payload, headers, traceparent, published_at, expires_at, \
                     sealed \
              from pending_publishes where broker = $1 and not delayed order by sequence limit $2) \
             union all \
             (select sequence, message_id, topic_id, priority, key, payload, headers, traceparent, published_at, expires_at, \
                     sealed \
              from pending_publishes where broker = $1 and delayed and due_at <= now() order by due_at limit $2)",
        )
        .bind(broker.as_str())
        .bind(limit)
        .fetch_all(connection)
        .await
    }

    /// The broker has them.
    ///
    /// # Errors
    /// Those of the statement.
    pub async fn delete_pending(connection: &mut PgConnection, sequences: &[i64]) -> Result<(), Error> {
        sqlx::query("delete from pending_publishes where sequence = any($1)")
            .bind(sequences)
            .execute(connection)
            .await?;
        Ok(())
    }

    /// How many wait for a broker, the delayed ones left out, counted up to `most`; and in how many milliseconds the next delayed one is due.
    ///
    /// # Errors
    /// Those of the statement.
    pub async fn waiting(&self, broker: Broker, most: i64) -> Result<(i64, Option<f64>), Error> {
        sqlx::query_as(
            "select (select count(*) from (select 1 from pending_publishes where broker = $1 and not delayed \
                     limit $2) as some), \
                    (select (extract(epoch from min(due_at) - now()) * 1000)::float8 from pending_publishes \
                     where broker = $1 and delayed)",
        )
        .bind(broker.as_str())
        .bind(most)
        .fetch_one(&self.pool)
        .await
    }
}
