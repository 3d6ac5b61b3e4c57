//! Giving roles to people and taking them away; also by itself, when their time is over.

use chrono::{DateTime, SubsecRound as _, Utc};
use kronos_common::{
    event::Event,
    outbox,
    problem::{Problem, Result},
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Actor, Change, grants_everything, has_an_administrator, keep_an_administrator};
use crate::{
    App,
    rights::{Assignment, ResourcePattern},
    roles::RoleName,
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
    let expires_at = end(expires_at)?;
    let (role, resource) = (role.as_str(), resource.map(ResourcePattern::as_str));
    let mut change = Change::begin(app).await?;
    store::rights::share_roles(&mut change).await?;
    let user = store::users::lock(&mut change, user_id).await?;
    store::roles::find(&mut *change, role).await?;
    let granted = store::roles::granted(&mut change, role).await?;
    actor.may_hand_out(&granted)?;
    let current = store::assignments::find::<Assignment>(&mut change, user_id, role, resource).await?;
    if let Some(current) = current.as_ref().filter(|current| current.expires_at == expires_at) {
        return Ok((current.clone(), user.epoch));
    }
    // Only an end that is new can take an administrator away.
    let may_end = current.is_some() && expires_at.is_some() && grants_everything(&granted);
    let administered = may_end && has_an_administrator(&mut change).await?;
    let assignment = store::assignments::put::<Assignment>(&mut change, user_id, role, resource, expires_at).await?;
    keep_an_administrator(&mut change, administered).await?;
    let epoch = change.raise_person(user_id, "role-given").await?;
    let happened = (user_id, current.as_ref().map(told), Some(told(&assignment)));
    store::history::note(&mut change, "role-given", Some(&actor.named()), &[happened]).await?;
    change.commit(app).await?;
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
    let mut change = Change::begin(app).await?;
    store::rights::share_roles(&mut change).await?;
    store::users::lock(&mut change, user_id).await?;
    let granted = store::roles::granted(&mut change, role.as_str()).await?;
    actor.may_hand_out(&granted)?;
    let may_end = resource.is_none() && grants_everything(&granted);
    let administered = may_end && has_an_administrator(&mut change).await?;
    let resource = resource.map(ResourcePattern::as_str);
    let current = store::assignments::find::<Assignment>(&mut change, user_id, role.as_str(), resource).await?;
    store::assignments::delete::<Assignment>(&mut change, user_id, role.as_str(), resource).await?;
    let happened = (user_id, current.as_ref().map(told), None);
    store::history::note(&mut change, "role-taken", Some(&actor.named()), &[happened]).await?;
    keep_an_administrator(&mut change, administered).await?;
    let epoch = change.raise_person(user_id, "role-taken").await?;
    change.commit(app).await?;
    Ok(epoch)
}

/// Takes away what people's own assignments ended by `now`: a new epoch for whom it concerns, and an event for each that
/// ended. Gives whether more may be left.
pub(crate) async fn expire(app: &App, now: DateTime<Utc>) -> Result<bool> {
    let mut change = Change::begin(app).await?;
    store::rights::share_roles(&mut change).await?;
    let mut ids = store::assignments::people_with_ended(&mut change, now, BATCH).await?;
    if ids.is_empty() {
        return Ok(false);
    }
    ids.sort_unstable();
    ids.dedup();
    let ended = store::assignments::take_expired(&mut change, &ids, now).await?;
    let epoch = change.raise_people(&ids).await?;
    change.tell_rights_changed(&ids, epoch, "role-ended").await?;
    let event = |ended: &Assignment| Event::new("kronos.user.role-ended", ended.user_id.to_string(), told(ended));
    let events: Vec<Event> = ended.iter().map(event).collect();
    outbox::insert_all(&mut change, &events).await?;
    let happened: Vec<_> = ended.iter().map(|ended| (ended.user_id, Some(told(ended)), None)).collect();
    store::history::note(&mut change, "role-ended", None, &happened).await?;
    change.commit(app).await?;
    Ok(true)
}

/// An assignment as events and the history tell it.
fn told(assignment: &Assignment) -> Value {
    json!({"role": assignment.role, "resource": assignment.resource, "expiresAt": assignment.expires_at})
}

/// An end as it can be kept.
pub(super) fn end(expires_at: Option<DateTime<Utc>>) -> Result<Option<DateTime<Utc>>> {
    if expires_at.is_some_and(|end| end <= Utc::now()) {
        return Err(Problem::field("/expiresAt", "in_the_past", "an end that has passed grants nothing"));
    }
    // Postgres keeps microseconds.
    Ok(expires_at.map(|end| end.trunc_subsecs(6)))
}
