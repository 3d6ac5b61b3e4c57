//! Who holds which role, where, until when: people, and groups.

use chrono::{DateTime, Utc};
use kronos_common::problem::{Problem, Result};
use sqlx::{FromRow, PgConnection, PgPool, postgres::PgRow};
use uuid::Uuid;

use crate::{groups::GroupAssignment, rights::Assignment};

/// A row of a person's assignment or of a group's: two tables of the same shape.
pub(crate) trait Assigned: for<'row> FromRow<'row, PgRow> + Send + Unpin {
    /// That of the holder `$1`: of the role `$2` on the resource `$3`.
    const FIND: &'static str;
    /// Writes one until `$4`, or another end of it.
    const PUT: &'static str;
    const DELETE: &'static str;
    /// Those of the holder `$1` by role and resource, after the role `$2` on the resource `$3`, at most `$4`.
    const LIST: &'static str;
}

macro_rules! assigned {
    ($row:ty, $table:literal, $holder:literal) => {
        impl Assigned for $row {
            const FIND: &'static str = concat!(
                "select ",
                $holder,
                ", role, resource, expires_at, created_at from ",
                $table,
                " where ",
                $holder,
                " = $1 and role = $2 and resource is not distinct from $3"
            );
            const PUT: &'static str = concat!(
                "insert into ",
                $table,
                " (",
                $holder,
                ", role, resource, expires_at) values ($1, $2, $3, $4) \
                 on conflict on constraint ",
                $table,
                "_key do update set expires_at = excluded.expires_at \
                 returning ",
                $holder,
                ", role, resource, expires_at, created_at"
            );
            const DELETE: &'static str = concat!(
                "delete from ",
                $table,
                " where ",
                $holder,
                " = $1 and role = $2 and resource is not distinct from $3"
            );
            const LIST: &'static str = concat!(
                "select ",
                $holder,
                ", role, resource, expires_at, created_at from ",
                $table,
                " where ",
                $holder,
                " = $1 \
                 and ($2::text is null or (role, coalesce(resource, '')) > ($2, coalesce($3, ''))) \
                 order by role, coalesce(resource, '') limit $4"
            );
        }
    };
}

assigned!(Assignment, "assignments", "user_id");
assigned!(GroupAssignment, "group_assignments", "group_id");

/// The assignment of `role` to the holder on `resource`.
pub(crate) async fn find<A: Assigned>(
    connection: &mut PgConnection,
    holder: Uuid,
    role: &str,
    resource: Option<&str>,
) -> Result<Option<A>> {
    Ok(sqlx::query_as(A::FIND).bind(holder).bind(role).bind(resource).fetch_optional(connection).await?)
}

/// Writes an assignment, or another end of it.
pub(crate) async fn put<A: Assigned>(
    connection: &mut PgConnection,
    holder: Uuid,
    role: &str,
    resource: Option<&str>,
    expires_at: Option<DateTime<Utc>>,
) -> Result<A> {
    let put = sqlx::query_as(A::PUT).bind(holder).bind(role).bind(resource).bind(expires_at);
    Ok(put.fetch_one(connection).await?)
}

/// Takes an assignment away; 404 if there is none.
pub(crate) async fn delete<A: Assigned>(
    connection: &mut PgConnection,
    holder: Uuid,
    role: &str,
    resource: Option<&str>,
) -> Result<()> {
    let deleted = sqlx::query(A::DELETE).bind(holder).bind(role).bind(resource).execute(connection).await?;
    if deleted.rows_affected() == 0 { Err(Problem::not_found("assignment")) } else { Ok(()) }
}

/// A holder's assignments by role and resource, after the position `after`.
pub(crate) async fn list<A: Assigned>(
    pool: &PgPool,
    holder: Uuid,
    after: Option<(String, Option<String>)>,
    count: i64,
) -> Result<Vec<A>> {
    let (role, resource) = after.unzip();
    let list = sqlx::query_as(A::LIST).bind(holder).bind(role).bind(resource.flatten()).bind(count);
    Ok(list.fetch_all(pool).await?)
}

/// Some people with assignments whose time is over, locked; those not that are locked already.
pub(crate) async fn people_with_ended(
    connection: &mut PgConnection,
    now: DateTime<Utc>,
    count: i64,
) -> sqlx::Result<Vec<Uuid>> {
    sqlx::query_scalar(
        "select id from users
         where id in (select user_id from assignments where expires_at <= $1 order by expires_at limit $2)
         order by id for update skip locked",
    )
    .bind(now)
    .bind(count)
    .fetch_all(connection)
    .await
}

/// Removes these people's assignments whose time is over.
pub(crate) async fn take_expired(
    connection: &mut PgConnection,
    ids: &[Uuid],
    now: DateTime<Utc>,
) -> sqlx::Result<Vec<Assignment>> {
    sqlx::query_as::<_, Assignment>(
        "with ended as (
             delete from assignments where user_id = any($1) and expires_at <= $2
             returning user_id, role, resource, expires_at, created_at
         ), kept as (
             insert into ended_assignments (user_id, role, resource, expires_at)
             select user_id, role, resource, expires_at from ended
             on conflict on constraint ended_assignments_key
             do update set expires_at = excluded.expires_at, ended_at = now()
         )
         select * from ended",
    )
    .bind(ids)
    .bind(now)
    .fetch_all(connection)
    .await
}

/// Forgets what ended more than so many days ago.
pub(crate) async fn forget_ended(pool: &PgPool, days: u32) -> Result<()> {
    sqlx::query("delete from ended_assignments where ended_at < now() - make_interval(days => $1)")
        .bind(i32::try_from(days).unwrap_or(i32::MAX))
        .execute(pool)
        .await?;
    Ok(())
}

/// When the next assignment ends, a person's or a group's.
pub(crate) async fn next_end(pool: &PgPool) -> sqlx::Result<Option<DateTime<Utc>>> {
    sqlx::query_scalar(
        "select least((select min(expires_at) from assignments where expires_at is not null),
                      (select min(expires_at) from group_assignments where expires_at is not null))",
    )
    .fetch_one(pool)
    .await
}
