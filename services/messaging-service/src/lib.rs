//! messaging-service: one HTTP interface over Kafka and RabbitMQ. What was answered with a 2xx arrives: a publish is confirmed
//! by its broker or committed to the outbox; a delivery is a row in PostgreSQL, leased to a subscriber until it acknowledges
//! at any instance, tried again after a back-off, and in the end kept as a dead letter.

mod batch;
mod bridge;
mod broker;
mod catalog;
pub mod config;
mod counts;
pub mod delivery;
mod fullness;
mod hub;
mod jobs;
mod kafka;
mod listener;
pub mod message;
mod payload_schema;
mod publish;
mod rabbit;
mod reader;
mod relay;
mod replies;
pub mod resume;
mod rights;
mod routes;
pub mod schedule;
mod scheduler;
pub mod seats;
mod signals;
pub mod store;
mod tail;
mod telemetry;
pub mod topic;
mod vault;

use std::{sync::Arc, time::Duration};

use axum::extract::FromRef;
use kronos_common::{
    identity::{Client, Revocations, ServiceToken, Verifier, declare},
    postgres,
    service::{self, Context, Running},
};
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::{
    batch::Batcher,
    catalog::Catalog,
    delivery::Receipt,
    hub::Hubs,
    kafka::Kafka,
    payload_schema::Schemas,
    publish::Publisher,
    rabbit::Rabbit,
    replies::Replies,
    rights::Rights,
    signals::{Signal, Signals},
    store::Store,
    tail::Tails,
    telemetry::Metrics,
    vault::Vault,
};

pub use crate::config::Config;

/// Every setting, explained.
pub const DEFAULTS: &str = include_str!("../config.default.toml");
const NAME: &str = "messaging-service";
/// Acknowledgements of one statement.
const LARGEST_BATCH: usize = 500;

/// What handlers need.
#[derive(Clone)]
pub(crate) struct App {
    config: Arc<Config>,
    instance: Uuid,
    store: Store,
    verifier: Verifier,
    rights: Rights,
    revocations: Revocations,
    catalog: Catalog,
    publisher: Publisher,
    schemas: Schemas,
    hubs: Hubs,
    tails: Tails,
    /// Acknowledges: true if it was held.
    acks: Batcher<Receipt, bool>,
    signals: Signals,
    replies: Replies,
    metrics: Metrics,
    vault: Vault,
    /// Room for SSE subscribers.
    subscribers: Arc<Semaphore>,
    context: Context,
}

impl FromRef<App> for Verifier {
    fn from_ref(app: &App) -> Self {
        app.verifier.clone()
    }
}

/// Starts the service.
///
/// # Errors
/// A bad configuration, a taken port, a database that stays away or whose migrations are behind.
pub async fn start(config: Config) -> anyhow::Result<Running> {
    let http = config.http.clone();
    service::start(NAME, &http, |context| async move { App::connect(config, context).await.map(routes::router) }).await
}

impl App {
    async fn connect(config: Config, context: Context) -> anyhow::Result<Self> {
        let config = Arc::new(config);
        let instance = Uuid::now_v7();
        let metrics = Metrics::register(&context);
        let pool = postgres::connect(&config.postgres, &context).await?;
        postgres::check_migrations(&pool, &[&postgres::COMMON_MIGRATIONS, &store::MIGRATIONS]).await?;
        let vault = Vault::new(&config.sealing)?;
        let store = Store { pool };
        let revocations = Revocations::follow(&config.redis, &context).await?;
        let verifier = Verifier::connect(&config.identity, revocations.clone(), &context).await?;
        let token = ServiceToken::new(&config.identity)?;
        let catalogue = Client::new(&config.identity.user_url, token.clone(), &context)?;
        declare(catalogue, routes::PERMISSIONS, &context);
        let auth = Client::new(&config.identity.auth_url, token, &context)?;
        let rights = Rights::new(auth);
        let rabbit = Rabbit::open(&config.rabbit, &context).await?;
        let kafka = Kafka::open(&config.kafka, config.topics.replication, &context)?;

        let catalog = Catalog::new(store.clone());
        let parts = (store.clone(), rabbit.clone(), kafka.clone());
        let most_pending = config.publish.max_pending;
        let publisher = Publisher::new(parts.clone(), catalog.clone(), metrics.clone(), most_pending);
        relay::start(&publisher, Duration::from_millis(config.publish.relay_retry_ms), &context);
        let signals = Signals::start(store.clone(), instance, &context);
        let telling = (metrics.clone(), signals.clone(), vault.clone());
        let hubs = Hubs::new(instance, parts, config.deliver.clone(), telling, &context);
        let brokers = (rabbit.clone(), kafka.clone());
        let lag = config.subscribe.lag_messages;
        let tails = Tails::new(catalog.clone(), brokers, lag, (metrics.clone(), vault.clone()), &context);

        let replies = Replies::default();
        let (hearing, forgetting, closing, ringing) = (hubs.clone(), catalog.clone(), tails.clone(), replies.clone());
        let listening = signals::listen(store.clone(), instance, context.clone(), move |signal| {
            if let Signal::Deleted(name) = &signal {
                forgetting.forget(name);
                closing.forget(name);
            }
            if let Signal::Replied(message_id) = &signal {
                ringing.ring(*message_id);
            }
            hearing.hear(&signal);
        });
        context.spawn("listener", listening);
        let interval_ms = config.deliver.expiry_interval_ms;
        context.spawn("leases", jobs::end_leases(store.clone(), hubs.clone(), interval_ms, context.clone()));
        context.spawn("sweep", jobs::sweep(store.clone(), config.deliver.clone(), metrics.clone(), context.clone()));
        if config.channels.enabled {
            let channels = bridge::run(publisher.clone(), rabbit.connection(), config.topics.clone(), context.clone());
            context.spawn("channels", channels);
        }
        context.spawn("scheduler", scheduler::run(publisher.clone(), context.clone()));
        context.spawn("ledger", metrics.counts.clone().tell(store.clone(), context.clone()));
        context.spawn("beat", jobs::beat(store.clone(), instance, context.clone()));
        context.spawn("retire", jobs::retire(store.clone(), rabbit, kafka, context.clone()));

        let acks = acknowledger(store.clone(), hubs.clone());
        let subscribers = Arc::new(Semaphore::new(config.subscribe.max_subscribers));
        Ok(Self {
            config,
            instance,
            store,
            verifier,
            rights,
            revocations,
            catalog,
            publisher,
            schemas: Schemas::default(),
            hubs,
            tails,
            acks,
            signals,
            replies,
            metrics,
            vault,
            subscribers,
            context,
        })
    }
}

fn acknowledger(store: Store, hubs: Hubs) -> Batcher<Receipt, bool> {
    Batcher::start(LARGEST_BATCH, move |receipts: Vec<Receipt>| {
        let (store, hubs) = (store.clone(), hubs.clone());
        async move {
            let ended = store.settle(&receipts).await?;
            hubs.released(&ended, "acknowledged");
            let settled: std::collections::HashSet<_> = ended.iter().map(|end| end.lease_id).collect();
            Ok(receipts.iter().map(|receipt| settled.contains(&receipt.lease_id)).collect())
        }
    })
}
