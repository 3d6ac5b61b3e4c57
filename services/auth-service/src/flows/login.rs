//! A login with a password, and perhaps a second factor. Unknown, disabled, wrong and empty take the same way: throttle, one
//! hash, one record, one answer. [`authenticate`] says who it is, for `/auth/login` and for the browser's page alike;
//! [`begin_session`] starts what tokens belong to.

use chrono::{DateTime, TimeDelta, Utc};
use kronos_common::{name, problem::Problem};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;
use uuid::Uuid;

use super::{TokenPair, factors};
use crate::{
    App,
    audit::SecurityEvent,
    factors::{Kind, Proof, password_amr},
    grants::Grants,
    hashing::HashError,
    network::Network,
    refresh_token::RefreshToken,
    store::{self, sessions::NewSession, throttle},
    tokens::{LOGIN_CLIENT, Subject},
};

/// What somebody typed, and from where.
pub(crate) struct Attempt {
    pub username: String,
    pub password: SecretString,
    /// What completes the login, if the person has a second factor.
    pub proof: Option<Proof>,
    pub network: Network,
}

/// What became of it. Too busy, throttled and rights unknown are problems (503, 429).
pub(crate) enum Outcome {
    Authenticated(Authenticated),
    /// The password is right; the same attempt with a proof of one of these kinds goes on.
    FactorRequired(Vec<Kind>),
    /// The password is right, the proof is not; one of these kinds would do.
    FactorRefused(Vec<Kind>),
    /// The name, the password, or the person: it is not said which.
    Refused,
}

/// Who it is, how that is known, and since when.
#[derive(Clone)]
pub(crate) struct Authenticated {
    pub user_id: Uuid,
    pub grants: Grants,
    /// RFC 8176.
    pub amr: Vec<&'static str>,
    pub at: DateTime<Utc>,
}

/// Whose session begins where.
pub(crate) struct Place<'a> {
    pub client_id: &'a str,
    pub device: Option<&'a str>,
    pub network: Network,
}

/// Usernames are compared as user-service compares them, which decides who has one.
pub(crate) fn username_key(username: &str) -> String {
    name::key(username)
}

/// Finds out who it is.
///
/// # Errors
/// 429 after too many failures; 503 when there is no room for a hash, or the rights cannot be known.
pub(crate) async fn authenticate(app: &App, attempt: Attempt) -> Result<Outcome, Problem> {
    let overloaded = |error: &HashError| {
        if matches!(error, HashError::Overloaded) {
            app.metrics.logins.with_label_values(&["overloaded"]).inc();
        }
    };
    let place = app.hashing.place().inspect_err(overloaded)?;
    let key = username_key(&attempt.username);
    let counters = app.throttle.attempt(&key, attempt.network);
    if let Some(wait) = app.throttle.must_wait(&counters).await {
        app.metrics.logins.with_label_values(&["throttled"]).inc();
        return Err(Problem::too_many(wait));
    }
    let credential = store::credentials::by_username(&app.pool, &key).await?;
    let usable =
        credential.as_ref().filter(|credential| !credential.disabled && !attempt.password.expose_secret().is_empty());
    let phc = usable.and_then(|credential| credential.password_phc.clone());
    let verified = app.hashing.verify(place, attempt.password, phc.clone()).await.inspect_err(overloaded)?;
    let user_id = credential.as_ref().map(|credential| credential.user_id);
    let Some(credential) = credential.filter(|_| verified.correct) else {
        return refuse(app, &counters, user_id).await;
    };
    let Some(grants) = app.users.rights(credential.user_id).await?.usable(Utc::now())? else {
        return refuse(app, &counters, user_id).await;
    };
    if let Some((old, new)) = phc.zip(verified.rehashed) {
        store::credentials::rehash(&app.pool, credential.user_id, &old, &new).await?;
    }
    let kinds = factors::kinds(app, credential.user_id).await?;
    let second = match (kinds.is_empty(), attempt.proof) {
        (true, _) => None,
        (false, None) => {
            app.metrics.logins.with_label_values(&["factor-required"]).inc();
            return Ok(Outcome::FactorRequired(kinds));
        }
        (false, Some(proof)) => {
            let amr = factors::check(app, credential.user_id, &proof).await?;
            if amr.is_none() {
                app.metrics.logins.with_label_values(&["failed"]).inc();
                return Ok(Outcome::FactorRefused(kinds));
            }
            amr
        }
    };
    app.throttle.succeeded(&counters).await;
    let amr = password_amr(second);
    Ok(Outcome::Authenticated(Authenticated { user_id: credential.user_id, grants, amr, at: Utc::now() }))
}

/// Logs in: a session, and its first tokens.
///
/// # Errors
/// 401 `invalid_credentials`, `second_factor_required`, `invalid_second_factor`; as [`authenticate`].
pub(crate) async fn login(app: &App, attempt: Attempt, device: Option<&str>) -> Result<TokenPair, Problem> {
    let network = attempt.network;
    let counters = app.throttle.attempt(&username_key(&attempt.username), network);
    match authenticate(app, attempt).await? {
        Outcome::Authenticated(who) => {
            let place = Place { client_id: LOGIN_CLIENT, device, network };
            let Some(session) = begin_session(app, &who, &place).await? else {
                refuse(app, &counters, Some(who.user_id)).await?;
                return Err(invalid_credentials());
            };
            Ok(token_pair(app, who, session))
        }
        Outcome::FactorRequired(kinds) => {
            let names: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
            let detail = format!("send the same again with one of: {}", names.join(", "));
            Err(Problem::unauthorized("second_factor_required", detail))
        }
        Outcome::FactorRefused(_) => Err(Problem::unauthorized("invalid_second_factor", "the second factor is wrong")),
        Outcome::Refused => Err(invalid_credentials()),
    }
}

/// The first tokens of a session that was just begun.
pub(crate) fn token_pair(app: &App, who: Authenticated, session: Uuid) -> TokenPair {
    app.metrics.tokens.with_label_values(&["login"]).inc();
    let issued = app.issuer.issue(Subject::user(who.grants, session, LOGIN_CLIENT), Utc::now());
    TokenPair {
        access_token: issued.token,
        refresh_token: app.refresh_tokens.encode(RefreshToken { family: session, generation: 0 }),
        token_type: "Bearer",
        expires_in: issued.expires_in,
    }
}

/// Stores a session; `None` if the credentials went away, or were disabled, while they were checked.
///
/// # Errors
/// The database.
pub(crate) async fn begin_session(app: &App, who: &Authenticated, place: &Place<'_>) -> Result<Option<Uuid>, Problem> {
    let now = Utc::now();
    let (idle, whole) = (app.tokens.session_idle_seconds, app.tokens.session_seconds);
    let network = place.network.to_string();
    let session = NewSession {
        id: Uuid::now_v7(),
        user_id: who.user_id,
        client_id: place.client_id,
        device: place.device,
        network: Some(&network),
        amr: &who.amr,
        now,
        idle_expires_at: now + seconds(idle.min(whole)),
        expires_at: now + seconds(whole),
    };
    let mut transaction = app.pool.begin().await?;
    if !store::sessions::create(&mut transaction, &session).await? {
        return Ok(None);
    }
    let data = json!({ "session": session.id, "client": place.client_id, "amr": who.amr, "authTime": who.at });
    let subject = who.user_id.to_string();
    let event = SecurityEvent::about("login-succeeded", subject.as_str(), Some(&subject), data);
    store::audit::record(&mut transaction, &event, now).await?;
    transaction.commit().await?;
    app.relay.wake();
    app.metrics.logins.with_label_values(&["succeeded"]).inc();
    Ok(Some(session.id))
}

/// Counts and records the failure; what was typed as a name is in no record.
async fn refuse(app: &App, counters: &throttle::Attempt, user_id: Option<Uuid>) -> Result<Outcome, Problem> {
    app.throttle.failed(counters).await;
    app.metrics.logins.with_label_values(&["failed"]).inc();
    let subject = user_id.map(|user_id| user_id.to_string());
    let event = SecurityEvent { kind: "login-failed", subject, actor: None, data: json!({}) };
    let mut transaction = app.pool.begin().await?;
    store::audit::record(&mut transaction, &event, Utc::now()).await?;
    transaction.commit().await?;
    app.relay.wake();
    Ok(Outcome::Refused)
}

/// The answer to every wrong login.
pub(crate) fn invalid_credentials() -> Problem {
    Problem::unauthorized("invalid_credentials", "the username or the password is wrong")
}

fn seconds(seconds: u64) -> TimeDelta {
    TimeDelta::seconds(i64::try_from(seconds).unwrap_or(i64::from(u32::MAX)))
}
