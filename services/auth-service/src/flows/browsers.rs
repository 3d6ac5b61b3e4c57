//! Logging a browser in and out. Its session is a session like any other, so that it is listed, named and ended with them.

use chrono::Utc;
use kronos_common::problem::Problem;
use uuid::Uuid;

use super::{
    login::{self, Authenticated, begin_session},
    sessions,
};
use crate::{App, browser::BrowserKey, network::Network, store, tokens::LOGIN_CLIENT};

/// Where the browser is.
pub(crate) struct Place<'a> {
    pub device: Option<&'a str>,
    pub network: Network,
}

/// Begins a session for the browser under a new key. What was logged in there before ends; if it was the same person, their
/// clients' sessions go on under the new one. False if the person may no longer log in.
///
/// # Errors
/// The database.
pub(crate) async fn log_in(
    app: &App,
    who: &Authenticated,
    place: &Place<'_>,
    key: &BrowserKey,
    replaced: Option<Uuid>,
) -> Result<bool, Problem> {
    let place = login::Place { client_id: LOGIN_CLIENT, device: place.device, network: place.network };
    let Some(session_id) = begin_session(app, who, &place).await? else {
        return Ok(false);
    };
    store::browsers::insert(&app.pool, session_id, &key.hash(), who.at, &who.amr).await?;
    if let Some(replaced) = replaced {
        store::browsers::adopt(&app.pool, replaced, session_id).await?;
        log_out(app, replaced, "replaced").await?;
    }
    Ok(true)
}

/// Ends the browser's session, and with it what clients got through it, everywhere.
///
/// # Errors
/// The database.
pub(crate) async fn log_out(app: &App, session_id: Uuid, reason: &'static str) -> Result<(), Problem> {
    sessions::end(app, session_id, reason, None).await?;
    Ok(())
}

/// How long a session may lie unused.
pub(crate) fn idle_end(app: &App) -> chrono::DateTime<Utc> {
    let idle = i64::try_from(app.tokens.session_idle_seconds).unwrap_or(i64::from(u32::MAX));
    Utc::now() + chrono::TimeDelta::seconds(idle)
}
