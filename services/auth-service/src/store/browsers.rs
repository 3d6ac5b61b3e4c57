//! The tables `browser_sessions` and `consents`.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor, PgPool};
use uuid::Uuid;

/// A browser that is logged in.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(crate) struct BrowserSession {
    pub session_id: Uuid,
    pub user_id: Uuid,
    pub username: String,
    pub auth_time: DateTime<Utc>,
    pub amr: Vec<String>,
}

/// The living session of a cookie.
pub(crate) async fn find(pool: &PgPool, key_hash: &[u8], now: DateTime<Utc>) -> sqlx::Result<Option<BrowserSession>> {
    sqlx::query_as(
        "select browser_sessions.session_id, sessions.user_id, credentials.username, browser_sessions.auth_time,
             browser_sessions.amr
         from browser_sessions
         join sessions on sessions.id = browser_sessions.session_id
         join credentials on credentials.user_id = sessions.user_id
         where browser_sessions.key_hash = $1 and sessions.ended_at is null and not credentials.disabled
             and sessions.expires_at > $2 and sessions.idle_expires_at > $2",
    )
    .bind(key_hash)
    .bind(now)
    .fetch_optional(pool)
    .await
}

pub(crate) async fn insert(
    executor: impl PgExecutor<'_>,
    session_id: Uuid,
    key_hash: &[u8],
    auth_time: DateTime<Utc>,
    amr: &[&str],
) -> sqlx::Result<()> {
    sqlx::query("insert into browser_sessions (session_id, key_hash, auth_time, amr) values ($1, $2, $3, $4)")
        .bind(session_id)
        .bind(key_hash)
        .bind(auth_time)
        .bind(amr)
        .execute(executor)
        .await?;
    Ok(())
}

/// The session was used: its idle time begins again.
pub(crate) async fn touch(
    executor: impl PgExecutor<'_>,
    session_id: Uuid,
    now: DateTime<Utc>,
    idle_expires_at: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query(
        "update sessions set last_used_at = $2, idle_expires_at = least(expires_at, $3) where id = $1 and ended_at is null",
    )
    .bind(session_id)
    .bind(now)
    .bind(idle_expires_at)
    .execute(executor)
    .await?;
    Ok(())
}

/// What the user lets the client do.
pub(crate) async fn consent(pool: &PgPool, user_id: Uuid, client_id: &str) -> sqlx::Result<Option<Vec<String>>> {
    sqlx::query_scalar("select scope from consents where user_id = $1 and client_id = $2")
        .bind(user_id)
        .bind(client_id)
        .fetch_optional(pool)
        .await
}

/// Adds to it.
pub(crate) async fn grant(
    connection: &mut PgConnection,
    user_id: Uuid,
    client_id: &str,
    scope: &[String],
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query(
        "insert into consents (user_id, client_id, scope, granted_at) values ($1, $2, $3, $4)
         on conflict on constraint consents_pkey do update set
             scope = array(select distinct unnest(consents.scope || excluded.scope)), granted_at = excluded.granted_at",
    )
    .bind(user_id)
    .bind(client_id)
    .bind(scope)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(())
}

/// The same person logged in again: what their clients got lives on under the new session.
pub(crate) async fn adopt(executor: impl PgExecutor<'_>, old: Uuid, new: Uuid) -> sqlx::Result<()> {
    sqlx::query(
        "update sessions set parent_id = $2
         where parent_id = $1 and ended_at is null and user_id = (select user_id from sessions where id = $2)",
    )
    .bind(old)
    .bind(new)
    .execute(executor)
    .await?;
    Ok(())
}

/// Removes what a user let clients do, and the links to accounts elsewhere.
pub(crate) async fn forget_user(connection: &mut PgConnection, user_id: Uuid) -> sqlx::Result<()> {
    sqlx::query("delete from consents where user_id = $1").bind(user_id).execute(&mut *connection).await?;
    sqlx::query("delete from external_links where user_id = $1").bind(user_id).execute(connection).await?;
    Ok(())
}
