//! What follows from roles and assignments, and the epochs that say when it changed.

use chrono::{DateTime, Utc};
use kronos_common::problem::Result;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::{rights::Person, roles::EVERYTHING};

/// Advisory locks of this database; the numbers mean nothing else.
const ROLES: i64 = 0x0072_6f6c_6573;
const ADMINISTRATORS: i64 = 0x6164_6d69_6e73;

/// For whoever changes one person's rights, before the person is locked: roles and groups stay as they are until the
/// transaction ends. So each person's changes commit in the order of their epochs.
pub(crate) async fn share_roles(connection: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query("select pg_advisory_xact_lock_shared($1)").bind(ROLES).execute(connection).await?;
    Ok(())
}

/// For whoever changes a role, or what a group has: nobody else's rights change until the transaction ends. Checks do not
/// wait.
pub(crate) async fn change_roles(connection: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query("select pg_advisory_xact_lock($1)").bind(ROLES).execute(connection).await?;
    Ok(())
}

/// For whoever takes rights from an administrator: one at a time, so that the last two cannot go at once.
pub(crate) async fn change_administrators(connection: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query("select pg_advisory_xact_lock($1)").bind(ADMINISTRATORS).execute(connection).await?;
    Ok(())
}

/// Whether somebody who is not disabled may everything, everywhere, without end, by whatever way.
pub(crate) async fn has_administrator(connection: &mut PgConnection) -> sqlx::Result<bool> {
    sqlx::query_scalar::<_, bool>(
        "select exists (
             select from roles r
             join role_closure c on c.includes = r.name
             join assignments a on a.role = c.role and a.resource is null and a.expires_at is null
             join users u on u.id = a.user_id and not u.disabled
             where r.permissions @> array[$1::text])
         or exists (
             select from roles r
             join role_closure c on c.includes = r.name
             join group_assignments a on a.role = c.role and a.resource is null and a.expires_at is null
             join group_members m on m.group_id = a.group_id
             join users u on u.id = m.user_id and not u.disabled
             where r.permissions @> array[$1::text])",
    )
    .bind(EVERYTHING)
    .fetch_one(connection)
    .await
}

/// One assignment of a person, their own or a group's. A person without any, or a group without roles, has one row too.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct Assigned {
    /// With the person's own epoch.
    #[sqlx(flatten)]
    pub(crate) person: Person,
    pub(crate) role: Option<String>,
    pub(crate) role_epoch: Option<i64>,
    pub(crate) resource: Option<String>,
    pub(crate) expires_at: Option<DateTime<Utc>>,
    pub(crate) group_name: Option<String>,
    pub(crate) group_epoch: Option<i64>,
}

/// One that was taken away when its time was over: only refusals speak of it.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct Ended {
    pub(crate) role: String,
    pub(crate) role_epoch: i64,
    pub(crate) resource: Option<String>,
    pub(crate) expires_at: Option<DateTime<Utc>>,
    pub(crate) group_name: Option<String>,
}

/// The statement of [`assigned`] and [`assigned_to`], which differ in whom they are about.
macro_rules! assigned {
    ($people:literal) => {
        concat!(
            "select u.id, u.username, u.disabled, greatest(u.epoch, b.epoch) as epoch, held.role,
                    (select r.epoch from roles r where r.name = held.role) as role_epoch, held.resource, held.expires_at,
                    held.group_name, held.group_epoch
             from users u
             left join bulk_epochs b on b.user_id = u.id
             left join lateral (
                 select a.role, a.resource, a.expires_at, null::text as group_name, null::bigint as group_epoch
                 from assignments a where a.user_id = u.id
                 union all
                 select a.role, a.resource, a.expires_at, g.name, g.epoch
                 from group_members m
                 join groups g on g.id = m.group_id
                 left join group_assignments a on a.group_id = m.group_id
                 where m.user_id = u.id
             ) held on true
             where ",
            $people,
            "
             order by u.id, held.group_name nulls first, held.role, held.resource nulls first"
        )
    };
}

/// What these people have, as of one moment, in the order of their ids.
pub(crate) async fn assigned(pool: &PgPool, ids: &[Uuid]) -> Result<Vec<Assigned>> {
    Ok(sqlx::query_as(assigned!("u.id = any($1)")).bind(ids).fetch_all(pool).await?)
}

/// What one person has, as of one moment. PostgreSQL keeps the plan of this one: to plan it takes longer than to run it, and for
/// a list of unknown length it would be planned anew each time.
pub(crate) async fn assigned_to(pool: &PgPool, id: Uuid) -> Result<Vec<Assigned>> {
    Ok(sqlx::query_as(assigned!("u.id = $1")).bind(id).fetch_all(pool).await?)
}

/// What a person had until its time was over, by themselves or by a group that they are in now.
pub(crate) async fn ended(pool: &PgPool, id: Uuid) -> Result<Vec<Ended>> {
    Ok(sqlx::query_as(
        "select e.role, r.epoch as role_epoch, e.resource, e.expires_at, g.name as group_name
         from ended_assignments e
         join roles r on r.name = e.role
         left join groups g on g.id = e.group_id
         where e.user_id = $1 or e.group_id in (select group_id from group_members where user_id = $1)
         order by g.name nulls first, e.role, e.resource nulls first",
    )
    .bind(id)
    .fetch_all(pool)
    .await?)
}

/// Every permission that a person was given, wherever and until whenever.
pub(crate) async fn permissions_of(connection: &mut PgConnection, id: Uuid) -> Result<Vec<String>> {
    Ok(sqlx::query_scalar::<_, String>(
        "select distinct unnest(r.permissions)
         from (select role from assignments where user_id = $1
               union
               select a.role from group_members m join group_assignments a on a.group_id = m.group_id
               where m.user_id = $1) held
         join role_closure c on c.role = held.role
         join roles r on r.name = c.includes",
    )
    .bind(id)
    .fetch_all(connection)
    .await?)
}

/// Some of those who hold a role that is, or includes, `role`, somebody perhaps more than once.
pub(crate) async fn some_holders(connection: &mut PgConnection, role: &str, most: i64) -> Result<Vec<Uuid>> {
    Ok(sqlx::query_scalar::<_, Uuid>(
        "select a.user_id from role_closure c join assignments a on a.role = c.role where c.includes = $1
         union all
         select m.user_id from role_closure c
         join group_assignments a on a.role = c.role
         join group_members m on m.group_id = a.group_id
         where c.includes = $1
         limit $2",
    )
    .bind(role)
    .bind(most)
    .fetch_all(connection)
    .await?)
}

/// The next number of all changes of rights. Take it after the locks, so that a person's epochs commit in their order.
pub(crate) async fn next_epoch(connection: &mut PgConnection) -> sqlx::Result<i64> {
    sqlx::query_scalar("select nextval('rights_epoch')").fetch_one(connection).await
}

/// Makes `epoch` that of a role and of all that include it. Whoever has one of them has it too.
pub(crate) async fn raise_roles(connection: &mut PgConnection, role: &str, epoch: i64) -> sqlx::Result<()> {
    sqlx::query("update roles set epoch = $2 where name in (select role from role_closure where includes = $1)")
        .bind(role)
        .bind(epoch)
        .execute(connection)
        .await?;
    Ok(())
}

/// Makes `epoch` that of these people. Their tokens of earlier ones are to be revoked.
pub(crate) async fn raise_people(connection: &mut PgConnection, ids: &[Uuid], epoch: i64) -> sqlx::Result<()> {
    sqlx::query("update users set epoch = $2 where id = any($1)").bind(ids).bind(epoch).execute(connection).await?;
    Ok(())
}

/// Makes `epoch` that of everybody who has `role` assigned, themselves or by a group, and says how many they are.
pub(crate) async fn raise_assigned(connection: &mut PgConnection, role: &str, epoch: i64) -> sqlx::Result<u64> {
    let raised = sqlx::query(
        "insert into bulk_epochs (user_id, epoch)
         select user_id, $2 from (
             select user_id from assignments where role = $1
             union
             select m.user_id from group_assignments a join group_members m on m.group_id = a.group_id
             where a.role = $1) holders
         order by user_id
         on conflict on constraint bulk_epochs_pkey do update set epoch = excluded.epoch",
    )
    .bind(role)
    .bind(epoch)
    .execute(connection)
    .await?;
    Ok(raised.rows_affected())
}

/// Makes `epoch` that of everybody in a group, and says how many they are.
pub(crate) async fn raise_members(connection: &mut PgConnection, group_id: Uuid, epoch: i64) -> sqlx::Result<u64> {
    let raised = sqlx::query(
        "insert into bulk_epochs (user_id, epoch) select user_id, $2 from group_members where group_id = $1 order by user_id
         on conflict on constraint bulk_epochs_pkey do update set epoch = excluded.epoch",
    )
    .bind(group_id)
    .bind(epoch)
    .execute(connection)
    .await?;
    Ok(raised.rows_affected())
}

/// People to whom this very epoch was given at once, by id, after the id `after`.
pub(crate) async fn raised(
    connection: &mut PgConnection,
    epoch: i64,
    after: Option<Uuid>,
    count: i64,
) -> sqlx::Result<Vec<Uuid>> {
    sqlx::query_scalar(
        "select user_id from bulk_epochs where epoch = $1 and ($2::uuid is null or user_id > $2)
         order by user_id limit $3",
    )
    .bind(epoch)
    .bind(after)
    .bind(count)
    .fetch_all(connection)
    .await
}

/// Revokes these people's tokens of before `epoch`: set-wise what `RevocationPublisher::in_transaction` does one by one.
pub(crate) async fn revoke(connection: &mut PgConnection, ids: &[Uuid], epoch: i64) -> sqlx::Result<()> {
    sqlx::query(
        "insert into revocations (id, kind, subject, value)
         select gen_random_uuid(), 'subject', id::text, $2 from unnest($1::uuid[]) as t (id)",
    )
    .bind(ids)
    .bind(epoch)
    .execute(connection)
    .await?;
    Ok(())
}

/// Whom a change concerns that concerns many.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct Fanout {
    pub(crate) epoch: i64,
    /// Whoever holds it.
    pub(crate) role: Option<String>,
    /// Its members. Without role and group: those who were given the epoch at once.
    pub(crate) group_id: Option<Uuid>,
    /// The last one whose tokens were revoked.
    pub(crate) after: Option<Uuid>,
}

/// Leaves it to the job to revoke the tokens of all whom a change concerns, or of the rest of them.
pub(crate) async fn leave_fanout(connection: &mut PgConnection, fanout: &Fanout) -> sqlx::Result<()> {
    sqlx::query("insert into fanouts (epoch, role, group_id, after) values ($1, $2, $3, $4)")
        .bind(fanout.epoch)
        .bind(&fanout.role)
        .bind(fanout.group_id)
        .bind(fanout.after)
        .execute(connection)
        .await?;
    Ok(())
}

/// Takes the oldest change that was left, if there is one that nobody else is taking.
pub(crate) async fn take_fanout(connection: &mut PgConnection) -> sqlx::Result<Option<Fanout>> {
    sqlx::query_as::<_, Fanout>(
        "delete from fanouts where epoch in (select epoch from fanouts order by epoch limit 1 for update skip locked)
         returning epoch, role, group_id, after",
    )
    .fetch_optional(connection)
    .await
}
