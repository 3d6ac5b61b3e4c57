//! What is stored under a name and changed through the API: upstreams, routes, quotas. Each has its statements and rules; how
//! they are listed, made, replaced, deleted and noted in the history is one for all.

use kronos_common::problem::{FieldError, OnConstraint as _, Problem, Result};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use sqlx::types::Json;
use uuid::Uuid;

use super::{Change, Row, Store, Stored, history::Kind};
use crate::{
    quota::QuotaSpec,
    route::{Name, RouteSpec},
    upstream_spec::UpstreamSpec,
};

/// Something that is stored, as a caller writes it. Statements that return rows return `id`, `spec`, `revision`, `created_at`
/// and `updated_at`.
pub trait Record: Serialize + DeserializeOwned + Send + Sync {
    const KIND: Kind;
    /// As problems call it.
    const CALLED: &'static str;
    /// The constraint by which names are unique.
    const UNIQUE: &'static str;
    /// Those with a name after `$1`, by name, at most `$2`.
    const LIST: &'static str;
    /// The one with the id `$1`.
    const GET: &'static str;
    /// Makes `$1`, named `$2`, as `$3`. `$4`: it was there before, and gets a revision that it has not had.
    const INSERT: &'static str;
    /// Makes `$1`, named `$2`, what `$3` says.
    const UPDATE: &'static str;
    /// Deletes `$1`.
    const DELETE: &'static str;

    fn name(&self) -> &Name;

    /// Everything that is wrong with it alone.
    fn errors(&self) -> Vec<FieldError>;
}

impl Record for UpstreamSpec {
    const KIND: Kind = Kind::Upstream;
    const CALLED: &'static str = "upstream";
    const UNIQUE: &'static str = "upstreams_name_key";
    const LIST: &'static str =
        "select id, spec, revision, created_at, updated_at from upstreams where name > $1 order by name limit $2";
    const GET: &'static str = "select id, spec, revision, created_at, updated_at from upstreams where id = $1";
    const INSERT: &'static str = "insert into upstreams (id, name, spec, revision)
         select $1, $2, $3, case when $4 then version else 1 end from route_table
         returning id, spec, revision, created_at, updated_at";
    // A seeded one becomes the caller's own.
    const UPDATE: &'static str =
        "update upstreams set name = $2, spec = $3, seeded_url = null, revision = revision + 1, updated_at = now()
         where id = $1 returning id, spec, revision, created_at, updated_at";
    const DELETE: &'static str = "delete from upstreams where id = $1";

    fn name(&self) -> &Name {
        &self.name
    }

    fn errors(&self) -> Vec<FieldError> {
        self.check()
    }
}

impl Record for RouteSpec {
    const KIND: Kind = Kind::Route;
    const CALLED: &'static str = "route";
    const UNIQUE: &'static str = "routes_name_key";
    const LIST: &'static str =
        "select r.id, coalesce(jsonb_set(r.spec, '{upstream}', to_jsonb(u.name)), r.spec) as spec,
                r.revision, r.created_at, r.updated_at
         from routes r left join upstreams u on u.id = r.upstream_id where r.name > $1 order by r.name limit $2";
    const GET: &'static str =
        "select r.id, coalesce(jsonb_set(r.spec, '{upstream}', to_jsonb(u.name)), r.spec) as spec,
                r.revision, r.created_at, r.updated_at
         from routes r left join upstreams u on u.id = r.upstream_id where r.id = $1";
    // An upstream that is not there is found out when the whole is checked.
    const INSERT: &'static str = "insert into routes (id, name, upstream_id, spec, revision)
         select $1, $2, (select id from upstreams where name = $3->>'upstream'), $3,
                case when $4 then version else 1 end from route_table
         returning id, spec, revision, created_at, updated_at";
    const UPDATE: &'static str = "update routes
         set name = $2, upstream_id = (select id from upstreams where name = $3->>'upstream'), spec = $3,
             revision = revision + 1, updated_at = now()
         where id = $1 returning id, spec, revision, created_at, updated_at";
    const DELETE: &'static str = "delete from routes where id = $1";

    fn name(&self) -> &Name {
        &self.name
    }

    fn errors(&self) -> Vec<FieldError> {
        self.check()
    }
}

// What was used of a quota stays used when it is changed.
impl Record for QuotaSpec {
    const KIND: Kind = Kind::Quota;
    const CALLED: &'static str = "quota";
    const UNIQUE: &'static str = "quotas_name_key";
    const LIST: &'static str =
        "select id, spec, revision, created_at, updated_at from quotas where name > $1 order by name limit $2";
    const GET: &'static str = "select id, spec, revision, created_at, updated_at from quotas where id = $1";
    const INSERT: &'static str = "insert into quotas (id, name, spec, revision)
         select $1, $2, $3, case when $4 then version else 1 end from route_table
         returning id, spec, revision, created_at, updated_at";
    const UPDATE: &'static str = "update quotas set name = $2, spec = $3, revision = revision + 1, updated_at = now()
         where id = $1 returning id, spec, revision, created_at, updated_at";
    const DELETE: &'static str = "delete from quotas where id = $1";

    fn name(&self) -> &Name {
        &self.name
    }

    fn errors(&self) -> Vec<FieldError> {
        self.check()
    }
}

impl Store {
    /// Those with a name after `after`, by name.
    pub async fn list<T: Record>(&self, after: &str, limit: i64) -> Result<Vec<Stored<T>>> {
        let rows: Vec<Row> = sqlx::query_as(T::LIST).bind(after).bind(limit).fetch_all(self.pool()).await?;
        rows.into_iter().map(Row::read).collect()
    }

    /// Routes that lead to an upstream, first or as canary or mirror, with a name after `after`, by name.
    pub async fn routes_to(&self, upstream: &str, after: &str, limit: i64) -> Result<Vec<Stored<RouteSpec>>> {
        let rows: Vec<Row> = sqlx::query_as(
            "select r.id, coalesce(jsonb_set(r.spec, '{upstream}', to_jsonb(u.name)), r.spec) as spec,
                    r.revision, r.created_at, r.updated_at
             from routes r left join upstreams u on u.id = r.upstream_id
             where (u.name = $3 or r.spec->'canary'->>'upstream' = $3 or r.spec->'mirror'->>'upstream' = $3)
               and r.name > $1 order by r.name limit $2",
        )
        .bind(after)
        .bind(limit)
        .bind(upstream)
        .fetch_all(self.pool())
        .await?;
        rows.into_iter().map(Row::read).collect()
    }

    /// # Errors
    /// 404.
    pub async fn get<T: Record>(&self, id: Uuid) -> Result<Stored<T>> {
        let row: Option<Row> = sqlx::query_as(T::GET).bind(id).fetch_optional(self.pool()).await?;
        row.ok_or_else(|| Problem::not_found(T::CALLED))?.read()
    }
}

impl Change {
    /// What an update or delete is going to replace; it stays until this change ends.
    async fn present<T: Record>(&mut self, id: Uuid) -> Result<Row> {
        let row: Option<Row> = sqlx::query_as(T::GET).bind(id).fetch_optional(&mut *self.transaction).await?;
        row.ok_or_else(|| Problem::not_found(T::CALLED))
    }

    /// The revision that an update or delete is going to replace.
    pub async fn revision<T: Record>(&mut self, id: Uuid) -> Result<i64> {
        Ok(self.present::<T>(id).await?.revision)
    }

    /// `id`: what it had when it was there before.
    pub async fn insert<T: Record>(&mut self, id: Option<Uuid>, spec: &T) -> Result<Stored<T>> {
        let (id, comes_back) = (id.unwrap_or_else(Uuid::now_v7), id.is_some());
        let row: Row = sqlx::query_as(T::INSERT)
            .bind(id)
            .bind(spec.name().as_str())
            .bind(Json(spec))
            .bind(comes_back)
            .fetch_one(&mut *self.transaction)
            .await
            .on_constraint(T::UNIQUE, name_taken(spec))?;
        self.note(T::KIND, id, Value::Null, spec)?;
        row.read()
    }

    pub async fn update<T: Record>(&mut self, id: Uuid, spec: &T) -> Result<Stored<T>> {
        let before = self.present::<T>(id).await?.spec.0;
        let row: Row = sqlx::query_as(T::UPDATE)
            .bind(id)
            .bind(spec.name().as_str())
            .bind(Json(spec))
            .fetch_one(&mut *self.transaction)
            .await
            .on_constraint(T::UNIQUE, name_taken(spec))?;
        self.note(T::KIND, id, before, spec)?;
        row.read()
    }

    pub async fn delete<T: Record>(&mut self, id: Uuid) -> Result<()> {
        let before = self.present::<T>(id).await?.spec.0;
        sqlx::query(T::DELETE).bind(id).execute(&mut *self.transaction).await.on_constraint(
            "routes_upstream_id_fkey",
            Problem::conflict("upstream_in_use", "routes lead to this upstream: change or delete them first"),
        )?;
        self.note(T::KIND, id, before, &Value::Null)
    }
}

fn name_taken<T: Record>(spec: &T) -> Problem {
    Problem::conflict("name_taken", format!("there is another {} named {}", T::CALLED, spec.name().as_str()))
}
