//! Table `deliveries`: messages that a broker handed over come in here once each; and those that were given up.

use chrono::{DateTime, Utc};
use sqlx::{Postgres, postgres::PgArguments, query::QueryScalar};
use uuid::Uuid;

use super::{Error, Position, Store, groups::split};
use crate::{
    delivery::{Candidate, DeadLetter},
    message::Message,
};

/// The topic of a message that expired.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Expired {
    pub topic_id: Uuid,
    pub topic: String,
    pub kind: String,
}

/// A message that a broker handed over.
pub type NewDelivery = Message;

/// A statement that gives how many messages have arrived.
type Arrivals<'q> = QueryScalar<'q, Postgres, Option<i64>, PgArguments>;

/// Stores messages; with expressions to go before, to store under a condition, and to tell how many have arrived under one.
macro_rules! insert {
    ($before:literal, $if_stored:literal, $if_told:literal) => {
        concat!(
            "with ",
            $before,
            "added as (insert into deliveries (group_id, ordered, message_id, priority, key, payload, headers, traceparent, \
                 published_at, expires_at, sealed) \
             select $1, $10 and key is not null, t.* from unnest($2::uuid[], $3::smallint[], $4::text[], $5::bytea[], \
                 $6::text[], $7::text[], $8::timestamptz[], $9::timestamptz[], $11::boolean[]) \
                 as t (message_id, priority, key, payload, headers, traceparent, published_at, expires_at, sealed)",
            $if_stored,
            " on conflict on constraint deliveries_message_id_group_id_key do nothing returning 1), \
             arrived as (select greatest((select count(*) from added), $12) as messages), \
             told as (insert into topic_counts as c (topic_id, bucket, accepted, confirmed, arrived, delivered, acknowledged, \
                 dead, expired) \
             select topic_id, date_bin('10 seconds', now(), 'epoch'), 0, 0, messages, 0, 0, 0, 0 \
             from consumer_groups, arrived where group_id = $1 and messages > 0 \
             on conflict on constraint topic_counts_pkey do update set arrived = c.arrived + excluded.arrived) \
             select messages from arrived",
            $if_told
        )
    };
}

impl Store {
    /// Stores messages for a group, those it already had left out; `ordered`: each waits for the earlier ones of its key.
    /// Committed on return: the broker may forget them. `fresh`: so many were handed over for the first time. Gives how many
    /// have arrived: those, or if more were new, these; the ledger is told in the same statement.
    ///
    /// # Errors
    /// Constraint `deliveries_group_id_fkey`: the topic was deleted.
    pub async fn insert_deliveries(
        &self,
        group_id: Uuid,
        ordered: bool,
        messages: &[NewDelivery],
        fresh: u64,
    ) -> Result<u64, Error> {
        let statement = sqlx::query_scalar(insert!("", "", ""));
        let arrived = bound(statement, group_id, ordered, messages, fresh).fetch_one(&self.pool).await?;
        Ok(arrived.unwrap_or_default().unsigned_abs())
    }

    /// As `insert_deliveries`, and moves the group's positions in the same statement. `None`, and nothing is stored, if
    /// `reader` reads for this group no more.
    ///
    /// # Errors
    /// Those of the statements.
    pub async fn insert_read(
        &self,
        group_id: Uuid,
        reader: Uuid,
        ordered: bool,
        messages: &[NewDelivery],
        positions: &[Position],
    ) -> Result<Option<u64>, Error> {
        let (partitions, offsets) = split(positions);
        // The fence's row stays locked until the commit: nobody can take the reading over in between.
        let statement = sqlx::query_scalar(insert!(
            "fence as (select from consumer_groups where group_id = $1 and reader = $13 for update), \
             moved as (insert into stream_positions (group_id, partition, next_offset) \
                 select $1, p.* from fence, unnest($14::integer[], $15::bigint[]) p \
                 on conflict on constraint stream_positions_pkey do update set next_offset = excluded.next_offset), ",
            " cross join fence",
            " where exists (select from fence)"
        ));
        let statement = bound(statement, group_id, ordered, messages, 0);
        let arrived = statement.bind(reader).bind(partitions).bind(offsets).fetch_optional(&self.pool).await?;
        Ok(arrived.flatten().map(i64::unsigned_abs))
    }

    /// The row that a receipt names.
    ///
    /// # Errors
    /// Those of the statement.
    pub async fn candidate(&self, delivery_id: i64) -> Result<Option<Candidate>, Error> {
        sqlx::query_as::<_, Candidate>(
            "select d.delivery_id, t.name as topic, d.group_id, g.name as group_name, d.state, \
                    d.state = 'leased' and d.due_at > now() as held, d.lease_id, d.principal, d.attempt, \
                    t.max_attempts, t.backoff_ms, t.max_backoff_ms, t.lease_ms \
             from deliveries d join consumer_groups g using (group_id) join topics t using (topic_id) \
             where d.delivery_id = $1",
        )
        .bind(delivery_id)
        .fetch_optional(&self.pool)
        .await
    }

    /// Every group's copy of a message.
    ///
    /// # Errors
    /// Those of the statement.
    pub async fn candidates(&self, message_id: Uuid) -> Result<Vec<Candidate>, Error> {
        sqlx::query_as::<_, Candidate>(
            "select d.delivery_id, t.name as topic, d.group_id, g.name as group_name, d.state, \
                    d.state = 'leased' and d.due_at > now() as held, d.lease_id, d.principal, d.attempt, \
                    t.max_attempts, t.backoff_ms, t.max_backoff_ms, t.lease_ms \
             from deliveries d join consumer_groups g using (group_id) join topics t using (topic_id) \
             where d.message_id = $1",
        )
        .bind(message_id)
        .fetch_all(&self.pool)
        .await
    }

    /// Messages that were given up, the newest first, before the position `before`; of one topic, one group, or all
    /// topics but the hidden ones.
    ///
    /// # Errors
    /// Those of the statement.
    pub async fn dead_letters(
        &self,
        topic: Option<&str>,
        group: Option<&str>,
        hidden: &[&str],
        before: Option<(DateTime<Utc>, i64)>,
        limit: i64,
    ) -> Result<Vec<DeadLetter>, Error> {
        let (before_time, before_id) = before.unzip();
        sqlx::query_as::<_, DeadLetter>(
            "select d.delivery_id, d.lease_id, d.message_id, t.name as topic, g.name as group_name, d.key, d.payload, d.headers, \
                    d.attempt, d.reason, d.published_at, d.sealed, d.due_at as dead_at \
             from deliveries d join consumer_groups g using (group_id) join topics t using (topic_id) \
             where d.state = 'dead' and ($1::text is null or t.name = $1) and ($2::text is null or g.name = $2) \
               and not (t.name = any($6)) and ($3::timestamptz is null or (d.due_at, d.delivery_id) < ($3, $4)) \
             order by d.due_at desc, d.delivery_id desc limit $5",
        )
        .bind(topic)
        .bind(group)
        .bind(before_time)
        .bind(before_id)
        .bind(limit)
        .bind(hidden)
        .fetch_all(&self.pool)
        .await
    }

    /// Settles what nobody took before it expired; gives the topics, one for each message.
    ///
    /// # Errors
    /// Those of the statement.
    pub async fn drop_expired(&self, limit: i64) -> Result<Vec<Expired>, Error> {
        sqlx::query_as::<_, Expired>(
            "with late as (select delivery_id from deliveries \
                 where state = 'ready' and expires_at is not null and expires_at <= now() \
                 order by expires_at limit $1 for update skip locked) \
             update deliveries d set state = 'settled', due_at = now(), payload = null, headers = null, \
                    reason = 'expired before it was taken' \
             from late, consumer_groups g, topics t \
             where d.delivery_id = late.delivery_id and g.group_id = d.group_id and t.topic_id = g.topic_id \
             returning t.topic_id, t.name as topic, t.kind",
        )
        .bind(limit)
        .fetch_all(&self.pool)
        .await
    }

    /// Forgets messages that were settled so many seconds ago; gives how many.
    ///
    /// # Errors
    /// Those of the statement.
    pub async fn forget_settled(&self, seconds: i64, limit: i64) -> Result<u64, Error> {
        let forgotten = sqlx::query(
            "delete from deliveries where delivery_id = any (array( \
                 select delivery_id from deliveries where state = 'settled' \
                 and due_at < now() - $1::float8 * interval '1 second' order by due_at limit $2 for update skip locked))",
        )
        .bind(seconds)
        .bind(limit)
        .execute(&self.pool)
        .await?;
        Ok(forgotten.rows_affected())
    }
}

/// One that [`insert!`] makes, with all that it needs of `$1` to `$12`.
fn bound<'q>(
    statement: Arrivals<'q>,
    group_id: Uuid,
    ordered: bool,
    messages: &'q [NewDelivery],
    fresh: u64,
) -> Arrivals<'q> {
    let column = messages.iter();
    statement
        .bind(group_id)
        .bind(column.clone().map(|message| message.id).collect::<Vec<_>>())
        .bind(column.clone().map(|message| message.priority).collect::<Vec<_>>())
        .bind(column.clone().map(|message| message.key.as_deref()).collect::<Vec<_>>())
        .bind(column.clone().map(|message| message.payload.as_ref()).collect::<Vec<_>>())
        .bind(column.clone().map(|message| message.headers.as_str()).collect::<Vec<_>>())
        .bind(column.clone().map(|message| message.traceparent.as_deref()).collect::<Vec<_>>())
        .bind(column.clone().map(|message| message.published_at).collect::<Vec<_>>())
        .bind(column.clone().map(|message| message.expires_at).collect::<Vec<_>>())
        .bind(ordered)
        .bind(column.map(|message| message.sealed).collect::<Vec<_>>())
        .bind(i64::try_from(fresh).unwrap_or(i64::MAX))
}
