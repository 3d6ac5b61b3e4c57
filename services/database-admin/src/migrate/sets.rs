//! The migrations that this binary carries: for each schema the common ones, then its own. No connection here.

use anyhow::ensure;
use sqlx::migrate::Migrator;

use super::roles::{SERVICES, ServiceRole};

/// Migrations that every schema gets: outbox, inbox, idempotency keys, revocations.
static COMMON: Migrator = sqlx::migrate!("../../migrations/common");
static AUTH: Migrator = sqlx::migrate!("../../migrations/auth");
static USERS: Migrator = sqlx::migrate!("../../migrations/users");
static LOGS: Migrator = sqlx::migrate!("../../migrations/logs");
static CACHE: Migrator = sqlx::migrate!("../../migrations/cache");
static ROUTER: Migrator = sqlx::migrate!("../../migrations/router");
static MESSAGING: Migrator = sqlx::migrate!("../../migrations/messaging");
static DBADMIN: Migrator = sqlx::migrate!("../../migrations/dbadmin");

/// The first version that a schema's own migrations may have; those below are common to all.
const FIRST_OWN_VERSION: i64 = 100;

/// One schema's migrations, in order.
#[derive(Debug)]
pub struct MigrationSet {
    /// Whose schema it is.
    pub role: &'static ServiceRole,
    /// Common and own migrations, as one.
    pub migrator: Migrator,
}

/// Every schema's migrations, in the order in which they are applied.
///
/// # Errors
/// When two files of one schema have the same version, or a version is outside its folder's range.
pub fn sets() -> anyhow::Result<Vec<MigrationSet>> {
    SERVICES.iter().map(|role| Ok(MigrationSet { role, migrator: joined(role, own(role.schema))? })).collect()
}

/// database-admin's own migrations, without the common ones.
pub fn own_migrations() -> &'static Migrator {
    &DBADMIN
}

fn own(schema: &str) -> &'static Migrator {
    match schema {
        "auth" => &AUTH,
        "users" => &USERS,
        "logs" => &LOGS,
        "cache" => &CACHE,
        "router" => &ROUTER,
        "messaging" => &MESSAGING,
        "dbadmin" => &DBADMIN,
        other => unreachable!("schema {other} is not in roles::SERVICES"),
    }
}

fn joined(role: &ServiceRole, own: &Migrator) -> anyhow::Result<Migrator> {
    let schema = role.schema;
    for migration in COMMON.iter() {
        ensure!(migration.version < FIRST_OWN_VERSION, "migrations/common: {} must be below 0100", migration.version);
    }
    for migration in own.iter() {
        ensure!(
            migration.version >= FIRST_OWN_VERSION,
            "migrations/{schema}: {} must be 0100 or more",
            migration.version
        );
    }
    let all: Vec<_> = COMMON.iter().chain(own.iter()).cloned().collect();
    let joined = Migrator::with_migrations(all);
    let mut last = 0;
    for migration in joined.iter() {
        ensure!(migration.version != last, "migrations/{schema}: two files have version {last:04}");
        last = migration.version;
    }
    Ok(joined)
}
