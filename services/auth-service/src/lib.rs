//! auth-service: credentials, sessions, signing keys, OAuth clients. It alone signs tokens. Who holds which right is
//! user-service's knowledge; here it is asked, put into tokens, and remembered for when user-service is away.
//!
//! Beside the floor plan of every service: `flows/` (what one request does across store, hashing threads and user-service),
//! `hashing.rs` (the threads for argon2), `user_service.rs` (the client of user-service).

pub mod audit;
pub mod authorization;
pub mod bootstrap;
pub mod browser;
pub mod catalogue;
pub mod client_settings;
pub mod clients;
pub mod codes;
pub mod config;
mod consumers;
pub mod decision;
pub mod device;
mod external;
pub mod factors;
mod flows;
pub mod grants;
mod hashing;
mod jobs;
pub mod keys;
pub mod language;
pub mod mail;
pub mod network;
pub mod nodes;
mod pages;
pub mod password;
pub mod refresh_token;
mod routes;
mod store;
mod telemetry;
mod tokens;
pub mod totp;
mod user_service;
pub mod webauthn;

use std::sync::Arc;

use anyhow::Context as _;
use axum::extract::FromRef;
use kronos_common::{
    events,
    identity::{JwkSet, RevocationPublisher, Revocations, Verifier, declare},
    outbox::Relay,
    postgres, rabbit, redis,
    seal::Keyring,
    service::{self, Running},
};
use sqlx::{PgPool, migrate::Migrator};
use utoipa_axum::router::OpenApiRouter;

pub use crate::config::Config;
use crate::{
    external::Providers,
    flows::{assertion::RemoteKeys, client_auth::ClientCache},
    hashing::Hashing,
    network::Networks,
    refresh_token::Codec,
    store::{replay::Replay, throttle::Throttle},
    telemetry::Metrics,
    tokens::Issuer,
    user_service::UserService,
    webauthn::RelyingParty,
};

/// Every setting, with its default.
pub const DEFAULTS: &str = include_str!("../config.default.toml");

static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations/auth");

/// What every handler, job and consumer shares; cheap to clone.
#[derive(Clone)]
pub(crate) struct App(Arc<Parts>);

pub(crate) struct Parts {
    pub(crate) pool: PgPool,
    pub(crate) relay: Relay,
    pub(crate) throttle: Throttle,
    pub(crate) hashing: Hashing,
    pub(crate) keyring: Keyring,
    pub(crate) issuer: Issuer,
    pub(crate) verifier: Verifier,
    pub(crate) revocations: Revocations,
    pub(crate) publisher: RevocationPublisher,
    pub(crate) refresh_tokens: Codec,
    pub(crate) users: UserService,
    pub(crate) clients: ClientCache,
    pub(crate) remote_keys: RemoteKeys,
    pub(crate) replay: Replay,
    pub(crate) providers: Providers,
    pub(crate) relying_party: RelyingParty,
    pub(crate) metrics: Metrics,
    pub(crate) tokens: config::Tokens,
    pub(crate) keys: config::Keys,
    pub(crate) trusted_proxies: Networks,
    pub(crate) password_min_length: usize,
    pub(crate) issuer_url: String,
    pub(crate) accounts: config::Accounts,
    /// Begins the links in mails.
    pub(crate) link_base: String,
    /// Wakes who prepares mails.
    pub(crate) mail_requests: tokio::sync::Notify,
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
    service::start("auth-service", &http, |context| async move { App::connect(config, context).await.map(App::router) })
        .await
}

impl App {
    async fn connect(config: Config, context: service::Context) -> anyhow::Result<Self> {
        config.validate()?;
        let keyring = Keyring::new(&config.sealing)?;
        let hashing = Hashing::start(&config.passwords, &context)?;
        let pool = postgres::connect(&config.postgres, &context).await?;
        postgres::check_migrations(&pool, &[&postgres::COMMON_MIGRATIONS, &MIGRATIONS]).await?;
        let redis = redis::connect(&config.redis, &context).await?;
        let rabbit = rabbit::Connection::open(&config.rabbit, &context).await?;

        let secret = jobs::refresh_secret(&pool, &keyring).await.context("prepare the secret of refresh tokens")?;
        let keyset = jobs::turn_keys(&pool, &keyring, &config.keys).await.context("prepare the signing keys")?;
        let revocations = Revocations::follow(&config.redis, &context).await?;
        let verifier = Verifier::with_keys(&config.identity, &JwkSet { keys: Vec::new() }, revocations.clone());
        verifier.replace_keys(&keyset.public);
        let issuer = Issuer::new(&config.identity, config.tokens.access_seconds, keyset, verifier.clone());
        if let Some(file) = &config.bootstrap.file {
            bootstrap::run(&pool, file).await.context("make the first clients")?;
        }
        let app = Self(Arc::new(Parts {
            relay: Relay::start(pool.clone(), rabbit.clone(), &context),
            throttle: Throttle::new(redis.clone(), &config.throttle),
            hashing,
            keyring,
            users: UserService::new(&config.services, issuer.clone(), pool.clone(), &context)?,
            issuer,
            clients: ClientCache::new(),
            remote_keys: RemoteKeys::new()?,
            replay: Replay::new(redis),
            verifier,
            revocations,
            providers: Providers::new(&config.external, config.identity.issuer.trim_end_matches('/'))?,
            relying_party: config.passkeys.relying_party(&config.identity.issuer)?,
            publisher: RevocationPublisher::start(pool.clone(), &config.redis, &context)?,
            refresh_tokens: Codec::new(&secret),
            metrics: Metrics::register(&context),
            tokens: config.tokens,
            keys: config.keys,
            trusted_proxies: config.throttle.trusted_proxies,
            password_min_length: config.passwords.min_length,
            issuer_url: config.identity.issuer.trim_end_matches('/').to_owned(),
            link_base: config.accounts.link_base(&config.identity.issuer),
            accounts: config.accounts,
            mail_requests: tokio::sync::Notify::new(),
            pool: pool.clone(),
        }));
        // Weakly: the verifier is a part of the application.
        let weak = Arc::downgrade(&app.0);
        app.verifier.exchange_api_keys(Arc::new(move |key| {
            let weak = weak.clone();
            Box::pin(async move {
                let Some(parts) = weak.upgrade() else { return Ok(None) };
                Ok(flows::api_keys::exchange(&Self(parts), &key).await?.map(|issued| issued.token))
            })
        }));
        declare(app.users.client(), catalogue::PERMISSIONS, &context);
        context.spawn("keys", jobs::keep_keys(app.clone(), context.clone()));
        context.spawn("sessions", jobs::forget_sessions(app.clone(), context.clone()));
        context.spawn("mails", jobs::accounts::prepare_mails(app.clone(), context.clone()));
        context.spawn("forgetting", jobs::accounts::forget_old(app.clone(), context.clone()));
        events::consume(rabbit, pool, consumers::users(app.clone()), &context);
        Ok(app)
    }

    fn router(self) -> OpenApiRouter {
        let routes = routes::all();
        let metadata = routes::Metadata::of(&self.issuer_url, routes.get_openapi());
        routes.layer(axum::Extension(metadata)).with_state(self)
    }
}
