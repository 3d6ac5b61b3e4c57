//! A password is changed by who knows the old one, or reset by who reads the account's mail. The service desk can have a link
//! sent; it never sees one.

use axum::http::StatusCode;
use chrono::{TimeDelta, Utc};
use kronos_common::{name, outbox, problem::Problem};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{login::username_key, sessions};
use crate::{
    App,
    audit::SecurityEvent,
    codes,
    mail::{Mail, Template},
    network::Network,
    password,
    store::{self, links::Account},
};

/// The purpose of a reset link.
pub(crate) const RESET: &str = "password-reset";
/// The purpose of a link that proves an address.
pub(crate) const VERIFICATION: &str = "verification";

/// A change by the person.
pub(crate) struct Change {
    pub user_id: Uuid,
    pub session: Uuid,
    pub username: String,
    pub current: SecretString,
    pub new: SecretString,
    pub end_other_sessions: bool,
    pub network: Network,
    pub language: &'static str,
}

/// Changes a password.
///
/// # Errors
/// 403 `wrong_password`; 422 for a weak one; 429; 503.
pub(crate) async fn change(app: &App, change: Change) -> Result<(), Problem> {
    let counters = app.throttle.attempt(&username_key(&change.username), change.network);
    if let Some(wait) = app.throttle.must_wait(&counters).await {
        return Err(Problem::too_many(wait));
    }
    let account = store::links::account(&mut *app.pool.acquire().await?, change.user_id).await?;
    let account = account.ok_or_else(|| Problem::not_found("credentials"))?;
    must_be_good(app, "/newPassword", &change.new, &[&account.username, &account.email])?;
    let stored = store::credentials::by_user(&app.pool, change.user_id).await?;
    let phc = stored.filter(|stored| !stored.disabled).and_then(|stored| stored.password_phc);
    if !app.hashing.verify(app.hashing.place()?, change.current, phc).await?.correct {
        app.throttle.failed(&counters).await;
        super::factors::record(app, "password-change-failed", change.user_id, Some(change.user_id), json!({})).await?;
        return Err(Problem::new(StatusCode::FORBIDDEN, "wrong_password", "the current password is wrong"));
    }
    let fresh = app.hashing.hash(change.new).await?;
    let mut transaction = app.pool.begin().await?;
    store::links::set_password(&mut transaction, change.user_id, &fresh).await?;
    store::links::withdraw(&mut transaction, change.user_id, RESET).await?;
    let ended = if change.end_other_sessions {
        sessions::end_others(&mut transaction, change.user_id, change.session, "password-changed").await?
    } else {
        Vec::new()
    };
    tell_changed(app, &mut transaction, &account, change.language).await?;
    let subject = change.user_id.to_string();
    let event = SecurityEvent::about("password-changed", subject.as_str(), Some(&subject), json!({ "by": "owner" }));
    store::audit::record(&mut transaction, &event, Utc::now()).await?;
    transaction.commit().await?;
    app.throttle.succeeded(&counters).await;
    sessions::after_commit(app, &ended).await;
    Ok(())
}

/// Notes that somebody wants a link; the work is done after the answer, so that its time tells nothing.
///
/// # Errors
/// 429 after too many from one network.
pub(crate) async fn ask_for_link(
    app: &App,
    purpose: &str,
    email: &str,
    network: Network,
    language: &str,
) -> Result<(), Problem> {
    limit(app, "mail", network, app.accounts.mails_per_network).await?;
    store::links::request(&app.pool, Uuid::now_v7(), purpose, &name::key(email), language).await?;
    app.mail_requests.notify_one();
    Ok(())
}

/// At most so many of something from one network in an hour.
///
/// # Errors
/// 429.
pub(crate) async fn limit(app: &App, what: &str, network: Network, most: u32) -> Result<(), Problem> {
    let now = Utc::now();
    let (count, ends_at) =
        store::attempts::count(&app.pool, &format!("{what}:{network}"), TimeDelta::hours(1), now).await?;
    if count > i64::from(most) {
        return Err(Problem::too_many((ends_at - now).to_std().unwrap_or_default()));
    }
    Ok(())
}

/// Stores a link for an account and has it mailed, unless the account got enough mails in this hour.
///
/// # Errors
/// The database.
pub(crate) async fn send_link(
    app: &App,
    connection: &mut PgConnection,
    purpose: &'static str,
    account: &Account,
    language: &str,
) -> sqlx::Result<bool> {
    let now = Utc::now();
    let key = format!("mails:{purpose}:{}", account.user_id);
    let (count, _) = store::attempts::count(&app.pool, &key, TimeDelta::hours(1), now).await?;
    if count > i64::from(app.accounts.mails_per_account) {
        return Ok(false);
    }
    let (template, life) = if purpose == RESET {
        (Template::PasswordReset, app.accounts.reset_seconds)
    } else {
        (Template::Verification, app.accounts.verification_seconds)
    };
    let token = codes::link();
    let expires_at = now + TimeDelta::seconds(i64::from(life));
    store::links::put(connection, &codes::hash(purpose, &token), purpose, account, expires_at).await?;
    let mail = Mail {
        template,
        recipient: &account.email,
        username: Some(&account.username),
        language,
        token: Some(&token),
        expires_at: Some(expires_at),
    };
    outbox::insert(connection, &mail.event(&app.link_base, &account.user_id.to_string())).await?;
    Ok(true)
}

/// Sets a password by a link: once. Ends all sessions; the address is proved by it too.
///
/// # Errors
/// 400 `invalid_link`; 422 for a weak password; 429 for guessing; 503.
pub(crate) async fn reset(app: &App, token: &str, new: SecretString, network: Network) -> Result<(), Problem> {
    let hash = codes::hash(RESET, token);
    let Some(user_id) = store::links::owner(&app.pool, &hash, RESET, Utc::now()).await? else {
        limit(app, "link", network, app.accounts.guesses_per_network).await?;
        return Err(invalid_link());
    };
    let account = store::links::account(&mut *app.pool.acquire().await?, user_id).await?.ok_or_else(invalid_link)?;
    must_be_good(app, "/password", &new, &[&account.username, &account.email])?;
    let fresh = app.hashing.hash(new).await?;
    let mut transaction = app.pool.begin().await?;
    if !store::links::spend(&mut transaction, &hash, RESET).await?
        || !store::links::set_password(&mut transaction, user_id, &fresh).await?
    {
        return Err(invalid_link());
    }
    store::links::mark_verified(&mut transaction, user_id).await?;
    let ended = sessions::end_all(&mut transaction, user_id, "password-reset").await?;
    tell_changed(app, &mut transaction, &account, "en").await?;
    let event = SecurityEvent::about("password-changed", user_id.to_string(), None, json!({ "by": "link" }));
    store::audit::record(&mut transaction, &event, Utc::now()).await?;
    transaction.commit().await?;
    sessions::after_commit(app, &ended).await;
    Ok(())
}

/// Has a link sent to the owner, on the service desk's word; with `lock`, the present password and all sessions end now.
///
/// # Errors
/// 404.
pub(crate) async fn reset_by_desk(app: &App, user_id: Uuid, lock: bool, actor: &str) -> Result<(), Problem> {
    let mut transaction = app.pool.begin().await?;
    let account = store::links::account(&mut transaction, user_id).await?;
    let account = account.ok_or_else(|| Problem::not_found("credentials"))?;
    let mut ended = Vec::new();
    if lock {
        store::credentials::forget_password(&mut transaction, user_id).await?;
        ended = sessions::end_all(&mut transaction, user_id, "password-reset").await?;
    }
    let sent = send_link(app, &mut transaction, RESET, &account, "en").await?;
    let data = json!({ "locked": lock, "sent": sent });
    let event = SecurityEvent::about("password-reset-requested", user_id.to_string(), Some(actor), data);
    store::audit::record(&mut transaction, &event, Utc::now()).await?;
    transaction.commit().await?;
    sessions::after_commit(app, &ended).await;
    Ok(())
}

/// 422 with what would make the password better.
///
/// # Errors
/// Then.
pub(crate) fn must_be_good(
    app: &App,
    pointer: &'static str,
    new: &SecretString,
    inputs: &[&str],
) -> Result<(), Problem> {
    let (least, score) = (app.password_min_length, app.accounts.min_password_score);
    match password::check_strength(pointer, new.expose_secret(), least, score, inputs) {
        None => Ok(()),
        Some(error) => Err(Problem::invalid(vec![error])),
    }
}

pub(crate) fn invalid_link() -> Problem {
    Problem::bad_request("invalid_link", "the link is wrong, too old, or was used: ask for another one")
}

async fn tell_changed(app: &App, connection: &mut PgConnection, account: &Account, language: &str) -> sqlx::Result<()> {
    let mail = Mail {
        template: Template::PasswordChanged,
        recipient: &account.email,
        username: Some(&account.username),
        language,
        token: None,
        expires_at: None,
    };
    outbox::insert(connection, &mail.event(&app.link_base, &account.user_id.to_string())).await
}
