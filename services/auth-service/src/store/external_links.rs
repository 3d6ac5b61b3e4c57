//! The table `external_links`.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{PgConnection, PgPool};
use utoipa::ToSchema;
use uuid::Uuid;

use super::is_storable;

/// A user's account at another provider.
#[derive(Debug, Clone, Serialize, sqlx::FromRow, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Link {
    pub provider: String,
    /// What the account is called there.
    pub label: String,
    pub linked_at: DateTime<Utc>,
    pub last_used_at: Option<DateTime<Utc>>,
}

pub(crate) async fn owner(pool: &PgPool, provider: &str, subject: &str) -> sqlx::Result<Option<Uuid>> {
    if !is_storable(subject) {
        return Ok(None);
    }
    sqlx::query_scalar("select user_id from external_links where provider = $1 and subject = $2")
        .bind(provider)
        .bind(subject)
        .fetch_optional(pool)
        .await
}

pub(crate) async fn used(pool: &PgPool, provider: &str, subject: &str, now: DateTime<Utc>) -> sqlx::Result<()> {
    sqlx::query("update external_links set last_used_at = $3 where provider = $1 and subject = $2")
        .bind(provider)
        .bind(subject)
        .bind(now)
        .execute(pool)
        .await?;
    Ok(())
}

/// False if the account is linked already, or the user has another one there.
pub(crate) async fn insert(
    connection: &mut PgConnection,
    provider: &str,
    subject: &str,
    user_id: Uuid,
    label: &str,
    now: DateTime<Utc>,
) -> sqlx::Result<bool> {
    let inserted = sqlx::query(
        "insert into external_links (provider, subject, user_id, label, linked_at)
         select $1, $2, user_id, $4, $5 from credentials where user_id = $3 and not disabled
         on conflict do nothing",
    )
    .bind(provider)
    .bind(subject)
    .bind(user_id)
    .bind(label)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(inserted.rows_affected() > 0)
}

pub(crate) async fn list(pool: &PgPool, user_id: Uuid) -> sqlx::Result<Vec<Link>> {
    sqlx::query_as(
        "select provider, label, linked_at, last_used_at from external_links where user_id = $1 order by provider",
    )
    .bind(user_id)
    .fetch_all(pool)
    .await
}

/// False if there was none.
pub(crate) async fn delete(connection: &mut PgConnection, user_id: Uuid, provider: &str) -> sqlx::Result<bool> {
    let deleted = sqlx::query("delete from external_links where user_id = $1 and provider = $2")
        .bind(user_id)
        .bind(provider)
        .execute(connection)
        .await?;
    Ok(deleted.rows_affected() > 0)
}
