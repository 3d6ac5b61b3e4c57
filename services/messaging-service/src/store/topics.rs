//! Tables `topics` and `retired_objects`.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Error, Store};
use crate::topic::{Group, Kind, QUEUE_GROUP, Topic};

/// Something at a broker that belongs to no topic any more.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct RetiredObject {
    /// `kafka_topic`, `rabbit_queue` or `rabbit_exchange`.
    pub object_kind: String,
    pub name: String,
}

/// What Postgres knows of a queue's state; the rest of its depth is at the broker.
#[derive(Debug, Clone, Copy, Default, sqlx::FromRow)]
pub struct QueueCounts {
    pub ready: i64,
    pub in_flight: i64,
    pub dead: i64,
    pub pending: i64,
    pub consumers: i64,
    pub oldest: Option<DateTime<Utc>>,
    /// Of `ready`, those that wait for the end of a back-off.
    pub backing_off: i64,
}

impl Store {
    /// Adds a topic, and for a queue its one group.
    ///
    /// # Errors
    /// Constraint `topics_name_key`: the name is taken.
    pub async fn insert_topic(&self, topic: &Topic) -> Result<(), Error> {
        let mut tx = self.pool.begin().await?;
        sqlx::query(
            "insert into topics (topic_id, name, kind, max_attempts, backoff_ms, lease_ms, priority_levels, partitions, \
                    created_at, max_backoff_ms, retention_ms, max_length, ordering, schema, dead_letter, ageing_ms, \
                    encrypted) \
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)",
        )
        .bind(topic.topic_id)
        .bind(&topic.name)
        .bind(topic.kind.as_str())
        .bind(topic.max_attempts)
        .bind(topic.backoff_ms)
        .bind(topic.lease_ms)
        .bind(topic.priority_levels)
        .bind(topic.partitions)
        .bind(topic.created_at)
        .bind(topic.max_backoff_ms)
        .bind(topic.retention_ms)
        .bind(topic.max_length)
        .bind(topic.ordering.as_str())
        .bind(&topic.schema)
        .bind(&topic.dead_letter)
        .bind(topic.ageing_ms)
        .bind(topic.encrypted)
        .execute(&mut *tx)
        .await?;
        if topic.kind == Kind::Queue {
            sqlx::query("insert into consumer_groups (group_id, topic_id, name) values ($1, $2, $3)")
                .bind(Uuid::now_v7())
                .bind(topic.topic_id)
                .bind(QUEUE_GROUP)
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await
    }

    /// # Errors
    /// Those of the statement.
    pub async fn topic_by_name(&self, name: &str) -> Result<Option<Topic>, Error> {
        sqlx::query_as::<_, Topic>("select * from topics where name = $1").bind(name).fetch_optional(&self.pool).await
    }

    /// # Errors
    /// Those of the statement.
    pub async fn topic_by_id(&self, topic_id: Uuid) -> Result<Option<Topic>, Error> {
        sqlx::query_as::<_, Topic>("select * from topics where topic_id = $1")
            .bind(topic_id)
            .fetch_optional(&self.pool)
            .await
    }

    /// Topics by name, after the name `after`, of one kind or of all.
    ///
    /// # Errors
    /// Those of the statement.
    pub async fn list_topics(&self, kind: Option<Kind>, after: &str, limit: i64) -> Result<Vec<Topic>, Error> {
        sqlx::query_as::<_, Topic>(
            "select * from topics where ($1::text is null or kind = $1) and name > $2 order by name limit $3",
        )
        .bind(kind.map(Kind::as_str))
        .bind(after)
        .bind(limit)
        .fetch_all(&self.pool)
        .await
    }

    /// Deletes a topic with its groups, deliveries and waiting messages, and notes what the brokers have still to delete.
    /// False: somebody else was faster.
    ///
    /// # Errors
    /// Those of the statements.
    pub async fn delete_topic(&self, topic: &Topic) -> Result<bool, Error> {
        let mut tx = self.pool.begin().await?;
        // Before the delete: who subscribes at this moment waits here and then finds no topic.
        let found = sqlx::query("select 1 from topics where topic_id = $1 for update")
            .bind(topic.topic_id)
            .fetch_optional(&mut *tx)
            .await?;
        if found.is_none() {
            return Ok(false);
        }
        let groups =
            sqlx::query_as::<_, Group>("select group_id, topic_id, name from consumer_groups where topic_id = $1")
                .bind(topic.topic_id)
                .fetch_all(&mut *tx)
                .await?;
        let (kinds, names): (Vec<&str>, Vec<String>) = match topic.kind {
            Kind::Stream => vec![("kafka_topic", topic.kafka_topic())],
            Kind::Queue => topic.levels().map(|level| ("rabbit_queue", topic.level_queue(level))).collect(),
            Kind::Broadcast => groups
                .iter()
                .map(|group| ("rabbit_queue", topic.group_queue(group.group_id)))
                .chain([("rabbit_queue", topic.log_queue()), ("rabbit_exchange", topic.exchange())])
                .collect(),
        }
        .into_iter()
        .unzip();
        sqlx::query(
            "insert into retired_objects (object_kind, name) select * from unnest($1::text[], $2::text[]) \
             on conflict do nothing",
        )
        .bind(kinds)
        .bind(names)
        .execute(&mut *tx)
        .await?;
        sqlx::query("delete from topics where topic_id = $1").bind(topic.topic_id).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// # Errors
    /// Those of the statement.
    pub async fn retired_objects(&self) -> Result<Vec<RetiredObject>, Error> {
        sqlx::query_as::<_, RetiredObject>(
            "select object_kind, name from retired_objects order by retired_at limit 100",
        )
        .fetch_all(&self.pool)
        .await
    }

    /// The broker has deleted it, or never had it.
    ///
    /// # Errors
    /// Those of the statement.
    pub async fn forget_object(&self, object: &RetiredObject) -> Result<(), Error> {
        sqlx::query("delete from retired_objects where object_kind = $1 and name = $2")
            .bind(&object.object_kind)
            .bind(&object.name)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// A queue's state. A subscriber of an instance that was silent for `silent_ms` counts no more.
    ///
    /// # Errors
    /// Those of the statement.
    pub async fn queue_counts(&self, topic_id: Uuid, silent_ms: i64) -> Result<QueueCounts, Error> {
        sqlx::query_as::<_, QueueCounts>(
            "select count(*) filter (where d.state = 'ready') as ready, \
                    count(*) filter (where d.state = 'ready' and d.due_at > now()) as backing_off, \
                    count(*) filter (where d.state = 'leased') as in_flight, \
                    count(*) filter (where d.state = 'dead') as dead, \
                    (select count(*) from pending_publishes p where p.topic_id = $1) as pending, \
                    (select count(*) from subscribers s join consumer_groups using (group_id) \
                     where topic_id = $1 and seen_at > now() - $2::float8 * interval '1 ms') as consumers, \
                    least(min(d.published_at) filter (where d.state in ('ready', 'leased')), \
                          (select min(p.published_at) from pending_publishes p where p.topic_id = $1)) as oldest \
             from consumer_groups g left join deliveries d \
                  on d.group_id = g.group_id and d.state in ('ready', 'leased', 'dead') \
             where g.topic_id = $1",
        )
        .bind(topic_id)
        .bind(silent_ms)
        .fetch_one(&self.pool)
        .await
    }

    /// Messages of a topic that wait here: in the outbox, and to be handed out.
    ///
    /// # Errors
    /// Those of the statement.
    pub async fn waiting_here(&self, topic_id: Uuid) -> Result<i64, Error> {
        sqlx::query_scalar(
            "select (select count(*) from pending_publishes where topic_id = $1) + \
                    (select count(*) from consumer_groups g join deliveries d on d.group_id = g.group_id and d.state = 'ready' \
                     where g.topic_id = $1)",
        )
        .bind(topic_id)
        .fetch_one(&self.pool)
        .await
    }
}
