//! The table `sessions`. A refresh is one compare-and-set on one row; logout, reuse and expiry take the same row.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor, PgPool};
use uuid::Uuid;

/// A row.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(crate) struct Session {
    pub id: Uuid,
    pub user_id: Uuid,
    pub client_id: String,
    pub device: Option<String>,
    pub created_at: DateTime<Utc>,
    pub last_used_at: DateTime<Utc>,
    pub idle_expires_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
    pub network: Option<String>,
    pub name: Option<String>,
    pub amr: Vec<String>,
}

/// A login.
pub(crate) struct NewSession<'a> {
    pub id: Uuid,
    pub user_id: Uuid,
    pub client_id: &'a str,
    pub device: Option<&'a str>,
    pub network: Option<&'a str>,
    pub amr: &'a [&'a str],
    pub now: DateTime<Utc>,
    pub idle_expires_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
}

/// Starts a session, if the user's credentials are still there and not disabled: a login that was under way must not outlive
/// them. The row lock makes this and an ending wait for each other.
pub(crate) async fn create(connection: &mut PgConnection, new: &NewSession<'_>) -> sqlx::Result<bool> {
    let created = sqlx::query(
        "insert into sessions
             (id, user_id, client_id, device, rotated_at, created_at, last_used_at, idle_expires_at, expires_at, network,
              amr)
         select $1, user_id, $3, $4, $5, $5, $5, $6, $7, $8, $9
         from credentials where user_id = $2 and not disabled for share",
    )
    .bind(new.id)
    .bind(new.user_id)
    .bind(new.client_id)
    .bind(new.device)
    .bind(new.now)
    .bind(new.idle_expires_at)
    .bind(new.expires_at)
    .bind(new.network)
    .bind(new.amr)
    .execute(connection)
    .await?;
    Ok(created.rows_affected() > 0)
}

pub(crate) async fn find(executor: impl PgExecutor<'_>, id: Uuid) -> sqlx::Result<Option<Session>> {
    sqlx::query_as(
        "select id, user_id, client_id, device, created_at, last_used_at, idle_expires_at,
             expires_at, ended_at, network, name, amr
         from sessions where id = $1",
    )
    .bind(id)
    .fetch_optional(executor)
    .await
}

/// Ends one session; says whether it was alive.
pub(crate) async fn end(
    connection: &mut PgConnection,
    id: Uuid,
    reason: &str,
    now: DateTime<Utc>,
) -> sqlx::Result<bool> {
    let ended = sqlx::query("update sessions set ended_at = $2, end_reason = $3 where id = $1 and ended_at is null")
        .bind(id)
        .bind(now)
        .bind(reason)
        .execute(connection)
        .await?;
    Ok(ended.rows_affected() > 0)
}

/// Ends the clients' sessions that came from a browser's, except those that may outlive it; says which.
pub(crate) async fn end_children(
    connection: &mut PgConnection,
    id: Uuid,
    reason: &str,
    now: DateTime<Utc>,
) -> sqlx::Result<Vec<Uuid>> {
    sqlx::query_scalar(
        "update sessions set ended_at = $2, end_reason = $3
         where parent_id = $1 and ended_at is null and not coalesce('offline_access' = any(scope), false) returning id",
    )
    .bind(id)
    .bind(now)
    .bind(reason)
    .fetch_all(connection)
    .await
}

/// Ends all sessions of a client that is removed; says which may still have a living access token.
pub(crate) async fn end_of_client(
    connection: &mut PgConnection,
    client_id: &str,
    reason: &str,
    now: DateTime<Utc>,
    used_since: DateTime<Utc>,
) -> sqlx::Result<Vec<Uuid>> {
    sqlx::query_scalar(
        "with ended as (
             update sessions set ended_at = $2, end_reason = $3 where client_id = $1 and ended_at is null
             returning id, last_used_at)
         select id from ended where last_used_at > $4",
    )
    .bind(client_id)
    .bind(now)
    .bind(reason)
    .bind(used_since)
    .fetch_all(connection)
    .await
}

/// Ends all of a user's; says which.
pub(crate) async fn end_all(
    connection: &mut PgConnection,
    user_id: Uuid,
    reason: &str,
    now: DateTime<Utc>,
) -> sqlx::Result<Vec<Uuid>> {
    sqlx::query_scalar(
        "update sessions set ended_at = $2, end_reason = $3 where user_id = $1 and ended_at is null returning id",
    )
    .bind(user_id)
    .bind(now)
    .bind(reason)
    .fetch_all(connection)
    .await
}

/// Ends all of a user's but one; says which.
pub(crate) async fn end_others(
    connection: &mut PgConnection,
    user_id: Uuid,
    kept: Uuid,
    reason: &str,
    now: DateTime<Utc>,
) -> sqlx::Result<Vec<Uuid>> {
    sqlx::query_scalar(
        "update sessions set ended_at = $3, end_reason = $4
         where user_id = $1 and id <> $2 and ended_at is null returning id",
    )
    .bind(user_id)
    .bind(kept)
    .bind(now)
    .bind(reason)
    .fetch_all(connection)
    .await
}

/// Gives a living session's device a name; says whether there is such a session.
pub(crate) async fn rename(pool: &PgPool, user_id: Uuid, id: Uuid, name: &str) -> sqlx::Result<bool> {
    let renamed = sqlx::query("update sessions set name = $3 where id = $2 and user_id = $1 and ended_at is null")
        .bind(user_id)
        .bind(id)
        .bind(name)
        .execute(pool)
        .await?;
    Ok(renamed.rows_affected() > 0)
}

/// A user's living sessions, newest first.
pub(crate) async fn list(
    pool: &PgPool,
    user_id: Uuid,
    now: DateTime<Utc>,
    after: Option<(DateTime<Utc>, Uuid)>,
    limit: i64,
) -> sqlx::Result<Vec<Session>> {
    let (created_at, id) = after.unzip();
    sqlx::query_as(
        "select id, user_id, client_id, device, created_at, last_used_at, idle_expires_at,
             expires_at, ended_at, network, name, amr
         from sessions
         where user_id = $1 and ended_at is null and expires_at > $2 and idle_expires_at > $2
             and ($3::timestamptz is null or (created_at, id) < ($3, $4))
         order by created_at desc, id desc limit $5",
    )
    .bind(user_id)
    .bind(now)
    .bind(created_at)
    .bind(id)
    .bind(limit)
    .fetch_all(pool)
    .await
}

/// Removes rows whose tokens nobody can hold any more, a few at a time; says how many.
pub(crate) async fn forget(pool: &PgPool, before: DateTime<Utc>) -> sqlx::Result<u64> {
    let deleted = sqlx::query(
        "delete from sessions where id in (select id from sessions where expires_at < $1 order by expires_at limit 1000)",
    )
    .bind(before)
    .execute(pool)
    .await?;
    Ok(deleted.rows_affected())
}
