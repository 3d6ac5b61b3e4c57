//! Roles, their inheritance and its closure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use kronos_common::problem::{OnConstraint as _, Problem, Result};
use sqlx::{PgConnection, PgExecutor, PgPool};
use uuid::Uuid;

use crate::{
    held::RoleGrants,
    rights::IncludedRole,
    roles::{Inheritance, Role, RoleDefinition, closure, including},
};

/// A role.
pub(crate) async fn find(executor: impl PgExecutor<'_>, name: &str) -> Result<Role> {
    sqlx::query_as::<_, Role>(
        "select name, description, permissions, version, epoch, created_at, updated_at,
                array(select inherits from role_inherits where role = name order by inherits) as inherits
         from roles where name = $1",
    )
    .bind(name)
    .fetch_optional(executor)
    .await?
    .ok_or_else(|| Problem::not_found("role"))
}

/// Roles in the order of their names, after the name `after`.
pub(crate) async fn list(pool: &PgPool, after: Option<&str>, count: i64) -> Result<Vec<Role>> {
    Ok(sqlx::query_as::<_, Role>(
        "select name, description, permissions, version, epoch, created_at, updated_at,
                array(select inherits from role_inherits where role = name order by inherits) as inherits
         from roles
         where $1::text is null or name > $1
         order by name
         limit $2",
    )
    .bind(after)
    .bind(count)
    .fetch_all(pool)
    .await?)
}

/// Makes a role, without its inheritance.
pub(crate) async fn insert(connection: &mut PgConnection, name: &str, definition: &RoleDefinition) -> Result<()> {
    sqlx::query("insert into roles (name, description, permissions) values ($1, $2, $3)")
        .bind(name)
        .bind(definition.description.as_str())
        .bind(patterns(definition))
        .execute(connection)
        .await
        .on_constraint("roles_pkey", Problem::conflict("role_exists", "there is a role of this name"))?;
    Ok(())
}

/// Changes a role, without its inheritance, and makes its next version.
pub(crate) async fn update(connection: &mut PgConnection, name: &str, definition: &RoleDefinition) -> Result<()> {
    sqlx::query(
        "update roles set description = $2, permissions = $3, version = version + 1, updated_at = now() where name = $1",
    )
    .bind(name)
    .bind(definition.description.as_str())
    .bind(patterns(definition))
    .execute(connection)
    .await?;
    Ok(())
}

/// Removes a role; the assignments of it go along. 409 while another role inherits it.
pub(crate) async fn delete(connection: &mut PgConnection, name: &str) -> Result<()> {
    let heirs =
        sqlx::query_scalar::<_, String>("select role from role_inherits where inherits = $1 order by role limit 5")
            .bind(name)
            .fetch_all(&mut *connection)
            .await?;
    if !heirs.is_empty() {
        let detail = format!("it is inherited by {}: take it out there first", heirs.join(", "));
        return Err(Problem::conflict("role_inherited", detail));
    }
    sqlx::query("delete from roles where name = $1").bind(name).execute(connection).await?;
    Ok(())
}

/// Which role inherits which.
pub(crate) async fn inheritance(connection: &mut PgConnection) -> Result<Inheritance> {
    let rows =
        sqlx::query_as::<_, (String, String)>("select role, inherits from role_inherits").fetch_all(connection).await?;
    let mut inheritance = Inheritance::new();
    for (role, inherits) in rows {
        inheritance.entry(role).or_default().insert(inherits);
    }
    Ok(inheritance)
}

/// Which of these roles there are.
pub(crate) async fn existing(connection: &mut PgConnection, names: &[&str]) -> Result<BTreeSet<String>> {
    let found = sqlx::query_scalar::<_, String>("select name from roles where name = any($1)")
        .bind(names)
        .fetch_all(connection)
        .await?;
    Ok(found.into_iter().collect())
}

/// Writes what `role` inherits directly, and the closure of it and of all roles that include it. `inheritance` is the whole
/// of it after the change, free of circles.
pub(crate) async fn set_inheritance(
    connection: &mut PgConnection,
    role: &str,
    inheritance: &Inheritance,
) -> Result<()> {
    sqlx::query("delete from role_inherits where role = $1").bind(role).execute(&mut *connection).await?;
    let direct: Vec<&String> = inheritance.get(role).into_iter().flatten().collect();
    sqlx::query("insert into role_inherits (role, inherits) select $1, unnest($2::text[])")
        .bind(role)
        .bind(direct)
        .execute(&mut *connection)
        .await?;

    let changed: Vec<String> = including(inheritance, role).into_iter().collect();
    sqlx::query("delete from role_closure where role = any($1)").bind(&changed).execute(&mut *connection).await?;
    let (mut roles, mut includes, mut paths) = (Vec::new(), Vec::new(), Vec::new());
    for role in &changed {
        for (included, path) in closure(inheritance, role) {
            roles.push(role.clone());
            includes.push(included);
            // Names hold no '/', and Postgres has no arrays of arrays of different lengths.
            paths.push(path.join("/"));
        }
    }
    sqlx::query(
        "insert into role_closure (role, includes, path)
         select role, includes, string_to_array(path, '/') from unnest($1::text[], $2::text[], $3::text[]) as t (role, includes, path)",
    )
    .bind(roles)
    .bind(includes)
    .bind(paths)
    .execute(connection)
    .await?;
    Ok(())
}

/// Every permission that `role` grants, by itself or by what it includes.
pub(crate) async fn granted(connection: &mut PgConnection, role: &str) -> Result<Vec<String>> {
    Ok(sqlx::query_scalar::<_, String>(
        "select distinct unnest(permissions) from role_closure join roles on roles.name = includes where role = $1",
    )
    .bind(role)
    .fetch_all(connection)
    .await?)
}

/// All that comes with each of these roles, the shortest paths first, with the role's epoch.
pub(crate) async fn grants(pool: &PgPool, names: &[&str]) -> Result<Vec<(String, RoleGrants)>> {
    let rows = sqlx::query_as::<_, (String, i64, Vec<String>, Vec<String>)>(
        "select c.role, r.epoch, c.path, included.permissions
         from roles r
         join role_closure c on c.role = r.name
         join roles included on included.name = c.includes
         where r.name = any($1)
         order by c.role, cardinality(c.path), c.path",
    )
    .bind(names)
    .fetch_all(pool)
    .await?;
    let mut roles: Vec<(String, RoleGrants)> = Vec::new();
    for (name, epoch, path, permissions) in rows {
        if roles.last().is_none_or(|(last, _)| *last != name) {
            roles.push((name, RoleGrants { epoch, includes: Vec::new() }));
        }
        if let Some((_, role)) = roles.last_mut() {
            role.includes.push(Arc::new(IncludedRole { path, permissions }));
        }
    }
    Ok(roles)
}

/// What every role itself grants.
pub(crate) async fn permissions(connection: &mut PgConnection) -> Result<BTreeMap<String, Vec<String>>> {
    let rows = sqlx::query_as::<_, (String, Vec<String>)>("select name, permissions from roles");
    Ok(rows.fetch_all(connection).await?.into_iter().collect())
}

/// How many people hold a role that is, or includes, `role`.
pub(crate) async fn count_holders(connection: &mut PgConnection, role: &str) -> Result<i64> {
    Ok(sqlx::query_scalar(
        "select count(*) from (
             select a.user_id from role_closure c join assignments a on a.role = c.role where c.includes = $1
             union
             select m.user_id from role_closure c
             join group_assignments a on a.role = c.role
             join group_members m on m.group_id = a.group_id
             where c.includes = $1) holders",
    )
    .bind(role)
    .fetch_one(connection)
    .await?)
}

/// People, not disabled, who hold a role that is, or includes, one of `roles`, by id, after the id `after`; with `resources`, only what holds
/// everywhere or on one of these. Each role's first people are taken from its index, so that a page costs what a page is.
pub(crate) async fn page_of_holders(
    connection: &mut PgConnection,
    roles: &[String],
    resources: Option<&[String]>,
    after: Option<Uuid>,
    count: i64,
) -> Result<Vec<Uuid>> {
    Ok(sqlx::query_scalar::<_, Uuid>(
        "with granting as (select distinct role from role_closure where includes = any($1)),
         with_role as (
             select distinct group_id from group_assignments join granting using (role)
             where ($2::text[] is null or resource is null or resource = any($2))
               and (expires_at is null or expires_at > now()))
         select distinct user_id from (
             select own.user_id from granting, lateral (
                 select distinct a.user_id from assignments a join users u on u.id = a.user_id and not u.disabled
                 where a.role = granting.role and ($3::uuid is null or a.user_id > $3)
                   and ($2::text[] is null or a.resource is null or a.resource = any($2))
                   and (a.expires_at is null or a.expires_at > now())
                 order by a.user_id limit $4) own
             union all
             select members.user_id from with_role, lateral (
                 select m.user_id from group_members m join users u on u.id = m.user_id and not u.disabled
                 where m.group_id = with_role.group_id and ($3::uuid is null or m.user_id > $3)
                 order by m.user_id limit $4) members) holders
         order by user_id limit $4",
    )
    .bind(roles)
    .bind(resources)
    .bind(after)
    .bind(count)
    .fetch_all(connection)
    .await?)
}

/// People who have one of these permissions; otherwise as [`page_of_holders`].
pub(crate) async fn holders_of(
    pool: &PgPool,
    permissions: &[String],
    resources: Option<&[String]>,
    after: Option<Uuid>,
    count: i64,
) -> Result<Vec<Uuid>> {
    let roles = sqlx::query_scalar::<_, String>("select name from roles where permissions && $1")
        .bind(permissions)
        .fetch_all(pool)
        .await?;
    page_of_holders(&mut *pool.acquire().await?, &roles, resources, after, count).await
}

/// A few roles that grant, by themselves or by what they include, one of these permissions.
pub(crate) async fn granting(pool: &PgPool, permissions: &[String]) -> Result<Vec<String>> {
    Ok(sqlx::query_scalar::<_, String>(
        "select distinct role from role_closure join roles on roles.name = includes
         where permissions && $1 order by role limit 5",
    )
    .bind(permissions)
    .fetch_all(pool)
    .await?)
}

fn patterns(definition: &RoleDefinition) -> Vec<&str> {
    definition.permissions.iter().map(|permission| permission.as_str()).collect()
}
