//! The table `device_codes`.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

/// A row.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(crate) struct DeviceCode {
    pub client_id: String,
    pub scope: Vec<String>,
    pub resources: Vec<String>,
    pub expires_at: DateTime<Utc>,
    pub interval_seconds: i32,
    pub last_polled_at: Option<DateTime<Utc>>,
    pub state: String,
    pub user_id: Option<Uuid>,
    pub auth_time: Option<DateTime<Utc>>,
    pub amr: Option<Vec<String>>,
}

/// A device that asks.
pub(crate) struct NewDeviceCode<'a> {
    pub device_code_hash: &'a [u8],
    pub user_code: &'a str,
    pub client_id: &'a str,
    pub scope: &'a [String],
    pub resources: &'a [String],
    pub now: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
    pub interval_seconds: i32,
}

/// False if the user code is taken.
pub(crate) async fn insert(pool: &PgPool, new: &NewDeviceCode<'_>) -> sqlx::Result<bool> {
    let inserted = sqlx::query(
        "insert into device_codes
             (device_code_hash, user_code, client_id, scope, resources, created_at, expires_at, interval_seconds)
         values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict on constraint device_codes_user_code_key do nothing",
    )
    .bind(new.device_code_hash)
    .bind(new.user_code)
    .bind(new.client_id)
    .bind(new.scope)
    .bind(new.resources)
    .bind(new.now)
    .bind(new.expires_at)
    .bind(new.interval_seconds)
    .execute(pool)
    .await?;
    Ok(inserted.rows_affected() > 0)
}

/// Who waits with this user code.
pub(crate) async fn waiting(pool: &PgPool, user_code: &str, now: DateTime<Utc>) -> sqlx::Result<Option<DeviceCode>> {
    sqlx::query_as(
        "select client_id, scope, resources, expires_at, interval_seconds, last_polled_at, state, user_id, auth_time, amr
         from device_codes where user_code = $1 and state = 'pending' and expires_at > $2",
    )
    .bind(user_code)
    .bind(now)
    .fetch_optional(pool)
    .await
}

/// Lets it in; false if it no longer waits.
pub(crate) async fn approve(
    connection: &mut PgConnection,
    user_code: &str,
    user_id: Uuid,
    auth_time: DateTime<Utc>,
    amr: &[String],
    now: DateTime<Utc>,
) -> sqlx::Result<bool> {
    let approved = sqlx::query(
        "update device_codes set state = 'approved', user_id = $2, auth_time = $3, amr = $4
         where user_code = $1 and state = 'pending' and expires_at > $5",
    )
    .bind(user_code)
    .bind(user_id)
    .bind(auth_time)
    .bind(amr)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(approved.rows_affected() > 0)
}

/// Refuses it; false if it no longer waits.
pub(crate) async fn deny(connection: &mut PgConnection, user_code: &str) -> sqlx::Result<bool> {
    let denied = sqlx::query("update device_codes set state = 'denied' where user_code = $1 and state = 'pending'")
        .bind(user_code)
        .execute(connection)
        .await?;
    Ok(denied.rows_affected() > 0)
}

/// The row of a poll, and nobody else polls until the transaction ends.
pub(crate) async fn take(connection: &mut PgConnection, device_code_hash: &[u8]) -> sqlx::Result<Option<DeviceCode>> {
    sqlx::query_as(
        "select client_id, scope, resources, expires_at, interval_seconds, last_polled_at, state, user_id, auth_time, amr
         from device_codes where device_code_hash = $1 for update",
    )
    .bind(device_code_hash)
    .fetch_optional(connection)
    .await
}

/// A poll came; the next one may come after so many seconds.
pub(crate) async fn polled(
    connection: &mut PgConnection,
    device_code_hash: &[u8],
    interval_seconds: i32,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query("update device_codes set last_polled_at = $3, interval_seconds = $2 where device_code_hash = $1")
        .bind(device_code_hash)
        .bind(interval_seconds)
        .bind(now)
        .execute(connection)
        .await?;
    Ok(())
}

pub(crate) async fn mark_used(connection: &mut PgConnection, device_code_hash: &[u8]) -> sqlx::Result<()> {
    sqlx::query("update device_codes set state = 'used' where device_code_hash = $1")
        .bind(device_code_hash)
        .execute(connection)
        .await?;
    Ok(())
}
