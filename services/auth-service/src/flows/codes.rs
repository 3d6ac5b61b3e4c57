//! What a client exchanges for tokens: an authorization code, or a device code that a person said yes to. Both begin a session
//! of the client's own, in the transaction that uses the code up: of two exchanges at the same time one finds it used.

use chrono::{DateTime, TimeDelta, Utc};
use kronos_common::problem::Problem;
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    authorize::hash,
    issue::{self, IssueFor, TokenAnswer, audience},
    sessions,
};
use crate::{
    App,
    audit::SecurityEvent,
    authorization::verifies,
    clients::{Client, Scope},
    device::{self, Poll, State},
    store,
};

/// What a client shows with a code.
pub(crate) struct Redemption<'a> {
    pub code: &'a str,
    pub redirect_uri: Option<&'a str>,
    pub verifier: Option<&'a str>,
    /// Fewer of those that were granted (RFC 8707 section 2.2).
    pub resources: &'a [String],
    /// The key of the DPoP proof, if one came along.
    pub dpop_jkt: Option<&'a str>,
    pub device: Option<&'a str>,
}

fn invalid_grant(detail: &'static str) -> Problem {
    Problem::bad_request("invalid_grant", detail)
}

/// Exchanges an authorization code (RFC 6749 section 4.1.3). A second use ends what the first brought.
///
/// # Errors
/// 400 `invalid_grant`; 503 if the rights cannot be known now: the code is still good then.
pub(crate) async fn redeem(app: &App, client: &Client, shown: &Redemption<'_>) -> Result<TokenAnswer, Problem> {
    let now = Utc::now();
    let code_hash = hash(shown.code);
    let unknown = || invalid_grant("the code is unknown, used or expired, or another client's");
    let mut transaction = app.pool.begin().await?;
    let code = store::codes::take(&mut transaction, &code_hash).await?;
    let code = code.filter(|code| code.client_id == client.client_id).ok_or_else(unknown)?;
    if code.used_at.is_some() {
        transaction.rollback().await?;
        reused(app, &code).await?;
        return Err(unknown());
    }
    if code.expires_at <= now {
        return Err(unknown());
    }
    if let Some(wrong) = mismatch(&code, shown) {
        // Whoever shows a code with the wrong proof has no business with it: it is worth nothing from now on.
        store::codes::mark_used(&mut transaction, &code_hash, None, now).await?;
        transaction.commit().await?;
        return Err(invalid_grant(wrong));
    }
    let Some(grants) = app.users.rights(code.user_id).await?.usable(now)? else {
        return Err(unknown());
    };
    let resources = narrow(app, client, &code.resources, shown.resources)?;
    let scope = Scope::stored(&code.scope);
    let issue = IssueFor {
        client,
        grants,
        session: Uuid::now_v7(),
        generation: 0,
        scope: &scope,
        nonce: code.nonce.as_deref(),
        auth_time: code.auth_time,
        amr: &code.amr,
        acr: None,
        resources: &resources,
        dpop_jkt: shown.dpop_jkt,
    };
    if !begin(app, &mut transaction, &issue, Some(code.browser_session_id), shown.device, now).await? {
        return Err(unknown());
    }
    store::codes::mark_used(&mut transaction, &code_hash, Some(issue.session), now).await?;
    transaction.commit().await?;
    app.relay.wake();
    app.metrics.tokens.with_label_values(&["authorization_code"]).inc();
    issue::tokens(app, issue).await
}

/// The resources of this token: those that were granted, or some of them.
fn narrow(app: &App, client: &Client, granted: &[String], asked: &[String]) -> Result<Vec<String>, Problem> {
    let wanted = if asked.is_empty() { granted } else { asked };
    let target = |detail: String| Problem::bad_request("invalid_target", detail);
    if let Some(more) = wanted.iter().find(|wanted| !granted.is_empty() && !granted.contains(wanted)) {
        return Err(target(format!("{more} was not granted")));
    }
    audience(app, client, wanted).map_err(|unknown| target(format!("the client has no access to {unknown}")))
}

/// Begins the client's session, and records it.
async fn begin(
    app: &App,
    connection: &mut PgConnection,
    issue: &IssueFor<'_>,
    parent: Option<Uuid>,
    device: Option<&str>,
    now: DateTime<Utc>,
) -> Result<bool, Problem> {
    if !issue::begin(app, connection, issue, parent, device).await? {
        return Ok(false);
    }
    let subject = issue.grants.user_id.to_string();
    let data = json!({ "client": issue.client.client_id, "session": issue.session, "scope": issue.scope.items() });
    let event = SecurityEvent::about("client-authorized", subject.as_str(), Some(&subject), data);
    store::audit::record(connection, &event, now).await?;
    Ok(true)
}

/// What of the proof does not fit.
fn mismatch(code: &store::codes::Code, shown: &Redemption<'_>) -> Option<&'static str> {
    // OAuth 2.1 no longer repeats the URI; whoever repeats it must do so right.
    if shown.redirect_uri.is_some_and(|uri| uri != code.redirect_uri) {
        return Some("redirect_uri is not the one of the request");
    }
    match (&code.code_challenge, shown.verifier) {
        (Some(challenge), Some(verifier)) if verifies(challenge, verifier) => {}
        (None, None) => {}
        (Some(_), None) => return Some("code_verifier is missing"),
        // A challenge that was taken out of the request on its way (RFC 9700 section 2.1.1).
        (None, Some(_)) => return Some("the request had no code_challenge"),
        (Some(_), Some(_)) => return Some("code_verifier is not the one of the request"),
    }
    match (code.dpop_jkt.as_deref(), shown.dpop_jkt) {
        (Some(wanted), shown) if shown != Some(wanted) => Some("the code is bound to another DPoP key"),
        _ => None,
    }
}

/// Somebody has a copy of the code: what the first use brought ends.
async fn reused(app: &App, code: &store::codes::Code) -> Result<(), Problem> {
    let Some(session) = code.session_id else {
        return Ok(());
    };
    let data = json!({ "client": code.client_id, "session": session });
    let cause = SecurityEvent::about("code-reused", code.user_id.to_string(), None, data);
    sessions::end(app, session, "code-reused", Some(cause)).await?;
    Ok(())
}

/// Answers a device's poll (RFC 8628 section 3.4).
///
/// # Errors
/// 400 `authorization_pending`, `slow_down`, `expired_token`, `access_denied`, `invalid_grant`; 503 if the rights cannot be known
/// now.
pub(crate) async fn poll(
    app: &App,
    client: &Client,
    device_code: &str,
    dpop_jkt: Option<&str>,
    device_name: Option<&str>,
) -> Result<TokenAnswer, Problem> {
    let now = Utc::now();
    let code_hash = hash(device_code);
    let unknown = || invalid_grant("the device code is unknown or used, or another client's");
    let mut transaction = app.pool.begin().await?;
    let row = store::devices::take(&mut transaction, &code_hash).await?;
    let row = row.filter(|row| row.client_id == client.client_id).ok_or_else(unknown)?;
    let interval = TimeDelta::seconds(i64::from(row.interval_seconds));
    let wait = match device::judge(State::parse(&row.state), row.expires_at, row.last_polled_at, interval, now) {
        Poll::Used => return Err(unknown()),
        Poll::Denied => return Err(Problem::bad_request("access_denied", "the person said no")),
        Poll::Expired => return Err(Problem::bad_request("expired_token", "nobody typed the code in time")),
        Poll::Pending => Some((row.interval_seconds, "authorization_pending", "nobody has said yes yet")),
        Poll::SlowDown => Some((
            row.interval_seconds.saturating_add(device::INTERVAL_SECONDS),
            "slow_down",
            "wait five seconds longer between two polls",
        )),
        Poll::Issue => None,
    };
    if let Some((interval, code, detail)) = wait {
        store::devices::polled(&mut transaction, &code_hash, interval, now).await?;
        transaction.commit().await?;
        return Err(Problem::bad_request(code, detail));
    }
    let (Some(user_id), Some(auth_time), Some(amr)) = (row.user_id, row.auth_time, row.amr) else {
        return Err(unknown());
    };
    let Some(grants) = app.users.rights(user_id).await?.usable(now)? else {
        return Err(Problem::bad_request("access_denied", "the person may no longer log in"));
    };
    let resources = narrow(app, client, &row.resources, &[])?;
    let scope = Scope::stored(&row.scope);
    let issue = IssueFor {
        client,
        grants,
        session: Uuid::now_v7(),
        generation: 0,
        scope: &scope,
        nonce: None,
        auth_time,
        amr: &amr,
        acr: None,
        resources: &resources,
        dpop_jkt,
    };
    // A device goes on when the browser that let it in is closed: it hangs on no session.
    if !begin(app, &mut transaction, &issue, None, device_name, now).await? {
        return Err(unknown());
    }
    store::devices::mark_used(&mut transaction, &code_hash).await?;
    transaction.commit().await?;
    app.relay.wake();
    app.metrics.tokens.with_label_values(&["device_code"]).inc();
    issue::tokens(app, issue).await
}
