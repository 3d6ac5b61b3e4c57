//! The end of one token at its client's wish (RFC 7009), felt by every service.

use chrono::Utc;
use kronos_common::{
    identity::{Revocation, RevocationPublisher},
    problem::Problem,
};
use serde_json::json;

use super::sessions;
use crate::{App, audit::SecurityEvent, store};

/// Ends a token; an unknown or dead one has ended already. Says no if it is another client's.
///
/// # Errors
/// The stores.
pub(crate) async fn revoke(app: &App, client_id: &str, token: &str) -> Result<bool, Problem> {
    if let Some(refresh) = app.refresh_tokens.decode(token) {
        let Some(family) = store::families::find(&app.pool, refresh.family).await? else { return Ok(true) };
        if family.row.client_id != client_id {
            return Ok(false);
        }
        sessions::end(app, family.row.id, "revoked", None).await?;
        return Ok(true);
    }
    let claims = match app.verifier.inspect(token).await {
        Ok(claims) => claims,
        Err(problem) if problem.status().is_server_error() => return Err(problem),
        Err(_) => return Ok(true),
    };
    if claims.client_id != client_id {
        return Ok(false);
    }
    // A little longer than the token: clocks differ.
    let revocation = Revocation::Session { sid: claims.jti.clone(), until: claims.exp + 60 };
    let mut transaction = app.pool.begin().await?;
    RevocationPublisher::in_transaction(&mut transaction, &revocation).await?;
    let data = json!({ "token": claims.jti, "client": client_id });
    let event = SecurityEvent::about("token-revoked", claims.sub.as_str(), Some(client_id), data);
    store::audit::record(&mut transaction, &event, Utc::now()).await?;
    transaction.commit().await?;
    app.relay.wake();
    app.revocations.apply(&revocation);
    app.publisher.flush().await;
    Ok(true)
}
