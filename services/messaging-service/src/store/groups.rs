//! Tables `consumer_groups`, `stream_positions` and `subscribers`: who reads, from where on, and how much waits for them.

use uuid::Uuid;

use super::{Error, Store};
use crate::topic::{Group, Topic};

/// Where a stream's group goes on in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct Position {
    pub partition: i32,
    pub next_offset: i64,
}

/// What waits in Postgres to be handed out.
#[derive(Debug, Clone, Copy, Default, sqlx::FromRow)]
pub struct Inventory {
    pub rows: i64,
    pub bytes: i64,
}

impl Store {
    /// # Errors
    /// Those of the statement.
    pub async fn group(&self, topic: &Topic, name: &str) -> Result<Option<Group>, Error> {
        sqlx::query_as::<_, Group>(
            "select group_id, topic_id, name from consumer_groups where topic_id = $1 and name = $2",
        )
        .bind(topic.topic_id)
        .bind(name)
        .fetch_optional(&self.pool)
        .await
    }

    /// Adds a group that begins at `positions`; `Ok(None)` when another instance was faster.
    ///
    /// # Errors
    /// Constraint `consumer_groups_topic_id_fkey`: the topic was deleted.
    pub async fn insert_group(&self, group: &Group, positions: &[Position]) -> Result<Option<()>, Error> {
        let mut tx = self.pool.begin().await?;
        let added = sqlx::query(
            "insert into consumer_groups (group_id, topic_id, name) values ($1, $2, $3) \
             on conflict on constraint consumer_groups_topic_id_name_key do nothing",
        )
        .bind(group.group_id)
        .bind(group.topic_id)
        .bind(&group.name)
        .execute(&mut *tx)
        .await?;
        if added.rows_affected() == 0 {
            return Ok(None);
        }
        let (partitions, offsets): (Vec<i32>, Vec<i64>) = split(positions);
        sqlx::query(
            "insert into stream_positions (group_id, partition, next_offset) \
             select $1, * from unnest($2::integer[], $3::bigint[])",
        )
        .bind(group.group_id)
        .bind(partitions)
        .bind(offsets)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(Some(()))
    }

    /// # Errors
    /// Those of the statement.
    pub async fn positions(&self, group_id: Uuid) -> Result<Vec<Position>, Error> {
        sqlx::query_as::<_, Position>(
            "select partition, next_offset from stream_positions where group_id = $1 order by partition",
        )
        .bind(group_id)
        .fetch_all(&self.pool)
        .await
    }

    /// Where all of a stream's groups go on.
    ///
    /// # Errors
    /// Those of the statement.
    pub async fn topic_positions(&self, topic_id: Uuid) -> Result<Vec<Position>, Error> {
        sqlx::query_as::<_, Position>(
            "select p.partition, p.next_offset from stream_positions p join consumer_groups using (group_id) \
             where topic_id = $1",
        )
        .bind(topic_id)
        .fetch_all(&self.pool)
        .await
    }

    /// Makes `reader` the one that reads a stream for the group, for `lease_ms` from now. False: another one is. `None`: the
    /// group is gone.
    ///
    /// # Errors
    /// Those of the statement.
    pub async fn claim_reading(&self, group_id: Uuid, reader: Uuid, lease_ms: i64) -> Result<Option<bool>, Error> {
        let claimed = sqlx::query(
            "update consumer_groups set reader = $2, reader_until = now() + $3::float8 * interval '1 ms' \
             where group_id = $1 and (reader = $2 or reader is null or reader_until < now())",
        )
        .bind(group_id)
        .bind(reader)
        .bind(lease_ms)
        .execute(&self.pool)
        .await?;
        if claimed.rows_affected() == 1 {
            return Ok(Some(true));
        }
        let found = sqlx::query("select 1 from consumer_groups where group_id = $1").bind(group_id);
        Ok(found.fetch_optional(&self.pool).await?.map(|_| false))
    }

    /// Lets another instance read at once.
    ///
    /// # Errors
    /// Those of the statement.
    pub async fn release_reading(&self, group_id: Uuid, reader: Uuid) -> Result<(), Error> {
        sqlx::query(
            "update consumer_groups set reader = null, reader_until = null where group_id = $1 and reader = $2",
        )
        .bind(group_id)
        .bind(reader)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// What waits for a group's subscribers and may be handed out now; of one level of a queue with `top_level` + 1 levels,
    /// or of all. At most `limit` rows are counted.
    ///
    /// # Errors
    /// Those of the statement.
    pub async fn inventory(&self, group_id: Uuid, level: Option<(i16, i16)>, limit: i64) -> Result<Inventory, Error> {
        let (level, top_level) = level.unzip();
        sqlx::query_as::<_, Inventory>(
            "select count(*) as rows, coalesce(sum(length(payload)), 0)::bigint as bytes from ( \
                 select payload from deliveries where group_id = $1 and state = 'ready' and due_at <= now() \
                 and ($2::smallint is null or least(greatest(priority, 0), $3) = $2) limit $4) as waiting",
        )
        .bind(group_id)
        .bind(level)
        .bind(top_level)
        .bind(limit)
        .fetch_one(&self.pool)
        .await
    }

    /// # Errors
    /// Constraint `subscribers_group_id_fkey`: the topic was deleted.
    pub async fn insert_subscriber(&self, subscriber: Uuid, group_id: Uuid, instance: Uuid) -> Result<(), Error> {
        sqlx::query("insert into subscribers (subscriber_id, group_id, instance_id) values ($1, $2, $3)")
            .bind(subscriber)
            .bind(group_id)
            .bind(instance)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// # Errors
    /// Those of the statement.
    pub async fn delete_subscribers(&self, subscribers: &[Uuid]) -> Result<(), Error> {
        sqlx::query("delete from subscribers where subscriber_id = any($1)")
            .bind(subscribers)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// This instance lives; and so do its subscribers. Those of instances silent for long are forgotten.
    ///
    /// # Errors
    /// Those of the statements.
    pub async fn beat(&self, instance: Uuid) -> Result<(), Error> {
        sqlx::query("update subscribers set seen_at = now() where instance_id = $1")
            .bind(instance)
            .execute(&self.pool)
            .await?;
        sqlx::query("delete from subscribers where seen_at < now() - interval '5 minutes'").execute(&self.pool).await?;
        Ok(())
    }
}

/// Columns of positions.
pub(super) fn split(positions: &[Position]) -> (Vec<i32>, Vec<i64>) {
    positions.iter().map(|position| (position.partition, position.next_offset)).unzip()
}
