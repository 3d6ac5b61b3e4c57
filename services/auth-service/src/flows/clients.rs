//! OAuth clients: made, given a new secret, removed, and given tokens. Nobody makes a client, or a secret for one, that may do
//! more than they may themselves.

use chrono::{TimeDelta, Utc};
use kronos_common::{
    identity::{Caller, Revocation, RevocationPublisher},
    problem::{OnConstraint as _, Problem},
};
use serde_json::json;

use crate::{
    App,
    audit::SecurityEvent,
    clients::{Client, first_not_held, hash_secret, narrow, new_secret, next_epoch},
    store::{self, clients::NewClient},
    tokens::{IssuedToken, Subject},
};

/// A client to make.
pub(crate) struct NewRegistration {
    pub client_id: Option<String>,
    pub client_secret: Option<String>,
    pub name: String,
    pub grant_types: Vec<String>,
    pub permissions: Vec<String>,
}

/// Makes a client; returns it with its secret, which is shown this once.
///
/// # Errors
/// 403 for permissions that the caller does not hold; 409 `client_exists`.
pub(crate) async fn create(app: &App, caller: &Caller, new: NewRegistration) -> Result<(Client, String), Problem> {
    must_hold(caller, &new.permissions)?;
    let now = Utc::now();
    let client_id = new.client_id.unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
    let secret = new.client_secret.unwrap_or_else(new_secret);
    let row = NewClient {
        client_id: &client_id,
        name: &new.name,
        secret_hash: &hash_secret(&secret),
        grant_types: &new.grant_types,
        permissions: &new.permissions,
        epoch: next_epoch(now, None),
        created_by: caller.subject(),
    };
    let mut transaction = app.pool.begin().await?;
    let taken = Problem::conflict("client_exists", "there is a client of this id: choose another one");
    let client = store::clients::insert(&mut transaction, &row).await.on_constraint("clients_pkey", taken)?;
    let data = json!({ "permissions": client.permissions });
    let event = SecurityEvent::about("client-created", client_id, Some(caller.subject()), data);
    store::audit::record(&mut transaction, &event, now).await?;
    transaction.commit().await?;
    app.relay.wake();
    Ok((client, secret))
}

/// Gives a client a new secret. The old one ends now, or after `overlap`; without an overlap the tokens got with it end too.
///
/// # Errors
/// 404; 403 if the client may do what the caller may not.
pub(crate) async fn rotate_secret(
    app: &App,
    caller: &Caller,
    client_id: &str,
    overlap: TimeDelta,
) -> Result<String, Problem> {
    let now = Utc::now();
    let mut transaction = app.pool.begin().await?;
    let client = store::clients::find_for_update(&mut transaction, client_id).await?;
    let client = client.ok_or_else(|| Problem::not_found("client"))?;
    must_hold(caller, &client.permissions)?;
    let secret = new_secret();
    let until = Some(now + overlap).filter(|_| overlap > TimeDelta::zero());
    let epoch = if until.is_some() { client.epoch } else { next_epoch(now, Some(client.epoch)) };
    store::clients::rotate_secret(&mut transaction, client_id, &hash_secret(&secret), until, epoch).await?;
    let revocation = Revocation::Client { client_id: client_id.to_owned(), epoch };
    RevocationPublisher::in_transaction(&mut transaction, &revocation).await?;
    let data = json!({ "overlapSeconds": overlap.num_seconds() });
    let event = SecurityEvent::about("client-secret-rotated", client_id, Some(caller.subject()), data);
    store::audit::record(&mut transaction, &event, now).await?;
    transaction.commit().await?;
    after_commit(app, &revocation).await;
    Ok(secret)
}

/// Removes a client and ends its tokens.
///
/// # Errors
/// 404.
pub(crate) async fn delete(app: &App, caller: &Caller, client_id: &str) -> Result<(), Problem> {
    let now = Utc::now();
    let mut transaction = app.pool.begin().await?;
    let client = store::clients::find_for_update(&mut transaction, client_id).await?;
    let client = client.ok_or_else(|| Problem::not_found("client"))?;
    store::clients::delete(&mut transaction, client_id).await?;
    let epoch = next_epoch(now, Some(client.epoch));
    let revocation = Revocation::Client { client_id: client_id.to_owned(), epoch };
    RevocationPublisher::in_transaction(&mut transaction, &revocation).await?;
    let event = SecurityEvent::about("client-deleted", client_id, Some(caller.subject()), json!({}));
    store::audit::record(&mut transaction, &event, now).await?;
    transaction.commit().await?;
    after_commit(app, &revocation).await;
    Ok(())
}

/// Why the token endpoint says no (RFC 6749 section 5.2).
pub(crate) enum TokenRefusal {
    InvalidClient,
    UnauthorizedClient,
    /// Names the permission that the client does not hold.
    InvalidScope(String),
    Failed(Problem),
}

impl From<sqlx::Error> for TokenRefusal {
    fn from(error: sqlx::Error) -> Self {
        Self::Failed(error.into())
    }
}

/// A token for a client that shows its secret, narrowed to `scope`; with what it may do.
///
/// # Errors
/// See [`TokenRefusal`].
pub(crate) async fn client_credentials(
    app: &App,
    client_id: &str,
    secrets: &[String],
    scope: Option<&str>,
) -> Result<(IssuedToken, Vec<String>), TokenRefusal> {
    let now = Utc::now();
    let found = store::clients::authentication(&app.pool, client_id).await?;
    let found = found.filter(|found| secrets.iter().any(|secret| found.secrets.accept(secret, now)));
    let client = found.ok_or(TokenRefusal::InvalidClient)?;
    if !client.grant_types.iter().any(|grant| grant == "client_credentials") {
        return Err(TokenRefusal::UnauthorizedClient);
    }
    let permissions = narrow(&client.permissions, scope).map_err(TokenRefusal::InvalidScope)?;
    app.metrics.tokens.with_label_values(&["client_credentials"]).inc();
    let subject = Subject::client(client_id.to_owned(), permissions.clone(), client.epoch);
    Ok((app.issuer.issue(subject, now), permissions))
}

fn must_hold(caller: &Caller, permissions: &[String]) -> Result<(), Problem> {
    match first_not_held(&caller.claims.permissions, permissions) {
        None => Ok(()),
        Some(missing) => Err(Problem::forbidden(format!("you cannot hand out {missing}, which you do not hold"))),
    }
}

async fn after_commit(app: &App, revocation: &Revocation) {
    app.relay.wake();
    app.revocations.apply(revocation);
    app.publisher.flush().await;
}
