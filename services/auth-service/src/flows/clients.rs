//! OAuth clients: made, changed, given a new secret, removed. Nobody makes a client, or gets at one, that may do more than they
//! may themselves.

use chrono::{DateTime, TimeDelta, Utc};
use kronos_common::{
    identity::{Caller, LONGEST_TOKEN_LIFE_SECONDS, Revocation, RevocationPublisher},
    problem::{OnConstraint as _, Problem},
};
use serde_json::json;
use uuid::Uuid;

use super::sessions;
use crate::{
    App,
    audit::SecurityEvent,
    client_settings::Settings,
    clients::{Client, first_not_held, hash_secret, new_secret, next_epoch},
    store::{self, clients::NewClient},
};

/// A client to make.
pub(crate) struct NewRegistration {
    pub client_id: Option<String>,
    pub client_secret: Option<String>,
    pub settings: Settings,
    /// Whether it may change its own registration (RFC 7592).
    pub self_administered: bool,
}

/// A client, and what is shown of it this once.
pub(crate) struct Made {
    pub client: Client,
    pub secret: Option<String>,
    pub registration_token: Option<String>,
}

/// Makes a client.
///
/// # Errors
/// 422; 403 for permissions that the caller does not hold; 409 `client_exists`.
pub(crate) async fn create(app: &App, caller: &Caller, new: NewRegistration) -> Result<Made, Problem> {
    check(&new.settings)?;
    must_hold_all_of(caller, &new.settings)?;
    let now = Utc::now();
    let client_id = new.client_id.unwrap_or_else(|| Uuid::now_v7().to_string());
    let has_secret = new.settings.token_endpoint_auth_method.has_secret();
    let secret = has_secret.then(|| new.client_secret.unwrap_or_else(new_secret));
    let registration_token = new.self_administered.then(new_secret);
    let secret_hash = secret.as_deref().map(hash_secret);
    let registration_token_hash = registration_token.as_deref().map(hash_secret);
    let row = NewClient {
        client_id: &client_id,
        settings: &new.settings,
        secret_hash: secret_hash.as_deref(),
        registration_token_hash: registration_token_hash.as_deref(),
        epoch: next_epoch(now, None),
        created_by: caller.subject(),
    };
    let mut transaction = app.pool.begin().await?;
    let taken = Problem::conflict("client_exists", "there is a client of this id: choose another one");
    store::clients::insert(&mut transaction, &row).await.on_constraint("clients_pkey", taken)?;
    let client = found(store::clients::find(&mut *transaction, &client_id).await?)?;
    let event = SecurityEvent::about("client-created", client_id, Some(caller.subject()), described(&client));
    store::audit::record(&mut transaction, &event, now).await?;
    transaction.commit().await?;
    app.relay.wake();
    app.clients.forget(&client.client_id);
    Ok(Made { client, secret, registration_token })
}

/// Changes a client; a secret is made if it needs one now and had none. What its own tokens hang on ends them.
///
/// # Errors
/// 404; 422; 403 if it may do, before or after, what the caller may not.
pub(crate) async fn change(
    app: &App,
    caller: &Caller,
    client_id: &str,
    changed: impl FnOnce(Settings) -> Result<Settings, Problem>,
) -> Result<Made, Problem> {
    let mut transaction = app.pool.begin().await?;
    let before = found(store::clients::find_for_update(&mut transaction, client_id).await?)?;
    must_hold_all_of(caller, &Settings::from(before.clone()))?;
    let settings = changed(before.clone().into())?;
    must_hold_all_of(caller, &settings)?;
    write(app, transaction, before, settings, caller.subject()).await
}

/// The same by the client itself (RFC 7592): what it may do and whose it is stay as they are.
///
/// # Errors
/// 404; 422.
pub(crate) async fn change_itself(
    app: &App,
    client_id: &str,
    changed: impl FnOnce(Settings) -> Result<Settings, Problem>,
) -> Result<Made, Problem> {
    let mut transaction = app.pool.begin().await?;
    let before = found(store::clients::find_for_update(&mut transaction, client_id).await?)?;
    let settings = changed(before.clone().into())?;
    if let Some(more) = first_not_held(&before.permissions, &settings.permissions) {
        return Err(Problem::forbidden(format!("a client cannot give itself {more}")));
    }
    let (resources, scoped_permissions) = (before.resources.clone(), before.scoped_permissions.0.clone());
    let settings = Settings { first_party: before.first_party, resources, scoped_permissions, ..settings };
    write(app, transaction, before, settings, client_id).await
}

async fn write(
    app: &App,
    mut transaction: sqlx::Transaction<'_, sqlx::Postgres>,
    before: Client,
    settings: Settings,
    actor: &str,
) -> Result<Made, Problem> {
    check(&settings)?;
    let now = Utc::now();
    let client_id = before.client_id.clone();
    let needs_secret =
        settings.token_endpoint_auth_method.has_secret() && !before.token_endpoint_auth_method.has_secret();
    let secret = needs_secret.then(new_secret);
    let ends_tokens = settings.permissions != before.permissions
        || settings.scoped_permissions != before.scoped_permissions.0
        || settings.grant_types != before.grant_types
        || settings.token_endpoint_auth_method != before.token_endpoint_auth_method
        || settings.jwks != before.jwks
        || settings.jwks_uri != before.jwks_uri
        || settings.resources != before.resources
        || settings.dpop_bound_access_tokens != before.dpop_bound_access_tokens
        || settings.first_party != before.first_party;
    let epoch = if ends_tokens { next_epoch(now, Some(before.epoch)) } else { before.epoch };
    let hash = secret.as_deref().map(hash_secret);
    store::clients::update(&mut transaction, &client_id, &settings, hash.as_deref(), epoch).await?;
    let revocation = Revocation::Client { client_id: client_id.clone(), epoch };
    if ends_tokens {
        RevocationPublisher::in_transaction(&mut transaction, &revocation).await?;
    }
    let client = found(store::clients::find(&mut *transaction, &client_id).await?)?;
    let event = SecurityEvent::about("client-changed", client_id, Some(actor), described(&client));
    store::audit::record(&mut transaction, &event, now).await?;
    transaction.commit().await?;
    app.clients.forget(&client.client_id);
    if ends_tokens {
        after_commit(app, &revocation).await;
    } else {
        app.relay.wake();
    }
    Ok(Made { client, secret, registration_token: None })
}

/// Gives a client a new secret. The old one ends now, or after `overlap`; without an overlap the tokens got with it end too.
///
/// # Errors
/// 404; 403 if the client may do what the caller may not; 409 `no_secret`.
pub(crate) async fn rotate_secret(
    app: &App,
    caller: &Caller,
    client_id: &str,
    overlap: TimeDelta,
) -> Result<String, Problem> {
    let now = Utc::now();
    let mut transaction = app.pool.begin().await?;
    let client = found(store::clients::find_for_update(&mut transaction, client_id).await?)?;
    if !client.token_endpoint_auth_method.has_secret() {
        return Err(Problem::conflict("no_secret", "this client shows itself without a secret"));
    }
    let current_epoch = client.epoch;
    must_hold_all_of(caller, &Settings::from(client))?;
    let secret = new_secret();
    let until = Some(now + overlap).filter(|_| overlap > TimeDelta::zero());
    let epoch = if until.is_some() { current_epoch } else { next_epoch(now, Some(current_epoch)) };
    store::clients::rotate_secret(&mut transaction, client_id, &hash_secret(&secret), until, epoch).await?;
    let revocation = Revocation::Client { client_id: client_id.to_owned(), epoch };
    RevocationPublisher::in_transaction(&mut transaction, &revocation).await?;
    let data = json!({ "overlapSeconds": overlap.num_seconds() });
    let event = SecurityEvent::about("client-secret-rotated", client_id, Some(caller.subject()), data);
    store::audit::record(&mut transaction, &event, now).await?;
    transaction.commit().await?;
    app.clients.forget(client_id);
    after_commit(app, &revocation).await;
    Ok(secret)
}

/// Removes a client and ends its tokens, and those of users that came through it.
///
/// # Errors
/// 404.
pub(crate) async fn delete(app: &App, actor: &str, client_id: &str) -> Result<(), Problem> {
    let now = Utc::now();
    let mut transaction = app.pool.begin().await?;
    let client = found(store::clients::find_for_update(&mut transaction, client_id).await?)?;
    store::clients::delete(&mut transaction, client_id).await?;
    let epoch = next_epoch(now, Some(client.epoch));
    let revocation = Revocation::Client { client_id: client_id.to_owned(), epoch };
    RevocationPublisher::in_transaction(&mut transaction, &revocation).await?;
    let ended = end_sessions(&mut transaction, client_id, now).await?;
    let event = SecurityEvent::about("client-deleted", client_id, Some(actor), json!({}));
    store::audit::record(&mut transaction, &event, now).await?;
    transaction.commit().await?;
    app.clients.forget(client_id);
    app.revocations.apply(&revocation);
    sessions::after_commit(app, &ended).await;
    app.publisher.flush().await;
    Ok(())
}

async fn end_sessions(
    connection: &mut sqlx::PgConnection,
    client_id: &str,
    now: DateTime<Utc>,
) -> sqlx::Result<Vec<Uuid>> {
    let used_since = now - TimeDelta::seconds(LONGEST_TOKEN_LIFE_SECONDS);
    let ended = store::sessions::end_of_client(connection, client_id, "client-deleted", now, used_since).await?;
    sessions::revoke(connection, &ended).await?;
    Ok(ended)
}

fn found(client: Option<Client>) -> Result<Client, Problem> {
    client.ok_or_else(|| Problem::not_found("client"))
}

fn check(settings: &Settings) -> Result<(), Problem> {
    let errors = settings.check();
    if errors.is_empty() { Ok(()) } else { Err(Problem::invalid(errors)) }
}

fn described(client: &Client) -> serde_json::Value {
    json!({
        "permissions": client.permissions, "scopedPermissions": client.scoped_permissions, "grantTypes": client.grant_types, "redirectUris": client.redirect_uris,
        "tokenEndpointAuthMethod": client.token_endpoint_auth_method, "firstParty": client.first_party,
    })
}

/// One of ours gets all that a user may do, so only who may do everything makes or touches one.
fn must_hold_all_of(caller: &Caller, settings: &Settings) -> Result<(), Problem> {
    if settings.first_party && !caller.may("*:*") && !caller.claims.permissions.iter().any(|held| held == "*:*") {
        return Err(Problem::forbidden("a first-party client is made by whoever holds *:*"));
    }
    let scoped = settings.scoped_permissions.iter().map(|scoped| &scoped.permission);
    let handed_out: Vec<String> = settings.permissions.iter().chain(scoped).cloned().collect();
    match first_not_held(&caller.claims.permissions, &handed_out) {
        None => Ok(()),
        Some(missing) => Err(Problem::forbidden(format!("you cannot hand out {missing}, which you do not hold"))),
    }
}

async fn after_commit(app: &App, revocation: &Revocation) {
    app.relay.wake();
    app.revocations.apply(revocation);
    app.publisher.flush().await;
}
