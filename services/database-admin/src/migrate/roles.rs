//! The login roles and their schemas: one pair for each service, and two roles that own nothing. What the two may
//! read is in `grants`.

use std::io::Write;

use anyhow::Context as _;
use secrecy::ExposeSecret as _;
use sqlx::{AssertSqlSafe, Executor as _, PgConnection};

use super::{Settings, scram};

/// A service's login role and the schema that it owns.
#[derive(Debug)]
pub struct ServiceRole {
    /// Name of the login role.
    pub role: &'static str,
    /// Name of the schema; the role's `search_path`.
    pub schema: &'static str,
}

/// The seven services' roles, in the order in which their schemas are migrated.
pub const SERVICES: [ServiceRole; 7] = [
    ServiceRole { role: "kronos_auth", schema: "auth" },
    ServiceRole { role: "kronos_users", schema: "users" },
    ServiceRole { role: "kronos_logs", schema: "logs" },
    ServiceRole { role: "kronos_cache", schema: "cache" },
    ServiceRole { role: "kronos_router", schema: "router" },
    ServiceRole { role: "kronos_messaging", schema: "messaging" },
    ServiceRole { role: "kronos_dbadmin", schema: "dbadmin" },
];

/// The role that runs the queries of `/db/query`: it reads curated tables and columns, and nothing else.
pub const READER: &str = "kronos_reader";

/// The role that `pg_dump` runs under: it reads the seven schemas, and nothing else.
pub const BACKUP: &str = "kronos_backup";

/// Connections that the reader may hold, all instances of database-admin together.
const READER_CONNECTIONS: i32 = 32;

/// Connections that backups may hold.
const BACKUP_CONNECTIONS: i32 = 16;

/// Every login role that `migrate` makes.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    SERVICES.iter().map(|service| service.role).chain([READER, BACKUP])
}

/// Creates the missing roles, and sets each one's attributes, limits, search path and password.
pub(super) async fn ensure_all(
    admin: &mut PgConnection,
    settings: &Settings,
    out: &mut (dyn Write + Send),
) -> anyhow::Result<()> {
    let superuser: bool =
        sqlx::query_scalar("select rolsuper from pg_roles where rolname = current_user").fetch_one(&mut *admin).await?;
    let mut created = 0;
    let mut without_password = Vec::new();
    for service in &SERVICES {
        created += i32::from(ensure(admin, service.role, settings.connection_limit).await?);
        set(admin, service.role, &format!("set search_path = {}", service.schema)).await?;
    }
    for (role, limit) in [(READER, READER_CONNECTIONS), (BACKUP, BACKUP_CONNECTIONS)] {
        created += i32::from(ensure(admin, role, limit).await?);
        // Nothing of a user's is found by an unqualified name.
        set(admin, role, "set search_path = pg_catalog").await?;
        set(admin, role, "set default_transaction_read_only = on").await?;
    }
    set(admin, READER, "set statement_timeout = '30s'").await?;
    set(admin, READER, "set idle_in_transaction_session_timeout = '30s'").await?;
    set(admin, READER, "set lock_timeout = '2s'").await?;
    if superuser {
        set(admin, READER, "set temp_file_limit = '256MB'").await?;
    }
    for role in names() {
        if !superuser {
            // Without it a plain administrator could make schemas for the role, but not act as it.
            admin.execute(AssertSqlSafe(format!("grant {role} to current_user"))).await?;
        }
        match settings.role_passwords.get(role) {
            Some(password) => {
                let verifier = scram::verifier(password.expose_secret())
                    .with_context(|| format!("read migrate.role_passwords.{role}"))?;
                set(admin, role, &format!("password '{verifier}'")).await?;
            }
            None => without_password.push(role),
        }
    }
    writeln!(out, "{:<10} {created} new of {}", "roles", names().count())?;
    if !without_password.is_empty() {
        writeln!(out, "{:<10} no password is configured for {}", "", without_password.join(", "))?;
    }
    Ok(())
}

/// Makes one role, or takes from it what it should not have. Says whether it is new.
async fn ensure(admin: &mut PgConnection, role: &str, connections: i32) -> anyhow::Result<bool> {
    // Only kronos_dbadmin is granted another role's rights (pg_read_all_stats), and so must inherit.
    let inherit = if role == "kronos_dbadmin" { "inherit" } else { "noinherit" };
    let wanted = format!("login {inherit} nocreatedb nocreaterole connection limit {connections}");
    let found: Option<(bool, bool, bool)> =
        sqlx::query_as("select rolsuper, rolreplication, rolbypassrls from pg_roles where rolname = $1")
            .bind(role)
            .fetch_optional(&mut *admin)
            .await?;
    let Some((superuser, replication, bypasses_rls)) = found else {
        admin
            .execute(AssertSqlSafe(format!("create role {role} {wanted}")))
            .await
            .with_context(|| format!("create role {role}"))?;
        return Ok(true);
    };
    set(admin, role, &wanted).await?;
    if superuser || replication || bypasses_rls {
        set(admin, role, "nosuperuser noreplication nobypassrls").await?;
    }
    Ok(false)
}

/// `alter role …`. Both parts are ours: names from the table above, settings written here.
async fn set(admin: &mut PgConnection, role: &str, what: &str) -> anyhow::Result<()> {
    let subject = what.split([' ', '=']).next().unwrap_or_default();
    admin
        .execute(AssertSqlSafe(format!("alter role {role} {what}")))
        .await
        .with_context(|| format!("alter role {role} ({subject})"))?;
    Ok(())
}

/// Makes a service's schema, owned by its role, closed to everyone else.
pub(super) async fn ensure_schema(target: &mut PgConnection, service: &ServiceRole) -> anyhow::Result<()> {
    let ServiceRole { role, schema } = service;
    target
        .execute(AssertSqlSafe(format!(
            "create schema if not exists {schema} authorization {role};
             alter schema {schema} owner to {role};
             revoke all on schema {schema} from public;"
        )))
        .await
        .with_context(|| format!("create schema {schema}"))?;
    Ok(())
}
