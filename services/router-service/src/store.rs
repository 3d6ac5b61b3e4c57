//! Every SQL statement of the gateway. A change of routes or upstreams is one transaction that holds the table's version,
//! so that it can be checked against all other routes, and is announced on commit.

pub mod history;
pub mod quotas;

use chrono::{DateTime, Utc};
use kronos_common::problem::{OnConstraint as _, Problem, Result};
use serde::{Serialize, de::DeserializeOwned};
use sqlx::{PgConnection, PgPool, Postgres, Transaction, types::Json};
use uuid::Uuid;

use self::history::{Actor, Kind, Step};
use crate::{
    route::{Name, RouteSpec},
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

    /// Upstreams with a name after `after`, by name.
    pub async fn list_upstreams(&self, after: &str, limit: i64) -> Result<Vec<Stored<UpstreamSpec>>> {
        let rows: Vec<Row> = sqlx::query_as(
            "select id, spec, revision, created_at, updated_at from upstreams where name > $1 order by name limit $2",
        )
        .bind(after)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(Row::read).collect()
    }

    pub async fn upstream(&self, id: Uuid) -> Result<Stored<UpstreamSpec>> {
        let row: Option<Row> =
            sqlx::query_as("select id, spec, revision, created_at, updated_at from upstreams where id = $1")
                .bind(id)
                .fetch_optional(&self.pool)
                .await?;
        row.ok_or_else(|| Problem::not_found("upstream"))?.read()
    }

    /// Routes with a name after `after`, by name.
    pub async fn list_routes(&self, after: &str, limit: i64) -> Result<Vec<Stored<RouteSpec>>> {
        let rows: Vec<Row> = sqlx::query_as(
            "select r.id, jsonb_set(r.spec, '{upstream}', to_jsonb(u.name)) as spec, r.revision, r.created_at, r.updated_at
             from routes r join upstreams u on u.id = r.upstream_id where r.name > $1 order by r.name limit $2",
        )
        .bind(after)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(Row::read).collect()
    }

    pub async fn route(&self, id: Uuid) -> Result<Stored<RouteSpec>> {
        let row: Option<Row> = sqlx::query_as(
            "select r.id, jsonb_set(r.spec, '{upstream}', to_jsonb(u.name)) as spec, r.revision, r.created_at, r.updated_at
             from routes r join upstreams u on u.id = r.upstream_id where r.id = $1",
        )
        .bind(id)
        .fetch_optional(&self.pool)
        .await?;
        row.ok_or_else(|| Problem::not_found("route"))?.read()
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

    pub async fn insert_upstream(
        &mut self,
        id: Option<Uuid>,
        spec: &UpstreamSpec,
        seeded_url: Option<&str>,
    ) -> Result<Stored<UpstreamSpec>> {
        // What comes back gets a revision that it has not had.
        let (id, comes_back) = (id.unwrap_or_else(Uuid::now_v7), id.is_some());
        let row: Row = sqlx::query_as(
            "insert into upstreams (id, name, spec, seeded_url, revision)
             select $1, $2, $3, $4, case when $5 then version else 1 end from route_table
             returning id, spec, revision, created_at, updated_at",
        )
        .bind(id)
        .bind(spec.name.as_str())
        .bind(Json(spec))
        .bind(seeded_url)
        .bind(comes_back)
        .fetch_one(&mut *self.transaction)
        .await
        .on_constraint("upstreams_name_key", name_taken("upstream", &spec.name))?;
        self.note(Kind::Upstream, id, serde_json::Value::Null, spec)?;
        row.read()
    }

    /// The revision that an update or delete is going to replace; it stays until this change ends.
    pub async fn upstream_revision(&mut self, id: Uuid) -> Result<i64> {
        let known = sqlx::query_scalar("select revision from upstreams where id = $1")
            .bind(id)
            .fetch_optional(&mut *self.transaction)
            .await?;
        known.ok_or_else(|| Problem::not_found("upstream"))
    }

    /// Writes an upstream that is there. A seeded one becomes the caller's own.
    pub async fn update_upstream(&mut self, id: Uuid, spec: &UpstreamSpec) -> Result<Stored<UpstreamSpec>> {
        let before = self.present(Kind::Upstream, id).await?;
        let row: Row = sqlx::query_as(
            "update upstreams set name = $2, spec = $3, seeded_url = null, revision = revision + 1, updated_at = now()
             where id = $1 returning id, spec, revision, created_at, updated_at",
        )
        .bind(id)
        .bind(spec.name.as_str())
        .bind(Json(spec))
        .fetch_one(&mut *self.transaction)
        .await
        .on_constraint("upstreams_name_key", name_taken("upstream", &spec.name))?;
        self.note(Kind::Upstream, id, before, spec)?;
        row.read()
    }

    pub async fn delete_upstream(&mut self, id: Uuid) -> Result<()> {
        let before = self.present(Kind::Upstream, id).await?;
        sqlx::query("delete from upstreams where id = $1")
            .bind(id)
            .execute(&mut *self.transaction)
            .await
            .on_constraint(
                "routes_upstream_id_fkey",
                Problem::conflict("upstream_in_use", "routes lead to this upstream: change or delete them first"),
            )?;
        self.note(Kind::Upstream, id, before, &serde_json::Value::Null)
    }

    pub async fn insert_route(&mut self, id: Option<Uuid>, spec: &RouteSpec) -> Result<Stored<RouteSpec>> {
        let (id, comes_back) = (id.unwrap_or_else(Uuid::now_v7), id.is_some());
        let upstream = self.upstream_id(&spec.upstream).await?;
        let row: Row = sqlx::query_as(
            "insert into routes (id, name, upstream_id, spec, revision)
             select $1, $2, $3, $4, case when $5 then version else 1 end from route_table
             returning id, spec, revision, created_at, updated_at",
        )
        .bind(id)
        .bind(spec.name.as_str())
        .bind(upstream)
        .bind(Json(spec))
        .bind(comes_back)
        .fetch_one(&mut *self.transaction)
        .await
        .on_constraint("routes_name_key", name_taken("route", &spec.name))?;
        self.note(Kind::Route, id, serde_json::Value::Null, spec)?;
        row.read()
    }

    /// The revision that an update or delete is going to replace; it stays until this change ends.
    pub async fn route_revision(&mut self, id: Uuid) -> Result<i64> {
        let known = sqlx::query_scalar("select revision from routes where id = $1")
            .bind(id)
            .fetch_optional(&mut *self.transaction)
            .await?;
        known.ok_or_else(|| Problem::not_found("route"))
    }

    /// Writes a route that is there.
    pub async fn update_route(&mut self, id: Uuid, spec: &RouteSpec) -> Result<Stored<RouteSpec>> {
        let before = self.present(Kind::Route, id).await?;
        let upstream = self.upstream_id(&spec.upstream).await?;
        let row: Row = sqlx::query_as(
            "update routes set name = $2, upstream_id = $3, spec = $4, revision = revision + 1, updated_at = now()
             where id = $1 returning id, spec, revision, created_at, updated_at",
        )
        .bind(id)
        .bind(spec.name.as_str())
        .bind(upstream)
        .bind(Json(spec))
        .fetch_one(&mut *self.transaction)
        .await
        .on_constraint("routes_name_key", name_taken("route", &spec.name))?;
        self.note(Kind::Route, id, before, spec)?;
        row.read()
    }

    pub async fn delete_route(&mut self, id: Uuid) -> Result<()> {
        let before = self.present(Kind::Route, id).await?;
        sqlx::query("delete from routes where id = $1").bind(id).execute(&mut *self.transaction).await?;
        self.note(Kind::Route, id, before, &serde_json::Value::Null)
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

    async fn upstream_id(&mut self, name: &Name) -> Result<Uuid> {
        let id: Option<Uuid> = sqlx::query_scalar("select id from upstreams where name = $1")
            .bind(name.as_str())
            .fetch_optional(&mut *self.transaction)
            .await?;
        id.ok_or_else(|| {
            Problem::field("/upstream", "unknown_upstream", format!("there is no upstream {}", name.as_str()))
        })
    }
}

async fn snapshot(connection: &mut PgConnection) -> Result<Snapshot> {
    let version = sqlx::query_scalar("select version from route_table").fetch_one(&mut *connection).await?;
    let upstreams: Vec<(Uuid, Json<serde_json::Value>)> =
        sqlx::query_as("select id, spec from upstreams order by name").fetch_all(&mut *connection).await?;
    let routes: Vec<(Uuid, Json<serde_json::Value>)> = sqlx::query_as(
        "select r.id, jsonb_set(r.spec, '{upstream}', to_jsonb(u.name))
         from routes r join upstreams u on u.id = r.upstream_id order by r.name",
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

fn name_taken(what: &str, name: &Name) -> Problem {
    Problem::conflict("name_taken", format!("there is another {what} named {}", name.as_str()))
}
