//! The record of every query that came in.

use sqlx::PgPool;
use uuid::Uuid;

/// What became of a query.
#[derive(Debug, Clone)]
pub struct Entry<'a> {
    /// Who asked: the token's subject.
    pub subject: &'a str,
    /// Through which client.
    pub client_id: &'a str,
    /// `answered`, `cached`, `refused` or `failed`.
    pub outcome: &'static str,
    /// The rule that refused it, or the SQLSTATE with which it failed.
    pub rule: Option<&'a str>,
    /// Where, from 1.
    pub line: Option<i32>,
    /// Where, from 1, in characters.
    pub column: Option<i32>,
    /// The caller's text.
    pub sql: &'a str,
    /// SHA-256 of all of it, in hex.
    pub sql_sha256: String,
    /// Rows of the answer.
    pub row_count: Option<i32>,
    /// How long it took, in milliseconds.
    pub duration_ms: i32,
}

/// Longest text that is kept, in characters.
const KEPT_CHARACTERS: usize = 4_000;

/// Writes one entry.
pub async fn insert(pool: &PgPool, entry: &Entry<'_>) -> sqlx::Result<()> {
    // PostgreSQL's text has no zero character.
    let sql: String = entry.sql.chars().take(KEPT_CHARACTERS).map(|c| if c == '\0' { '\u{fffd}' } else { c }).collect();
    sqlx::query(
        "insert into query_audit (id, subject, client_id, outcome, rule, line, column_number, sql, sql_sha256, row_count,
             duration_ms)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
    )
    .bind(Uuid::now_v7())
    .bind(entry.subject)
    .bind(entry.client_id)
    .bind(entry.outcome)
    .bind(entry.rule)
    .bind(entry.line)
    .bind(entry.column)
    .bind(sql)
    .bind(&entry.sql_sha256)
    .bind(entry.row_count)
    .bind(entry.duration_ms)
    .execute(pool)
    .await?;
    Ok(())
}

/// Deletes what is older than `days`; says how many.
pub async fn delete_old(pool: &PgPool, days: u16) -> sqlx::Result<u64> {
    let deleted = sqlx::query("delete from query_audit where at < now() - make_interval(days => $1)")
        .bind(i32::from(days))
        .execute(pool)
        .await?;
    Ok(deleted.rows_affected())
}
