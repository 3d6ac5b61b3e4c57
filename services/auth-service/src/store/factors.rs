//! The tables `totp`, `recovery_codes`, `passkeys`, `used_challenges`.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor, PgPool};
use uuid::Uuid;

/// What a person has.
#[derive(Debug, Clone, Copy, sqlx::FromRow)]
pub(crate) struct Held {
    pub totp: bool,
    pub passkeys: i64,
    pub recovery_codes: i64,
}

pub(crate) async fn held(executor: impl PgExecutor<'_>, user_id: Uuid) -> sqlx::Result<Held> {
    sqlx::query_as(
        "select exists (select 1 from totp where user_id = $1 and confirmed_at is not null) as totp,
             (select count(*) from passkeys where user_id = $1) as passkeys,
             (select count(*) from recovery_codes where user_id = $1) as recovery_codes",
    )
    .bind(user_id)
    .fetch_one(executor)
    .await
}

/// A person's secret, sealed, and the last step used.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(crate) struct Totp {
    pub sealed_secret: Vec<u8>,
    pub confirmed_at: Option<DateTime<Utc>>,
    pub last_step: i64,
}

/// Begins an enrolment, in the place of one that was never finished; says whether there is none that was.
pub(crate) async fn begin_totp(pool: &PgPool, user_id: Uuid, sealed_secret: &[u8]) -> sqlx::Result<bool> {
    let begun = sqlx::query(
        "insert into totp (user_id, sealed_secret) values ($1, $2)
         on conflict on constraint totp_pkey do update set sealed_secret = excluded.sealed_secret, last_step = 0,
             created_at = now() where totp.confirmed_at is null",
    )
    .bind(user_id)
    .bind(sealed_secret)
    .execute(pool)
    .await?;
    Ok(begun.rows_affected() > 0)
}

pub(crate) async fn totp(pool: &PgPool, user_id: Uuid) -> sqlx::Result<Option<Totp>> {
    sqlx::query_as("select sealed_secret, confirmed_at, last_step from totp where user_id = $1")
        .bind(user_id)
        .fetch_optional(pool)
        .await
}

/// Uses a step up; `false` if somebody was faster with it or a later one. `confirm`: it ends the enrolment.
pub(crate) async fn use_step(
    executor: impl PgExecutor<'_>,
    user_id: Uuid,
    step: i64,
    confirm: bool,
) -> sqlx::Result<bool> {
    let used = sqlx::query(
        "update totp set last_step = $2, confirmed_at = coalesce(confirmed_at, now())
         where user_id = $1 and last_step < $2 and (confirmed_at is null) = $3",
    )
    .bind(user_id)
    .bind(step)
    .bind(confirm)
    .execute(executor)
    .await?;
    Ok(used.rows_affected() > 0)
}

pub(crate) async fn delete_totp(connection: &mut PgConnection, user_id: Uuid) -> sqlx::Result<bool> {
    let deleted = sqlx::query("delete from totp where user_id = $1").bind(user_id).execute(connection).await?;
    Ok(deleted.rows_affected() > 0)
}

/// Replaces all recovery codes.
pub(crate) async fn replace_recovery_codes(
    connection: &mut PgConnection,
    user_id: Uuid,
    hashes: &[Vec<u8>],
) -> sqlx::Result<()> {
    sqlx::query("delete from recovery_codes where user_id = $1").bind(user_id).execute(&mut *connection).await?;
    sqlx::query("insert into recovery_codes (user_id, code_hash) select $1, unnest($2::bytea[])")
        .bind(user_id)
        .bind(hashes)
        .execute(connection)
        .await?;
    Ok(())
}

/// Uses a code up; says whether there was one.
pub(crate) async fn use_recovery_code(connection: &mut PgConnection, user_id: Uuid, hash: &[u8]) -> sqlx::Result<bool> {
    let used = sqlx::query("delete from recovery_codes where user_id = $1 and code_hash = $2")
        .bind(user_id)
        .bind(hash)
        .execute(connection)
        .await?;
    Ok(used.rows_affected() > 0)
}

/// Removes everything of a person's; says whether there was anything.
pub(crate) async fn delete_all(connection: &mut PgConnection, user_id: Uuid) -> sqlx::Result<bool> {
    let mut removed = delete_totp(&mut *connection, user_id).await?;
    for statement in ["delete from recovery_codes where user_id = $1", "delete from passkeys where user_id = $1"] {
        removed |= sqlx::query(statement).bind(user_id).execute(&mut *connection).await?.rows_affected() > 0;
    }
    Ok(removed)
}
