//! People register themselves. A registration waits here until its address is proved; then the person is made in user-service,
//! under the registration's id as idempotency key, so a broken step is simply repeated. Whether an address has an account
//! already is told to that address alone: the answer, the work and the name's reservation are the same.

use chrono::{DateTime, TimeDelta, Utc};
use kronos_common::{name, outbox, problem::Problem};
use secrecy::SecretString;
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use super::passwords::{VERIFICATION, invalid_link, limit, must_be_good};
use crate::{
    App,
    audit::SecurityEvent,
    codes,
    config::RegistrationMode,
    mail::{Mail, Template},
    network::Network,
    store::{
        self,
        credentials::NewCredential,
        registrations::{Invitation, Registration},
    },
    user_service::Made,
};

const REGISTRATION: &str = "registration";
const INVITATION: &str = "invitation";

/// What somebody sends to register.
pub(crate) struct Applicant {
    pub username: String,
    pub email: String,
    pub display_name: Option<String>,
    pub password: SecretString,
    pub invitation: Option<String>,
    pub network: Network,
    pub language: &'static str,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Registered {
    /// Can log in now.
    Done,
    /// Can log in once the address is proved.
    ToVerify,
}

/// Registers a person.
///
/// # Errors
/// 403 `registration_closed`, `invitation_refused`; 409 `username_taken`; 422 for a weak password; 429; 503.
pub(crate) async fn register(app: &App, applicant: Applicant) -> Result<Registered, Problem> {
    let mode = app.accounts.registration;
    if mode == RegistrationMode::Closed {
        return Err(refused("registration_closed", "accounts are made by the administration here"));
    }
    limit(app, "register", applicant.network, app.accounts.registrations_per_network).await?;
    must_be_good(app, "/password", &applicant.password, &[&applicant.username, &applicant.email])?;
    let password_phc = app.hashing.hash(applicant.password).await?;
    let (now, token) = (Utc::now(), codes::link());
    let mut registration = Registration {
        id: Uuid::now_v7(),
        username_key: name::key(&applicant.username),
        display_name: applicant.display_name.unwrap_or_else(|| applicant.username.clone()),
        username: applicant.username,
        email_key: name::key(&applicant.email),
        email: applicant.email,
        password_phc,
        token_hash: None,
        language: applicant.language.to_owned(),
        created_at: now,
        expires_at: now + TimeDelta::seconds(i64::from(app.accounts.verification_seconds)),
    };
    let mut transaction = app.pool.begin().await?;
    let invited = match &applicant.invitation {
        Some(code) => {
            let hash = codes::hash(INVITATION, &codes::normal(code));
            let used = store::registrations::use_invitation(&mut transaction, &hash, &registration.email, now).await?;
            let detail = "the invitation is wrong, used, too old, or for another address";
            Some(used.ok_or_else(|| refused("invitation_refused", detail))?)
        }
        None if mode == RegistrationMode::Invitation => {
            return Err(refused("invitation_refused", "accounts are made by invitation here: send its code"));
        }
        None => None,
    };
    let known = store::registrations::has_account(&mut transaction, &registration.email_key).await?;
    if !known {
        registration.token_hash = Some(codes::hash(REGISTRATION, &token));
    }
    if !store::registrations::insert(&mut transaction, &registration).await? {
        return Err(username_taken());
    }
    let at_once = invited == Some(true) || !app.accounts.verify_email;
    if known || !at_once {
        send(app, &mut transaction, &registration, (!known).then_some(&token)).await?;
    }
    transaction.commit().await?;
    app.relay.wake();
    match (at_once, known) {
        (false, _) => Ok(Registered::ToVerify),
        (true, true) => Ok(Registered::Done),
        (true, false) => finish(app, registration, invited == Some(true)).await.map(|()| Registered::Done),
    }
}

/// The mail to who registers, or to whose address it is already; an address gets few of them.
async fn send(
    app: &App,
    connection: &mut PgConnection,
    registration: &Registration,
    token: Option<&String>,
) -> sqlx::Result<()> {
    let counter: String =
        codes::hash("mails", &registration.email_key).iter().map(|byte| format!("{byte:02x}")).collect();
    let counter = format!("mails:register:{counter}");
    let (count, _) = store::attempts::count(&app.pool, &counter, TimeDelta::hours(1), Utc::now()).await?;
    if count > i64::from(app.accounts.mails_per_account) {
        return Ok(());
    }
    let mail = Mail {
        template: if token.is_some() { Template::Registration } else { Template::AlreadyRegistered },
        recipient: &registration.email,
        username: Some(&registration.username).filter(|_| token.is_some()).map(String::as_str),
        language: &registration.language,
        token: token.map(String::as_str),
        expires_at: token.map(|_| registration.expires_at),
    };
    outbox::insert(connection, &mail.event(&app.link_base, &registration.id.to_string())).await
}

/// Sends a new link to who registered with this address and did not prove it yet; for the job.
///
/// # Errors
/// The database.
pub(crate) async fn send_again(app: &App, connection: &mut PgConnection, email_key: &str) -> sqlx::Result<()> {
    let waiting = store::registrations::by_email(&mut *connection, email_key, Utc::now()).await?;
    let Some(waiting) = waiting else { return Ok(()) };
    let token = codes::link();
    store::registrations::replace_token(&mut *connection, waiting.id, &codes::hash(REGISTRATION, &token)).await?;
    send(app, connection, &waiting, Some(&token)).await
}

/// Proves an address by the link that was sent there: ends a registration, or marks an account's address.
///
/// # Errors
/// 400 `invalid_link`; 409 `username_taken` (the link is still good for another name), `email_taken`; 429; 503.
pub(crate) async fn verify(app: &App, token: &str, username: Option<String>, network: Network) -> Result<(), Problem> {
    let now = Utc::now();
    if let Some(mut waiting) = store::registrations::by_token(&app.pool, &codes::hash(REGISTRATION, token), now).await?
    {
        if let Some(username) = username {
            waiting.username_key = name::key(&username);
            waiting.username = username;
        }
        return finish(app, waiting, true).await;
    }
    let hash = codes::hash(VERIFICATION, token);
    let Some(user_id) = store::links::owner(&app.pool, &hash, VERIFICATION, now).await? else {
        limit(app, "link", network, app.accounts.guesses_per_network).await?;
        return Err(invalid_link());
    };
    let mut transaction = app.pool.begin().await?;
    if !store::links::spend(&mut transaction, &hash, VERIFICATION).await? {
        return Err(invalid_link());
    }
    store::links::mark_verified(&mut transaction, user_id).await?;
    let event = SecurityEvent::about("email-verified", user_id.to_string(), None, json!({}));
    store::audit::record(&mut transaction, &event, now).await?;
    transaction.commit().await?;
    app.relay.wake();
    Ok(())
}

/// Makes the person in user-service, and the credentials here. Can be repeated.
async fn finish(app: &App, registration: Registration, proved: bool) -> Result<(), Problem> {
    let made = app
        .users
        .create(registration.id, &registration.username, &registration.email, &registration.display_name)
        .await?;
    let user_id = match made {
        Made::User(user_id) => user_id,
        Made::UsernameTaken => return Err(username_taken()),
        Made::EmailTaken => {
            store::registrations::delete(&mut *app.pool.acquire().await?, registration.id).await?;
            let detail = "your address has an account already: log in, or reset its password";
            return Err(Problem::conflict("email_taken", detail));
        }
    };
    let mut transaction = app.pool.begin().await?;
    if !store::registrations::delete(&mut transaction, registration.id).await? {
        // Somebody was faster with the same link.
        return Ok(());
    }
    let credential = NewCredential {
        user_id,
        username: &registration.username,
        username_key: &registration.username_key,
        email: &registration.email,
        email_key: &registration.email_key,
        password_phc: Some(&registration.password_phc),
    };
    store::credentials::put(&mut transaction, &credential).await?;
    if proved {
        store::links::mark_verified(&mut transaction, user_id).await?;
    }
    let event = SecurityEvent::about("registered", user_id.to_string(), None, json!({ "emailProved": proved }));
    store::audit::record(&mut transaction, &event, Utc::now()).await?;
    transaction.commit().await?;
    app.relay.wake();
    Ok(())
}

/// Invites somebody; with an address, the code is mailed there too.
///
/// # Errors
/// The database.
pub(crate) async fn invite(
    app: &App,
    email: Option<String>,
    expires_at: DateTime<Utc>,
    actor: &str,
    language: &str,
) -> Result<(Invitation, String), Problem> {
    let code = codes::typed(4);
    let (id, created_at) = (Uuid::now_v7(), Utc::now());
    let invitation = Invitation { id, email, created_by: actor.to_owned(), created_at, expires_at, used_at: None };
    let mut transaction = app.pool.begin().await?;
    store::registrations::invite(&mut transaction, &invitation, &codes::hash(INVITATION, &codes::normal(&code)))
        .await?;
    if let Some(email) = &invitation.email {
        let mail = Mail {
            template: Template::Invitation,
            recipient: email,
            username: None,
            language,
            token: Some(&code),
            expires_at: Some(expires_at),
        };
        outbox::insert(&mut transaction, &mail.event(&app.link_base, &id.to_string())).await?;
    }
    let event = SecurityEvent::about("invitation-created", id.to_string(), Some(actor), json!({}));
    store::audit::record(&mut transaction, &event, created_at).await?;
    transaction.commit().await?;
    app.relay.wake();
    Ok((invitation, code))
}

/// Withdraws an invitation.
///
/// # Errors
/// 404 for one that is not there or was used.
pub(crate) async fn withdraw(app: &App, id: Uuid, actor: &str) -> Result<(), Problem> {
    let mut transaction = app.pool.begin().await?;
    if !store::registrations::withdraw(&mut transaction, id).await? {
        return Err(Problem::not_found("open invitation"));
    }
    let event = SecurityEvent::about("invitation-withdrawn", id.to_string(), Some(actor), json!({}));
    store::audit::record(&mut transaction, &event, Utc::now()).await?;
    transaction.commit().await?;
    app.relay.wake();
    Ok(())
}

fn refused(code: &'static str, detail: &str) -> Problem {
    Problem::new(axum::http::StatusCode::FORBIDDEN, code, detail)
}

fn username_taken() -> Problem {
    Problem::conflict("username_taken", "this username is taken: choose another one")
}
