//! Which roles groups have, and had: beside what [`super::assignments`] has for people and groups alike.

use chrono::{DateTime, Utc};
use kronos_common::problem::Result;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::groups::GroupAssignment;

/// The roles that a group has.
pub(crate) async fn roles(connection: &mut PgConnection, group_id: Uuid) -> Result<Vec<String>> {
    Ok(sqlx::query_scalar("select distinct role from group_assignments where group_id = $1")
        .bind(group_id)
        .fetch_all(connection)
        .await?)
}

/// Whether the time of some assignment is over.
pub(crate) async fn any_ended(pool: &PgPool, now: DateTime<Utc>) -> sqlx::Result<bool> {
    sqlx::query_scalar("select exists (select from group_assignments where expires_at <= $1)")
        .bind(now)
        .fetch_one(pool)
        .await
}

/// Removes the assignments of one group whose time is over.
pub(crate) async fn take_expired(
    connection: &mut PgConnection,
    now: DateTime<Utc>,
) -> sqlx::Result<Vec<GroupAssignment>> {
    sqlx::query_as::<_, GroupAssignment>(
        "with ended as (
             delete from group_assignments
             where group_id = (select group_id from group_assignments where expires_at <= $1 order by expires_at limit 1)
               and expires_at <= $1
             returning group_id, role, resource, expires_at, created_at
         ), kept as (
             insert into ended_assignments (group_id, role, resource, expires_at)
             select group_id, role, resource, expires_at from ended
             on conflict on constraint ended_assignments_key
             do update set expires_at = excluded.expires_at, ended_at = now()
         )
         select * from ended",
    )
    .bind(now)
    .fetch_all(connection)
    .await
}
