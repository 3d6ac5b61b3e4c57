//! What changed, by whom, and back again. A version is rolled back to by undoing every later change, the last one first, so
//! that each step leads to a state that was valid once.

use chrono::{DateTime, Utc};
use kronos_common::problem::{Problem, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::types::Json;
use uuid::Uuid;

use super::{Change, Store, records::Record};
use crate::{quota::QuotaSpec, route::RouteSpec, upstream_spec::UpstreamSpec};

/// Versions that are kept.
const KEPT: i64 = 1000;

/// What was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    Route,
    Upstream,
    Quota,
}

/// One thing that was made, replaced or deleted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Step {
    pub kind: Kind,
    pub id: Uuid,
    /// `null`: it was not there.
    pub before: Value,
    /// `null`: it is gone.
    pub after: Value,
}

/// Everything that led to one version.
#[derive(Debug, sqlx::FromRow)]
pub struct Changed {
    pub version: i64,
    pub changed_at: DateTime<Utc>,
    pub subject: String,
    pub client_id: String,
    pub changes: Json<Vec<Step>>,
}

/// Who makes a change; the default is the gateway itself.
#[derive(Debug, Clone, Default)]
pub struct Actor {
    pub subject: String,
    pub client_id: String,
}

impl Store {
    /// Changes before version `before`, the latest first.
    pub async fn history(&self, before: i64, limit: i64) -> Result<Vec<Changed>> {
        let rows = sqlx::query_as(
            "select version, changed_at, subject, client_id, changes from route_changes
             where version < $1 order by version desc limit $2",
        )
        .bind(before)
        .bind(limit)
        .fetch_all(self.pool())
        .await?;
        Ok(rows)
    }
}

impl Change {
    /// Notes a step; it is stored when the change is committed.
    pub(super) fn note(&mut self, kind: Kind, id: Uuid, before: Value, after: &impl Serialize) -> Result<()> {
        let after = serde_json::to_value(after).map_err(Problem::internal)?;
        self.steps.push(Step { kind, id, before, after });
        Ok(())
    }

    /// Stores what was noted as the history of `version`.
    pub(super) async fn remember(&mut self, version: i64) -> Result<()> {
        sqlx::query("insert into route_changes (version, subject, client_id, changes) values ($1, $2, $3, $4)")
            .bind(version)
            .bind(&self.actor.subject)
            .bind(&self.actor.client_id)
            .bind(Json(&self.steps))
            .execute(&mut *self.transaction)
            .await?;
        sqlx::query("delete from route_changes where version <= $1")
            .bind(version - KEPT)
            .execute(&mut *self.transaction)
            .await?;
        Ok(())
    }

    /// Undoes every change after `version`.
    ///
    /// # Errors
    /// 404 for a version that never was, 409 `history_gone` where a step is no longer known.
    pub async fn roll_back(&mut self, version: i64) -> Result<()> {
        // This change has taken a version already.
        let present: i64 =
            sqlx::query_scalar("select version - 1 from route_table").fetch_one(&mut *self.transaction).await?;
        if !(0..=present).contains(&version) {
            return Err(Problem::not_found("version"));
        }
        let later: Vec<Json<Vec<Step>>> =
            sqlx::query_scalar("select changes from route_changes where version > $1 order by version desc")
                .bind(version)
                .fetch_all(&mut *self.transaction)
                .await?;
        if later.len() as i64 != present - version {
            let detail = format!("what changed since version {version} is not known any more");
            return Err(Problem::conflict("history_gone", detail));
        }
        for step in later.into_iter().flat_map(|steps| steps.0.into_iter().rev()) {
            self.undo(step).await?;
        }
        Ok(())
    }

    async fn undo(&mut self, step: Step) -> Result<()> {
        match step.kind {
            Kind::Route => self.undo_one::<RouteSpec>(step).await,
            Kind::Upstream => self.undo_one::<UpstreamSpec>(step).await,
            Kind::Quota => self.undo_one::<QuotaSpec>(step).await,
        }
    }

    async fn undo_one<T: Record>(&mut self, Step { id, before, after, .. }: Step) -> Result<()> {
        if before.is_null() {
            return self.delete::<T>(id).await;
        }
        let before: T = serde_json::from_value(before).map_err(Problem::internal)?;
        if after.is_null() {
            self.insert(Some(id), &before).await?;
        } else {
            self.update(id, &before).await?;
        }
        Ok(())
    }
}
