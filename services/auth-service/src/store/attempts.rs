//! The table `attempts`: how often something was tried in a window. For what is rare and dear; failed logins are counted in
//! Redis (`throttle`).

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgPool;

/// Counts one try; the count with it, and when its window ends.
pub(crate) async fn count(
    pool: &PgPool,
    key: &str,
    window: TimeDelta,
    now: DateTime<Utc>,
) -> sqlx::Result<(i64, DateTime<Utc>)> {
    sqlx::query_as(
        "insert into attempts (key, count, ends_at) values ($1, 1, $2)
         on conflict on constraint attempts_pkey do update set
             count = case when attempts.ends_at <= $3 then 1 else attempts.count + 1 end,
             ends_at = case when attempts.ends_at <= $3 then excluded.ends_at else attempts.ends_at end
         returning count, ends_at",
    )
    .bind(key)
    .bind(now + window)
    .bind(now)
    .fetch_one(pool)
    .await
}

/// Forgets what was counted.
pub(crate) async fn forget(pool: &PgPool, key: &str) -> sqlx::Result<()> {
    sqlx::query("delete from attempts where key = $1").bind(key).execute(pool).await?;
    Ok(())
}

/// Removes counters and challenges whose time is over.
pub(crate) async fn forget_old(pool: &PgPool, now: DateTime<Utc>) -> sqlx::Result<()> {
    sqlx::query("delete from attempts where ends_at < $1").bind(now).execute(pool).await?;
    sqlx::query("delete from used_challenges where expires_at < $1").bind(now).execute(pool).await?;
    Ok(())
}
