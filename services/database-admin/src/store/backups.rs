//! The table of backups: who asked, how far it is, what became of it. The files are written elsewhere.

use chrono::{DateTime, Utc};
use kronos_common::page::{Cursor, Limit, Page};
use serde::Serialize;
use sqlx::{FromRow, PgPool};
use utoipa::ToSchema;
use uuid::Uuid;

/// After so long without a sign of life, a running backup's process is held for dead, in seconds.
pub const DEAD_AFTER_SECONDS: i32 = 10;

/// One backup.
#[derive(Debug, Clone, PartialEq, Eq, FromRow, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Backup)]
pub struct Row {
    pub id: Uuid,
    pub state: String,
    pub subject: String,
    pub client_id: String,
    pub started_at: DateTime<Utc>,
    pub finished_at: Option<DateTime<Utc>>,
    pub tables_done: i32,
    pub tables_total: i32,
    pub bytes: i64,
    pub sha256: Option<String>,
    pub file: Option<String>,
    pub sealed: bool,
    pub failure: Option<String>,
}

/// Begins a backup; the constraint `backups_one_running` refuses a second one.
pub async fn begin(pool: &PgPool, id: Uuid, subject: &str, client_id: &str, sealed: bool) -> sqlx::Result<()> {
    sqlx::query("insert into backups (id, subject, client_id, sealed) values ($1, $2, $3, $4)")
        .bind(id)
        .bind(subject)
        .bind(client_id)
        .bind(sealed)
        .execute(pool)
        .await?;
    Ok(())
}

/// Moves a running backup on. False if it does not run any more: another process holds this one for dead.
pub async fn progress(pool: &PgPool, id: Uuid, done: i32, total: i32, bytes: i64) -> sqlx::Result<bool> {
    let updated = sqlx::query(
        "update backups set tables_done = $2, tables_total = $3, bytes = $4, heartbeat_at = now()
         where id = $1 and state = 'running'",
    )
    .bind(id)
    .bind(done)
    .bind(total)
    .bind(bytes)
    .execute(pool)
    .await?;
    Ok(updated.rows_affected() == 1)
}

/// Ends a backup well. False if it did not run any more.
pub async fn complete(
    pool: &PgPool,
    id: Uuid,
    tables: i32,
    bytes: i64,
    sha256: &str,
    file: &str,
) -> sqlx::Result<bool> {
    let updated = sqlx::query(
        "update backups set state = 'completed', finished_at = now(), tables_done = $2, tables_total = $2, bytes = $3,
             sha256 = $4, file = $5
         where id = $1 and state = 'running'",
    )
    .bind(id)
    .bind(tables)
    .bind(bytes)
    .bind(sha256)
    .bind(file)
    .execute(pool)
    .await?;
    Ok(updated.rows_affected() == 1)
}

/// Ends a backup badly.
pub async fn fail(pool: &PgPool, id: Uuid, failure: &str) -> sqlx::Result<()> {
    sqlx::query(
        "update backups set state = 'failed', finished_at = now(), failure = $2 where id = $1 and state = 'running'",
    )
    .bind(id)
    .bind(failure)
    .execute(pool)
    .await?;
    Ok(())
}

/// Marks the running backup failed if its process has given no sign of life; says which that was.
pub async fn fail_dead(pool: &PgPool) -> sqlx::Result<Vec<Uuid>> {
    sqlx::query_scalar(
        "update backups set state = 'failed', finished_at = now(), failure = 'the process that made it ended'
         where state = 'running' and heartbeat_at < now() - make_interval(secs => $1)
         returning id",
    )
    .bind(f64::from(DEAD_AFTER_SECONDS))
    .fetch_all(pool)
    .await
}

/// One backup.
pub async fn get(pool: &PgPool, id: Uuid) -> sqlx::Result<Option<Row>> {
    sqlx::query_as(
        "select id, state, subject, client_id, started_at, finished_at, tables_done, tables_total, bytes, sha256, file,
             sealed, failure
         from backups where id = $1",
    )
    .bind(id)
    .fetch_optional(pool)
    .await
}

/// The backups, the newest first; a page begins after `after`.
pub async fn list(pool: &PgPool, limit: Limit, after: Option<Uuid>) -> sqlx::Result<Page<Row>> {
    let rows = sqlx::query_as::<_, Row>(
        "select id, state, subject, client_id, started_at, finished_at, tables_done, tables_total, bytes, sha256, file,
             sealed, failure
         from backups where $1::uuid is null or id < $1 order by id desc limit $2",
    )
    .bind(after)
    .bind(limit.fetch())
    .fetch_all(pool)
    .await?;
    Ok(Page::new(rows, limit, |row| row.id))
}

/// The id that a cursor of [`list`] stands for.
pub fn position(cursor: Option<&Cursor>) -> kronos_common::problem::Result<Option<Uuid>> {
    cursor.map(Cursor::decode).transpose()
}

/// The newest completed backup.
pub async fn last_good(pool: &PgPool) -> sqlx::Result<Option<Row>> {
    sqlx::query_as(
        "select id, state, subject, client_id, started_at, finished_at, tables_done, tables_total, bytes, sha256, file,
             sealed, failure
         from backups where state = 'completed' order by id desc limit 1",
    )
    .fetch_optional(pool)
    .await
}

/// How many tables the seven schemas have: what a backup goes through.
pub async fn count_tables(pool: &PgPool, schemas: &[&str]) -> sqlx::Result<i64> {
    sqlx::query_scalar(
        "select count(*) from pg_class c join pg_namespace n on n.oid = c.relnamespace
         where n.nspname = any($1) and c.relkind = 'r'",
    )
    .bind(schemas)
    .fetch_one(pool)
    .await
}
