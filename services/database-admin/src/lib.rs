//! database-admin: the database's condition, restricted queries, backups, and the migrations of all seven schemas.
//! It is the only service that sees more than its own schema, through grants that are explicit.

pub mod config;
pub mod dump;
pub mod jobs;
pub mod migrate;
pub mod queries;
pub mod query;
pub mod routes;
pub mod store;
pub mod subcommands;
pub mod telemetry;
mod valueless;
pub mod vault;

use std::sync::Arc;

use axum::extract::FromRef;
use kronos_common::{
    identity::{Client, Revocations, ServiceToken, Verifier, declare},
    postgres,
    seal::Keyring,
    service::{self, Context, Criticality, Running},
};
use sqlx::PgPool;
use utoipa_axum::router::OpenApiRouter;

pub use config::Config;
use queries::Queries;
use store::reader::Reader;
use telemetry::Metrics;

/// The reference of all settings.
pub const DEFAULTS: &str = include_str!("../config.default.toml");

/// What every handler shares.
#[derive(Clone)]
pub struct App(Arc<Parts>);

/// The parts of [`App`].
pub struct Parts {
    /// The service's own schema.
    pub pool: PgPool,
    /// One connection under the backup's role.
    pub backup_pool: PgPool,
    /// Callers' queries.
    pub queries: Queries,
    /// Seals backups; none if no key is configured.
    pub keyring: Option<Arc<Keyring>>,
    pub config: Config,
    pub metrics: Metrics,
    pub context: Context,
    verifier: Verifier,
}

impl std::ops::Deref for App {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl FromRef<App> for Verifier {
    fn from_ref(app: &App) -> Self {
        app.verifier.clone()
    }
}

/// Starts the service.
///
/// # Errors
/// A taken port, an unreachable database, a schema that is behind, a bad setting.
pub async fn start(config: Config) -> anyhow::Result<Running> {
    let http = config.http.clone();
    service::start(
        "database-admin",
        &http,
        |context| async move { App::connect(config, context).await.map(App::router) },
    )
    .await
}

impl App {
    /// Connects to everything and starts the jobs.
    ///
    /// # Errors
    /// As [`start`].
    pub async fn connect(config: Config, context: Context) -> anyhow::Result<Self> {
        let pool = postgres::connect(&config.postgres, &context).await?;
        postgres::check_migrations(&pool, &[&postgres::COMMON_MIGRATIONS, migrate::own_migrations()]).await?;
        let backup = kronos_common::config::Postgres {
            url: config.backup.url.clone(),
            max_connections: 1,
            ..config.postgres.clone()
        };
        let backup_pool = postgres::open(&backup, "database-admin status")?;
        let revocations = Revocations::follow(&config.redis, &context).await?;
        let verifier = Verifier::connect(&config.identity, revocations, &context).await?;
        let catalogue = Client::new(&config.identity.user_url, ServiceToken::new(&config.identity)?, &context)?;
        declare(catalogue, routes::PERMISSIONS, &context);
        let keyring = if config.sealing.active.is_empty() {
            tracing::warn!("no sealing key is configured: backups are not encrypted");
            None
        } else {
            Some(Arc::new(Keyring::new(&config.sealing)?))
        };
        let metrics = Metrics::new(&context);
        let reader = Arc::new(Reader::new(&config.reader, config.query.clone())?);
        let checked = Arc::clone(&reader);
        context.depends_on("reader", Criticality::Degraded, move || checked.check());
        let queries = Queries::new(reader, pool.clone(), config.query.clone(), metrics.queries.clone());
        let app = Self(Arc::new(Parts { pool, backup_pool, queries, keyring, config, metrics, context, verifier }));
        jobs::start(&app);
        Ok(app)
    }

    /// Every path of the API.
    pub fn router(self) -> OpenApiRouter {
        routes::router(&self).with_state(self)
    }
}
