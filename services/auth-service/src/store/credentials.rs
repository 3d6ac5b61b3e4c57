//! The table `credentials`.

use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::is_storable;

/// A row.
#[derive(Clone, sqlx::FromRow)]
pub(crate) struct Credential {
    pub user_id: Uuid,
    pub password_phc: Option<String>,
    pub disabled: bool,
}

/// What `put` writes. Without a hash the stored one stays.
pub(crate) struct NewCredential<'a> {
    pub user_id: Uuid,
    pub username: &'a str,
    pub username_key: &'a str,
    pub email: &'a str,
    pub email_key: &'a str,
    pub password_phc: Option<&'a str>,
}

pub(crate) async fn by_username(pool: &PgPool, username_key: &str) -> sqlx::Result<Option<Credential>> {
    if !is_storable(username_key) {
        return Ok(None);
    }
    sqlx::query_as("select user_id, password_phc, disabled from credentials where username_key = $1")
        .bind(username_key)
        .fetch_optional(pool)
        .await
}

pub(crate) async fn by_user(pool: &PgPool, user_id: Uuid) -> sqlx::Result<Option<Credential>> {
    sqlx::query_as("select user_id, password_phc, disabled from credentials where user_id = $1")
        .bind(user_id)
        .fetch_optional(pool)
        .await
}

/// The person's address, and whether they have shown that it is theirs.
pub(crate) async fn email(pool: &PgPool, user_id: Uuid) -> sqlx::Result<Option<(String, bool)>> {
    sqlx::query_as("select email, email_verified_at is not null from credentials where user_id = $1")
        .bind(user_id)
        .fetch_optional(pool)
        .await
}

/// Removes other users' credentials of that name; says whose.
pub(crate) async fn displace(
    connection: &mut PgConnection,
    user_id: Uuid,
    username_key: &str,
) -> sqlx::Result<Vec<Uuid>> {
    sqlx::query_scalar("delete from credentials where username_key = $1 and user_id <> $2 returning user_id")
        .bind(username_key)
        .bind(user_id)
        .fetch_all(connection)
        .await
}

pub(crate) async fn put(connection: &mut PgConnection, new: &NewCredential<'_>) -> sqlx::Result<()> {
    sqlx::query(
        "insert into credentials (user_id, username, username_key, email, password_phc, password_changed_at, email_key)
         values ($1, $2, $3, $4, $5, case when $5 is null then null else now() end, $6)
         on conflict on constraint credentials_pkey do update set
             username = excluded.username, username_key = excluded.username_key, email = excluded.email,
             password_phc = coalesce(excluded.password_phc, credentials.password_phc),
             password_changed_at = coalesce(excluded.password_changed_at, credentials.password_changed_at),
             updated_at = now(), email_key = excluded.email_key,
             email_verified_at = case when credentials.email_key = excluded.email_key then credentials.email_verified_at end",
    )
    .bind(new.user_id)
    .bind(new.username)
    .bind(new.username_key)
    .bind(new.email)
    .bind(new.password_phc)
    .bind(new.email_key)
    .execute(connection)
    .await?;
    Ok(())
}

/// Until there is a new one, nobody logs in with a password.
pub(crate) async fn forget_password(connection: &mut PgConnection, user_id: Uuid) -> sqlx::Result<()> {
    sqlx::query("update credentials set password_phc = null, updated_at = now() where user_id = $1")
        .bind(user_id)
        .execute(connection)
        .await?;
    Ok(())
}

/// Stores the same password under new parameters, unless it was changed meanwhile.
pub(crate) async fn rehash(pool: &PgPool, user_id: Uuid, old: &str, new: &str) -> sqlx::Result<()> {
    sqlx::query("update credentials set password_phc = $3 where user_id = $1 and password_phc = $2")
        .bind(user_id)
        .bind(old)
        .bind(new)
        .execute(pool)
        .await?;
    Ok(())
}

pub(crate) async fn set_disabled(connection: &mut PgConnection, user_id: Uuid, disabled: bool) -> sqlx::Result<()> {
    sqlx::query("update credentials set disabled = $2, updated_at = now() where user_id = $1 and disabled <> $2")
        .bind(user_id)
        .bind(disabled)
        .execute(connection)
        .await?;
    Ok(())
}

/// Whether there was one.
pub(crate) async fn delete(connection: &mut PgConnection, user_id: Uuid) -> sqlx::Result<bool> {
    let deleted = sqlx::query("delete from credentials where user_id = $1").bind(user_id).execute(connection).await?;
    Ok(deleted.rows_affected() > 0)
}
