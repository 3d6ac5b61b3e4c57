//! The table `clients`.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor, PgPool};

use super::is_storable;
use crate::clients::{Client, StoredSecrets};

/// What `insert` writes.
pub(crate) struct NewClient<'a> {
    pub client_id: &'a str,
    pub name: &'a str,
    pub secret_hash: &'a [u8],
    pub grant_types: &'a [String],
    pub permissions: &'a [String],
    pub epoch: i64,
    pub created_by: &'a str,
}

/// What the token endpoint needs.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(crate) struct Authentication {
    #[sqlx(flatten)]
    pub secrets: StoredSecrets,
    pub grant_types: Vec<String>,
    pub permissions: Vec<String>,
    pub epoch: i64,
}

pub(crate) async fn authentication(pool: &PgPool, client_id: &str) -> sqlx::Result<Option<Authentication>> {
    if !is_storable(client_id) {
        return Ok(None);
    }
    sqlx::query_as(
        "select secret_hash, previous_secret_hash, previous_valid_until, grant_types, permissions, epoch
         from clients where client_id = $1",
    )
    .bind(client_id)
    .fetch_optional(pool)
    .await
}

pub(crate) async fn find(executor: impl PgExecutor<'_>, client_id: &str) -> sqlx::Result<Option<Client>> {
    if !is_storable(client_id) {
        return Ok(None);
    }
    sqlx::query_as(
        "select client_id, name, grant_types, permissions, epoch, created_by, created_at, updated_at, secret_rotated_at
         from clients where client_id = $1",
    )
    .bind(client_id)
    .fetch_optional(executor)
    .await
}

/// The same, and nobody changes it until the transaction ends.
pub(crate) async fn find_for_update(connection: &mut PgConnection, client_id: &str) -> sqlx::Result<Option<Client>> {
    if !is_storable(client_id) {
        return Ok(None);
    }
    sqlx::query_as(
        "select client_id, name, grant_types, permissions, epoch, created_by, created_at, updated_at, secret_rotated_at
         from clients where client_id = $1 for update",
    )
    .bind(client_id)
    .fetch_optional(connection)
    .await
}

/// Newest first.
pub(crate) async fn list(
    pool: &PgPool,
    after: Option<(DateTime<Utc>, String)>,
    limit: i64,
) -> sqlx::Result<Vec<Client>> {
    let (created_at, client_id) = after.unzip();
    sqlx::query_as(
        "select client_id, name, grant_types, permissions, epoch, created_by, created_at, updated_at, secret_rotated_at
         from clients where $1::timestamptz is null or (created_at, client_id) < ($1, $2)
         order by created_at desc, client_id desc limit $3",
    )
    .bind(created_at)
    .bind(client_id)
    .bind(limit)
    .fetch_all(pool)
    .await
}

/// Fails on the constraint `clients_pkey` if the id is taken.
pub(crate) async fn insert(connection: &mut PgConnection, new: &NewClient<'_>) -> sqlx::Result<Client> {
    sqlx::query_as(
        "insert into clients (client_id, name, secret_hash, grant_types, permissions, epoch, created_by)
         values ($1, $2, $3, $4, $5, $6, $7)
         returning client_id, name, grant_types, permissions, epoch, created_by, created_at, updated_at, secret_rotated_at",
    )
    .bind(new.client_id)
    .bind(new.name)
    .bind(new.secret_hash)
    .bind(new.grant_types)
    .bind(new.permissions)
    .bind(new.epoch)
    .bind(new.created_by)
    .fetch_one(connection)
    .await
}

/// A new secret and epoch; the old secret is good until `previous_until`.
pub(crate) async fn rotate_secret(
    connection: &mut PgConnection,
    client_id: &str,
    secret_hash: &[u8],
    previous_until: Option<DateTime<Utc>>,
    epoch: i64,
) -> sqlx::Result<()> {
    sqlx::query(
        "update clients
         set previous_secret_hash = case when $3::timestamptz is null then null else secret_hash end,
             previous_valid_until = $3, secret_hash = $2, epoch = $4, secret_rotated_at = now(), updated_at = now()
         where client_id = $1",
    )
    .bind(client_id)
    .bind(secret_hash)
    .bind(previous_until)
    .bind(epoch)
    .execute(connection)
    .await?;
    Ok(())
}

pub(crate) async fn delete(connection: &mut PgConnection, client_id: &str) -> sqlx::Result<()> {
    sqlx::query("delete from clients where client_id = $1").bind(client_id).execute(connection).await?;
    Ok(())
}
