//! log-service: keeps log lines, finds them, shows them live. PostgreSQL is the record: a line is acknowledged when it is
//! committed there, or fsynced into the spill while PostgreSQL is away. Elasticsearch is an index of the record, filled
//! behind it; without it, searches go on in PostgreSQL and say so.

pub mod config;
mod consumers;
pub mod event_line;
pub mod jobs;
pub mod line;
pub mod merge;
pub mod otlp;
pub mod query;
pub mod redact;
mod routes;
pub mod store;
pub mod telemetry;
pub mod terms;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Context as _;
use axum::extract::FromRef;
use futures::FutureExt as _;
use kronos_common::{
    identity::{Client, Revocations, ServiceToken, Verifier, declare},
    postgres, rabbit,
    seal::Keyring,
    service::{self, Context, Criticality, Running},
};
// Gives the Elasticsearch client TLS over the provider that all of Kronos uses.
use reqwest_tls as _;
use sqlx::{PgPool, migrate::Migrator};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use config::Config;
use jobs::{
    indexer::Indexer,
    retention, spill_replay,
    tail::Tails,
    writer::{self, Ingest, Shared},
};
use store::{elastic::Elastic, federated::Finder, lines::Lines, remote, spill::Spill};
use telemetry::Metrics;

/// Every setting, explained.
pub const DEFAULTS: &str = include_str!("../config.default.toml");
const NAME: &str = "log-service";
static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations/logs");

/// What handlers need.
#[derive(Clone, FromRef)]
pub(crate) struct App {
    pub(crate) pool: PgPool,
    pub(crate) verifier: Verifier,
    pub(crate) ingest: Ingest,
    pub(crate) finder: Arc<Finder>,
    pub(crate) tails: Tails,
    pub(crate) shutdown: CancellationToken,
}

/// Starts the service.
///
/// # Errors
/// A bad configuration, a taken port, a database that stays away or whose migrations are behind.
pub async fn start(config: Config) -> anyhow::Result<Running> {
    config.check()?;
    let http = config.http.clone();
    service::start(NAME, &http, |context| async move { App::connect(config, context).await.map(routes::router) }).await
}

impl App {
    async fn connect(config: Config, context: Context) -> anyhow::Result<Self> {
        let metrics = Metrics::new(&context);
        let spill = Spill::open(&config.spill.directory, config.spill.max_bytes)?;
        let elastic = Arc::new(Elastic::new(&config.elasticsearch)?);
        let keyring = match config.sealing.active.as_str() {
            "" => None,
            _ => Some(Arc::new(Keyring::new(&config.sealing).context("read the sealing keys")?)),
        };
        // Without it lines are spilled and searched in the index: still worth sending requests to.
        let pool = postgres::connect_as(&config.postgres, &context, Criticality::Degraded).await?;
        postgres::check_migrations(&pool, &[&postgres::COMMON_MIGRATIONS, &MIGRATIONS]).await?;
        let revocations = Revocations::follow(&config.redis, &context).await?;
        let verifier = Verifier::connect(&config.identity, revocations, &context).await?;
        let catalogue = Client::new(&config.identity.user_url, ServiceToken::new(&config.identity)?, &context)?;
        declare(catalogue, routes::PERMISSIONS, &context);
        let rabbit = rabbit::Connection::open(&config.rabbit, &context).await?;
        let asked = elastic.clone();
        context.depends_on("elasticsearch", Criticality::Degraded, move || {
            let elastic = asked.clone();
            async move { elastic.cluster().await.map(drop) }.boxed()
        });
        consumers::show_kafka(&config.kafka, &context);

        let shared = Arc::new(Shared {
            lines: Lines::new(pool.clone()),
            spill,
            away: false.into(),
            committed: watch::Sender::new(0),
        });
        let ingest = writer::start(&config.ingest, shared.clone(), &metrics, &context);
        spill_replay::start(shared.clone(), metrics.clone(), &context);
        retention::start(config.retention.clone(), shared.clone(), elastic.clone(), &context);
        let tails = Tails::start(config.tail.clone(), shared.clone(), metrics.clone(), &context);
        Indexer {
            pool: pool.clone(),
            elastic: elastic.clone(),
            config: config.elasticsearch.clone(),
            metrics: metrics.clone(),
            committed: shared.committed.subscribe(),
        }
        .start(&context);
        consumers::follow_events(rabbit, &shared, &context);
        consumers::follow_kafka(config.kafka.clone(), ingest.clone(), shared, &context);
        let finder = Arc::new(Finder {
            pool: pool.clone(),
            elastic,
            http: remote::client()?,
            keyring,
            config: config.sources.clone(),
            known_sources: Mutex::default(),
            max_lag: Duration::from_millis(config.elasticsearch.max_lag_ms),
            metrics,
        });
        Ok(Self { pool, verifier, ingest, finder, tails, shutdown: context.shutdown.clone() })
    }
}
