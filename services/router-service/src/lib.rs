//! The gateway: everything that the platform offers is reached through it. Routes are data in PostgreSQL, compiled into a
//! table that is swapped whole; requests are checked, limited, authenticated and streamed to instances by single-threaded
//! cores that ask no database. `proxy` is the way of a request, `table` what it is served by, `routes` the gateway's own
//! endpoints.

pub mod admission;
pub mod alarm;
pub mod asynchronous;
pub mod attempts;
pub mod audit;
pub mod authentication;
pub mod background;
pub mod balance;
pub mod body;
pub mod breaker;
pub mod budget;
pub mod cache;
pub mod canary;
pub mod clock;
pub mod concurrency;
pub mod condition;
pub mod config;
pub mod connection;
pub mod edge;
pub mod exchange;
pub mod forward;
pub mod hash;
pub mod headers;
pub mod health;
pub mod inspect;
pub mod instance;
pub mod jobs;
pub mod lease;
pub mod limit;
pub mod live;
pub mod matcher;
pub mod mirror;
pub mod node_keys;
pub mod openapi;
pub mod opening;
pub mod origin;
pub mod outlier;
pub mod proxy;
pub mod proxy_protocol;
pub mod quota;
pub mod request_log;
pub mod rewrite;
pub mod route;
pub mod routes;
pub mod saturation;
pub mod scope;
pub mod seed;
pub mod server;
pub mod signature;
pub mod sniff;
pub mod store;
pub mod table;
pub mod telemetry;
pub mod tls;
pub mod tokens;
pub mod transport;
pub mod trust;
pub mod tunnel;
pub mod upstream;
pub mod upstream_spec;
pub mod worker;

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use axum::extract::FromRef;
use futures::FutureExt as _;
use kronos_common::{
    idempotency,
    identity::{Client, Revocations, ServiceToken, Verifier, declare},
    postgres, redis,
    request_lines::RequestLines,
    service::{self, Context, Criticality, Running},
};
use sqlx::migrate::Migrator;
use utoipa_axum::router::OpenApiRouter;

pub use crate::config::Config;
use crate::{
    asynchronous::Passing,
    audit::Audit,
    cache::keep::Kept,
    edge::networks,
    lease::Leases,
    limit::{Limiter, Quota, Rule},
    live::Live,
    node_keys::NodeKeys,
    opening::Places,
    outlier::Rules,
    proxy::Gateway,
    quota::Quotas,
    request_log::RequestLog,
    routes::docs::Documents,
    saturation::Saturation,
    store::Store,
    table::{CompiledLimit, Defaults},
    telemetry::Metrics,
    tls::Tls,
    worker::Worker,
};

/// The commented reference of every setting.
pub const DEFAULTS: &str = include_str!("../config.default.toml");

/// The gateway's own migrations.
pub static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations/router");

/// How long a start waits for PostgreSQL when a table is on disk; without one it waits until there is one.
const PATIENCE: Duration = Duration::from_secs(3);

/// What the gateway's own endpoints work with.
#[derive(Clone)]
pub struct App {
    store: Store,
    live: Arc<Live>,
    kept: Arc<Kept>,
    verifier: Verifier,
    /// Where the clock of the instances' state begins.
    epoch: Instant,
}

impl App {
    /// Microseconds on the clock of the instances' state.
    fn now_us(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

impl FromRef<App> for Verifier {
    fn from_ref(app: &App) -> Self {
        app.verifier.clone()
    }
}

/// Starts the gateway.
///
/// # Errors
/// A taken port, a bad setting, a schema that is behind, no routes anywhere.
pub async fn start(config: Config) -> anyhow::Result<Running> {
    let config = Arc::new(config);
    let http = config.http.clone();
    // What the cores need is made by `connect`, and needed when they start.
    let parts: Arc<OnceLock<Parts>> = Arc::default();
    let made = Arc::clone(&parts);
    let connect = async move |context: Context| {
        let (parts, router) = connect(config, &context).await?;
        let set = made.set(parts);
        anyhow::ensure!(set.is_ok(), "the gateway is connected once");
        Ok(router)
    };
    service::start_with("router-service", &http, connect, move |context, listener, own| {
        let parts = parts.get().context("the gateway is connected before it serves")?;
        server::serve(&parts.gateway(context, own)?, context, listener)
    })
    .await
}

/// What the cores need, but for the gateway's own endpoints.
struct Parts {
    config: Arc<Config>,
    live: Arc<Live>,
    verifier: Verifier,
    limiter: Arc<Limiter>,
    kept: Arc<Kept>,
    metrics: Metrics,
    node_keys: Arc<NodeKeys>,
    quotas: Arc<Quotas>,
    tls: Option<Arc<Tls>>,
    trust: Arc<rustls::ClientConfig>,
    passing: Passing,
    epoch: Instant,
}

async fn connect(config: Arc<Config>, context: &Context) -> anyhow::Result<(Parts, OpenApiRouter)> {
    let metrics = Metrics::new(context);
    let defaults = Defaults {
        timeout: Duration::from_millis(config.http.request_timeout_ms),
        body_limit: config.http.body_limit_bytes as u64,
        rules: Rules::from(&config.balance),
    };
    let live = Arc::new(Live::new(defaults, metrics.clone(), &config.gateway.table_path));
    let redis = redis::connect(&config.redis, context).await?;
    let revocations = Revocations::follow(&config.redis, context).await?;
    let verifier = Verifier::connect(&config.identity, revocations.clone(), context).await?;
    let catalogue = Client::new(&config.identity.user_url, ServiceToken::new(&config.identity)?, context)?;
    declare(catalogue, routes::PERMISSIONS, context);
    let tls = Tls::load(&config.tls)?.map(Arc::new);
    if let Some(tls) = &tls {
        tls.follow(context);
    }
    let store = Store::new(postgres::open(&config.postgres, context.name)?);
    depend_on_postgres(&store, context);
    load_table(&store, &live, &config, context).await?;
    jobs::follow_table(
        store.clone(),
        Arc::clone(&live),
        Duration::from_millis(config.gateway.poll_interval_ms),
        context,
    );

    let trust = trust::client(&config.balance.ca_file)?;
    health::start(Arc::clone(&live), &trust, metrics.clone(), context)?;

    let epoch = Instant::now();
    context.register(Saturation::new(Arc::clone(&live), epoch));
    let cache = &config.cache;
    let cache_timeout = Duration::from_millis(cache.redis_timeout_ms);
    let kept = Kept::start(redis.clone(), cache.near_bytes, cache_timeout, context);
    let redis_timeout = Duration::from_millis(config.limits.redis_timeout_ms);
    let auth = Client::new(&config.identity.auth_url, ServiceToken::new(&config.identity)?, context)?;
    let node_keys = NodeKeys::new(config.signatures.clone(), auth, revocations, redis.clone(), redis_timeout);
    let passing = Passing::new(&config, context)?;
    worker::start(
        Worker::new(passing.clone(), Arc::clone(&live), trust::client(&config.balance.ca_file)?, epoch)?,
        context,
    );
    let leases = Leases::start(redis, redis_timeout, context);
    let limiter = Arc::new(Limiter::new(leases, config.limits.max_clients, epoch));
    jobs::sweep_limits(Arc::clone(&limiter), context);
    let main = tokio::runtime::Handle::current();
    let quotas = Arc::new(Quotas::new(store.clone(), main, config.limits.max_clients));
    jobs::sweep_quotas(Arc::clone(&quotas), store.clone(), context);

    let app = App {
        store: store.clone(),
        live: Arc::clone(&live),
        kept: Arc::clone(&kept),
        verifier: verifier.clone(),
        epoch,
    };
    let idempotency = idempotency::layer(store.pool().clone(), verifier.clone());
    let router = routes::router().layer(idempotency).with_state(app);
    let node_keys = Arc::new(node_keys);
    let parts = Parts { config, live, verifier, limiter, kept, metrics, node_keys, quotas, tls, trust, passing, epoch };
    Ok((parts, router))
}

impl Parts {
    fn gateway(&self, context: &Context, own: axum::Router) -> anyhow::Result<Gateway> {
        let services = seed::upstreams(&self.config.services).map(|(name, _)| name).to_vec();
        let keep = Duration::from_millis(self.config.gateway.openapi_cache_ms);
        let lines = self.config.http.request_lines_per_second;
        let shipped = self.config.telemetry.logs_endpoint.is_some().then(|| RequestLines::new(lines));
        let audits = self.config.audit.requests;
        let audit = audits.then(|| Audit::new(&self.config.kafka, self.metrics.audit_dropped.clone())).transpose()?;
        let networks = networks::Compiled::new(&self.config.gateway.allow_networks, &self.config.gateway.deny_networks);
        let client = trust::http(&self.trust, false)?;
        let documents = Documents::new(Arc::clone(&self.live), own.clone(), client, services, keep);
        Ok(Gateway {
            config: Arc::clone(&self.config),
            live: Arc::clone(&self.live),
            verifier: self.verifier.clone(),
            limiter: Arc::clone(&self.limiter),
            kept: Arc::clone(&self.kept),
            default_limit: default_limit(&self.config.limits),
            networks: networks.map(Arc::new),
            node_keys: Arc::clone(&self.node_keys),
            tls: self.tls.clone(),
            passing: self.passing.clone(),
            places: Places::default(),
            metrics: self.metrics.clone(),
            log: RequestLog::start(&self.metrics, shipped, audit),
            audits,
            quotas: Arc::clone(&self.quotas),
            trust: Arc::clone(&self.trust),
            traces: self.config.telemetry.traces_endpoint.is_some(),
            own,
            documents: Arc::new(documents),
            main: tokio::runtime::Handle::current(),
            shutdown: context.shutdown.clone(),
            epoch: self.epoch,
            unmatched: Arc::new(self.metrics.route("unmatched")),
            own_seconds: Arc::new(self.metrics.route("gateway")),
        })
    }
}

/// Without its database the gateway serves what it knows.
fn depend_on_postgres(store: &Store, context: &Context) {
    let store = store.clone();
    context.depends_on("postgres", Criticality::Degraded, move || {
        let store = store.clone();
        async move { store.version().await.map(|_| ()).map_err(anyhow::Error::from) }.boxed()
    });
}

/// The stored table if the database answers; else the one on disk; else it waits for the database.
async fn load_table(store: &Store, live: &Arc<Live>, config: &Config, context: &Context) -> anyhow::Result<()> {
    let restored = live.restore();
    let begun = Instant::now();
    loop {
        let answer = tokio::time::timeout(PATIENCE, sqlx::query("select 1").execute(store.pool())).await;
        let away = match answer {
            Ok(Ok(_)) => {
                return from_database(store, live, config).await;
            }
            Ok(Err(error)) if postgres::is_unavailable(&error) => anyhow::Error::from(error),
            Ok(Err(error)) => return Err(error).context("ask PostgreSQL"),
            Err(elapsed) => elapsed.into(),
        };
        if restored {
            tracing::warn!(error = format!("{away:#}"), "database is away: serving the routes that are kept on disk");
            sow_later(store.clone(), Arc::clone(live), config.clone(), context);
            return Ok(());
        }
        if begun.elapsed() > Duration::from_secs(60) {
            return Err(away).context("connect to PostgreSQL: it is away, and no routes are kept on disk");
        }
        tracing::warn!(error = format!("{away:#}"), "database is away and no routes are kept on disk: waiting");
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(500)) => {}
            () = context.shutdown.cancelled() => anyhow::bail!("stopped while waiting for PostgreSQL"),
        }
    }
}

async fn from_database(store: &Store, live: &Arc<Live>, config: &Config) -> anyhow::Result<()> {
    postgres::check_migrations(store.pool(), &[&postgres::COMMON_MIGRATIONS, &MIGRATIONS]).await?;
    seed::sow(store, &config.services).await.map_err(|problem| match std::error::Error::source(&problem) {
        Some(cause) => anyhow::anyhow!("create the default routes: {cause}"),
        None => anyhow::anyhow!("create the default routes: {problem}"),
    })?;
    jobs::refresh(store, live).await
}

/// A start without the database could not look after its defaults.
fn sow_later(store: Store, live: Arc<Live>, config: Config, context: &Context) {
    let shutdown = context.shutdown.clone();
    context.spawn("default-routes", async move {
        let sown = async {
            while let Err(error) = from_database(&store, &live, &config).await {
                tracing::debug!(error = format!("{error:#}"), "default routes can't be looked after yet");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        tokio::select! { () = shutdown.cancelled() => {}, () = sown => {} }
    });
}

fn default_limit(config: &config::Limits) -> Option<Arc<CompiledLimit>> {
    let config::Limits { default_requests: requests, default_per_seconds: seconds, .. } = *config;
    (requests > 0).then(|| {
        let quota = Quota { requests, period_us: u64::from(seconds.max(1)) * 1_000_000, burst: requests };
        let rule = Rule::new(format!("default:{requests}/{seconds}"), "default", quota);
        Arc::new(CompiledLimit { rule: Arc::new(rule), by_address: true, by_subject: false, by_client: false })
    })
}
