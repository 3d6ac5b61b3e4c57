//! A login with a password. Unknown, disabled, wrong and empty take the same way: throttle, one hash, one record, one answer.

use chrono::{TimeDelta, Utc};
use kronos_common::{name, problem::Problem};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;
use uuid::Uuid;

use super::TokenPair;
use crate::{
    App,
    audit::SecurityEvent,
    grants::Grants,
    hashing::HashError,
    network::Network,
    refresh_token::RefreshToken,
    store::{self, credentials::Credential, sessions::NewSession, throttle::Attempt},
    tokens::{LOGIN_CLIENT, Subject},
};

/// What somebody typed, and from where.
pub(crate) struct Login {
    pub username: String,
    pub password: SecretString,
    pub network: Network,
    pub device: Option<String>,
}

/// Usernames are compared as user-service compares them, which decides who has one.
pub(crate) fn username_key(username: &str) -> String {
    name::key(username)
}

/// Logs in.
///
/// # Errors
/// 401 `invalid_credentials`; 429 after too many failures; 503 when there is no room for a hash, or the rights cannot be known.
pub(crate) async fn login(app: &App, login: Login) -> Result<TokenPair, Problem> {
    let key = username_key(&login.username);
    let attempt = app.throttle.attempt(&key, login.network);
    if let Some(wait) = app.throttle.must_wait(&attempt).await {
        app.metrics.logins.with_label_values(&["throttled"]).inc();
        return Err(Problem::too_many(wait));
    }
    let credential = store::credentials::by_username(&app.pool, &key).await?;
    let usable =
        credential.as_ref().filter(|credential| !credential.disabled && !login.password.expose_secret().is_empty());
    let phc = usable.and_then(|credential| credential.password_phc.clone());
    let verified = app.hashing.verify(login.password, phc.clone()).await.inspect_err(|error| {
        if matches!(error, HashError::Overloaded) {
            app.metrics.logins.with_label_values(&["overloaded"]).inc();
        }
    })?;
    let user_id = credential.as_ref().map(|credential| credential.user_id);
    let Some(credential) = credential.filter(|_| verified.correct) else {
        return Err(refuse(app, &attempt, user_id).await?);
    };
    let Some(grants) = app.users.rights(credential.user_id).await?.usable(Utc::now())? else {
        return Err(refuse(app, &attempt, user_id).await?);
    };
    let rehashed = phc.zip(verified.rehashed);
    match begin_session(app, &credential, rehashed, grants, login.device.as_deref()).await? {
        Some(pair) => {
            app.throttle.succeeded(&attempt).await;
            app.metrics.logins.with_label_values(&["succeeded"]).inc();
            Ok(pair)
        }
        None => Err(refuse(app, &attempt, user_id).await?),
    }
}

/// Stores the session and hands out its first tokens; `None` if the credentials went away while the password was checked.
async fn begin_session(
    app: &App,
    credential: &Credential,
    rehashed: Option<(String, String)>,
    grants: Grants,
    device: Option<&str>,
) -> Result<Option<TokenPair>, Problem> {
    let now = Utc::now();
    let (idle, whole) = (app.tokens.session_idle_seconds, app.tokens.session_seconds);
    let session = NewSession {
        id: Uuid::now_v7(),
        user_id: credential.user_id,
        client_id: LOGIN_CLIENT,
        device,
        now,
        idle_expires_at: now + seconds(idle.min(whole)),
        expires_at: now + seconds(whole),
    };
    let mut transaction = app.pool.begin().await?;
    if let Some((old, new)) = rehashed {
        store::credentials::rehash(&mut transaction, credential.user_id, &old, &new).await?;
    }
    if !store::sessions::create(&mut transaction, &session).await? {
        return Ok(None);
    }
    let data = json!({ "session": session.id, "client": LOGIN_CLIENT });
    let subject = credential.user_id.to_string();
    let event = SecurityEvent::about("login-succeeded", subject.as_str(), Some(&subject), data);
    store::audit::record(&mut transaction, &event, now).await?;
    transaction.commit().await?;
    app.relay.wake();
    app.metrics.tokens.with_label_values(&["login"]).inc();
    let issued = app.issuer.issue(Subject::user(grants, session.id, LOGIN_CLIENT), now);
    Ok(Some(TokenPair {
        access_token: issued.token,
        refresh_token: app.refresh_tokens.encode(RefreshToken { family: session.id, generation: 0 }),
        token_type: "Bearer",
        expires_in: issued.expires_in,
    }))
}

/// Counts and records the failure; what was typed as a name is in no record.
async fn refuse(app: &App, attempt: &Attempt, user_id: Option<Uuid>) -> Result<Problem, Problem> {
    app.throttle.failed(attempt).await;
    app.metrics.logins.with_label_values(&["failed"]).inc();
    let subject = user_id.map(|user_id| user_id.to_string());
    let event = SecurityEvent { kind: "login-failed", subject, actor: None, data: json!({}) };
    let mut transaction = app.pool.begin().await?;
    store::audit::record(&mut transaction, &event, Utc::now()).await?;
    transaction.commit().await?;
    app.relay.wake();
    Ok(Problem::unauthorized("invalid_credentials", "the username or the password is wrong"))
}

fn seconds(seconds: u64) -> TimeDelta {
    TimeDelta::seconds(i64::try_from(seconds).unwrap_or(i64::from(u32::MAX)))
}
