//! The tables `passkeys` and `used_challenges`, and the ways in that a person has.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor, PgPool};
use uuid::Uuid;

use crate::webauthn::NewCredential;

/// A row.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(crate) struct Passkey {
    pub id: Uuid,
    pub user_id: Uuid,
    pub credential_id: Vec<u8>,
    /// COSE.
    pub algorithm: i32,
    pub public_key: Vec<u8>,
    pub backup_eligible: bool,
    pub backed_up: bool,
    pub name: String,
    pub transports: Vec<String>,
    pub created_at: DateTime<Utc>,
    pub last_used_at: Option<DateTime<Utc>>,
}

pub(crate) async fn insert(
    connection: &mut PgConnection,
    id: Uuid,
    user_id: Uuid,
    new: &NewCredential,
    name: &str,
    transports: &[String],
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query(
        "insert into passkeys
             (id, user_id, credential_id, algorithm, public_key, sign_count, backup_eligible, backed_up, name, transports,
              created_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
    )
    .bind(id)
    .bind(user_id)
    .bind(&new.id)
    .bind(new.key.algorithm.cose())
    .bind(&new.key.bytes)
    .bind(i64::from(new.sign_count))
    .bind(new.backup_eligible)
    .bind(new.backed_up)
    .bind(name)
    .bind(transports)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(())
}

/// The passkey that an authenticator calls so.
pub(crate) async fn by_credential(pool: &PgPool, credential_id: &[u8]) -> sqlx::Result<Option<Passkey>> {
    sqlx::query_as(
        "select id, user_id, credential_id, algorithm, public_key, backup_eligible, backed_up, name, transports,
             created_at, last_used_at
         from passkeys where credential_id = $1",
    )
    .bind(credential_id)
    .fetch_optional(pool)
    .await
}

/// A person's, oldest first.
pub(crate) async fn list(executor: impl PgExecutor<'_>, user_id: Uuid) -> sqlx::Result<Vec<Passkey>> {
    sqlx::query_as(
        "select id, user_id, credential_id, algorithm, public_key, backup_eligible, backed_up, name, transports,
             created_at, last_used_at
         from passkeys where user_id = $1 order by created_at, id",
    )
    .bind(user_id)
    .fetch_all(executor)
    .await
}

/// Notes a use. `false` if the counter did not go on: somebody may have a copy. Authenticators that do not count say 0.
pub(crate) async fn used(
    pool: &PgPool,
    id: Uuid,
    sign_count: u32,
    backed_up: bool,
    now: DateTime<Utc>,
) -> sqlx::Result<bool> {
    let used = sqlx::query(
        "update passkeys set sign_count = $2, backed_up = $3, last_used_at = $4
         where id = $1 and (sign_count < $2 or (sign_count = 0 and $2 = 0))",
    )
    .bind(id)
    .bind(i64::from(sign_count))
    .bind(backed_up)
    .bind(now)
    .execute(pool)
    .await?;
    Ok(used.rows_affected() > 0)
}

pub(crate) async fn rename(pool: &PgPool, user_id: Uuid, id: Uuid, name: &str) -> sqlx::Result<bool> {
    let renamed = sqlx::query("update passkeys set name = $3 where id = $2 and user_id = $1")
        .bind(user_id)
        .bind(id)
        .bind(name)
        .execute(pool)
        .await?;
    Ok(renamed.rows_affected() > 0)
}

pub(crate) async fn delete(connection: &mut PgConnection, user_id: Uuid, id: Uuid) -> sqlx::Result<bool> {
    let deleted = sqlx::query("delete from passkeys where id = $2 and user_id = $1")
        .bind(user_id)
        .bind(id)
        .execute(connection)
        .await?;
    Ok(deleted.rows_affected() > 0)
}

/// Uses a challenge up; `false` if somebody did before.
pub(crate) async fn use_challenge(pool: &PgPool, hash: &[u8], expires_at: DateTime<Utc>) -> sqlx::Result<bool> {
    let used = sqlx::query(
        "insert into used_challenges (challenge_hash, expires_at) values ($1, $2)
         on conflict on constraint used_challenges_pkey do nothing",
    )
    .bind(hash)
    .bind(expires_at)
    .execute(pool)
    .await?;
    Ok(used.rows_affected() > 0)
}

/// How many ways a person has to log in: a password, passkeys, accounts at other providers. Holds the person's row until the end
/// of the transaction, so that of two removals at once one sees the other.
pub(crate) async fn ways_in(connection: &mut PgConnection, user_id: Uuid) -> sqlx::Result<i64> {
    let password: Option<bool> =
        sqlx::query_scalar("select password_phc is not null from credentials where user_id = $1 for update")
            .bind(user_id)
            .fetch_optional(&mut *connection)
            .await?;
    let others: i64 = sqlx::query_scalar(
        "select (select count(*) from passkeys where user_id = $1)
             + (select count(*) from external_links where user_id = $1)",
    )
    .bind(user_id)
    .fetch_one(connection)
    .await?;
    Ok(others + i64::from(password.unwrap_or_default()))
}
