//! The tables `mail_requests` and `links`, and the addresses in `credentials`.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

/// A mail that somebody asked for.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(crate) struct MailRequest {
    pub kind: String,
    pub email_key: String,
    pub language: String,
}

/// An account that an address leads to.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(crate) struct Account {
    pub user_id: Uuid,
    pub username: String,
    pub email: String,
    pub email_key: Option<String>,
    pub email_verified_at: Option<DateTime<Utc>>,
    pub disabled: bool,
}

pub(crate) async fn request(pool: &PgPool, id: Uuid, kind: &str, email_key: &str, language: &str) -> sqlx::Result<()> {
    sqlx::query("insert into mail_requests (id, kind, email_key, language) values ($1, $2, $3, $4)")
        .bind(id)
        .bind(kind)
        .bind(email_key)
        .bind(language)
        .execute(pool)
        .await?;
    Ok(())
}

/// Takes the oldest request; it is gone with the caller's transaction.
pub(crate) async fn take_request(connection: &mut PgConnection) -> sqlx::Result<Option<MailRequest>> {
    sqlx::query_as(
        "delete from mail_requests where id =
             (select id from mail_requests order by id limit 1 for update skip locked)
         returning kind, email_key, language",
    )
    .fetch_optional(connection)
    .await
}

pub(crate) async fn accounts_of(connection: &mut PgConnection, email_key: &str) -> sqlx::Result<Vec<Account>> {
    sqlx::query_as(
        "select user_id, username, email, email_key, email_verified_at, disabled from credentials
         where email_key = $1 order by user_id limit 5",
    )
    .bind(email_key)
    .fetch_all(connection)
    .await
}

pub(crate) async fn account(connection: &mut PgConnection, user_id: Uuid) -> sqlx::Result<Option<Account>> {
    sqlx::query_as(
        "select user_id, username, email, email_key, email_verified_at, disabled from credentials where user_id = $1",
    )
    .bind(user_id)
    .fetch_optional(connection)
    .await
}

/// Stores a link in the place of others of its purpose.
pub(crate) async fn put(
    connection: &mut PgConnection,
    hash: &[u8],
    purpose: &str,
    account: &Account,
    expires_at: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query("delete from links where user_id = $1 and purpose = $2")
        .bind(account.user_id)
        .bind(purpose)
        .execute(&mut *connection)
        .await?;
    sqlx::query(
        "insert into links (token_hash, purpose, user_id, email_key, expires_at)
         values ($1, $2, $3, coalesce($4, ''), $5)",
    )
    .bind(hash)
    .bind(purpose)
    .bind(account.user_id)
    .bind(&account.email_key)
    .bind(expires_at)
    .execute(connection)
    .await?;
    Ok(())
}

/// Whose link it is, without using it.
pub(crate) async fn owner(pool: &PgPool, hash: &[u8], purpose: &str, now: DateTime<Utc>) -> sqlx::Result<Option<Uuid>> {
    sqlx::query_scalar(
        "select links.user_id from links join credentials using (user_id)
         where token_hash = $1 and purpose = $2 and expires_at > $3 and not disabled
             and links.email_key = coalesce(credentials.email_key, '')",
    )
    .bind(hash)
    .bind(purpose)
    .bind(now)
    .fetch_optional(pool)
    .await
}

/// Uses a link up; says whether this was the one who did.
pub(crate) async fn spend(connection: &mut PgConnection, hash: &[u8], purpose: &str) -> sqlx::Result<bool> {
    let spent = sqlx::query("delete from links where token_hash = $1 and purpose = $2")
        .bind(hash)
        .bind(purpose)
        .execute(connection)
        .await?;
    Ok(spent.rows_affected() > 0)
}

/// Ends a user's links of a purpose.
pub(crate) async fn withdraw(connection: &mut PgConnection, user_id: Uuid, purpose: &str) -> sqlx::Result<()> {
    sqlx::query("delete from links where user_id = $1 and purpose = $2")
        .bind(user_id)
        .bind(purpose)
        .execute(connection)
        .await?;
    Ok(())
}

pub(crate) async fn set_password(connection: &mut PgConnection, user_id: Uuid, phc: &str) -> sqlx::Result<bool> {
    let set = sqlx::query(
        "update credentials set password_phc = $2, password_changed_at = now(), updated_at = now()
         where user_id = $1 and not disabled",
    )
    .bind(user_id)
    .bind(phc)
    .execute(connection)
    .await?;
    Ok(set.rows_affected() > 0)
}

/// The address is the person's: a link that was sent there came back.
pub(crate) async fn mark_verified(connection: &mut PgConnection, user_id: Uuid) -> sqlx::Result<()> {
    sqlx::query("update credentials set email_verified_at = coalesce(email_verified_at, now()) where user_id = $1")
        .bind(user_id)
        .execute(connection)
        .await?;
    Ok(())
}

pub(crate) async fn forget_old(pool: &PgPool, now: DateTime<Utc>) -> sqlx::Result<()> {
    sqlx::query("delete from links where expires_at < $1").bind(now).execute(pool).await?;
    Ok(())
}
