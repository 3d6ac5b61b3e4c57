//! Table `topic_counts`: what happened to each topic's messages, and what that adds up to.

use uuid::Uuid;

use super::{Error, Store};

/// So much happened at one instance since it last said so.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counted {
    pub accepted: i64,
    pub confirmed: i64,
    pub arrived: i64,
    pub delivered: i64,
    pub acknowledged: i64,
    pub dead: i64,
    pub expired: i64,
}

impl std::ops::AddAssign for Counted {
    fn add_assign(&mut self, other: Self) {
        self.accepted += other.accepted;
        self.confirmed += other.confirmed;
        self.arrived += other.arrived;
        self.delivered += other.delivered;
        self.acknowledged += other.acknowledged;
        self.dead += other.dead;
        self.expired += other.expired;
    }
}

/// A topic's totals.
#[derive(Debug, Clone, Copy, Default, sqlx::FromRow)]
pub struct Totals {
    pub accepted: i64,
    pub confirmed: i64,
    pub arrived: i64,
    pub delivered: i64,
    pub acknowledged: i64,
    pub dead: i64,
    pub expired: i64,
    /// Confirmed so long ago that whatever followed is counted too.
    pub confirmed_before: i64,
    /// Of the last minute.
    pub accepted_lately: i64,
    /// Of the last minute.
    pub acknowledged_lately: i64,
}

impl Store {
    /// Adds counts of topics; those of deleted topics are left out.
    ///
    /// # Errors
    /// Those of the statement.
    pub async fn add_counts(&self, counts: &[(Uuid, Counted)]) -> Result<(), Error> {
        let column = |pick: fn(&Counted) -> i64| counts.iter().map(|(_, counted)| pick(counted)).collect::<Vec<_>>();
        sqlx::query(
            "insert into topic_counts as c (topic_id, bucket, accepted, confirmed, arrived, delivered, acknowledged, dead, \
                    expired) \
             select n.topic_id, date_bin('10 seconds', now(), 'epoch'), accepted, confirmed, arrived, delivered, \
                    acknowledged, dead, expired \
             from unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], \
                    $8::bigint[]) as n (topic_id, accepted, confirmed, arrived, delivered, acknowledged, dead, expired) \
                  join (select topic_id from topics where topic_id = any($1) for key share) t using (topic_id) \
             order by n.topic_id \
             on conflict on constraint topic_counts_pkey do update set \
                    accepted = c.accepted + excluded.accepted, confirmed = c.confirmed + excluded.confirmed, \
                    arrived = c.arrived + excluded.arrived, delivered = c.delivered + excluded.delivered, \
                    acknowledged = c.acknowledged + excluded.acknowledged, dead = c.dead + excluded.dead, \
                    expired = c.expired + excluded.expired",
        )
        .bind(counts.iter().map(|(topic_id, _)| *topic_id).collect::<Vec<_>>())
        .bind(column(|counted| counted.accepted))
        .bind(column(|counted| counted.confirmed))
        .bind(column(|counted| counted.arrived))
        .bind(column(|counted| counted.delivered))
        .bind(column(|counted| counted.acknowledged))
        .bind(column(|counted| counted.dead))
        .bind(column(|counted| counted.expired))
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// What is older than a quarter of an hour needs no times: it is added up.
    ///
    /// # Errors
    /// Those of the statement.
    pub async fn fold_counts(&self) -> Result<(), Error> {
        sqlx::query(
            "with old as (delete from topic_counts where bucket > '-infinity' and bucket < now() - interval '15 minutes' \
                 returning *) \
             insert into topic_counts as c (topic_id, bucket, accepted, confirmed, arrived, delivered, acknowledged, dead, \
                    expired) \
             select topic_id, '-infinity', sum(accepted), sum(confirmed), sum(arrived), sum(delivered), sum(acknowledged), \
                    sum(dead), sum(expired) \
             from old group by topic_id order by topic_id \
             on conflict on constraint topic_counts_pkey do update set \
                    accepted = c.accepted + excluded.accepted, confirmed = c.confirmed + excluded.confirmed, \
                    arrived = c.arrived + excluded.arrived, delivered = c.delivered + excluded.delivered, \
                    acknowledged = c.acknowledged + excluded.acknowledged, dead = c.dead + excluded.dead, \
                    expired = c.expired + excluded.expired",
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// A topic's totals; what was confirmed counts as `confirmed_before` after `settle_seconds`.
    ///
    /// # Errors
    /// Those of the statement.
    pub async fn totals(&self, topic_id: Uuid, settle_seconds: i64) -> Result<Totals, Error> {
        sqlx::query_as::<_, Totals>(
            "select coalesce(sum(accepted), 0)::bigint as accepted, coalesce(sum(confirmed), 0)::bigint as confirmed, \
                    coalesce(sum(arrived), 0)::bigint as arrived, coalesce(sum(delivered), 0)::bigint as delivered, \
                    coalesce(sum(acknowledged), 0)::bigint as acknowledged, coalesce(sum(dead), 0)::bigint as dead, \
                    coalesce(sum(expired), 0)::bigint as expired, \
                    coalesce(sum(confirmed) filter (where bucket < now() - $2::float8 * interval '1 second'), 0)::bigint \
                        as confirmed_before, \
                    coalesce(sum(accepted) filter (where bucket > now() - interval '1 minute'), 0)::bigint \
                        as accepted_lately, \
                    coalesce(sum(acknowledged) filter (where bucket > now() - interval '1 minute'), 0)::bigint \
                        as acknowledged_lately \
             from topic_counts where topic_id = $1",
        )
        .bind(topic_id)
        .bind(settle_seconds)
        .fetch_one(&self.pool)
        .await
    }
}
