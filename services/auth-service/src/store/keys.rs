//! The tables `signing_keys` and `secrets`.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor};

use crate::keys::{KeyRecord, NewKey, State};

/// Every key that is not removed.
pub(crate) async fn list(executor: impl PgExecutor<'_>) -> sqlx::Result<Vec<KeyRecord>> {
    sqlx::query_as(
        "select kid, algorithm, public_key, state, created_at, activated_at, retiring_at from signing_keys
         where state <> 'removed' order by created_at, kid",
    )
    .fetch_all(executor)
    .await
}

/// The sealed private part.
pub(crate) async fn sealed_private(executor: impl PgExecutor<'_>, kid: &str) -> sqlx::Result<Option<Vec<u8>>> {
    sqlx::query_scalar("select sealed_private from signing_keys where kid = $1").bind(kid).fetch_one(executor).await
}

pub(crate) async fn insert(
    connection: &mut PgConnection,
    key: &NewKey,
    sealed: &[u8],
    state: State,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query(
        "insert into signing_keys (kid, algorithm, public_key, sealed_private, state, created_at, activated_at)
         values ($1, $2, $3, $4, $5, $6, case when $5 = 'active' then $6 end)",
    )
    .bind(&key.kid)
    .bind(key.algorithm)
    .bind(&key.public_key)
    .bind(sealed)
    .bind(state)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(())
}

pub(crate) async fn activate(connection: &mut PgConnection, kid: &str, now: DateTime<Utc>) -> sqlx::Result<()> {
    sqlx::query("update signing_keys set state = 'active', activated_at = $2 where kid = $1 and state = 'published'")
        .bind(kid)
        .bind(now)
        .execute(connection)
        .await?;
    Ok(())
}

pub(crate) async fn retire(connection: &mut PgConnection, kid: &str, now: DateTime<Utc>) -> sqlx::Result<()> {
    sqlx::query("update signing_keys set state = 'retiring', retiring_at = $2 where kid = $1 and state = 'active'")
        .bind(kid)
        .bind(now)
        .execute(connection)
        .await?;
    Ok(())
}

/// Erases the private part; the public one stays as a record.
pub(crate) async fn remove(connection: &mut PgConnection, kid: &str, now: DateTime<Utc>) -> sqlx::Result<()> {
    sqlx::query(
        "update signing_keys set state = 'removed', removed_at = $2, sealed_private = null
         where kid = $1 and state = 'retiring'",
    )
    .bind(kid)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(())
}

/// Seals a private part again, under the sealing key that is active now.
pub(crate) async fn reseal(connection: &mut PgConnection, kid: &str, sealed: &[u8]) -> sqlx::Result<()> {
    sqlx::query("update signing_keys set sealed_private = $2 where kid = $1 and sealed_private is not null")
        .bind(kid)
        .bind(sealed)
        .execute(connection)
        .await?;
    Ok(())
}

pub(crate) async fn secret(executor: impl PgExecutor<'_>, name: &str) -> sqlx::Result<Option<Vec<u8>>> {
    sqlx::query_scalar("select sealed from secrets where name = $1").bind(name).fetch_optional(executor).await
}

pub(crate) async fn put_secret(connection: &mut PgConnection, name: &str, sealed: &[u8]) -> sqlx::Result<()> {
    sqlx::query(
        "insert into secrets (name, sealed) values ($1, $2)
         on conflict on constraint secrets_pkey do update set sealed = excluded.sealed",
    )
    .bind(name)
    .bind(sealed)
    .execute(connection)
    .await?;
    Ok(())
}
