//! A refresh: one compare-and-set on the session's row. Repeated within the grace it brings the same successor, so a lost answer
//! costs nobody a login; an older token ends that session alone, because somebody holds a copy.

use chrono::{TimeDelta, Utc};
use kronos_common::problem::Problem;
use serde_json::json;

use super::{TokenPair, sessions};
use crate::{
    App,
    audit::SecurityEvent,
    refresh_token::{RefreshToken, Verdict, judge},
    store::{self, sessions::Session},
    tokens::Subject,
};

/// Losing the race twice in a row needs three refreshes of one session at once, each with the then newest token.
const ATTEMPTS: usize = 4;

/// Hands out the next tokens of a session.
///
/// # Errors
/// 401 `invalid_refresh_token`; 503 while the rights cannot be known, without using the token up.
pub(crate) async fn refresh(app: &App, text: &str) -> Result<TokenPair, Problem> {
    let token = app.refresh_tokens.decode(text).ok_or_else(invalid)?;
    for _ in 0..ATTEMPTS {
        let session = store::sessions::find(&app.pool, token.family).await?.ok_or_else(invalid)?;
        let now = Utc::now();
        let grace = TimeDelta::seconds(i64::try_from(app.tokens.refresh_grace_seconds).unwrap_or(0));
        let next = match judge(token.generation, &session.family(), now, grace) {
            Verdict::Over => return Err(invalid()),
            Verdict::Reused => {
                end_reused(app, &session).await?;
                return Err(invalid());
            }
            Verdict::Repeated => session.generation,
            Verdict::Current => session.generation + 1,
        };
        let Some(grants) = app.users.rights(session.user_id).await?.usable(now)? else {
            sessions::end(app, session.id, "user-gone", None).await?;
            return Err(invalid());
        };
        if next > session.generation {
            let idle = i64::try_from(app.tokens.session_idle_seconds).unwrap_or(i64::from(u32::MAX));
            let idle_expires_at = now + TimeDelta::seconds(idle);
            if !store::sessions::rotate(&app.pool, session.id, session.generation, now, idle_expires_at).await? {
                // Somebody else was faster: look again at what the row says now.
                continue;
            }
        }
        app.metrics.tokens.with_label_values(&["refresh"]).inc();
        let successor = RefreshToken { family: session.id, generation: next.unsigned_abs() };
        let issued = app.issuer.issue(Subject::user(grants, session.id, &session.client_id), now);
        return Ok(TokenPair {
            access_token: issued.token,
            refresh_token: app.refresh_tokens.encode(successor),
            token_type: "Bearer",
            expires_in: issued.expires_in,
        });
    }
    Err(Problem::conflict("refresh_conflict", "the session is being refreshed by others: use the newest refresh token"))
}

async fn end_reused(app: &App, session: &Session) -> Result<(), Problem> {
    let event = SecurityEvent::about(
        "refresh-reused",
        session.user_id.to_string(),
        None,
        json!({ "session": session.id, "client": session.client_id }),
    );
    sessions::end(app, session.id, "refresh-reused", Some(event)).await?;
    tracing::warn!(session = %session.id, "an old refresh token was used again, the session is ended");
    Ok(())
}

fn invalid() -> Problem {
    Problem::unauthorized("invalid_refresh_token", "the refresh token is not good any more: log in again")
}
