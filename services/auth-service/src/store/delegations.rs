//! The tables `delegations` and `closed_tickets`. Closing a ticket and acting under it take turns.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{PgConnection, PgPool};
use utoipa::ToSchema;
use uuid::Uuid;

/// A row: one token.
#[derive(Debug, Clone, Serialize, sqlx::FromRow, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Delegation {
    /// The `sid` of the token.
    pub id: Uuid,
    /// For whom: a client's or a node's id.
    pub subject: String,
    /// Who acts: a user's id.
    pub actor: String,
    pub client_id: String,
    pub ticket: String,
    pub created_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
}

/// Waits until nobody else works on this ticket.
async fn take_turn(connection: &mut PgConnection, ticket: &str) -> sqlx::Result<()> {
    sqlx::query("select pg_advisory_xact_lock(hashtextextended('auth-service.ticket:' || $1, 0))")
        .bind(ticket)
        .execute(connection)
        .await?;
    Ok(())
}

/// Notes a token, unless its ticket is closed.
pub(crate) async fn insert(connection: &mut PgConnection, new: &Delegation) -> sqlx::Result<bool> {
    take_turn(connection, &new.ticket).await?;
    let inserted = sqlx::query(
        "insert into delegations (id, subject, actor, client_id, ticket, created_at, expires_at)
         select $1, $2, $3, $4, $5, $6, $7 where not exists (select from closed_tickets where ticket = $5)",
    )
    .bind(new.id)
    .bind(&new.subject)
    .bind(&new.actor)
    .bind(&new.client_id)
    .bind(&new.ticket)
    .bind(new.created_at)
    .bind(new.expires_at)
    .execute(connection)
    .await?;
    Ok(inserted.rows_affected() > 0)
}

/// Closes a ticket; the tokens that were alive under it.
pub(crate) async fn close(
    connection: &mut PgConnection,
    ticket: &str,
    closed_by: &str,
    now: DateTime<Utc>,
) -> sqlx::Result<Vec<Uuid>> {
    take_turn(connection, ticket).await?;
    sqlx::query(
        "insert into closed_tickets (ticket, closed_by, closed_at) values ($1, $2, $3)
         on conflict on constraint closed_tickets_pkey do nothing",
    )
    .bind(ticket)
    .bind(closed_by)
    .bind(now)
    .execute(&mut *connection)
    .await?;
    sqlx::query_scalar(
        "update delegations set ended_at = $2 where ticket = $1 and ended_at is null and expires_at > $2 returning id",
    )
    .bind(ticket)
    .bind(now)
    .fetch_all(connection)
    .await
}

/// The newest tokens under a ticket.
pub(crate) async fn list(pool: &PgPool, ticket: &str) -> sqlx::Result<Vec<Delegation>> {
    sqlx::query_as(
        "select id, subject, actor, client_id, ticket, created_at, expires_at, ended_at from delegations
         where ticket = $1 order by created_at desc, id desc limit 200",
    )
    .bind(ticket)
    .fetch_all(pool)
    .await
}

/// Removes rows of tokens that are long over; says how many.
pub(crate) async fn forget(pool: &PgPool, before: DateTime<Utc>) -> sqlx::Result<u64> {
    let deleted = sqlx::query("delete from delegations where expires_at < $1").bind(before).execute(pool).await?;
    Ok(deleted.rows_affected())
}
