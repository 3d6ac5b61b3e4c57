//! The paths of the API.

pub mod backups;
pub mod query;
pub mod status;

use kronos_common::{identity::Permission, privacy};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::App;

/// What this service asks for, declared when it starts: each with what it allows.
pub(crate) const PERMISSIONS: &[(&str, &str)] = &[
    ("db:backup", "Make and restore backups"),
    ("db:query", "Run reading statements"),
    ("db:read", "See the state of the databases"),
];

/// May see the database's condition and what can be queried.
#[derive(Debug)]
pub struct CanReadDatabase;

impl Permission for CanReadDatabase {
    const NAME: &'static str = "db:read";
}

/// May run queries.
#[derive(Debug)]
pub struct CanQuery;

impl Permission for CanQuery {
    const NAME: &'static str = "db:query";
}

/// May make backups and see them.
#[derive(Debug)]
pub struct CanBackUp;

impl Permission for CanBackUp {
    const NAME: &'static str = "db:backup";
}

/// Every path.
pub(crate) fn router(app: &App) -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(status::get_status))
        .routes(routes!(query::run_query))
        .routes(routes!(query::list_tables))
        .merge(backups::router(app))
        .merge(privacy::routes("user-service"))
}
