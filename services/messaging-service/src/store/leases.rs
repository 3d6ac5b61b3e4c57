//! Table `deliveries`, hand-out and what ends it: acknowledgement, retry, expiry, hand-back. Every change names the exact
//! lease that it ends, so it is valid at any instance, and a late one changes nothing.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Error, Store};
use crate::delivery::Receipt;

/// Of a delivery `d`: nothing earlier of its key is under way, where the topic is strict.
macro_rules! is_next_of_its_key {
    () => {
        "(not d.ordered or not exists (select 1 from deliveries e \
              where e.ordered and e.group_id = d.group_id and e.key = d.key and e.delivery_id < d.delivery_id \
                and (e.state = 'leased' \
                     or (e.state = 'ready' and (e.expires_at is null or e.expires_at > now())))))"
    };
}

/// Leases what is ready, in the order of the expression and then of arrival.
macro_rules! lease {
    ($urgency:literal) => {
        concat!(
            "with taken as materialized ( \
                 select delivery_id, ",
            $urgency,
            " as urgency from deliveries d \
                 where group_id = $1 and state = 'ready' and due_at <= now() \
                   and (expires_at is null or expires_at > now()) and ",
            is_next_of_its_key!(),
            " order by ",
            $urgency,
            " desc, delivery_id limit $2 for update of d skip locked), \
             seated as ( \
                 select delivery_id, row_number() over (order by urgency desc, delivery_id) as seat from taken) \
             update deliveries d set state = 'leased', attempt = d.attempt + 1, lease_id = gen_random_uuid(), \
                    due_at = now() + $3::float8 * interval '1 ms', subscriber_id = ($4::uuid[])[seat], \
                    principal = ($5::text[])[seat] \
             from seated where d.delivery_id = seated.delivery_id \
             returning d.delivery_id, d.lease_id, d.subscriber_id, d.message_id, d.attempt, d.key, d.payload, d.headers, \
                       d.traceparent, d.published_at, d.sealed, d.due_at as lease_expires_at, seat"
        )
    };
}

/// What is told of a lease that ended; of a delivery `d`, its topic `t`.
macro_rules! returning_ended {
    () => {
        " returning d.delivery_id, d.lease_id, d.group_id, d.subscriber_id, d.state, d.due_at, d.attempt, \
                   d.published_at, d.ordered, t.topic_id, t.name as topic, t.kind"
    };
}

/// Ends failed attempts: the update that goes before is called `failed`. Each is noted, and of what is dead now the topic
/// that is named for it gets a copy, by the outbox. A copy's own dead letters are not copied further.
macro_rules! noting_failures {
    ($outcome:literal) => {
        concat!(
            returning_ended!(),
            ", d.message_id, d.principal, d.reason, d.priority, d.key, d.payload, d.headers, d.traceparent, d.sealed, \
               t.dead_letter, g.name as group_name), \
             noted as (insert into failed_attempts (delivery_id, message_id, attempt, outcome, reason, principal) \
                 select delivery_id, message_id, attempt, '",
            $outcome,
            "', reason, principal from failed), \
             copied as (insert into pending_publishes (message_id, topic_id, broker, delayed, due_at, priority, key, payload, \
                        headers, traceparent, published_at, sealed) \
                 select gen_random_uuid(), target.topic_id, case target.kind when 'stream' then 'kafka' else 'rabbit' end, \
                        false, now(), case target.kind when 'queue' then f.priority else 0 end, f.key, f.payload, \
                        ((case when position('\\u0000' in f.headers) > 0 then '{}' else f.headers end)::jsonb \
                         || jsonb_build_object('dead-letter-topic', f.topic, \
                         'dead-letter-group', f.group_name, 'dead-letter-message', f.message_id::text, \
                         'dead-letter-attempts', f.attempt::text, \
                         'dead-letter-reason', coalesce(f.reason, '')))::text, f.traceparent, now(), f.sealed \
                 from failed f join topics target on target.name = f.dead_letter and target.dead_letter is null \
                 where f.state = 'dead') \
             select delivery_id, lease_id, group_id, subscriber_id, state, due_at, attempt, published_at, ordered, topic_id, \
                    topic, kind from failed"
        )
    };
}

/// A place for one more message at a subscriber.
#[derive(Debug, Clone)]
pub struct Seat {
    pub subscriber_id: Uuid,
    pub principal: String,
}

/// A message handed out.
#[derive(Debug, sqlx::FromRow)]
pub struct Leased {
    pub delivery_id: i64,
    pub lease_id: Uuid,
    pub subscriber_id: Uuid,
    pub message_id: Uuid,
    pub attempt: i32,
    pub key: Option<String>,
    pub payload: Vec<u8>,
    pub headers: String,
    pub traceparent: Option<String>,
    pub published_at: DateTime<Utc>,
    pub lease_expires_at: DateTime<Utc>,
    /// The payload is sealed.
    pub sealed: bool,
    /// Its place in the order of hand-out.
    pub seat: i64,
}

/// A lease that ended, and what became of the message.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Ended {
    pub delivery_id: i64,
    pub lease_id: Uuid,
    pub group_id: Uuid,
    pub subscriber_id: Option<Uuid>,
    /// `ready`, `dead` or `settled`.
    pub state: String,
    pub due_at: DateTime<Utc>,
    pub attempt: i32,
    pub published_at: DateTime<Utc>,
    /// Later messages of its key waited for it.
    pub ordered: bool,
    pub topic_id: Uuid,
    pub topic: String,
    pub kind: String,
}

impl Store {
    /// Hands out as many messages of the group as there are seats, the most urgent and oldest first. With `ageing_ms`, a
    /// message that waits gains one priority each time that passes, so that urgent ones can't hold up the others for ever.
    ///
    /// # Errors
    /// Those of the statement.
    pub async fn lease(
        &self,
        group_id: Uuid,
        lease_ms: i64,
        ageing_ms: Option<i64>,
        seats: &[Seat],
    ) -> Result<Vec<Leased>, Error> {
        let statement = match ageing_ms {
            // Its order is an index's.
            None => sqlx::query_as::<_, Leased>(lease!("d.priority")),
            Some(_) => sqlx::query_as::<_, Leased>(lease!(
                "(d.priority + floor(greatest(extract(epoch from now() - d.published_at), 0) * 1000 / $6)::bigint)"
            )),
        };
        let statement = statement
            .bind(group_id)
            .bind(i64::try_from(seats.len()).unwrap_or(i64::MAX))
            .bind(lease_ms)
            .bind(seats.iter().map(|seat| seat.subscriber_id).collect::<Vec<_>>())
            .bind(seats.iter().map(|seat| seat.principal.as_str()).collect::<Vec<_>>());
        let statement = match ageing_ms {
            None => statement,
            Some(ageing_ms) => statement.bind(ageing_ms),
        };
        let mut leased = statement.fetch_all(&self.pool).await?;
        leased.sort_unstable_by_key(|row| row.seat);
        Ok(leased)
    }

    /// When the group's next waiting message may be handed out; `None`: none waits.
    ///
    /// # Errors
    /// Those of the statement.
    pub async fn milliseconds_to_next(&self, group_id: Uuid) -> Result<Option<f64>, Error> {
        sqlx::query_scalar(concat!(
            "select (extract(epoch from min(due_at) - now()) * 1000)::float8 from deliveries d \
             where group_id = $1 and state = 'ready' and (expires_at is null or expires_at > now()) and ",
            is_next_of_its_key!()
        ))
        .bind(group_id)
        .fetch_one(&self.pool)
        .await
    }

    /// Acknowledges; gives those that were held. Their bodies are dropped, the rows stay to recognise second copies.
    ///
    /// # Errors
    /// Those of the statement.
    pub async fn settle(&self, receipts: &[Receipt]) -> Result<Vec<Ended>, Error> {
        let (ids, leases) = columns(receipts);
        sqlx::query_as::<_, Ended>(
            concat!("update deliveries d set state = 'settled', due_at = now(), payload = null, headers = null, reason = null \
             from unnest($1::bigint[], $2::uuid[]) as r (delivery_id, lease_id), consumer_groups g, topics t \
             where d.delivery_id = r.delivery_id and d.lease_id = r.lease_id and d.state = 'leased' and d.due_at > now() \
               and g.group_id = d.group_id and t.topic_id = g.topic_id",
            returning_ended!()),
        )
        .bind(ids)
        .bind(leases)
        .fetch_all(&self.pool)
        .await
    }

    /// Ends a failed attempt: again after `delay_ms`, or dead if it was the last one. `None`: not held any more.
    ///
    /// # Errors
    /// Those of the statement.
    pub async fn fail(&self, receipt: Receipt, delay_ms: i64, reason: Option<&str>) -> Result<Option<Ended>, Error> {
        sqlx::query_as::<_, Ended>(concat!(
            "with failed as (update deliveries d set \
                    state = case when d.attempt >= t.max_attempts then 'dead' else 'ready' end, \
                    due_at = case when d.attempt >= t.max_attempts then now() \
                             else now() + $3::float8 * interval '1 ms' end, \
                    reason = $4 \
             from consumer_groups g, topics t \
             where d.delivery_id = $1 and d.lease_id = $2 and d.state = 'leased' and d.due_at > now() \
               and g.group_id = d.group_id and t.topic_id = g.topic_id",
            noting_failures!("retried")
        ))
        .bind(receipt.delivery_id)
        .bind(receipt.lease_id)
        .bind(delay_ms)
        .bind(reason)
        .fetch_optional(&self.pool)
        .await
    }

    /// The lease then ends `lease_ms` from now. `None`: not held any more.
    ///
    /// # Errors
    /// Those of the statement.
    pub async fn extend(&self, receipt: Receipt, lease_ms: i64) -> Result<Option<DateTime<Utc>>, Error> {
        sqlx::query_scalar(
            "update deliveries set due_at = now() + $3::float8 * interval '1 ms' \
             where delivery_id = $1 and lease_id = $2 and state = 'leased' and due_at > now() returning due_at",
        )
        .bind(receipt.delivery_id)
        .bind(receipt.lease_id)
        .bind(lease_ms)
        .fetch_optional(&self.pool)
        .await
    }

    /// Ends the leases whose time is over: ready again at once (the lease was the wait), or dead after the last attempt.
    ///
    /// # Errors
    /// Those of the statement.
    pub async fn expire(&self, limit: i64) -> Result<Vec<Ended>, Error> {
        sqlx::query_as::<_, Ended>(concat!(
            "with over as (select delivery_id from deliveries where state = 'leased' and due_at <= now() \
                 order by due_at limit $1 for update skip locked), \
             failed as (update deliveries d set \
                    state = case when d.attempt >= t.max_attempts then 'dead' else 'ready' end, \
                    due_at = now(), reason = 'the lease ended without an acknowledgement' \
             from over, consumer_groups g, topics t \
             where d.delivery_id = over.delivery_id and g.group_id = d.group_id and t.topic_id = g.topic_id",
            noting_failures!("lease_ended")
        ))
        .bind(limit)
        .fetch_all(&self.pool)
        .await
    }

    /// Puts back what no subscriber has worked on; the attempt does not count.
    ///
    /// # Errors
    /// Those of the statement.
    pub async fn hand_back(&self, receipts: &[Receipt]) -> Result<Vec<Ended>, Error> {
        let (ids, leases) = columns(receipts);
        sqlx::query_as::<_, Ended>(concat!(
            "update deliveries d set state = 'ready', due_at = now(), attempt = d.attempt - 1 \
             from unnest($1::bigint[], $2::uuid[]) as r (delivery_id, lease_id), consumer_groups g, topics t \
             where d.delivery_id = r.delivery_id and d.lease_id = r.lease_id and d.state = 'leased' \
               and g.group_id = d.group_id and t.topic_id = g.topic_id",
            returning_ended!()
        ))
        .bind(ids)
        .bind(leases)
        .fetch_all(&self.pool)
        .await
    }

    /// Which leases subscribers hold: the truth, where a notification was lost.
    ///
    /// # Errors
    /// Those of the statement.
    pub async fn held(&self, subscribers: &[Uuid]) -> Result<Vec<(Uuid, Uuid)>, Error> {
        sqlx::query_as(
            "select subscriber_id, lease_id from deliveries where state = 'leased' and subscriber_id = any($1)",
        )
        .bind(subscribers)
        .fetch_all(&self.pool)
        .await
    }
}

fn columns(receipts: &[Receipt]) -> (Vec<i64>, Vec<Uuid>) {
    receipts.iter().map(|receipt| (receipt.delivery_id, receipt.lease_id)).unzip()
}
