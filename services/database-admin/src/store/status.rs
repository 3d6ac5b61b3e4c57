//! What the server says of itself: `/db/status`. Reads statistics and catalogues, never a service's rows.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{FromRow, PgPool};
use utoipa::ToSchema;

use crate::valueless::valueless;

/// The server and the database.
#[derive(Debug, Clone, FromRow, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Server {
    pub version: String,
    pub started_at: DateTime<Utc>,
    pub uptime_seconds: f64,
    pub in_recovery: bool,
    pub database: String,
    pub size_bytes: i64,
    pub max_connections: i32,
    pub cache_hit_ratio: Option<f64>,
    pub deadlocks: i64,
    pub rollbacks: i64,
    pub commits: i64,
    pub temp_bytes: i64,
}

/// The server and the database.
pub async fn server(pool: &PgPool) -> sqlx::Result<Server> {
    sqlx::query_as(
        "select current_setting('server_version') as version, pg_postmaster_start_time() as started_at,
             extract(epoch from now() - pg_postmaster_start_time())::float8 as uptime_seconds,
             pg_is_in_recovery() as in_recovery, d.datname::text as database, pg_database_size(d.datname) as size_bytes,
             current_setting('max_connections')::int as max_connections,
             (d.blks_hit / nullif(d.blks_hit + d.blks_read, 0)::float8) as cache_hit_ratio, d.deadlocks,
             d.xact_rollback as rollbacks, d.xact_commit as commits, d.temp_bytes
         from pg_stat_database d where d.datname = current_database()",
    )
    .fetch_one(pool)
    .await
}

/// How many connections a role holds.
#[derive(Debug, Clone, FromRow, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Connections {
    /// Login role.
    pub role: String,
    pub active: i64,
    pub idle: i64,
    pub idle_in_transaction: i64,
    pub oldest_transaction_seconds: Option<f64>,
}

/// The connections of this database's roles; of all databases, as the limit is the server's.
pub async fn connections(pool: &PgPool) -> sqlx::Result<Vec<Connections>> {
    sqlx::query_as(
        "select coalesce(usename::text, '') as role, count(*) filter (where state = 'active') as active,
             count(*) filter (where state = 'idle') as idle,
             count(*) filter (where state like 'idle in transaction%') as idle_in_transaction,
             max(extract(epoch from now() - xact_start))::float8 as oldest_transaction_seconds
         from pg_stat_activity where backend_type = 'client backend' group by 1 order by 1",
    )
    .fetch_all(pool)
    .await
}

/// A standby that follows this server.
#[derive(Debug, Clone, FromRow, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Standby {
    pub name: String,
    pub state: String,
    pub sync_state: String,
    pub lag_bytes: Option<i64>,
    pub lag_seconds: Option<f64>,
}

/// The standbys.
pub async fn standbys(pool: &PgPool) -> sqlx::Result<Vec<Standby>> {
    sqlx::query_as(
        "select coalesce(application_name, '') as name, coalesce(state, '') as state,
             coalesce(sync_state, '') as sync_state,
             case when not pg_is_in_recovery() then pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::bigint end as lag_bytes,
             extract(epoch from replay_lag)::float8 as lag_seconds
         from pg_stat_replication order by 1",
    )
    .fetch_all(pool)
    .await
}

/// A table's size and use.
#[derive(Debug, Clone, FromRow, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Table {
    pub schema: String,
    pub name: String,
    pub bytes: i64,
    pub estimated_rows: i64,
    pub dead_rows: i64,
    pub sequential_scans: i64,
    pub index_scans: i64,
    pub last_vacuum: Option<DateTime<Utc>>,
    pub last_analyze: Option<DateTime<Utc>>,
}

/// The tables of `schemas`, the largest first.
pub async fn tables(pool: &PgPool, schemas: &[&str]) -> sqlx::Result<Vec<Table>> {
    sqlx::query_as(
        "select schemaname::text as schema, relname::text as name, pg_total_relation_size(relid) as bytes,
             n_live_tup as estimated_rows, n_dead_tup as dead_rows, seq_scan as sequential_scans,
             coalesce(idx_scan, 0) as index_scans, greatest(last_vacuum, last_autovacuum) as last_vacuum,
             greatest(last_analyze, last_autoanalyze) as last_analyze
         from pg_stat_user_tables where schemaname = any($1) order by 3 desc, 1, 2",
    )
    .bind(schemas)
    .fetch_all(pool)
    .await
}

/// A statement's statistics since they were last reset; the text has no values in it.
#[derive(Debug, Clone, FromRow, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Statement {
    pub role: String,
    pub statement: String,
    pub calls: i64,
    pub rows: i64,
    pub total_ms: f64,
    pub mean_ms: f64,
    pub max_ms: f64,
}

/// The statements that took the longest on average; None if the server does not count them.
pub async fn slow_statements(pool: &PgPool, limit: i64) -> sqlx::Result<Option<Vec<Statement>>> {
    let counted: bool =
        sqlx::query_scalar("select to_regclass('public.pg_stat_statements') is not null").fetch_one(pool).await?;
    if !counted {
        return Ok(None);
    }
    let found = sqlx::query_as::<_, Statement>(
        "select coalesce(r.rolname::text, '') as role, left(s.query, 10000) as statement, s.calls, s.rows,
             s.total_exec_time as total_ms, s.mean_exec_time as mean_ms, s.max_exec_time as max_ms
         from public.pg_stat_statements s left join pg_roles r on r.oid = s.userid
         where s.dbid = (select oid from pg_database where datname = current_database())
             and s.toplevel and r.rolname like 'kronos\\_%'
         order by s.mean_exec_time desc limit $1",
    )
    .bind(limit)
    .fetch_all(pool)
    .await;
    match found {
        Ok(mut statements) => {
            for each in &mut statements {
                each.statement = valueless(&each.statement).chars().take(1000).collect();
            }
            Ok(Some(statements))
        }
        // 55000: installed, but the server was started without its library; 42501: not ours to see.
        Err(sqlx::Error::Database(error)) if matches!(error.code().as_deref(), Some("55000" | "42501")) => Ok(None),
        Err(error) => Err(error),
    }
}

/// How far a schema is migrated.
#[derive(Debug, Clone, FromRow, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Migrated {
    pub schema: String,
    pub version: Option<i64>,
    pub applied: i64,
    pub last_applied_at: Option<DateTime<Utc>>,
}

/// How far each schema is migrated. Only the backup's role may look into all of them.
pub async fn migrations(backup: &PgPool) -> sqlx::Result<Vec<Migrated>> {
    sqlx::query_as(
        "select 'auth' as schema, max(version) as version, count(*) as applied, max(installed_on) as last_applied_at
             from auth._sqlx_migrations where success
         union all select 'users', max(version), count(*), max(installed_on) from users._sqlx_migrations where success
         union all select 'logs', max(version), count(*), max(installed_on) from logs._sqlx_migrations where success
         union all select 'cache', max(version), count(*), max(installed_on) from cache._sqlx_migrations where success
         union all select 'router', max(version), count(*), max(installed_on) from router._sqlx_migrations where success
         union all select 'messaging', max(version), count(*), max(installed_on)
             from messaging._sqlx_migrations where success
         union all select 'dbadmin', max(version), count(*), max(installed_on) from dbadmin._sqlx_migrations where success",
    )
    .fetch_all(backup)
    .await
}
