//! The first administrator: whether there is one, and whether auth-service knows the password.

use kronos_common::problem::Result;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

/// Takes the task of making the first administrator; `false` if it was taken before. Another instance waits meanwhile.
pub(crate) async fn begin(connection: &mut PgConnection) -> sqlx::Result<bool> {
    let begun = sqlx::query("insert into bootstrap default values on conflict on constraint bootstrap_pkey do nothing")
        .execute(connection)
        .await?;
    Ok(begun.rows_affected() == 1)
}

/// Says who it is.
pub(crate) async fn made(connection: &mut PgConnection, user_id: Uuid) -> sqlx::Result<()> {
    sqlx::query("update bootstrap set user_id = $1").bind(user_id).execute(connection).await?;
    Ok(())
}

/// The first administrator, if auth-service has not taken the password yet.
pub(crate) async fn waiting_for_credential(pool: &PgPool) -> Result<Option<Uuid>> {
    Ok(sqlx::query_scalar("select user_id from bootstrap where credential_at is null and user_id is not null")
        .fetch_optional(pool)
        .await?)
}

/// auth-service has the password.
pub(crate) async fn credential_taken(pool: &PgPool) -> Result<()> {
    sqlx::query("update bootstrap set credential_at = now() where credential_at is null").execute(pool).await?;
    Ok(())
}
