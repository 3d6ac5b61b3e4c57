//! cache-service: a shared cache over HTTP. Any bytes under a namespace and a key, with a time to live and with tags by
//! which many values are invalidated at once. All state is in Redis; it needs no database, and no instance remembers
//! anything, so that any of them may answer.

pub mod config;
pub mod entry;
pub mod routes;
pub mod store;
pub mod telemetry;

use std::sync::Arc;

use axum::extract::FromRef;
use kronos_common::{
    identity::{Client, Revocations, ServiceToken, Verifier, declare},
    redis,
    service::{self, Context, Running},
};
use utoipa_axum::router::OpenApiRouter;

pub use config::Config;
use entry::Lifetimes;
use store::Store;
use telemetry::Metrics;

/// The reference of all settings.
pub const DEFAULTS: &str = include_str!("../config.default.toml");

/// What every handler shares.
#[derive(Clone)]
pub struct App {
    pub store: Store,
    pub lifetimes: Lifetimes,
    pub metrics: Arc<Metrics>,
    verifier: Verifier,
}

impl FromRef<App> for Verifier {
    fn from_ref(app: &App) -> Self {
        app.verifier.clone()
    }
}

/// Starts the service. Redis and auth-service may come later.
///
/// # Errors
/// A taken port or a bad setting.
pub async fn start(config: Config) -> anyhow::Result<Running> {
    let http = config.http.clone();
    service::start(
        "cache-service",
        &http,
        |context| async move { App::connect(config, context).await.map(App::router) },
    )
    .await
}

impl App {
    /// Connects to everything.
    ///
    /// # Errors
    /// A bad setting.
    pub async fn connect(config: Config, context: Context) -> anyhow::Result<Self> {
        let lifetimes = Lifetimes::new(config.cache.default_ttl_seconds, config.cache.max_ttl_seconds)?;
        let store = Store::new(redis::connect(&config.redis, &context).await?);
        let revocations = Revocations::follow(&config.redis, &context).await?;
        let verifier = Verifier::connect(&config.identity, revocations, &context).await?;
        let catalogue = Client::new(&config.identity.user_url, ServiceToken::new(&config.identity)?, &context)?;
        declare(catalogue, routes::PERMISSIONS, &context);
        let metrics = Arc::new(Metrics::new(&context));
        Ok(Self { store, lifetimes, metrics, verifier })
    }

    /// Every path of the API.
    pub fn router(self) -> OpenApiRouter {
        routes::router().with_state(self)
    }
}
