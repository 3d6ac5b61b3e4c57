//! Second factors of a person: enrolled, confirmed, shown at a login, removed. Wrong ones are counted by person: only who
//! knows the password gets so far, so no stranger can lock anybody out.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use kronos_common::problem::Problem;
use rand::RngExt as _;
use serde_json::json;
use uuid::Uuid;

use super::passkeys;
use crate::{
    App,
    audit::SecurityEvent,
    codes,
    factors::{Kind, Proof},
    store::{self, factors::Held},
    totp,
};

/// Recovery codes that a person gets at once.
const RECOVERY_CODES: usize = 10;
/// Groups of four characters: 80 bits.
const RECOVERY_GROUPS: usize = 4;
const RECOVERY: &str = "recovery-code";

/// The kinds that a login of this person may be completed with; empty: a password is enough.
///
/// # Errors
/// The database.
pub(crate) async fn kinds(app: &App, user_id: Uuid) -> Result<Vec<Kind>, Problem> {
    Ok(kinds_of(store::factors::held(&app.pool, user_id).await?))
}

fn kinds_of(held: Held) -> Vec<Kind> {
    let mut kinds = Vec::new();
    if held.totp {
        kinds.push(Kind::Totp);
    }
    if held.passkeys > 0 {
        kinds.push(Kind::Passkey);
    }
    if !kinds.is_empty() && held.recovery_codes > 0 {
        kinds.push(Kind::RecoveryCode);
    }
    kinds
}

/// The method that the proof stands for (RFC 8176) if it is good; uses it up.
///
/// # Errors
/// The database; 429 after too many wrong ones.
pub(crate) async fn check(app: &App, user_id: Uuid, proof: &Proof) -> Result<Option<&'static str>, Problem> {
    let counter = count_try(app, user_id).await?;
    let amr = match proof {
        Proof::Totp(code) => use_totp(app, user_id, code, false).await?.then_some("otp"),
        // A list on paper: something known.
        Proof::RecoveryCode(code) => use_recovery_code(app, user_id, code).await?.then_some("kba"),
        // The password was the thing known: that somebody touched the authenticator is enough.
        Proof::Passkey(proof) => passkeys::holder(app, proof, Some(user_id), false).await?.map(|holder| holder.amr),
    };
    if amr.is_some() {
        store::attempts::forget(&app.pool, &counter).await?;
    } else {
        record(app, "second-factor-failed", user_id, None, json!({ "factor": proof.kind().name() })).await?;
    }
    Ok(amr)
}

/// Counts a try before it is looked at: many at once are no way around the limit.
async fn count_try(app: &App, user_id: Uuid) -> Result<String, Problem> {
    let (now, counter) = (Utc::now(), format!("factor:{user_id}"));
    let window = TimeDelta::seconds(i64::from(app.accounts.factor_window_seconds));
    let (tries, ends_at) = store::attempts::count(&app.pool, &counter, window, now).await?;
    if tries > i64::from(app.accounts.factor_tries) {
        return Err(Problem::too_many((ends_at - now).to_std().unwrap_or(Duration::from_secs(1))));
    }
    Ok(counter)
}

async fn use_totp(app: &App, user_id: Uuid, code: &str, confirm: bool) -> Result<bool, Problem> {
    let Some(stored) = store::factors::totp(&app.pool, user_id).await? else {
        return Ok(false);
    };
    if stored.confirmed_at.is_some() == confirm {
        return Ok(false);
    }
    let secret = app.keyring.open(&stored.sealed_secret, aad(user_id).as_bytes()).map_err(Problem::internal)?;
    let Some(step) = totp::accepted_step(&secret, code, Utc::now().timestamp(), stored.last_step) else {
        return Ok(false);
    };
    Ok(store::factors::use_step(&app.pool, user_id, step, confirm).await?)
}

async fn use_recovery_code(app: &App, user_id: Uuid, code: &str) -> Result<bool, Problem> {
    let hash = codes::hash(RECOVERY, &codes::normal(code));
    let mut transaction = app.pool.begin().await?;
    if !store::factors::use_recovery_code(&mut transaction, user_id, &hash).await? {
        return Ok(false);
    }
    let left = store::factors::held(&mut *transaction, user_id).await?.recovery_codes;
    let event = SecurityEvent::about("recovery-code-used", user_id.to_string(), None, json!({ "left": left }));
    store::audit::record(&mut transaction, &event, Utc::now()).await?;
    transaction.commit().await?;
    app.relay.wake();
    Ok(true)
}

/// An enrolment that waits for its first code: the secret, and the same as a URI for an app.
///
/// # Errors
/// 409 `totp_exists`.
pub(crate) async fn begin_totp(app: &App, user_id: Uuid, username: &str) -> Result<(String, String), Problem> {
    let secret: [u8; totp::SECRET_BYTES] = rand::rng().random();
    let sealed = app.keyring.seal(&secret, aad(user_id).as_bytes());
    if !store::factors::begin_totp(&app.pool, user_id, &sealed).await? {
        return Err(Problem::conflict("totp_exists", "remove the present authenticator app first"));
    }
    Ok((codes::base32(&secret), totp::uri(&app.accounts.name, username, &secret)))
}

/// Ends the enrolment with the first code; gives recovery codes if there are none yet.
///
/// # Errors
/// 422 for a wrong code; 429 after too many.
pub(crate) async fn confirm_totp(app: &App, user_id: Uuid, code: &str) -> Result<Vec<String>, Problem> {
    let counter = count_try(app, user_id).await?;
    if !use_totp(app, user_id, code, true).await? {
        return Err(Problem::field(
            "/code",
            "wrong",
            "not the code that the app shows now, or no enrolment waits for one",
        ));
    }
    store::attempts::forget(&app.pool, &counter).await?;
    record(app, "second-factor-added", user_id, Some(user_id), json!({ "factor": "totp" })).await?;
    first_recovery_codes(app, user_id).await
}

/// Recovery codes, if the person has none.
///
/// # Errors
/// The database.
pub(crate) async fn first_recovery_codes(app: &App, user_id: Uuid) -> Result<Vec<String>, Problem> {
    if store::factors::held(&app.pool, user_id).await?.recovery_codes > 0 {
        return Ok(Vec::new());
    }
    new_recovery_codes(app, user_id).await
}

/// New recovery codes in the place of all others; shown this once.
///
/// # Errors
/// 409 `no_second_factor` if there is nothing that they could stand in for.
pub(crate) async fn new_recovery_codes(app: &App, user_id: Uuid) -> Result<Vec<String>, Problem> {
    let mut transaction = app.pool.begin().await?;
    let held = store::factors::held(&mut *transaction, user_id).await?;
    if kinds_of(held).is_empty() {
        return Err(Problem::conflict("no_second_factor", "add an authenticator app or a passkey first"));
    }
    let fresh: Vec<String> = (0..RECOVERY_CODES).map(|_| codes::typed(RECOVERY_GROUPS)).collect();
    let hashes: Vec<Vec<u8>> = fresh.iter().map(|code| codes::hash(RECOVERY, &codes::normal(code))).collect();
    store::factors::replace_recovery_codes(&mut transaction, user_id, &hashes).await?;
    let subject = user_id.to_string();
    let event =
        SecurityEvent::about("recovery-codes-made", subject.as_str(), Some(&subject), json!({ "count": fresh.len() }));
    store::audit::record(&mut transaction, &event, Utc::now()).await?;
    transaction.commit().await?;
    app.relay.wake();
    Ok(fresh)
}

/// Removes the authenticator app; the recovery codes go with the last factor.
///
/// # Errors
/// 404.
pub(crate) async fn remove_totp(app: &App, user_id: Uuid) -> Result<(), Problem> {
    let mut transaction = app.pool.begin().await?;
    if !store::factors::delete_totp(&mut transaction, user_id).await? {
        return Err(Problem::not_found("authenticator app"));
    }
    drop_orphaned_codes(&mut transaction, user_id).await?;
    let subject = user_id.to_string();
    let data = json!({ "factor": "totp" });
    let event = SecurityEvent::about("second-factor-removed", subject.as_str(), Some(&subject), data);
    store::audit::record(&mut transaction, &event, Utc::now()).await?;
    transaction.commit().await?;
    app.relay.wake();
    Ok(())
}

/// Recovery codes without a factor are of no use.
///
/// # Errors
/// The database.
pub(crate) async fn drop_orphaned_codes(connection: &mut sqlx::PgConnection, user_id: Uuid) -> sqlx::Result<()> {
    if kinds_of(store::factors::held(&mut *connection, user_id).await?).is_empty() {
        store::factors::replace_recovery_codes(connection, user_id, &[]).await?;
    }
    Ok(())
}

/// Removes all of somebody's second factors, on the service desk's word; the password stays what it is.
///
/// # Errors
/// 404 if there are none.
pub(crate) async fn reset(app: &App, user_id: Uuid, actor: &str) -> Result<(), Problem> {
    let mut transaction = app.pool.begin().await?;
    if !store::factors::delete_all(&mut transaction, user_id).await? {
        return Err(Problem::not_found("second factor"));
    }
    let event = SecurityEvent::about("second-factors-reset", user_id.to_string(), Some(actor), json!({}));
    store::audit::record(&mut transaction, &event, Utc::now()).await?;
    transaction.commit().await?;
    app.relay.wake();
    Ok(())
}

/// Records an event by itself.
///
/// # Errors
/// The database.
pub(crate) async fn record(
    app: &App,
    kind: &'static str,
    subject: Uuid,
    actor: Option<Uuid>,
    data: serde_json::Value,
) -> Result<(), Problem> {
    let actor = actor.map(|actor| actor.to_string());
    let event = SecurityEvent::about(kind, subject.to_string(), actor.as_deref(), data);
    let mut transaction = app.pool.begin().await?;
    store::audit::record(&mut transaction, &event, Utc::now()).await?;
    transaction.commit().await?;
    app.relay.wake();
    Ok(())
}

fn aad(user_id: Uuid) -> String {
    format!("totp:{user_id}")
}
