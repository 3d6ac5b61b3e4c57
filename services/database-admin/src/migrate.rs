//! `database-admin migrate`: makes the database, its roles and its schemas, and applies every schema's migrations
//! under its owner's role. Idempotent, and safe to run twice at once. It does not serve requests, and the services
//! never run it themselves: they only check that their schema is current.

mod grants;
mod readable;
mod roles;
mod scram;
mod sets;

use std::{collections::BTreeMap, io::Write, time::Instant};

use anyhow::{Context as _, bail, ensure};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use sqlx::{
    AssertSqlSafe, Connection as _, Executor as _, PgConnection,
    postgres::{PgConnectOptions, PgSslMode},
};

pub use roles::{BACKUP, READER, SERVICES, ServiceRole};
pub use sets::{MigrationSet, own_migrations, sets};

/// The key of the advisory lock that lets one `migrate` run at a time on one server: "kronos" in ASCII.
const LOCK: i64 = 0x6b72_6f6e_6f73;

/// Section `[migrate]` of the configuration; only the subcommand `migrate` reads it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// URL of an administrator: a superuser, or a role with CREATEDB and CREATEROLE. The database that it names is
    /// only the door; the lock against a second `migrate` is held there. It must not pass through PgBouncer.
    pub admin_url: SecretString,
    /// The database to fill. Created if missing.
    pub database: String,
    /// Password of each login role. A role without one is made, but cannot log in by password.
    #[serde(default)]
    pub role_passwords: BTreeMap<String, SecretString>,
    /// How many connections each service's role may hold, all instances together; -1 means no limit.
    pub connection_limit: i32,
}

/// Brings the database to the state that this binary knows, and writes one line for each schema to `out`.
///
/// # Errors
/// When the settings name an unknown role, the server cannot be reached, or a migration fails: that schema keeps
/// its last good version, and the ones after it are not touched.
pub async fn run(settings: &Settings, out: &mut (dyn Write + Send)) -> anyhow::Result<()> {
    check(settings)?;
    anyhow::ensure!(!settings.admin_url.expose_secret().is_empty(), "migrate.admin_url is not set");
    let door: PgConnectOptions = settings.admin_url.expose_secret().parse().context("read migrate.admin_url")?;
    let door = door.application_name("database-admin migrate");
    let mut admin = connect(&door).await?;

    if !sqlx::query_scalar::<_, bool>("select pg_try_advisory_lock($1)").bind(LOCK).fetch_one(&mut admin).await? {
        writeln!(out, "another migrate is running on this server, waiting for it")?;
        admin.execute("set lock_timeout = '10min'").await?;
        sqlx::query("select pg_advisory_lock($1)")
            .bind(LOCK)
            .execute(&mut admin)
            .await
            .context("wait for the other migrate")?;
    }

    roles::ensure_all(&mut admin, settings, out).await?;
    ensure_database(&mut admin, &settings.database, out).await?;

    let mut target = connect(&door.clone().database(&settings.database)).await?;
    target.execute("set client_min_messages = warning").await?;
    grants::close_database(&mut target, &settings.database).await?;
    for role in &SERVICES {
        roles::ensure_schema(&mut target, role).await?;
    }
    grants::text_search(&mut target).await?;
    for set in sets()? {
        apply(&mut target, &set, out).await.with_context(|| format!("migrate schema {}", set.role.schema))?;
    }
    grants::give(&mut target, out).await?;

    target.close().await?;
    admin.close().await?; // releases the lock
    Ok(())
}

/// Refuses settings that could not have been meant.
fn check(settings: &Settings) -> anyhow::Result<()> {
    ensure!(
        !settings.database.is_empty()
            && settings.database.len() <= 63
            && settings.database.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-'),
        "migrate.database: {:?} is not 1 to 63 letters, digits, _ or -",
        settings.database,
    );
    ensure!(settings.connection_limit >= -1, "migrate.connection_limit: must be -1 (none) or more");
    for name in settings.role_passwords.keys() {
        if !roles::names().any(|known| known == name) {
            bail!(
                "migrate.role_passwords.{name}: there is no such role; there are {}",
                roles::names().collect::<Vec<_>>().join(", ")
            );
        }
    }
    Ok(())
}

async fn connect(options: &PgConnectOptions) -> anyhow::Result<PgConnection> {
    let at = format!("{}:{}", options.get_host(), options.get_port());
    let database = options.get_database().unwrap_or("postgres").to_owned();
    // Without TLS nothing has to be negotiated on a loopback address or a socket.
    let options = match options.get_ssl_mode() {
        PgSslMode::Prefer if options.get_host() == "127.0.0.1" => options.clone().ssl_mode(PgSslMode::Disable),
        _ => options.clone(),
    };
    PgConnection::connect_with(&options).await.with_context(|| format!("connect to database {database} at {at}"))
}

async fn ensure_database(admin: &mut PgConnection, name: &str, out: &mut (dyn Write + Send)) -> anyhow::Result<()> {
    let exists: bool = sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
        .bind(name)
        .fetch_one(&mut *admin)
        .await?;
    if !exists {
        // The name was checked: letters, digits, _ and - only.
        let create = format!("create database \"{name}\" encoding 'UTF8' template template0");
        admin.execute(AssertSqlSafe(create)).await.with_context(|| format!("create database {name}"))?;
        writeln!(out, "{:<10} created", "database")?;
    }
    Ok(())
}

/// Applies what is missing of one schema, as its owner, and says so in one line.
async fn apply(target: &mut PgConnection, set: &MigrationSet, out: &mut (dyn Write + Send)) -> anyhow::Result<()> {
    let started = Instant::now();
    let ServiceRole { role, schema, .. } = set.role;
    // A change that waits for a lock holds up all who come after it: better to fail, and to be run again.
    target
        .execute(AssertSqlSafe(format!("set role {role}; set search_path = {schema}; set lock_timeout = '30s'")))
        .await?;
    let before = applied(target).await?;
    set.migrator.run_direct(None, target, false).await?;
    let after = applied(target).await?;
    target.execute("reset lock_timeout; reset search_path; reset role").await?;
    let new = after.saturating_sub(before);
    let version = set.migrator.iter().map(|migration| migration.version).max().unwrap_or(0);
    writeln!(
        out,
        "{schema:<10} version {version:04}, {new} new of {after} migrations, {} ms",
        started.elapsed().as_millis()
    )?;
    Ok(())
}

/// How many migrations the current schema has seen.
async fn applied(target: &mut PgConnection) -> anyhow::Result<i64> {
    let known: bool =
        sqlx::query_scalar("select to_regclass('_sqlx_migrations') is not null").fetch_one(&mut *target).await?;
    if !known {
        return Ok(0);
    }
    Ok(sqlx::query_scalar("select count(*) from _sqlx_migrations").fetch_one(target).await?)
}
