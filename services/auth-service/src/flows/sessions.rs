//! Ending sessions: the refresh family and the access tokens end together, everywhere, before the caller has its answer.

use chrono::Utc;
use kronos_common::{
    identity::{Revocation, RevocationPublisher},
    problem::Problem,
};
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{App, audit::SecurityEvent, store};

/// Ends one session, and records `cause` beside the ending; nothing happens if it was over.
///
/// # Errors
/// The database.
pub(crate) async fn end(
    app: &App,
    id: Uuid,
    reason: &'static str,
    cause: Option<SecurityEvent>,
) -> Result<bool, Problem> {
    let now = Utc::now();
    let mut transaction = app.pool.begin().await?;
    if !store::sessions::end(&mut transaction, id, reason, now).await? {
        return Ok(false);
    }
    let mut ended = vec![id];
    ended.extend(store::sessions::end_children(&mut transaction, id, reason, now).await?);
    revoke(&mut transaction, &ended).await?;
    let subject = store::sessions::find(&mut *transaction, id).await?.map(|session| session.user_id.to_string());
    if let Some(cause) = cause {
        store::audit::record(&mut transaction, &cause, now).await?;
    }
    let event =
        SecurityEvent { kind: "session-ended", subject, actor: None, data: json!({ "session": id, "reason": reason }) };
    store::audit::record(&mut transaction, &event, now).await?;
    transaction.commit().await?;
    after_commit(app, &ended).await;
    Ok(true)
}

/// Ends all sessions of a user but one in the caller's transaction; as [`end_all`].
///
/// # Errors
/// The database.
pub(crate) async fn end_others(
    connection: &mut PgConnection,
    user_id: Uuid,
    kept: Uuid,
    reason: &'static str,
) -> sqlx::Result<Vec<Uuid>> {
    let now = Utc::now();
    let ended = store::sessions::end_others(connection, user_id, kept, reason, now).await?;
    record_ended(connection, user_id, ended, reason).await
}

/// Ends all sessions of a user in the caller's transaction; call [`after_commit`] with the result when it is committed.
///
/// # Errors
/// The database.
pub(crate) async fn end_all(
    connection: &mut PgConnection,
    user_id: Uuid,
    reason: &'static str,
) -> sqlx::Result<Vec<Uuid>> {
    let now = Utc::now();
    let ended = store::sessions::end_all(connection, user_id, reason, now).await?;
    record_ended(connection, user_id, ended, reason).await
}

async fn record_ended(
    connection: &mut PgConnection,
    user_id: Uuid,
    ended: Vec<Uuid>,
    reason: &'static str,
) -> sqlx::Result<Vec<Uuid>> {
    if ended.is_empty() {
        return Ok(ended);
    }
    revoke(connection, &ended).await?;
    let data = json!({ "sessions": ended, "reason": reason });
    let event = SecurityEvent::about("session-ended", user_id.to_string(), None, data);
    store::audit::record(connection, &event, Utc::now()).await?;
    Ok(ended)
}

/// Makes the endings felt: here at once, elsewhere as soon as the message is through.
pub(crate) async fn after_commit(app: &App, ended: &[Uuid]) {
    app.relay.wake();
    for id in ended {
        app.revocations.apply(&Revocation::session_now(id.to_string()));
    }
    if !ended.is_empty() {
        app.publisher.flush().await;
    }
}

pub(super) async fn revoke(connection: &mut PgConnection, sessions: &[Uuid]) -> sqlx::Result<()> {
    for id in sessions {
        RevocationPublisher::in_transaction(connection, &Revocation::session_now(id.to_string())).await?;
    }
    Ok(())
}
