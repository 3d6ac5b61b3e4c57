//! The tables `registrations` and `invitations`.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{PgConnection, PgPool};
use utoipa::ToSchema;
use uuid::Uuid;

/// A person to be.
#[derive(Clone, sqlx::FromRow)]
pub(crate) struct Registration {
    pub id: Uuid,
    pub username: String,
    pub username_key: String,
    pub email: String,
    pub email_key: String,
    pub display_name: String,
    pub password_phc: String,
    pub token_hash: Option<Vec<u8>>,
    pub language: String,
    pub created_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
}

/// Stores it in the place of an expired one of that name; `false` if the name is taken.
pub(crate) async fn insert(connection: &mut PgConnection, new: &Registration) -> sqlx::Result<bool> {
    sqlx::query("delete from registrations where username_key = $1 and expires_at < $2")
        .bind(&new.username_key)
        .bind(new.created_at)
        .execute(&mut *connection)
        .await?;
    let inserted = sqlx::query(
        "insert into registrations (id, username, username_key, email, email_key, display_name, password_phc, token_hash,
             language, created_at, expires_at)
         select $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11
         where not exists (select 1 from credentials where username_key = $3)
         on conflict on constraint registrations_username_key do nothing",
    )
    .bind(new.id)
    .bind(&new.username)
    .bind(&new.username_key)
    .bind(&new.email)
    .bind(&new.email_key)
    .bind(&new.display_name)
    .bind(&new.password_phc)
    .bind(&new.token_hash)
    .bind(&new.language)
    .bind(new.created_at)
    .bind(new.expires_at)
    .execute(connection)
    .await?;
    Ok(inserted.rows_affected() > 0)
}

/// Whether an account has the address.
pub(crate) async fn has_account(connection: &mut PgConnection, email_key: &str) -> sqlx::Result<bool> {
    sqlx::query_scalar("select exists (select 1 from credentials where email_key = $1)")
        .bind(email_key)
        .fetch_one(connection)
        .await
}

pub(crate) async fn by_token(
    pool: &PgPool,
    token_hash: &[u8],
    now: DateTime<Utc>,
) -> sqlx::Result<Option<Registration>> {
    sqlx::query_as(
        "select id, username, username_key, email, email_key, display_name, password_phc, token_hash, language,
             created_at, expires_at
         from registrations where token_hash = $1 and expires_at > $2",
    )
    .bind(token_hash)
    .bind(now)
    .fetch_optional(pool)
    .await
}

/// The newest that waits for this address.
pub(crate) async fn by_email(
    connection: &mut PgConnection,
    email_key: &str,
    now: DateTime<Utc>,
) -> sqlx::Result<Option<Registration>> {
    sqlx::query_as(
        "select id, username, username_key, email, email_key, display_name, password_phc, token_hash, language,
             created_at, expires_at
         from registrations where email_key = $1 and expires_at > $2 and token_hash is not null
         order by id desc limit 1",
    )
    .bind(email_key)
    .bind(now)
    .fetch_optional(connection)
    .await
}

pub(crate) async fn replace_token(connection: &mut PgConnection, id: Uuid, token_hash: &[u8]) -> sqlx::Result<()> {
    sqlx::query("update registrations set token_hash = $2 where id = $1")
        .bind(id)
        .bind(token_hash)
        .execute(connection)
        .await?;
    Ok(())
}

/// Whether it was still there.
pub(crate) async fn delete(connection: &mut PgConnection, id: Uuid) -> sqlx::Result<bool> {
    let deleted = sqlx::query("delete from registrations where id = $1").bind(id).execute(connection).await?;
    Ok(deleted.rows_affected() > 0)
}

pub(crate) async fn forget_old(pool: &PgPool, now: DateTime<Utc>) -> sqlx::Result<()> {
    sqlx::query("delete from registrations where expires_at < $1").bind(now).execute(pool).await?;
    Ok(())
}

/// An invitation, as it is shown.
#[derive(Debug, Clone, Serialize, sqlx::FromRow, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Invitation {
    pub id: Uuid,
    /// The address that it is for, and was mailed to.
    pub email: Option<String>,
    pub created_by: String,
    pub created_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
    pub used_at: Option<DateTime<Utc>>,
}

pub(crate) async fn invite(connection: &mut PgConnection, new: &Invitation, code_hash: &[u8]) -> sqlx::Result<()> {
    sqlx::query(
        "insert into invitations (id, code_hash, email, created_by, created_at, expires_at)
         values ($1, $2, $3, $4, $5, $6)",
    )
    .bind(new.id)
    .bind(code_hash)
    .bind(&new.email)
    .bind(&new.created_by)
    .bind(new.created_at)
    .bind(new.expires_at)
    .execute(connection)
    .await?;
    Ok(())
}

/// Uses an invitation up, once, for an address that it is for; says whether it was for that one alone.
pub(crate) async fn use_invitation(
    connection: &mut PgConnection,
    code_hash: &[u8],
    email: &str,
    now: DateTime<Utc>,
) -> sqlx::Result<Option<bool>> {
    sqlx::query_scalar(
        "update invitations set used_at = $3
         where code_hash = $1 and used_at is null and expires_at > $3 and (email is null or lower(email) = lower($2))
         returning email is not null",
    )
    .bind(code_hash)
    .bind(email)
    .bind(now)
    .fetch_optional(connection)
    .await
}

pub(crate) async fn list(pool: &PgPool, after: Option<Uuid>, limit: i64) -> sqlx::Result<Vec<Invitation>> {
    sqlx::query_as(
        "select id, email, created_by, created_at, expires_at, used_at from invitations
         where $1::uuid is null or id < $1 order by id desc limit $2",
    )
    .bind(after)
    .bind(limit)
    .fetch_all(pool)
    .await
}

/// Withdraws one that was not used.
pub(crate) async fn withdraw(connection: &mut PgConnection, id: Uuid) -> sqlx::Result<bool> {
    let deleted =
        sqlx::query("delete from invitations where id = $1 and used_at is null").bind(id).execute(connection).await?;
    Ok(deleted.rows_affected() > 0)
}
