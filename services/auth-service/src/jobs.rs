//! Loops that end at shutdown: signing keys follow one another, old sessions are forgotten.

pub(crate) mod accounts;

use std::{collections::HashMap, time::Duration};

use anyhow::Context as _;
use chrono::{TimeDelta, Utc};
use kronos_common::{seal::Keyring, service};
use rand::RngExt as _;
use secrecy::zeroize::Zeroizing;
use serde_json::json;
use sqlx::{PgConnection, PgPool};

use crate::{
    App,
    audit::SecurityEvent,
    config,
    keys::{self, Algorithm, SigningKey, State, Step},
    store::{self, Turn},
    tokens::Keyset,
};

/// The secret under the refresh tokens.
const REFRESH_SECRET: &str = "refresh-tokens";
const SECRET_BYTES: usize = 32;
const FORGET_EVERY: Duration = Duration::from_secs(3600);
/// Codes are kept so long after their end, so that a second use is known as one.
const KEEP_CODES: TimeDelta = TimeDelta::days(1);
/// Ended sessions are kept so long for who asks what happened.
const KEEP_SESSIONS: TimeDelta = TimeDelta::days(30);

/// The shared secret, made by whoever needs it first; sealed anew when the sealing key has changed.
pub(crate) async fn refresh_secret(pool: &PgPool, keyring: &Keyring) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let mut transaction = pool.begin().await?;
    store::take_turn(&mut transaction, Turn::Keys).await?;
    let aad = format!("secret:{REFRESH_SECRET}");
    let secret = match store::keys::secret(&mut *transaction, REFRESH_SECRET).await? {
        Some(sealed) => {
            let secret = keyring.open(&sealed, aad.as_bytes()).context("open the secret")?;
            if keyring.needs_resealing(&sealed) {
                store::keys::put_secret(&mut transaction, REFRESH_SECRET, &keyring.seal(&secret, aad.as_bytes()))
                    .await?;
            }
            secret
        }
        None => {
            let fresh: [u8; SECRET_BYTES] = rand::rng().random();
            let fresh = Zeroizing::new(fresh.to_vec());
            store::keys::put_secret(&mut transaction, REFRESH_SECRET, &keyring.seal(&fresh, aad.as_bytes())).await?;
            fresh
        }
    };
    transaction.commit().await?;
    Ok(secret)
}

/// Does what is due to the keys, one instance at a time, and reads them.
pub(crate) async fn turn_keys(pool: &PgPool, keyring: &Keyring, policy: &config::Keys) -> anyhow::Result<Keyset> {
    let mut transaction = pool.begin().await?;
    store::take_turn(&mut transaction, Turn::Keys).await?;
    let now = Utc::now();
    let known = store::keys::list(&mut *transaction).await?;
    let mut changed = false;
    for algorithm in Algorithm::ALL {
        let own: Vec<_> = known.iter().filter(|key| key.algorithm == algorithm).cloned().collect();
        for step in keys::plan(&own, policy, now) {
            let (kind, kid) = apply(&mut transaction, keyring, algorithm, &step).await?;
            tracing::info!(kid, kind, algorithm = algorithm.name(), "signing key");
            let event = SecurityEvent::about(kind, kid, None, json!({ "algorithm": algorithm.name() }));
            store::audit::record(&mut transaction, &event, now).await?;
            changed = true;
        }
    }
    let known = if changed { store::keys::list(&mut *transaction).await? } else { known };
    let mut active = HashMap::new();
    for key in &known {
        let Some(sealed) = store::keys::sealed_private(&mut *transaction, &key.kid).await? else {
            continue;
        };
        let aad = aad(&key.kid);
        if keyring.needs_resealing(&sealed) {
            let pkcs8 = keyring.open(&sealed, aad.as_bytes()).context("open a signing key")?;
            store::keys::reseal(&mut transaction, &key.kid, &keyring.seal(&pkcs8, aad.as_bytes())).await?;
        }
        if key.state == State::Active {
            let pkcs8 = keyring.open(&sealed, aad.as_bytes()).context("open the active signing key")?;
            active.insert(key.algorithm, SigningKey::open(&key.kid, key.algorithm, &pkcs8)?);
        }
    }
    transaction.commit().await?;
    Keyset::new(active, keys::key_set(&known))
}

async fn apply(
    connection: &mut PgConnection,
    keyring: &Keyring,
    algorithm: Algorithm,
    step: &Step,
) -> anyhow::Result<(&'static str, String)> {
    let now = Utc::now();
    Ok(match step {
        Step::Create(state) => {
            let key = tokio::task::spawn_blocking(move || keys::generate(algorithm)).await??;
            let sealed = keyring.seal(&Zeroizing::new(key.pkcs8.clone()), aad(&key.kid).as_bytes());
            store::keys::insert(connection, &key, &sealed, *state, now).await?;
            (if *state == State::Active { "key-activated" } else { "key-published" }, key.kid)
        }
        Step::Activate(kid) => {
            store::keys::activate(connection, kid, now).await?;
            ("key-activated", kid.clone())
        }
        Step::Retire(kid) => {
            store::keys::retire(connection, kid, now).await?;
            ("key-retiring", kid.clone())
        }
        Step::Remove(kid) => {
            store::keys::remove(connection, kid, now).await?;
            ("key-removed", kid.clone())
        }
    })
}

fn aad(kid: &str) -> String {
    format!("signing-key:{kid}")
}

/// Looks after the keys again and again; while the database is away, the keys in memory go on signing.
pub(crate) async fn keep_keys(app: App, context: service::Context) {
    let mut known = app.issuer.keys();
    loop {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(app.keys.check_seconds)) => {}
            () = context.shutdown.cancelled() => return,
        }
        match turn_keys(&app.pool, &app.keyring, &app.keys).await {
            Ok(keyset) if !keyset.is_same(&known) => {
                app.issuer.replace_keys(keyset);
                app.relay.wake();
                known = app.issuer.keys();
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(error = format!("{error:#}"), "signing keys could not be looked after"),
        }
    }
}

/// Removes the rows of sessions that are long over.
pub(crate) async fn forget_sessions(app: App, context: service::Context) {
    loop {
        if let Err(error) = store::delegations::forget(&app.pool, Utc::now() - KEEP_SESSIONS).await {
            tracing::warn!(%error, "old delegations stay for now");
        }
        if let Err(error) = store::codes::forget(&app.pool, Utc::now() - KEEP_CODES).await {
            tracing::warn!(%error, "old codes stay for now");
        }
        match store::sessions::forget(&app.pool, Utc::now() - KEEP_SESSIONS).await {
            Ok(0) => {}
            Ok(forgotten) => tracing::info!(forgotten, "old sessions forgotten"),
            Err(error) => tracing::warn!(%error, "old sessions stay for now"),
        }
        tokio::select! {
            () = tokio::time::sleep(FORGET_EVERY) => {}
            () = context.shutdown.cancelled() => return,
        }
    }
}
