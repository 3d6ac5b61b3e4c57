//! user-service: people, roles, and who holds which role where and until when. It is the authority of names and rights;
//! passwords, sessions and tokens are auth-service's. Every change of rights makes a new epoch of whom it touches, a
//! revocation of their older tokens and an event, in one transaction.
//!
//! Beside the floor plan of every service: `scim/` (how directories see people and groups), `changes/` (what one request does across store, auth-service and events),
//! `credentials.rs` (the client of auth-service), `sealing.rs` (attributes that are kept encrypted), `held.rs` (what people hold, remembered).

pub mod attributes;
pub mod catalogue;
mod changes;
pub mod config;
mod credentials;
pub mod groups;
mod held;
pub mod imports;
mod jobs;
pub mod privacy;
pub mod rights;
pub mod roles;
mod routes;
pub mod scim;
mod sealing;
mod store;
pub mod users;

use std::sync::Arc;

use anyhow::Context as _;
use axum::extract::FromRef;
use kronos_common::{
    idempotency,
    identity::{RevocationPublisher, Revocations, ServiceToken, Verifier},
    outbox::Relay,
    postgres, rabbit, redis,
    service::{self, Running},
};
use sqlx::{PgPool, migrate::Migrator};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use utoipa_axum::router::OpenApiRouter;

pub use crate::config::Config;
use crate::{changes::privacy::Holders, credentials::Credentials, held::HeldRights, sealing::Sealer};

/// Every setting, with its default.
pub const DEFAULTS: &str = include_str!("../config.default.toml");

/// How long a file of people may be on its way, in seconds.
const IMPORT_SECONDS: u64 = 3_600;
/// How long all services may look for what they hold on somebody, in seconds.
const EXPORT_SECONDS: u64 = 60;

static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations/users");

/// What every handler and job shares; cheap to clone.
#[derive(Clone)]
pub(crate) struct App(Arc<Parts>);

pub(crate) struct Parts {
    pub(crate) pool: PgPool,
    pub(crate) relay: Relay,
    pub(crate) publisher: RevocationPublisher,
    pub(crate) revocations: Revocations,
    pub(crate) verifier: Verifier,
    pub(crate) held: HeldRights,
    pub(crate) credentials: Credentials,
    pub(crate) sealer: Sealer,
    /// Changes have half of the connections, so that those that wait for one another hold up no check.
    pub(crate) writers: Arc<Semaphore>,
    /// An assignment with an end was written: the job may have to get up earlier.
    pub(crate) ends_changed: Notify,
    /// A role changed that many people hold.
    pub(crate) fanout_left: Notify,
    pub(crate) holders: Holders,
    pub(crate) privacy: config::Privacy,
    /// An erasure has begun.
    pub(crate) erasure_waits: Notify,
    /// An import has been received.
    pub(crate) import_waits: Notify,
    /// Streams end when the service does.
    pub(crate) shutdown: CancellationToken,
    pub(crate) settings: config::Rights,
    /// Where SCIM's resources are: the gateway's public address with the path.
    pub(crate) scim_base: String,
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

/// Runs the service until [`Running::stop`].
///
/// # Errors
/// A setting that cannot be, a taken port, a database that is away for too long or not migrated.
pub async fn start(config: Config) -> anyhow::Result<Running> {
    let http = config.http.clone();
    service::start("user-service", &http, |context| async move { App::connect(config, context).await.map(App::router) })
        .await
}

impl App {
    async fn connect(config: Config, context: service::Context) -> anyhow::Result<Self> {
        let administrator = config.bootstrap.administrator()?;
        let pool = postgres::connect(&config.postgres, &context).await?;
        postgres::check_migrations(&pool, &[&postgres::COMMON_MIGRATIONS, &MIGRATIONS]).await?;
        let checks = kronos_common::config::Postgres {
            max_connections: config.rights.check_connections,
            ..config.postgres.clone()
        };
        let checks = postgres::open(&checks, "user-service checks")?;
        // Revocations alone need Redis; the pool makes `/ready` say so.
        redis::connect(&config.redis, &context).await?;
        let rabbit = rabbit::Connection::open(&config.rabbit, &context).await?;
        let revocations = Revocations::follow(&config.redis, &context).await?;
        let token = ServiceToken::new(&config.identity).context("prepare the service's own token")?;
        let credentials = Credentials::new(&config.services, token.clone(), &context)?;
        context.allow_seconds("/users/{id}/privacy-export", EXPORT_SECONDS);
        context.allow_seconds("/users/import", IMPORT_SECONDS);
        let app = Self(Arc::new(Parts {
            relay: Relay::start(pool.clone(), rabbit, &context),
            publisher: RevocationPublisher::start(pool.clone(), &config.redis, &context)?,
            verifier: Verifier::connect(&config.identity, revocations.clone(), &context).await?,
            held: HeldRights::new(config.rights.remembered_people, revocations.clone(), checks),
            revocations,
            sealer: Sealer::new(&config.sealing)?,
            writers: Arc::new(Semaphore::new((config.postgres.max_connections as usize / 2).max(1))),
            ends_changed: Notify::new(),
            fanout_left: Notify::new(),
            holders: Holders::new(&config.services, credentials.client(), &token, &context)?,
            credentials,
            privacy: config.privacy,
            erasure_waits: Notify::new(),
            import_waits: Notify::new(),
            shutdown: context.shutdown.clone(),
            settings: config.rights,
            scim_base: format!("{}/scim/v2", config.identity.issuer.trim_end_matches('/')),
            pool,
        }));
        store::permissions::declare_all(&app.pool, &catalogue::BUILT_IN).await.context("declare the permissions")?;
        context.spawn("fan-out", jobs::fan_out(app.clone(), context.shutdown.clone()));
        context.spawn("resealing", jobs::reseal(app.clone(), context.shutdown.clone()));
        context.spawn("imports", jobs::import(app.clone(), context.shutdown.clone()));
        context.spawn("erasures", jobs::erase(app.clone(), context.shutdown.clone()));
        context.spawn("forgetting", jobs::forget(app.clone(), context.shutdown.clone()));
        context.spawn("expiry", jobs::expire(app.clone(), context.shutdown.clone()));
        if let Some(administrator) = administrator {
            context.spawn("bootstrap", jobs::bootstrap(app.clone(), administrator, context.shutdown.clone()));
        }
        Ok(app)
    }

    fn router(self) -> OpenApiRouter {
        let idempotency = idempotency::layer(self.pool.clone(), self.verifier.clone());
        // Streams are not kept in memory, so that they could be repeated.
        let streams = routes::streams().with_state(self.clone());
        routes::all().with_state(self).layer(idempotency).merge(streams)
    }
}
