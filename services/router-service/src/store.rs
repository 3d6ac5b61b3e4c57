//! Every SQL statement of the gateway. A change of routes or upstreams is one transaction that holds the table's version,
//! so that it can be checked against all other routes, and is announced on commit. What is changed is in `records`.

pub mod history;
pub mod quotas;
pub mod records;

use chrono::{DateTime, Utc};
use kronos_common::problem::{Problem, Result};
use serde::{Serialize, de::DeserializeOwned};
use sqlx::{PgConnection, PgPool, Postgres, Transaction, types::Json};
use uuid::Uuid;

use self::history::{Actor, Kind, Step};
use crate::{
    route::Name,
    table::{Identified, Snapshot},
    upstream_spec::UpstreamSpec,
};

/// The channel on which changes are announced; the payload is the version.
pub const CHANNEL: &str = "kronos_routes";

/// A stored route or upstream.
#[derive(Debug, Clone)]
pub struct Stored<T> {
    pub id: Uuid,
    pub spec: T,
    /// Counts its changes.
    pub revision: i64,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: Uuid,
    spec: Json<serde_json::Value>,
    revision: i64,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl Row {
    fn read<T: DeserializeOwned>(self) -> Result<Stored<T>> {
        let spec = serde_json::from_value(self.spec.0).map_err(Problem::internal)?;
        let Self { id, revision, created_at, updated_at, .. } = self;
        Ok(Stored { id, spec, revision, created_at, updated_at })
    }
}

/// The routes in PostgreSQL.
#[derive(Debug, Clone)]
pub struct Store {
    pool: PgPool,
}

impl Store {
    pub fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// The version of the whole.
    pub async fn version(&self) -> Result<i64> {
        Ok(sqlx::query_scalar("select version from route_table").fetch_one(&self.pool).await?)
    }

    /// Everything, at one version.
    pub async fn snapshot(&self) -> Result<Snapshot> {
        let mut transaction = self.pool.begin_with("begin isolation level repeatable read read only").await?;
        let snapshot = snapshot(&mut transaction).await?;
        transaction.commit().await?;
        Ok(snapshot)
    }

    /// Begins a change; no other begins before it ends. Dropped, it leaves nothing.
    pub async fn change(&self, actor: Actor) -> Result<Change> {
        let mut transaction = self.pool.begin().await?;
        sqlx::query("update route_table set version = version + 1").execute(&mut *transaction).await?;
        Ok(Change { transaction, actor, steps: Vec::new() })
    }
}

/// A change under way.
#[derive(Debug)]
pub struct Change {
    transaction: Transaction<'static, Postgres>,
    actor: Actor,
    steps: Vec<Step>,
}

impl Change {
    /// Checks the whole with this change in it, announces and commits it. `changed`: the route that was written.
    ///
    /// # Errors
    /// 422 with everything that is wrong between routes; then nothing is changed.
    pub async fn commit(mut self, changed: Option<Uuid>) -> Result<Snapshot> {
        let snapshot = snapshot(&mut self.transaction).await?;
        let errors = snapshot.check(changed);
        if !errors.is_empty() {
            return Err(Problem::invalid(errors));
        }
        self.remember(snapshot.version).await?;
        sqlx::query("select pg_notify($1, $2)")
            .bind(CHANNEL)
            .bind(snapshot.version.to_string())
            .execute(&mut *self.transaction)
            .await?;
        self.transaction.commit().await?;
        Ok(snapshot)
    }

    /// Whether this default is to be created now; it is remembered, so that it is asked once in the platform's life.
    pub async fn is_new_seed(&mut self, kind: &str, name: &Name) -> Result<bool> {
        let inserted = sqlx::query("insert into seeds (kind, name) values ($1, $2) on conflict do nothing")
            .bind(kind)
            .bind(name.as_str())
            .execute(&mut *self.transaction)
            .await?;
        Ok(inserted.rows_affected() == 1)
    }

    /// Writes down that an upstream follows the configuration, until somebody edits it.
    pub async fn mark_seeded(&mut self, id: Uuid, url: &str) -> Result<()> {
        sqlx::query("update upstreams set seeded_url = $2 where id = $1")
            .bind(id)
            .bind(url)
            .execute(&mut *self.transaction)
            .await?;
        Ok(())
    }

    /// Whether the name is in use already.
    pub async fn has_upstream(&mut self, name: &Name) -> Result<bool> {
        let count: i64 = sqlx::query_scalar("select count(*) from upstreams where name = $1")
            .bind(name.as_str())
            .fetch_one(&mut *self.transaction)
            .await?;
        Ok(count > 0)
    }

    /// Whether the name is in use already.
    pub async fn has_route(&mut self, name: &Name) -> Result<bool> {
        let count: i64 = sqlx::query_scalar("select count(*) from routes where name = $1")
            .bind(name.as_str())
            .fetch_one(&mut *self.transaction)
            .await?;
        Ok(count > 0)
    }

    /// Writes the new address of a seeded upstream that nobody has edited. True if there was one with another address.
    pub async fn move_seeded_upstream(&mut self, spec: &UpstreamSpec, url: &str) -> Result<bool> {
        let seeded: Option<(Uuid, Json<serde_json::Value>)> = sqlx::query_as(
            "select id, spec from upstreams where name = $1 and seeded_url is not null and seeded_url <> $2",
        )
        .bind(spec.name.as_str())
        .bind(url)
        .fetch_optional(&mut *self.transaction)
        .await?;
        let Some((id, before)) = seeded else { return Ok(false) };
        sqlx::query(
            "update upstreams set spec = $2, seeded_url = $3, revision = revision + 1, updated_at = now() where id = $1",
        )
        .bind(id)
        .bind(Json(spec))
        .bind(url)
        .execute(&mut *self.transaction)
        .await?;
        self.note(Kind::Upstream, id, before.0, spec)?;
        Ok(true)
    }
}

async fn snapshot(connection: &mut PgConnection) -> Result<Snapshot> {
    let version = sqlx::query_scalar("select version from route_table").fetch_one(&mut *connection).await?;
    let upstreams: Vec<(Uuid, Json<serde_json::Value>)> =
        sqlx::query_as("select id, spec from upstreams order by name").fetch_all(&mut *connection).await?;
    let routes: Vec<(Uuid, Json<serde_json::Value>)> = sqlx::query_as(
        "select r.id, coalesce(jsonb_set(r.spec, '{upstream}', to_jsonb(u.name)), r.spec)
         from routes r left join upstreams u on u.id = r.upstream_id order by r.name",
    )
    .fetch_all(&mut *connection)
    .await?;
    let quotas: Vec<(Uuid, Json<serde_json::Value>)> =
        sqlx::query_as("select id, spec from quotas order by name").fetch_all(&mut *connection).await?;
    Ok(Snapshot {
        version,
        routes: identified(routes)?,
        upstreams: identified(upstreams)?,
        quotas: identified(quotas)?,
    })
}

fn identified<T: DeserializeOwned + Serialize>(
    rows: Vec<(Uuid, Json<serde_json::Value>)>,
) -> Result<Vec<Identified<T>>> {
    rows.into_iter()
        .map(|(id, spec)| {
            let spec = serde_json::from_value(spec.0).map_err(Problem::internal)?;
            Ok(Identified { id, spec })
        })
        .collect()
}
