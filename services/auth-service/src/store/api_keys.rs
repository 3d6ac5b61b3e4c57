//! The table `api_keys`.

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use sqlx::{PgConnection, PgPool};
use utoipa::ToSchema;
use uuid::Uuid;

/// A row, as it is shown.
#[derive(Debug, Clone, Serialize, sqlx::FromRow, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ApiKey {
    pub id: Uuid,
    pub name: String,
    #[serde(skip)]
    pub owner: String,
    #[serde(skip)]
    pub owner_kind: String,
    /// At most these, and of these what the owner holds.
    pub permissions: Vec<String>,
    pub created_at: DateTime<Utc>,
    pub expires_at: Option<DateTime<Utc>>,
    /// To ten minutes.
    pub last_used_at: Option<DateTime<Utc>>,
    #[serde(skip)]
    pub secret_hash: Vec<u8>,
}

pub(crate) async fn insert(connection: &mut PgConnection, key: &ApiKey) -> sqlx::Result<()> {
    sqlx::query(
        "insert into api_keys (id, secret_hash, name, owner, owner_kind, permissions, created_at, expires_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(key.id)
    .bind(&key.secret_hash)
    .bind(&key.name)
    .bind(&key.owner)
    .bind(&key.owner_kind)
    .bind(&key.permissions)
    .bind(key.created_at)
    .bind(key.expires_at)
    .execute(connection)
    .await?;
    Ok(())
}

/// A key that was not revoked, whatever its expiry.
pub(crate) async fn find(pool: &PgPool, id: Uuid) -> sqlx::Result<Option<ApiKey>> {
    sqlx::query_as(
        "select id, name, owner, owner_kind, permissions, created_at, expires_at, last_used_at, secret_hash
         from api_keys where id = $1 and revoked_at is null",
    )
    .bind(id)
    .fetch_optional(pool)
    .await
}

pub(crate) async fn count(pool: &PgPool, owner: &str) -> sqlx::Result<i64> {
    sqlx::query_scalar("select count(*) from api_keys where owner = $1 and revoked_at is null")
        .bind(owner)
        .fetch_one(pool)
        .await
}

/// An owner's, newest first; those that have expired too, until they are revoked.
pub(crate) async fn list(pool: &PgPool, owner: &str, after: Option<Uuid>, limit: i64) -> sqlx::Result<Vec<ApiKey>> {
    sqlx::query_as(
        "select id, name, owner, owner_kind, permissions, created_at, expires_at, last_used_at, secret_hash
         from api_keys where owner = $1 and revoked_at is null and ($2::uuid is null or id < $2)
         order by id desc limit $3",
    )
    .bind(owner)
    .bind(after)
    .bind(limit)
    .fetch_all(pool)
    .await
}

pub(crate) async fn revoke(connection: &mut PgConnection, id: Uuid, now: DateTime<Utc>) -> sqlx::Result<bool> {
    let revoked = sqlx::query("update api_keys set revoked_at = $2 where id = $1 and revoked_at is null")
        .bind(id)
        .bind(now)
        .execute(connection)
        .await?;
    Ok(revoked.rows_affected() > 0)
}

/// Notes the use, once in ten minutes.
pub(crate) async fn used(pool: &PgPool, id: Uuid, now: DateTime<Utc>) -> sqlx::Result<()> {
    sqlx::query("update api_keys set last_used_at = $2 where id = $1 and (last_used_at is null or last_used_at < $3)")
        .bind(id)
        .bind(now)
        .bind(now - TimeDelta::minutes(10))
        .execute(pool)
        .await?;
    Ok(())
}
