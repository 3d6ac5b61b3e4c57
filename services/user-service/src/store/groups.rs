//! Groups and who is in them.

use kronos_common::{
    name,
    problem::{OnConstraint as _, Problem, Result},
};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::groups::{Group, GroupDefinition, Member};

/// Makes a group.
pub(crate) async fn insert(connection: &mut PgConnection, id: Uuid, definition: &GroupDefinition) -> Result<Group> {
    let (name, description) = (definition.name.as_str(), definition.description.as_str());
    sqlx::query_as::<_, Group>(
        "insert into groups (id, name, name_key, description, external_id) values ($1, $2, $3, $4, $5)
         returning id, name, description, version, created_at, updated_at, external_id",
    )
    .bind(id)
    .bind(name)
    .bind(name::key(name))
    .bind(description)
    .bind(&definition.external_id)
    .fetch_one(connection)
    .await
    .on_constraint("groups_name_key_key", name_taken())
}

/// Writes what `group` says now and makes the next version of it.
pub(crate) async fn update(connection: &mut PgConnection, group: &Group) -> Result<Group> {
    sqlx::query_as::<_, Group>(
        "update groups set name = $2, name_key = $3, description = $4, external_id = $5, version = version + 1, updated_at = now()
         where id = $1
         returning id, name, description, version, created_at, updated_at, external_id",
    )
    .bind(group.id)
    .bind(&group.name)
    .bind(name::key(&group.name))
    .bind(&group.description)
    .bind(&group.external_id)
    .fetch_one(connection)
    .await
    .on_constraint("groups_name_key_key", name_taken())
}

/// A group, locked until the transaction ends.
pub(crate) async fn lock(connection: &mut PgConnection, id: Uuid) -> Result<Group> {
    sqlx::query_as::<_, Group>(
        "select id, name, description, version, created_at, updated_at, external_id from groups where id = $1 for update",
    )
    .bind(id)
    .fetch_optional(connection)
    .await?
    .ok_or_else(no_group)
}

/// A group.
pub(crate) async fn find(pool: &PgPool, id: Uuid) -> Result<Group> {
    sqlx::query_as::<_, Group>(
        "select id, name, description, version, created_at, updated_at, external_id from groups where id = $1",
    )
    .bind(id)
    .fetch_optional(pool)
    .await?
    .ok_or_else(no_group)
}

/// Groups of these ids, in no order.
pub(crate) async fn find_all(pool: &PgPool, ids: &[Uuid]) -> Result<Vec<Group>> {
    Ok(sqlx::query_as::<_, Group>(
        "select id, name, description, version, created_at, updated_at, external_id from groups where id = any($1)",
    )
    .bind(ids)
    .fetch_all(pool)
    .await?)
}

/// The members of these groups, each with the group.
pub(crate) async fn members_of(pool: &PgPool, ids: &[Uuid]) -> Result<Vec<(Uuid, Uuid)>> {
    Ok(sqlx::query_as(
        "select group_id, user_id from group_members where group_id = any($1) order by group_id, user_id",
    )
    .bind(ids)
    .fetch_all(pool)
    .await?)
}

/// The groups that these people are in: the person, the group and its name.
pub(crate) async fn of_users(pool: &PgPool, ids: &[Uuid]) -> Result<Vec<(Uuid, Uuid, String)>> {
    Ok(sqlx::query_as(
        "select m.user_id, g.id, g.name from group_members m join groups g on g.id = m.group_id
         where m.user_id = any($1) order by m.user_id, g.name_key",
    )
    .bind(ids)
    .fetch_all(pool)
    .await?)
}

/// The last change of what a group has; 404 if there is no such group.
pub(crate) async fn epoch(connection: &mut PgConnection, id: Uuid) -> Result<i64> {
    sqlx::query_scalar("select epoch from groups where id = $1")
        .bind(id)
        .fetch_optional(connection)
        .await?
        .ok_or_else(no_group)
}

/// Makes `epoch` that of a group.
pub(crate) async fn raise(connection: &mut PgConnection, id: Uuid, epoch: i64) -> Result<()> {
    sqlx::query("update groups set epoch = $2 where id = $1").bind(id).bind(epoch).execute(connection).await?;
    Ok(())
}

/// Groups in the order of their names' keys, after the key `after`.
pub(crate) async fn list(pool: &PgPool, after: Option<&str>, count: i64) -> Result<Vec<Group>> {
    Ok(sqlx::query_as::<_, Group>(
        "select id, name, description, version, created_at, updated_at, external_id from groups
         where $1::text is null or name_key > $1 order by name_key limit $2",
    )
    .bind(after)
    .bind(count)
    .fetch_all(pool)
    .await?)
}

/// The groups that a person is in, in the order of their names' keys.
pub(crate) async fn of_user(pool: &PgPool, user_id: Uuid, after: Option<&str>, count: i64) -> Result<Vec<Group>> {
    Ok(sqlx::query_as::<_, Group>(
        "select g.id, g.name, g.description, g.version, g.created_at, g.updated_at, g.external_id
         from group_members m join groups g on g.id = m.group_id
         where m.user_id = $1 and ($2::text is null or g.name_key > $2) order by g.name_key limit $3",
    )
    .bind(user_id)
    .bind(after)
    .bind(count)
    .fetch_all(pool)
    .await?)
}

/// Removes a group and what hangs on it.
pub(crate) async fn delete(connection: &mut PgConnection, id: Uuid) -> Result<()> {
    sqlx::query("delete from groups where id = $1").bind(id).execute(connection).await?;
    Ok(())
}

/// Every permission that a group's roles grant.
pub(crate) async fn granted(connection: &mut PgConnection, id: Uuid) -> Result<Vec<String>> {
    Ok(sqlx::query_scalar::<_, String>(
        "select distinct unnest(r.permissions)
         from group_assignments a
         join role_closure c on c.role = a.role
         join roles r on r.name = c.includes
         where a.group_id = $1",
    )
    .bind(id)
    .fetch_all(connection)
    .await?)
}

/// Makes the next version of a group, whose members have changed.
pub(crate) async fn touch(connection: &mut PgConnection, id: Uuid) -> Result<Group> {
    sqlx::query_as::<_, Group>(
        "update groups set version = version + 1, updated_at = now() where id = $1
         returning id, name, description, version, created_at, updated_at, external_id",
    )
    .bind(id)
    .fetch_optional(connection)
    .await?
    .ok_or_else(no_group)
}

/// Takes people in; gives those who were no members before.
pub(crate) async fn add_members(connection: &mut PgConnection, id: Uuid, people: &[Uuid]) -> Result<Vec<Uuid>> {
    Ok(sqlx::query_scalar(
        "insert into group_members (group_id, user_id) select $1, unnest($2::uuid[])
         on conflict on constraint group_members_pkey do nothing returning user_id",
    )
    .bind(id)
    .bind(people)
    .fetch_all(connection)
    .await?)
}

/// Lets people go; gives those who were members.
pub(crate) async fn remove_members(connection: &mut PgConnection, id: Uuid, people: &[Uuid]) -> Result<Vec<Uuid>> {
    Ok(sqlx::query_scalar("delete from group_members where group_id = $1 and user_id = any($2) returning user_id")
        .bind(id)
        .bind(people)
        .fetch_all(connection)
        .await?)
}

/// Members by id, after the id `after`.
pub(crate) async fn members(pool: &PgPool, id: Uuid, after: Option<Uuid>, count: i64) -> Result<Vec<Member>> {
    Ok(sqlx::query_as::<_, Member>(
        "select m.user_id, u.username, u.display_name, m.added_at
         from group_members m join users u on u.id = m.user_id
         where m.group_id = $1 and ($2::uuid is null or m.user_id > $2) order by m.user_id limit $3",
    )
    .bind(id)
    .bind(after)
    .bind(count)
    .fetch_all(pool)
    .await?)
}

/// The ids of members, after the id `after`.
pub(crate) async fn member_ids(
    connection: &mut PgConnection,
    id: Uuid,
    after: Option<Uuid>,
    count: i64,
) -> Result<Vec<Uuid>> {
    Ok(sqlx::query_scalar(
        "select user_id from group_members where group_id = $1 and ($2::uuid is null or user_id > $2)
         order by user_id limit $3",
    )
    .bind(id)
    .bind(after)
    .bind(count)
    .fetch_all(connection)
    .await?)
}

fn no_group() -> Problem {
    Problem::not_found("group")
}

fn name_taken() -> Problem {
    Problem::conflict("group_exists", "there is a group of this name, perhaps in another case or Unicode form")
}
