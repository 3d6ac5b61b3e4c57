//! SQL of what is used of quotas; what they are is `records`'.

use chrono::NaiveDate;
use kronos_common::problem::Result;
use uuid::Uuid;

use super::Store;

/// What one client used of a quota.
#[derive(Debug, sqlx::FromRow)]
pub struct Used {
    pub client: String,
    pub used: i64,
}

impl Store {
    /// Who used how much in a period, after `after`, by client.
    pub async fn quota_use(&self, id: Uuid, period: NaiveDate, after: &str, limit: i64) -> Result<Vec<Used>> {
        let rows = sqlx::query_as(
            "select client, used from quota_use where quota_id = $1 and period = $2 and client > $3
             order by client limit $4",
        )
        .bind(id)
        .bind(period)
        .bind(after)
        .bind(limit)
        .fetch_all(self.pool())
        .await?;
        Ok(rows)
    }

    /// Takes leave for up to `want` requests; comes back with how many, 0 if the quota is used up.
    pub async fn take_quota(&self, id: Uuid, period: NaiveDate, client: &str, most: i64, want: i64) -> Result<i64> {
        let mut want = want.min(most);
        while want > 0 {
            let taken: Option<i64> = sqlx::query_scalar(
                "insert into quota_use as known (quota_id, period, client, used) values ($1, $2, $3, $4)
                 on conflict on constraint quota_use_pkey do update set used = known.used + $4
                 where known.used + $4 <= $5 returning used",
            )
            .bind(id)
            .bind(period)
            .bind(client)
            .bind(want)
            .bind(most)
            .fetch_optional(self.pool())
            .await?;
            if taken.is_some() {
                return Ok(want);
            }
            want /= 2;
        }
        Ok(0)
    }

    /// Brings back what was not spent.
    pub async fn give_quota_back(&self, id: Uuid, period: NaiveDate, client: &str, unspent: i64) -> Result<()> {
        sqlx::query(
            "update quota_use set used = greatest(0, used - $4) where quota_id = $1 and period = $2 and client = $3",
        )
        .bind(id)
        .bind(period)
        .bind(client)
        .bind(unspent)
        .execute(self.pool())
        .await?;
        Ok(())
    }

    /// Forgets periods that began before `before`.
    pub async fn forget_quota_use(&self, before: NaiveDate) -> Result<()> {
        sqlx::query("delete from quota_use where period < $1").bind(before).execute(self.pool()).await?;
        Ok(())
    }
}
