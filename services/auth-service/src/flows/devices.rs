//! A device that asks to be let in (RFC 8628): its codes, and what a person says to them.

use chrono::{TimeDelta, Utc};
use kronos_common::problem::Problem;
use serde_json::json;

use super::authorize::new_secret;
use crate::{
    App,
    audit::SecurityEvent,
    clients::Client,
    device::{INTERVAL_SECONDS, LIFE_SECONDS, new_user_code},
    network::Network,
    store::{
        self,
        browsers::BrowserSession,
        devices::{DeviceCode, NewDeviceCode},
    },
};

/// Tries to find a user code that nobody has. Of 34 bits one is free at once, unless something is broken.
const TRIES: usize = 8;

/// What a device is given.
pub(crate) struct Codes {
    pub device_code: String,
    pub user_code: String,
}

/// Makes codes for a device.
///
/// # Errors
/// The database.
pub(crate) async fn begin(
    app: &App,
    client: &Client,
    scope: &[String],
    resources: &[String],
) -> Result<Codes, Problem> {
    let now = Utc::now();
    for _ in 0..TRIES {
        let ((device_code, device_code_hash), user_code) = (new_secret(), new_user_code());
        let new = NewDeviceCode {
            device_code_hash: &device_code_hash,
            user_code: &user_code,
            client_id: &client.client_id,
            scope,
            resources,
            now,
            expires_at: now + TimeDelta::seconds(LIFE_SECONDS),
            interval_seconds: INTERVAL_SECONDS,
        };
        if store::devices::insert(&app.pool, &new).await? {
            return Ok(Codes { device_code, user_code });
        }
    }
    Err(Problem::internal(anyhow::anyhow!("no user code is free")))
}

/// Who waits with this code, if it is one; wrong ones are counted by person and network before any is looked up.
///
/// # Errors
/// 429 after too many wrong ones; the database.
pub(crate) async fn find(
    app: &App,
    session: &BrowserSession,
    network: Network,
    user_code: Option<&str>,
) -> Result<Option<(Client, DeviceCode)>, Problem> {
    let attempt = app.throttle.attempt(&format!("device-code:{}", session.user_id), network);
    if let Some(wait) = app.throttle.must_wait(&attempt).await {
        return Err(Problem::too_many(wait));
    }
    let waiting = match user_code {
        Some(user_code) => store::devices::waiting(&app.pool, user_code, Utc::now()).await?,
        None => None,
    };
    let found = match waiting {
        Some(waiting) => store::clients::find(&app.pool, &waiting.client_id).await?.map(|client| (client, waiting)),
        None => None,
    };
    if found.is_none() {
        app.throttle.failed(&attempt).await;
    }
    Ok(found)
}

/// Writes down what the person said; false if the device no longer waits.
///
/// # Errors
/// The database.
pub(crate) async fn decide(
    app: &App,
    session: &BrowserSession,
    user_code: &str,
    client_id: &str,
    allow: bool,
) -> Result<bool, Problem> {
    let now = Utc::now();
    let mut transaction = app.pool.begin().await?;
    let done = if allow {
        let (at, amr) = (session.auth_time, &session.amr);
        store::devices::approve(&mut transaction, user_code, session.user_id, at, amr, now).await?
    } else {
        store::devices::deny(&mut transaction, user_code).await?
    };
    if !done {
        return Ok(false);
    }
    let subject = session.user_id.to_string();
    let kind = if allow { "device-approved" } else { "device-denied" };
    let event = SecurityEvent::about(kind, subject.as_str(), Some(&subject), json!({ "client": client_id }));
    store::audit::record(&mut transaction, &event, now).await?;
    transaction.commit().await?;
    app.relay.wake();
    Ok(true)
}
