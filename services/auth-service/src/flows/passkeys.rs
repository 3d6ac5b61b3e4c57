//! Passkeys of a person: registered, used for a login or as its second factor, removed. A challenge is a sealed text that says
//! until when it is good, so nothing is kept for who never answers; an answered one is noted, before anything else is looked at.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};
use kronos_common::problem::{OnConstraint as _, Problem};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::{
    factors,
    login::{Authenticated, Place, begin_session, token_pair},
    passwords::limit,
};
use crate::{
    App,
    audit::SecurityEvent,
    factors::PasskeyProof,
    flows::TokenPair,
    network::Network,
    store::{self, passkeys::Passkey},
    tokens::LOGIN_CLIENT,
    webauthn::{Algorithm, Ceremony, ClientData, PublicKey, Registration},
};

/// A challenge is good for so long, in seconds: a page may lie open for a while.
const CHALLENGE_SECONDS: i64 = 600;
/// Passkeys of one person.
const MOST_PASSKEYS: usize = 20;

/// What a challenge is for; one for anything else does not open.
#[derive(Clone, Copy)]
pub(crate) enum Use<'a> {
    /// A new passkey of this person.
    Register(Uuid),
    /// A login by the API, or its second factor.
    LogIn,
    /// A login on a page: of this browser, by the hash of its cookie.
    Page(&'a [u8]),
}

impl Use<'_> {
    fn purpose(self) -> Vec<u8> {
        match self {
            Self::Register(user_id) => [b"passkey:register:".as_slice(), user_id.as_bytes()].concat(),
            Self::LogIn => b"passkey:login".to_vec(),
            Self::Page(key_hash) => [b"passkey:page:".as_slice(), key_hash].concat(),
        }
    }
}

/// A new challenge, base64url.
pub(crate) fn challenge(app: &App, usage: Use<'_>) -> String {
    let until = Utc::now().timestamp() + CHALLENGE_SECONDS;
    URL_SAFE_NO_PAD.encode(app.keyring.seal(&until.to_be_bytes(), &usage.purpose()))
}

/// A proof that was shown in answer to a challenge of that use.
pub(crate) fn proof(assertion: crate::webauthn::Assertion, usage: Use<'_>) -> PasskeyProof {
    PasskeyProof { assertion, purpose: usage.purpose() }
}

/// Uses the challenge up; `false` unless it is ours, for this, in time, and answered for the first time.
async fn spend(app: &App, purpose: &[u8], data: &ClientData) -> Result<bool, Problem> {
    let Ok(opened) = app.keyring.open(&data.challenge, purpose) else { return Ok(false) };
    let until = <[u8; 8]>::try_from(opened.as_slice()).map(i64::from_be_bytes).ok();
    let until = until.and_then(|until| DateTime::from_timestamp(until, 0));
    match until.filter(|until| Utc::now() < *until) {
        Some(until) => Ok(store::passkeys::use_challenge(&app.pool, &Sha256::digest(&data.challenge), until).await?),
        None => Ok(false),
    }
}

/// Keeps a new passkey; recovery codes come with a person's first second factor.
///
/// # Errors
/// 422 for an answer that does not hold; 409 `passkey_exists`, `too_many_passkeys`.
pub(crate) async fn register(
    app: &App,
    user_id: Uuid,
    registration: &Registration,
    name: &str,
    transports: &[String],
) -> Result<(Passkey, Vec<String>), Problem> {
    let refused = |why: String| Problem::field("/credential", "refused", why);
    let party = &app.relying_party;
    let data = party.client_data(Ceremony::Create, &registration.client_data);
    let data = data.map_err(|refusal| refused(refusal.to_string()))?;
    if !spend(app, &Use::Register(user_id).purpose(), &data).await? {
        return Err(refused("the challenge is too old, answered already, or somebody else's".to_owned()));
    }
    let new = party.register(&data, registration, true).map_err(|refusal| refused(refusal.to_string()))?;
    let (id, now) = (Uuid::now_v7(), Utc::now());
    let mut transaction = app.pool.begin().await?;
    // Holds the person's row: two at once count each other.
    store::passkeys::ways_in(&mut transaction, user_id).await?;
    if store::passkeys::list(&mut *transaction, user_id).await?.len() >= MOST_PASSKEYS {
        let detail = format!("{MOST_PASSKEYS} passkeys are the most: remove one first");
        return Err(Problem::conflict("too_many_passkeys", detail));
    }
    let taken = Problem::conflict("passkey_exists", "this passkey is registered already");
    store::passkeys::insert(&mut transaction, id, user_id, &new, name, transports, now)
        .await
        .on_constraint("passkeys_credential_id_key", taken)?;
    let subject = user_id.to_string();
    let data = json!({ "factor": "passkey", "passkey": id });
    let event = SecurityEvent::about("second-factor-added", subject.as_str(), Some(&subject), data);
    store::audit::record(&mut transaction, &event, now).await?;
    transaction.commit().await?;
    app.relay.wake();
    let passkey = Passkey {
        id,
        user_id,
        credential_id: new.id,
        algorithm: new.key.algorithm.cose(),
        public_key: new.key.bytes,
        backup_eligible: new.backup_eligible,
        backed_up: new.backed_up,
        name: name.to_owned(),
        transports: transports.to_vec(),
        created_at: now,
        last_used_at: None,
    };
    Ok((passkey, factors::first_recovery_codes(app, user_id).await?))
}

/// Removes a passkey; the recovery codes go with the last factor.
///
/// # Errors
/// 404; 409 `last_way_in`.
pub(crate) async fn remove(app: &App, user_id: Uuid, id: Uuid) -> Result<(), Problem> {
    let mut transaction = app.pool.begin().await?;
    let ways = store::passkeys::ways_in(&mut transaction, user_id).await?;
    if !store::passkeys::delete(&mut transaction, user_id, id).await? {
        return Err(Problem::not_found("passkey"));
    }
    must_not_be_last(ways)?;
    factors::drop_orphaned_codes(&mut transaction, user_id).await?;
    let subject = user_id.to_string();
    let data = json!({ "factor": "passkey", "passkey": id });
    let event = SecurityEvent::about("second-factor-removed", subject.as_str(), Some(&subject), data);
    store::audit::record(&mut transaction, &event, Utc::now()).await?;
    transaction.commit().await?;
    app.relay.wake();
    Ok(())
}

/// Nobody locks themselves out.
///
/// # Errors
/// 409 `last_way_in` if there was one way alone.
pub(crate) fn must_not_be_last(ways: i64) -> Result<(), Problem> {
    if ways > 1 {
        return Ok(());
    }
    Err(Problem::conflict(
        "last_way_in",
        "this is the only way to log in that is left: set a password or another first",
    ))
}

/// Who holds a passkey, and what kind of key it is (RFC 8176).
pub(crate) struct Holder {
    pub user_id: Uuid,
    pub amr: &'static str,
}

/// Whose passkey this is, if the proof holds. `user_id`: it must be this person's; without one, the passkey says who it is.
///
/// # Errors
/// The database.
pub(crate) async fn holder(
    app: &App,
    proof: &PasskeyProof,
    user_id: Option<Uuid>,
    must_verify: bool,
) -> Result<Option<Holder>, Problem> {
    let (party, assertion) = (&app.relying_party, &proof.assertion);
    let data = match party.client_data(Ceremony::Get, &assertion.client_data) {
        Ok(data) => data,
        Err(refusal) => {
            tracing::debug!(%refusal, "passkey refused");
            return Ok(None);
        }
    };
    if !spend(app, &proof.purpose, &data).await? {
        return Ok(None);
    }
    let passkey = store::passkeys::by_credential(&app.pool, &assertion.credential_id).await?;
    let passkey = passkey.filter(|passkey| user_id.is_none_or(|user_id| user_id == passkey.user_id));
    let Some(passkey) = passkey else { return Ok(None) };
    // Who was not named before must be named by the authenticator (section 7.2, step 6).
    let named = match &assertion.user_handle {
        Some(handle) => handle == passkey.user_id.as_bytes(),
        None => user_id.is_some(),
    };
    let algorithm = Algorithm::of(i64::from(passkey.algorithm)).filter(|_| named);
    let Some(algorithm) = algorithm else { return Ok(None) };
    let key = PublicKey { algorithm, bytes: passkey.public_key };
    let used = match party.authenticate(&data, assertion, &key, must_verify) {
        Ok(used) if used.backup_eligible == passkey.backup_eligible => used,
        Ok(_) => return Ok(None),
        Err(refusal) => {
            tracing::debug!(%refusal, "passkey refused");
            return Ok(None);
        }
    };
    if !store::passkeys::used(&app.pool, passkey.id, used.sign_count, used.backed_up, Utc::now()).await? {
        let data = json!({ "passkey": passkey.id });
        factors::record(app, "passkey-counter-went-back", passkey.user_id, None, data).await?;
        return Ok(None);
    }
    // What may be copied is not bound to one piece of hardware.
    let amr = if passkey.backup_eligible { "swk" } else { "hwk" };
    Ok(Some(Holder { user_id: passkey.user_id, amr }))
}

/// Finds out who it is, by a passkey alone: the person was verified by the authenticator, so it is two factors. `None`: it does
/// not hold, whatever was wrong.
///
/// # Errors
/// 429 after too many wrong ones from one network; 503 if the rights cannot be known.
pub(crate) async fn authenticate(
    app: &App,
    proof: &PasskeyProof,
    network: Network,
) -> Result<Option<Authenticated>, Problem> {
    let holder = holder(app, proof, None, true).await?;
    let subject = holder.as_ref().map(|holder| holder.user_id.to_string());
    if let Some(holder) = holder
        && let Some(grants) = app.users.rights(holder.user_id).await?.usable(Utc::now())?
    {
        let amr = vec![holder.amr, "user", "mfa"];
        return Ok(Some(Authenticated { user_id: holder.user_id, grants, amr, at: Utc::now() }));
    }
    refuse(app, subject).await?;
    limit(app, "passkey", network, app.accounts.guesses_per_network).await?;
    Ok(None)
}

async fn refuse(app: &App, subject: Option<String>) -> Result<(), Problem> {
    app.metrics.logins.with_label_values(&["failed"]).inc();
    let event = SecurityEvent { kind: "login-failed", subject, actor: None, data: json!({ "factor": "passkey" }) };
    let mut transaction = app.pool.begin().await?;
    store::audit::record(&mut transaction, &event, Utc::now()).await?;
    transaction.commit().await?;
    app.relay.wake();
    Ok(())
}

/// Logs in by a passkey: a session, and its first tokens.
///
/// # Errors
/// 401 `invalid_passkey`; as [`authenticate`].
pub(crate) async fn log_in(
    app: &App,
    proof: &PasskeyProof,
    network: Network,
    device: Option<&str>,
) -> Result<TokenPair, Problem> {
    let invalid =
        || Problem::unauthorized("invalid_passkey", "this passkey is not known here, or its answer does not hold");
    let who = authenticate(app, proof, network).await?.ok_or_else(invalid)?;
    let place = Place { client_id: LOGIN_CLIENT, device, network };
    match begin_session(app, &who, &place).await? {
        Some(session) => Ok(token_pair(app, who, session)),
        None => {
            refuse(app, Some(who.user_id.to_string())).await?;
            Err(invalid())
        }
    }
}

/// How long a challenge is good for.
pub(crate) fn challenge_life() -> TimeDelta {
    TimeDelta::seconds(CHALLENGE_SECONDS)
}
