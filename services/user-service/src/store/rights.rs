//! What follows from roles and assignments, and the epochs that say when it changed.

use chrono::{DateTime, Utc};
use kronos_common::problem::Result;
use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;

use crate::{
    rights::{Holding, Person},
    roles::EVERYTHING,
};

/// Advisory locks of this database; the numbers mean nothing else.
const ROLES: i64 = 0x0072_6f6c_6573;
const ADMINISTRATORS: i64 = 0x6164_6d69_6e73;

/// For whoever changes assignments: roles stay as they are until the transaction ends.
pub(crate) async fn share_roles(connection: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query("select pg_advisory_xact_lock_shared($1)").bind(ROLES).execute(connection).await?;
    Ok(())
}

/// For whoever changes roles: no other role and no assignment changes until the transaction ends. Checks do not wait.
pub(crate) async fn change_roles(connection: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query("select pg_advisory_xact_lock($1)").bind(ROLES).execute(connection).await?;
    Ok(())
}

/// For whoever takes rights from an administrator: one at a time, so that the last two cannot go at once.
pub(crate) async fn change_administrators(connection: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query("select pg_advisory_xact_lock($1)").bind(ADMINISTRATORS).execute(connection).await?;
    Ok(())
}

/// How many people may everything, everywhere, without end, and are not disabled; counted up to two.
pub(crate) async fn administrators(connection: &mut PgConnection) -> sqlx::Result<i64> {
    sqlx::query_scalar::<_, i64>(
        "select count(*) from (
             select distinct u.id from roles r
             join role_closure c on c.includes = r.name
             join assignments a on a.role = c.role and a.resource is null and a.expires_at is null
             join users u on u.id = a.user_id and not u.disabled
             where r.permissions @> array[$1::text]
             limit 2) found",
    )
    .bind(EVERYTHING)
    .fetch_one(connection)
    .await
}

/// A row for each role that comes with each assignment, or one without for a person who has none.
#[derive(sqlx::FromRow)]
struct Row {
    #[sqlx(flatten)]
    person: Person,
    resource: Option<String>,
    expires_at: Option<DateTime<Utc>>,
    path: Option<Vec<String>>,
    permissions: Option<Vec<String>>,
}

/// A person and all that they hold, as of one moment: no epoch is told with the rights of another. Assignments that have
/// ended may be among them.
pub(crate) async fn of_person(executor: impl PgExecutor<'_>, id: Uuid) -> Result<Option<(Person, Vec<Holding>)>> {
    let rows = sqlx::query_as::<_, Row>(
        "select u.id, u.username, u.disabled, u.epoch, held.resource, held.expires_at, held.path, held.permissions
         from users u
         left join (
             select a.user_id, a.resource, a.expires_at, c.path, r.permissions
             from assignments a
             join role_closure c on c.role = a.role
             join roles r on r.name = c.includes
             where a.user_id = $1
         ) held on held.user_id = u.id
         where u.id = $1
         order by held.path, held.resource nulls first",
    )
    .bind(id)
    .fetch_all(executor)
    .await?;
    let Some(person) = rows.first().map(|row| row.person.clone()) else { return Ok(None) };
    let holdings = rows.into_iter().filter_map(|row| {
        let Row { resource, expires_at, path, permissions, .. } = row;
        Some(Holding { resource, expires_at, path: path?, permissions: permissions? })
    });
    Ok(Some((person, holdings.collect())))
}

/// Everybody who holds a role that is, or includes, `role`.
pub(crate) async fn holders(connection: &mut PgConnection, role: &str) -> Result<Vec<Uuid>> {
    Ok(sqlx::query_scalar::<_, Uuid>(
        "select distinct a.user_id from role_closure c join assignments a on a.role = c.role where c.includes = $1",
    )
    .bind(role)
    .fetch_all(connection)
    .await?)
}

/// The next epoch of these people, with a revocation for each: tokens of earlier epochs end.
pub(crate) async fn bump(connection: &mut PgConnection, ids: &[Uuid]) -> sqlx::Result<Vec<(Uuid, i64)>> {
    let bumped =
        sqlx::query_as::<_, (Uuid, i64)>("update users set epoch = epoch + 1 where id = any($1) returning id, epoch")
            .bind(ids)
            .fetch_all(&mut *connection)
            .await?;
    let (ids, epochs): (Vec<Uuid>, Vec<i64>) = bumped.iter().copied().unzip();
    // Set-wise, as `RevocationPublisher::in_transaction` does it one by one.
    sqlx::query(
        "insert into revocations (id, kind, subject, value)
         select gen_random_uuid(), 'subject', id::text, epoch from unnest($1::uuid[], $2::bigint[]) as t (id, epoch)",
    )
    .bind(ids)
    .bind(epochs)
    .execute(connection)
    .await?;
    Ok(bumped)
}
