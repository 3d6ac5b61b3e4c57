//! `GET /db/status`.

use axum::extract::State;
use chrono::{DateTime, Utc};
use kronos_common::{
    extract::Json,
    identity::Allowed,
    problem::{ProblemBody, Result},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::CanReadDatabase;
use crate::{
    App,
    migrate::{SERVICES, sets},
    store::{
        backups,
        status::{self, Connections, Migrated, Server, Standby, Statement, Table},
    },
};

/// How many of the slowest statements are shown.
const SLOWEST: i64 = 10;

/// The database's condition.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseStatus {
    server: Server,
    connections: ConnectionStatus,
    replication: Replication,
    schemas: Vec<SchemaStatus>,
    /// By mean time since the statistics were last reset; null if the server does not count statements.
    slow_statements: Option<Vec<Statement>>,
    /// The newest completed backup.
    last_backup: Option<backups::Row>,
}

/// Connections of the whole server.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionStatus {
    used: i64,
    max: i32,
    by_role: Vec<Connections>,
}

/// Who follows whom.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Replication {
    /// `primary` or `standby`.
    role: &'static str,
    standbys: Vec<Standby>,
}

/// One service's schema.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SchemaStatus {
    name: &'static str,
    /// The role that owns it.
    owner: &'static str,
    bytes: i64,
    tables: Vec<Table>,
    /// Null if the backup's role, which alone may look, can't log in.
    migrations: Option<MigrationStatus>,
}

/// How far a schema is migrated.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MigrationStatus {
    version: Option<i64>,
    /// The newest that this service knows.
    latest: Option<i64>,
    /// Nothing that this service knows is missing.
    current: bool,
    applied: i64,
    last_applied_at: Option<DateTime<Utc>>,
}

/// Show the database's condition: sizes, connections, replication, slow statements, migrations, the last backup.
#[utoipa::path(
    get,
    path = "/db/status",
    tag = "database-admin",
    responses(
        (status = 200, body = DatabaseStatus),
        (status = 401, description = "No valid token", body = ProblemBody),
        (status = 403, description = "Needs `db:read`", body = ProblemBody),
        (status = 503, description = "The database is away", body = ProblemBody),
    ),
    security(("bearer" = []))
)]
pub(super) async fn get_status(State(app): State<App>, _: Allowed<CanReadDatabase>) -> Result<Json<DatabaseStatus>> {
    let names = SERVICES.map(|service| service.schema);
    let server = status::server(&app.pool).await?;
    let by_role = status::connections(&app.pool).await?;
    let standbys = status::standbys(&app.pool).await?;
    let tables = status::tables(&app.pool, &names).await?;
    let migrated = status::migrations(&app.backup_pool).await;
    if let Err(error) = &migrated {
        tracing::warn!(%error, "can't read the migrations of all schemas");
    }
    Ok(Json(DatabaseStatus {
        connections: ConnectionStatus {
            used: by_role.iter().map(|role| role.active + role.idle + role.idle_in_transaction).sum(),
            max: server.max_connections,
            by_role,
        },
        replication: Replication { role: if server.in_recovery { "standby" } else { "primary" }, standbys },
        schemas: schemas(&tables, migrated.ok().as_deref()),
        slow_statements: status::slow_statements(&app.pool, SLOWEST).await?,
        last_backup: backups::last_good(&app.pool).await?,
        server,
    }))
}

fn schemas(tables: &[Table], migrated: Option<&[Migrated]>) -> Vec<SchemaStatus> {
    let sets = sets().unwrap_or_default();
    SERVICES
        .iter()
        .map(|service| {
            let tables: Vec<Table> = tables.iter().filter(|table| table.schema == service.schema).cloned().collect();
            let known: Vec<i64> = sets
                .iter()
                .filter(|set| set.role.schema == service.schema)
                .flat_map(|set| set.migrator.iter().map(|migration| migration.version))
                .collect();
            let found = migrated.and_then(|all| all.iter().find(|found| found.schema == service.schema));
            let migrations = found.map(|found| {
                let latest = known.iter().max().copied();
                MigrationStatus {
                    version: found.version,
                    latest,
                    current: found.version >= latest && found.applied >= i64::try_from(known.len()).unwrap_or(i64::MAX),
                    applied: found.applied,
                    last_applied_at: found.last_applied_at,
                }
            });
            let bytes = tables.iter().map(|table| table.bytes).sum();
            SchemaStatus { name: service.schema, owner: service.role, bytes, tables, migrations }
        })
        .collect()
}
