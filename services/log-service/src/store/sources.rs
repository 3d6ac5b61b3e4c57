//! The table `sources`: other systems that hold lines.

use chrono::{DateTime, Utc};
use sqlx::PgPool;

/// A row.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct SourceRow {
    pub name: String,
    pub url: String,
    /// Sealed.
    pub token: Option<Vec<u8>>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// Adds or replaces one; true: it is new.
///
/// # Errors
/// Of the database.
pub async fn put(pool: &PgPool, name: &str, url: &str, token: Option<&[u8]>) -> sqlx::Result<(SourceRow, bool)> {
    #[derive(sqlx::FromRow)]
    struct Put {
        #[sqlx(flatten)]
        row: SourceRow,
        inserted: bool,
    }
    let put: Put = sqlx::query_as(
        "insert into sources (name, url, token) values ($1, $2, $3)
         on conflict on constraint sources_pkey do update set url = $2, token = $3, updated_at = now()
         returning name, url, token, created_at, updated_at, xmax = 0 as inserted",
    )
    .bind(name)
    .bind(url)
    .bind(token)
    .fetch_one(pool)
    .await?;
    Ok((put.row, put.inserted))
}

/// One, by its name.
///
/// # Errors
/// Of the database.
pub async fn get(pool: &PgPool, name: &str) -> sqlx::Result<Option<SourceRow>> {
    sqlx::query_as("select name, url, token, created_at, updated_at from sources where name = $1")
        .bind(name)
        .fetch_optional(pool)
        .await
}

/// All, by name.
///
/// # Errors
/// Of the database.
pub async fn all(pool: &PgPool) -> sqlx::Result<Vec<SourceRow>> {
    sqlx::query_as("select name, url, token, created_at, updated_at from sources order by name").fetch_all(pool).await
}

/// Removes one; false: there was none.
///
/// # Errors
/// Of the database.
pub async fn delete(pool: &PgPool, name: &str) -> sqlx::Result<bool> {
    let done = sqlx::query("delete from sources where name = $1").bind(name).execute(pool).await?;
    Ok(done.rows_affected() > 0)
}
