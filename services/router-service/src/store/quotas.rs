//! SQL of quotas: what they are, and what is used of them.

use chrono::NaiveDate;
use kronos_common::problem::{OnConstraint as _, Problem, Result};
use sqlx::types::Json;
use uuid::Uuid;

use super::{Change, Row, Store, Stored, history::Kind, name_taken};
use crate::quota::QuotaSpec;

/// What one client used of a quota.
#[derive(Debug, sqlx::FromRow)]
pub struct Used {
    pub client: String,
    pub used: i64,
}

impl Store {
    /// Quotas with a name after `after`, by name.
    pub async fn list_quotas(&self, after: &str, limit: i64) -> Result<Vec<Stored<QuotaSpec>>> {
        let rows: Vec<Row> = sqlx::query_as(
            "select id, spec, revision, created_at, updated_at from quotas where name > $1 order by name limit $2",
        )
        .bind(after)
        .bind(limit)
        .fetch_all(self.pool())
        .await?;
        rows.into_iter().map(Row::read).collect()
    }

    pub async fn quota(&self, id: Uuid) -> Result<Stored<QuotaSpec>> {
        let row: Option<Row> =
            sqlx::query_as("select id, spec, revision, created_at, updated_at from quotas where id = $1")
                .bind(id)
                .fetch_optional(self.pool())
                .await?;
        row.ok_or_else(|| Problem::not_found("quota"))?.read()
    }

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

impl Change {
    pub async fn insert_quota(&mut self, id: Option<Uuid>, spec: &QuotaSpec) -> Result<Stored<QuotaSpec>> {
        let (id, comes_back) = (id.unwrap_or_else(Uuid::now_v7), id.is_some());
        let row: Row = sqlx::query_as(
            "insert into quotas (id, name, spec, revision)
             select $1, $2, $3, case when $4 then version else 1 end from route_table
             returning id, spec, revision, created_at, updated_at",
        )
        .bind(id)
        .bind(spec.name.as_str())
        .bind(Json(spec))
        .bind(comes_back)
        .fetch_one(&mut *self.transaction)
        .await
        .on_constraint("quotas_name_key", name_taken("quota", &spec.name))?;
        self.note(Kind::Quota, id, serde_json::Value::Null, spec)?;
        row.read()
    }

    /// The revision that an update or delete is going to replace; it stays until this change ends.
    pub async fn quota_revision(&mut self, id: Uuid) -> Result<i64> {
        let known = sqlx::query_scalar("select revision from quotas where id = $1")
            .bind(id)
            .fetch_optional(&mut *self.transaction)
            .await?;
        known.ok_or_else(|| Problem::not_found("quota"))
    }

    /// Writes a quota that is there; what was used of it stays used.
    pub async fn update_quota(&mut self, id: Uuid, spec: &QuotaSpec) -> Result<Stored<QuotaSpec>> {
        let before = self.present(Kind::Quota, id).await?;
        let row: Row = sqlx::query_as(
            "update quotas set name = $2, spec = $3, revision = revision + 1, updated_at = now()
             where id = $1 returning id, spec, revision, created_at, updated_at",
        )
        .bind(id)
        .bind(spec.name.as_str())
        .bind(Json(spec))
        .fetch_one(&mut *self.transaction)
        .await
        .on_constraint("quotas_name_key", name_taken("quota", &spec.name))?;
        self.note(Kind::Quota, id, before, spec)?;
        row.read()
    }

    pub async fn delete_quota(&mut self, id: Uuid) -> Result<()> {
        let before = self.present(Kind::Quota, id).await?;
        sqlx::query("delete from quotas where id = $1").bind(id).execute(&mut *self.transaction).await?;
        self.note(Kind::Quota, id, before, &serde_json::Value::Null)
    }
}
