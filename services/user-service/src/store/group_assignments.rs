//! Which group has which role, where, until when.

use chrono::{DateTime, Utc};
use kronos_common::problem::{Problem, Result};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::groups::GroupAssignment;

/// The assignment of `role` to the group on `resource`.
pub(crate) async fn find(
    connection: &mut PgConnection,
    group_id: Uuid,
    role: &str,
    resource: Option<&str>,
) -> Result<Option<GroupAssignment>> {
    Ok(sqlx::query_as::<_, GroupAssignment>(
        "select group_id, role, resource, expires_at, created_at from group_assignments
         where group_id = $1 and role = $2 and resource is not distinct from $3",
    )
    .bind(group_id)
    .bind(role)
    .bind(resource)
    .fetch_optional(connection)
    .await?)
}

/// Writes an assignment, or another end of it.
pub(crate) async fn put(
    connection: &mut PgConnection,
    group_id: Uuid,
    role: &str,
    resource: Option<&str>,
    expires_at: Option<DateTime<Utc>>,
) -> Result<GroupAssignment> {
    Ok(sqlx::query_as::<_, GroupAssignment>(
        "insert into group_assignments (group_id, role, resource, expires_at) values ($1, $2, $3, $4)
         on conflict on constraint group_assignments_key do update set expires_at = excluded.expires_at
         returning group_id, role, resource, expires_at, created_at",
    )
    .bind(group_id)
    .bind(role)
    .bind(resource)
    .bind(expires_at)
    .fetch_one(connection)
    .await?)
}

/// Takes an assignment away; 404 if there is none.
pub(crate) async fn delete(
    connection: &mut PgConnection,
    group_id: Uuid,
    role: &str,
    resource: Option<&str>,
) -> Result<()> {
    let deleted = sqlx::query(
        "delete from group_assignments where group_id = $1 and role = $2 and resource is not distinct from $3",
    )
    .bind(group_id)
    .bind(role)
    .bind(resource)
    .execute(connection)
    .await?
    .rows_affected();
    if deleted == 0 { Err(Problem::not_found("assignment")) } else { Ok(()) }
}

/// The roles that a group has.
pub(crate) async fn roles(connection: &mut PgConnection, group_id: Uuid) -> Result<Vec<String>> {
    Ok(sqlx::query_scalar("select distinct role from group_assignments where group_id = $1")
        .bind(group_id)
        .fetch_all(connection)
        .await?)
}

/// A group's assignments by role and resource, after the position `after`.
pub(crate) async fn of_group(
    pool: &PgPool,
    group_id: Uuid,
    after: Option<(String, Option<String>)>,
    count: i64,
) -> Result<Vec<GroupAssignment>> {
    let (role, resource) = after.unzip();
    Ok(sqlx::query_as::<_, GroupAssignment>(
        "select group_id, role, resource, expires_at, created_at from group_assignments
         where group_id = $1 and ($2::text is null or (role, coalesce(resource, '')) > ($2, coalesce($3, '')))
         order by role, coalesce(resource, '')
         limit $4",
    )
    .bind(group_id)
    .bind(role)
    .bind(resource.flatten())
    .bind(count)
    .fetch_all(pool)
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
