//! Giving roles to people and taking them away; also by itself, when their time is over.

use chrono::{DateTime, Utc};
use kronos_common::{
    event::Event,
    outbox,
    problem::{Problem, Result},
};
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Actor, bump, commit, has_an_administrator, keep_an_administrator};
use crate::{
    App,
    rights::{Assignment, ResourcePattern},
    roles::{EVERYTHING, RoleName},
    store,
};

/// How many ended assignments are taken away in one transaction.
const BATCH: i64 = 500;

/// Gives a role, or another end to one that is held. Gives the epoch from which on it holds.
pub(crate) async fn put(
    app: &App,
    actor: Actor<'_>,
    user_id: Uuid,
    role: &RoleName,
    resource: Option<&ResourcePattern>,
    expires_at: Option<DateTime<Utc>>,
) -> Result<(Assignment, i64)> {
    if expires_at.is_some_and(|end| end <= Utc::now()) {
        return Err(Problem::field("/expiresAt", "in_the_past", "an end that has passed grants nothing"));
    }
    let (role, resource) = (role.as_str(), resource.map(ResourcePattern::as_str));
    let mut transaction = app.pool.begin().await?;
    store::rights::share_roles(&mut transaction).await?;
    let user = store::users::lock(&mut transaction, user_id).await?;
    store::roles::find(&mut *transaction, role).await?;
    let granted = store::roles::granted(&mut transaction, role).await?;
    actor.may_hand_out(&granted)?;
    let current = store::assignments::find(&mut transaction, user_id, role, resource).await?;
    // Postgres keeps microseconds.
    let expires_at = expires_at.map(|end| chrono::SubsecRound::trunc_subsecs(end, 6));
    if let Some(current) = current.as_ref().filter(|current| current.expires_at == expires_at) {
        return Ok((current.clone(), user.epoch));
    }
    // Only an end that is new can take an administrator away.
    let may_end = current.is_some() && expires_at.is_some() && grants_everything(&granted);
    let administered = may_end && has_an_administrator(&mut transaction).await?;
    let assignment = store::assignments::put(&mut transaction, user_id, role, resource, expires_at).await?;
    keep_an_administrator(&mut transaction, administered).await?;
    let epoch = next_epoch(&mut transaction, user_id, "role-given").await?;
    commit(app, transaction).await?;
    if expires_at.is_some() {
        app.ends_changed.notify_one();
    }
    Ok((assignment, epoch))
}

/// Takes a role away. Gives the epoch from which on it does not hold.
pub(crate) async fn delete(
    app: &App,
    actor: Actor<'_>,
    user_id: Uuid,
    role: &RoleName,
    resource: Option<&ResourcePattern>,
) -> Result<i64> {
    let mut transaction = app.pool.begin().await?;
    store::rights::share_roles(&mut transaction).await?;
    store::users::lock(&mut transaction, user_id).await?;
    let granted = store::roles::granted(&mut transaction, role.as_str()).await?;
    actor.may_hand_out(&granted)?;
    let may_end = resource.is_none() && grants_everything(&granted);
    let administered = may_end && has_an_administrator(&mut transaction).await?;
    let resource = resource.map(ResourcePattern::as_str);
    store::assignments::delete(&mut transaction, user_id, role.as_str(), resource).await?;
    keep_an_administrator(&mut transaction, administered).await?;
    let epoch = next_epoch(&mut transaction, user_id, "role-taken").await?;
    commit(app, transaction).await?;
    Ok(epoch)
}

/// Takes away what ended by `now`: a new epoch for whom it concerns, and an event for each that ended. Gives whether more
/// may be left.
pub(crate) async fn expire(app: &App, now: DateTime<Utc>) -> Result<bool> {
    let mut transaction = app.pool.begin().await?;
    store::rights::share_roles(&mut transaction).await?;
    let ended = store::assignments::take_expired(&mut transaction, now, BATCH).await?;
    if ended.is_empty() {
        return Ok(false);
    }
    let mut ids: Vec<Uuid> = ended.iter().map(|assignment| assignment.user_id).collect();
    ids.sort_unstable();
    ids.dedup();
    bump(&mut transaction, &ids, "role-ended").await?;
    let events: Vec<Event> = ended
        .iter()
        .map(|assignment| {
            let Assignment { user_id, role, resource, expires_at, .. } = assignment;
            let data = json!({"role": role, "resource": resource, "expiresAt": expires_at});
            Event::new("kronos.user.role-ended", user_id.to_string(), data)
        })
        .collect();
    outbox::insert_all(&mut transaction, &events).await?;
    let more = ended.len() as i64 == BATCH;
    commit(app, transaction).await?;
    Ok(more)
}

fn grants_everything(granted: &[String]) -> bool {
    granted.iter().any(|permission| permission == EVERYTHING)
}

async fn next_epoch(connection: &mut PgConnection, user_id: Uuid, cause: &str) -> Result<i64> {
    let bumped = bump(connection, &[user_id], cause).await?;
    bumped
        .first()
        .map(|(_, epoch)| *epoch)
        .ok_or_else(|| Problem::internal(anyhow::anyhow!("a user that is locked has no epoch")))
}
