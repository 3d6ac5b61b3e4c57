//! Roles, their inheritance and its closure.

use std::collections::BTreeSet;

use kronos_common::problem::{OnConstraint as _, Problem, Result};
use sqlx::{PgConnection, PgExecutor, PgPool};

use crate::roles::{Inheritance, Role, RoleDefinition, closure, including};

/// A role.
pub(crate) async fn find(executor: impl PgExecutor<'_>, name: &str) -> Result<Role> {
    sqlx::query_as::<_, Role>(
        "select name, description, permissions, version, created_at, updated_at,
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
        "select name, description, permissions, version, created_at, updated_at,
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
        .bind(permissions(definition))
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
    .bind(permissions(definition))
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

fn permissions(definition: &RoleDefinition) -> Vec<&str> {
    definition.permissions.iter().map(|permission| permission.as_str()).collect()
}
