//! A refresh: one compare-and-set on the session's row. Repeated within the grace it brings the same successor, so a lost answer
//! costs nobody a login; an older token ends that session alone, because somebody holds a copy.

use chrono::{DateTime, TimeDelta, Utc};
use kronos_common::problem::Problem;
use serde_json::json;

use super::{TokenPair, rights, sessions};
use crate::{
    App,
    audit::SecurityEvent,
    grants::Grants,
    refresh_token::{RefreshToken, Verdict, judge},
    store::{
        self,
        families::{Family, Row},
    },
    tokens::{LOGIN_CLIENT, Subject},
};

/// Losing the race twice in a row needs three refreshes of one session at once, each with the then newest token.
const ATTEMPTS: usize = 4;

/// A family whose token was good, one generation on.
pub(crate) struct Refreshed {
    pub family: Row,
    pub grants: Grants,
    /// Of the refresh token to hand out.
    pub generation: i64,
}

/// Hands out the next tokens of a login without OAuth.
///
/// # Errors
/// 401 `invalid_refresh_token`; 503 while the rights cannot be known, without using the token up.
pub(crate) async fn refresh(app: &App, text: &str) -> Result<TokenPair, Problem> {
    let Refreshed { family, grants, generation } =
        rotate(app, text, |family| if family.client_id == LOGIN_CLIENT { Ok(()) } else { Err(invalid()) }).await?;
    app.metrics.tokens.with_label_values(&["refresh"]).inc();
    let successor = RefreshToken { family: family.id, generation: generation.unsigned_abs() };
    let issued = app.issuer.issue(Subject::user(grants, family.id, &family.client_id), Utc::now());
    Ok(TokenPair {
        access_token: issued.token,
        refresh_token: app.refresh_tokens.encode(successor),
        token_type: "Bearer",
        expires_in: issued.expires_in,
    })
}

/// Uses a refresh token up, if `allow` says that whoever shows it may: a token in the wrong hands changes nothing.
///
/// # Errors
/// 401 `invalid_refresh_token`; 503 while the rights cannot be known, without using the token up.
pub(crate) async fn rotate(
    app: &App,
    text: &str,
    allow: impl Fn(&Row) -> Result<(), Problem>,
) -> Result<Refreshed, Problem> {
    let token = app.refresh_tokens.decode(text).ok_or_else(invalid)?;
    for _ in 0..ATTEMPTS {
        let found = store::families::find(&app.pool, token.family).await?;
        let Family { row: family, grants: known } = found.ok_or_else(invalid)?;
        allow(&family)?;
        let now = Utc::now();
        let grace = TimeDelta::seconds(i64::try_from(app.tokens.refresh_grace_seconds).unwrap_or(0));
        let generation = match judge(token.generation, &family.state(), now, grace) {
            Verdict::Over => return Err(invalid()),
            Verdict::Reused => {
                end_reused(app, &family).await?;
                return Err(invalid());
            }
            Verdict::Repeated => family.generation,
            Verdict::Current => family.generation + 1,
        };
        let Some(grants) = rights::usable(app, family.user_id, known, now).await? else {
            sessions::end(app, family.id, "user-gone", None).await?;
            return Err(invalid());
        };
        if generation > family.generation {
            let idle_expires_at = now + idle(app, now, &family);
            if !store::families::rotate(&app.pool, family.id, family.generation, now, idle_expires_at).await? {
                // Somebody else was faster: look again at what the row says now.
                continue;
            }
        }
        return Ok(Refreshed { family, grants, generation });
    }
    Err(Problem::conflict("refresh_conflict", "the session is being refreshed by others: use the newest refresh token"))
}

fn idle(app: &App, now: DateTime<Utc>, family: &Row) -> TimeDelta {
    let idle = i64::try_from(app.tokens.session_idle_seconds).unwrap_or(i64::from(u32::MAX));
    TimeDelta::seconds(idle).min(family.expires_at - now)
}

async fn end_reused(app: &App, family: &Row) -> Result<(), Problem> {
    let event = SecurityEvent::about(
        "refresh-reused",
        family.user_id.to_string(),
        None,
        json!({ "session": family.id, "client": family.client_id }),
    );
    sessions::end(app, family.id, "refresh-reused", Some(event)).await?;
    tracing::warn!(session = %family.id, "an old refresh token was used again, the session is ended");
    Ok(())
}

pub(crate) fn invalid() -> Problem {
    Problem::unauthorized("invalid_refresh_token", "the refresh token is not good any more: log in again")
}
