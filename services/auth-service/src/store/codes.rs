//! The tables `authorization_codes` and `pushed_requests`. Single use is the row's lock: the second of two waits, and finds the
//! code used.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

/// What a code stands for.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(crate) struct Code {
    pub client_id: String,
    pub user_id: Uuid,
    pub browser_session_id: Uuid,
    pub redirect_uri: String,
    pub code_challenge: Option<String>,
    pub scope: Vec<String>,
    pub resources: Vec<String>,
    pub nonce: Option<String>,
    pub auth_time: DateTime<Utc>,
    pub amr: Vec<String>,
    pub dpop_jkt: Option<String>,
    pub expires_at: DateTime<Utc>,
    pub used_at: Option<DateTime<Utc>>,
    pub session_id: Option<Uuid>,
}

pub(crate) async fn insert(
    connection: &mut PgConnection,
    code_hash: &[u8],
    code: &Code,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query(
        "insert into authorization_codes
             (code_hash, client_id, user_id, browser_session_id, redirect_uri, code_challenge, scope, resources, nonce,
              auth_time, amr, dpop_jkt, created_at, expires_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
    )
    .bind(code_hash)
    .bind(&code.client_id)
    .bind(code.user_id)
    .bind(code.browser_session_id)
    .bind(&code.redirect_uri)
    .bind(&code.code_challenge)
    .bind(&code.scope)
    .bind(&code.resources)
    .bind(&code.nonce)
    .bind(code.auth_time)
    .bind(&code.amr)
    .bind(&code.dpop_jkt)
    .bind(now)
    .bind(code.expires_at)
    .execute(connection)
    .await?;
    Ok(())
}

/// The code, and nobody else reads it so until the transaction ends.
pub(crate) async fn take(connection: &mut PgConnection, code_hash: &[u8]) -> sqlx::Result<Option<Code>> {
    sqlx::query_as(
        "select client_id, user_id, browser_session_id, redirect_uri, code_challenge, scope, resources, nonce, auth_time,
             amr, dpop_jkt, expires_at, used_at, session_id
         from authorization_codes where code_hash = $1 for update",
    )
    .bind(code_hash)
    .fetch_optional(connection)
    .await
}

/// The code is used; what it brought, if anything, is remembered.
pub(crate) async fn mark_used(
    connection: &mut PgConnection,
    code_hash: &[u8],
    session_id: Option<Uuid>,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query("update authorization_codes set used_at = $3, session_id = $2 where code_hash = $1")
        .bind(code_hash)
        .bind(session_id)
        .bind(now)
        .execute(connection)
        .await?;
    Ok(())
}

pub(crate) async fn push(
    pool: &PgPool,
    reference_hash: &[u8],
    client_id: &str,
    parameters: &str,
    expires_at: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query(
        "insert into pushed_requests (reference_hash, client_id, parameters, expires_at) values ($1, $2, $3, $4)",
    )
    .bind(reference_hash)
    .bind(client_id)
    .bind(parameters)
    .bind(expires_at)
    .execute(pool)
    .await?;
    Ok(())
}

/// The parameters of a pushed request that is good.
pub(crate) async fn pushed(
    pool: &PgPool,
    reference_hash: &[u8],
    client_id: &str,
    now: DateTime<Utc>,
) -> sqlx::Result<Option<String>> {
    sqlx::query_scalar(
        "select parameters from pushed_requests
         where reference_hash = $1 and client_id = $2 and used_at is null and expires_at > $3",
    )
    .bind(reference_hash)
    .bind(client_id)
    .bind(now)
    .fetch_optional(pool)
    .await
}

/// Uses a pushed request up; says whether it was still there.
pub(crate) async fn use_pushed(
    connection: &mut PgConnection,
    reference_hash: &[u8],
    now: DateTime<Utc>,
) -> sqlx::Result<bool> {
    let used = sqlx::query("update pushed_requests set used_at = $2 where reference_hash = $1 and used_at is null")
        .bind(reference_hash)
        .bind(now)
        .execute(connection)
        .await?;
    Ok(used.rows_affected() > 0)
}

/// Gives a pushed request that somebody is logging in for the time that this takes.
pub(crate) async fn keep_pushed(pool: &PgPool, reference_hash: &[u8], until: DateTime<Utc>) -> sqlx::Result<()> {
    sqlx::query("update pushed_requests set expires_at = greatest(expires_at, $2) where reference_hash = $1")
        .bind(reference_hash)
        .bind(until)
        .execute(pool)
        .await?;
    Ok(())
}

/// Removes what nobody needs any more; says how many rows.
pub(crate) async fn forget(pool: &PgPool, before: DateTime<Utc>) -> sqlx::Result<u64> {
    let mut gone = 0;
    for statement in [
        "delete from authorization_codes where expires_at < $1",
        "delete from pushed_requests where expires_at < $1",
        "delete from device_codes where expires_at < $1",
    ] {
        gone += sqlx::query(statement).bind(before).execute(pool).await?.rows_affected();
    }
    Ok(gone)
}
