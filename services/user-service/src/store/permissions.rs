//! The catalogue of permissions.

use kronos_common::problem::{Problem, Result};
use sqlx::{PgConnection, PgPool};

use crate::catalogue::{DeclaredPermission, Permission};

/// Writes what is built in: new texts replace old ones, and what another service had declared before stays its own.
pub(crate) async fn declare_all(pool: &PgPool, built_in: &[(&str, &str, &str)]) -> sqlx::Result<()> {
    let part = |select: fn(&(&str, &str, &str)) -> String| built_in.iter().map(select).collect::<Vec<String>>();
    sqlx::query(
        "insert into permissions (service, name, description)
         select * from unnest($1::text[], $2::text[], $3::text[]) as t (service, name, description) order by name
         on conflict on constraint permissions_pkey do update set description = excluded.description
         where permissions.service = excluded.service and permissions.description <> excluded.description",
    )
    .bind(part(|(service, _, _)| (*service).to_owned()))
    .bind(part(|(_, name, _)| (*name).to_owned()))
    .bind(part(|(_, _, description)| (*description).to_owned()))
    .execute(pool)
    .await?;
    Ok(())
}

/// Makes these the permissions of a service. Roles keep what is no longer declared.
pub(crate) async fn declare(
    connection: &mut PgConnection,
    service: &str,
    declared: &[DeclaredPermission],
) -> Result<()> {
    let names: Vec<&str> = declared.iter().map(|permission| permission.name.as_str()).collect();
    let descriptions: Vec<&str> = declared.iter().map(|permission| permission.description.as_str()).collect();
    sqlx::query("delete from permissions where service = $1 and name <> all($2)")
        .bind(service)
        .bind(&names)
        .execute(&mut *connection)
        .await?;
    sqlx::query(
        "insert into permissions (service, name, description)
         select $1, * from unnest($2::text[], $3::text[]) as t (name, description) order by name
         on conflict on constraint permissions_pkey do update set description = excluded.description
         where permissions.service = excluded.service",
    )
    .bind(service)
    .bind(&names)
    .bind(descriptions)
    .execute(&mut *connection)
    .await?;
    let of_others = sqlx::query_as::<_, (String, String)>(
        "select name, service from permissions where name = any($2) and service <> $1 order by name limit 1",
    )
    .bind(service)
    .bind(&names)
    .fetch_optional(connection)
    .await?;
    match of_others {
        Some((name, owner)) => {
            Err(Problem::conflict("permission_taken", format!("{name} is declared by {owner}: name yours otherwise")))
        }
        None => Ok(()),
    }
}

/// All names.
pub(crate) async fn names(connection: &mut PgConnection) -> Result<Vec<String>> {
    Ok(sqlx::query_scalar("select name from permissions order by name").fetch_all(connection).await?)
}

/// Permissions by name, after the name `after`, perhaps of one service.
pub(crate) async fn list(
    pool: &PgPool,
    service: Option<&str>,
    after: Option<&str>,
    count: i64,
) -> Result<Vec<Permission>> {
    Ok(sqlx::query_as::<_, Permission>(
        "select name, service, description, declared_at from permissions
         where ($1::text is null or service = $1) and ($2::text is null or name > $2) order by name limit $3",
    )
    .bind(service)
    .bind(after)
    .bind(count)
    .fetch_all(pool)
    .await?)
}
