//! The rights that go into a token, without asking user-service each time: what is kept here is good as long as it is young,
//! no event told of a change, and the revocations, which every service follows, say that the user's epoch did not move.

use chrono::{DateTime, TimeDelta, Utc};
use kronos_common::problem::Problem;
use uuid::Uuid;

use crate::{
    App,
    grants::{Grants, KnownGrants},
    user_service::Rights,
};

/// The user's rights; nothing if they must not have a token.
///
/// # Errors
/// 503 if they cannot be known now.
pub(crate) async fn usable(
    app: &App,
    user_id: Uuid,
    known: Option<KnownGrants>,
    now: DateTime<Utc>,
) -> Result<Option<Grants>, Problem> {
    match known {
        Some(known) if is_fresh(app, &known, now) => Rights::LastKnown(known).usable(now),
        _ => match app.users.rights(user_id).await? {
            // It is known that they changed, and not what they are now.
            Rights::LastKnown(known) if has_moved(app, &known) => Rights::Unknown.usable(now),
            rights => rights.usable(now),
        },
    }
}

fn has_moved(app: &App, known: &KnownGrants) -> bool {
    let own = app.revocations.subject_epoch(&known.user_id.to_string());
    let of_roles = app.revocations.role_epoch(known.roles.iter().map(String::as_str));
    own.max(of_roles).is_some_and(|epoch| epoch > known.epoch)
}

fn is_fresh(app: &App, known: &KnownGrants, now: DateTime<Utc>) -> bool {
    let most = TimeDelta::seconds(i64::try_from(app.tokens.grants_seconds).unwrap_or(0));
    !known.is_outdated(now) && now - known.fetched_at < most && app.revocations.is_current() && !has_moved(app, known)
}
