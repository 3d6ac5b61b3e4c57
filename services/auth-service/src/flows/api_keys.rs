//! API keys: made by people and clients for what they may do themselves, exchanged for short tokens, revoked. The exchange asks
//! for the owner's rights each time, so a key never holds more than its owner.

use chrono::{DateTime, Utc};
use kronos_common::{
    identity::{Caller, Revocation, RevocationPublisher, api_key, permission_matches},
    problem::Problem,
};
use rand::RngExt as _;
use serde_json::json;
use subtle::ConstantTimeEq as _;
use uuid::Uuid;

use crate::{
    App,
    audit::SecurityEvent,
    clients::first_not_held,
    store::{self, api_keys::ApiKey},
    tokens::{IssuedToken, Subject},
};

/// The `client_id` in the tokens of people's keys; they belong to no session.
pub(crate) const KEY_CLIENT: &str = "api-key";
/// Keys that one owner has at most.
const MOST: i64 = 100;

/// Makes a key; its text is shown this once.
///
/// # Errors
/// 403 for permissions that the caller does not hold, and for who calls with a key; 409 `too_many_keys`.
pub(crate) async fn create(
    app: &App,
    caller: &Caller,
    name: String,
    permissions: Vec<String>,
    expires_at: Option<DateTime<Utc>>,
) -> Result<(ApiKey, String), Problem> {
    let now = Utc::now();
    must_not_be_a_key(app, caller).await?;
    if let Some(missing) = first_not_held(&caller.claims.permissions, &permissions) {
        return Err(Problem::forbidden(format!("you cannot hand out {missing}, which you do not hold")));
    }
    if expires_at.is_some_and(|end| end <= now) {
        return Err(Problem::field("/expiresAt", "past", "a time to come"));
    }
    if store::api_keys::count(&app.pool, caller.subject()).await? >= MOST {
        return Err(Problem::conflict("too_many_keys", "revoke one of your keys first"));
    }
    let (id, secret) = (Uuid::now_v7(), rand::rng().random::<[u8; api_key::SECRET_BYTES]>());
    let text = api_key::text(id, &secret);
    let (_, secret) = api_key::parts(&text).ok_or_else(|| Problem::internal(anyhow::anyhow!("a key of wrong form")))?;
    let owner_kind = if caller.claims.is_client() { "client" } else { "user" };
    let key = ApiKey {
        id,
        name,
        owner: caller.subject().to_owned(),
        owner_kind: owner_kind.to_owned(),
        permissions,
        created_at: now,
        expires_at,
        last_used_at: None,
        secret_hash: api_key::hash_secret(secret).to_vec(),
    };
    let mut transaction = app.pool.begin().await?;
    store::api_keys::insert(&mut transaction, &key).await?;
    let data = json!({ "key": id, "permissions": key.permissions, "expiresAt": expires_at });
    let event = SecurityEvent::about("api-key-created", key.owner.as_str(), Some(caller.subject()), data);
    store::audit::record(&mut transaction, &event, now).await?;
    transaction.commit().await?;
    app.relay.wake();
    Ok((key, text))
}

/// A key that makes keys would outlive its own revocation.
async fn must_not_be_a_key(app: &App, caller: &Caller) -> Result<(), Problem> {
    let sid = caller.claims.sid.as_deref().and_then(|sid| Uuid::parse_str(sid).ok());
    let is_key = match sid {
        Some(sid) => store::api_keys::find(&app.pool, sid).await?.is_some(),
        None => false,
    };
    if is_key { Err(Problem::forbidden("an API key makes no other keys: log in")) } else { Ok(()) }
}

/// Ends a key everywhere.
///
/// # Errors
/// 404 for one that is not the caller's, unless `any` is set.
pub(crate) async fn revoke(app: &App, caller: &Caller, id: Uuid, any: bool) -> Result<(), Problem> {
    let now = Utc::now();
    let key = store::api_keys::find(&app.pool, id).await?;
    let key = key.filter(|key| any || key.owner == caller.subject()).ok_or_else(|| Problem::not_found("API key"))?;
    let mut transaction = app.pool.begin().await?;
    if !store::api_keys::revoke(&mut transaction, id, now).await? {
        return Err(Problem::not_found("API key"));
    }
    let revocation = Revocation::session_now(id.to_string());
    RevocationPublisher::in_transaction(&mut transaction, &revocation).await?;
    let event =
        SecurityEvent::about("api-key-revoked", key.owner.as_str(), Some(caller.subject()), json!({ "key": id }));
    store::audit::record(&mut transaction, &event, now).await?;
    transaction.commit().await?;
    app.relay.wake();
    app.revocations.apply(&revocation);
    app.publisher.flush().await;
    Ok(())
}

/// The token for a key; `None` for a wrong, expired or revoked one, or one whose owner is gone.
///
/// # Errors
/// The database; 503 while the owner's rights cannot be known.
pub(crate) async fn exchange(app: &App, text: &str) -> Result<Option<IssuedToken>, Problem> {
    let now = Utc::now();
    let Some((id, secret)) = api_key::parts(text) else { return Ok(None) };
    let key = store::api_keys::find(&app.pool, id).await?.filter(|key| {
        let right: bool = api_key::hash_secret(secret).ct_eq(&key.secret_hash).into();
        right && key.expires_at.is_none_or(|end| now < end)
    });
    let Some(key) = key else { return Ok(None) };
    let Some(mut subject) = owner(app, &key, now).await? else { return Ok(None) };
    // Whichever is narrower: what the key says, or, where the owner's right is narrower than a `*` of the key's, that.
    let mut permissions: Vec<String> = Vec::new();
    for granted in &key.permissions {
        if subject.permissions.iter().any(|held| permission_matches(held, granted)) {
            permissions.push(granted.clone());
        } else {
            permissions.extend(subject.permissions.iter().filter(|held| permission_matches(granted, held)).cloned());
        }
    }
    permissions.sort();
    permissions.dedup();
    subject.permissions = permissions;
    subject.roles = Vec::new();
    subject.sid = Some(key.id);
    subject.valid_until = match (subject.valid_until, key.expires_at) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    };
    store::api_keys::used(&app.pool, id, now).await?;
    app.metrics.tokens.with_label_values(&["api_key"]).inc();
    Ok(Some(app.issuer.issue(subject, now)))
}

async fn owner(app: &App, key: &ApiKey, now: DateTime<Utc>) -> Result<Option<Subject>, Problem> {
    if key.owner_kind == "client" {
        let client = store::clients::find(&app.pool, &key.owner).await?;
        return Ok(client.map(|client| Subject::client(client.client_id, client.permissions, client.epoch)));
    }
    let Ok(user_id) = Uuid::parse_str(&key.owner) else { return Ok(None) };
    let grants = app.users.rights(user_id).await?.usable(now)?;
    Ok(grants.map(|grants| Subject::user(grants, key.id, KEY_CLIENT)))
}
