//! The table `grants`: what user-service last said.

use chrono::{DateTime, Utc};
use sqlx::{PgExecutor, types::Json};
use uuid::Uuid;

use crate::grants::{Grants, KnownGrants};

pub(crate) async fn find(executor: impl PgExecutor<'_>, user_id: Uuid) -> sqlx::Result<Option<KnownGrants>> {
    sqlx::query_as(
        "select user_id, username, disabled, roles, permissions, scoped, epoch, newest_epoch, valid_until,
             fetched_at
         from grants where user_id = $1",
    )
    .bind(user_id)
    .fetch_optional(executor)
    .await
}

/// Keeps an answer, unless a newer one is there, or the same one and fresh: most logins then write nothing here.
pub(crate) async fn save(executor: impl PgExecutor<'_>, grants: &Grants, now: DateTime<Utc>) -> sqlx::Result<()> {
    sqlx::query(
        "insert into grants
             (user_id, username, disabled, roles, permissions, scoped, epoch, newest_epoch, valid_until,
              fetched_at)
         select $1, $2, $3, $4, $5, $6, $7, $7, $8, $9
         where not exists (
             select 1 from grants
             where user_id = $1 and username = $2 and disabled = $3 and epoch = $7 and valid_until is not distinct from $8
                 and fetched_at > $9 - interval '1 minute')
         on conflict on constraint grants_pkey do update set
             username = excluded.username, disabled = excluded.disabled, roles = excluded.roles,
             permissions = excluded.permissions, scoped = excluded.scoped, epoch = excluded.epoch,
             newest_epoch = greatest(grants.newest_epoch, excluded.epoch), valid_until = excluded.valid_until,
             fetched_at = excluded.fetched_at
         where excluded.epoch >= grants.epoch",
    )
    .bind(grants.user_id)
    .bind(&grants.username)
    .bind(grants.disabled)
    .bind(&grants.roles)
    .bind(&grants.permissions)
    .bind(Json(&grants.scoped))
    .bind(grants.epoch)
    .bind(grants.valid_until)
    .bind(now)
    .execute(executor)
    .await?;
    Ok(())
}

/// Notes that the rights have changed, so that an older answer is not gone by.
pub(crate) async fn note_epoch(executor: impl PgExecutor<'_>, user_id: Uuid, epoch: i64) -> sqlx::Result<()> {
    sqlx::query("update grants set newest_epoch = greatest(newest_epoch, $2) where user_id = $1")
        .bind(user_id)
        .bind(epoch)
        .execute(executor)
        .await?;
    Ok(())
}

pub(crate) async fn set_disabled(executor: impl PgExecutor<'_>, user_id: Uuid, disabled: bool) -> sqlx::Result<()> {
    sqlx::query("update grants set disabled = $2 where user_id = $1")
        .bind(user_id)
        .bind(disabled)
        .execute(executor)
        .await?;
    Ok(())
}

pub(crate) async fn delete(executor: impl PgExecutor<'_>, user_id: Uuid) -> sqlx::Result<()> {
    sqlx::query("delete from grants where user_id = $1").bind(user_id).execute(executor).await?;
    Ok(())
}
