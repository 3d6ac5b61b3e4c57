//! Giving roles to groups and taking them away; also by itself, when their time is over.

use chrono::{DateTime, Utc};
use kronos_common::{event::Event, problem::Result};
use serde_json::json;
use uuid::Uuid;

use super::{Actor, Change, FEW, assignments::end, grants_everything, has_an_administrator, keep_an_administrator};
use crate::{
    App,
    groups::GroupAssignment,
    rights::ResourcePattern,
    roles::RoleName,
    store::{self, rights::Fanout},
};

/// Gives the members of a group a role, or another end to it. Gives the epoch from which on it holds.
pub(crate) async fn put(
    app: &App,
    actor: Actor<'_>,
    group_id: Uuid,
    role: &RoleName,
    resource: Option<&ResourcePattern>,
    expires_at: Option<DateTime<Utc>>,
) -> Result<(GroupAssignment, i64)> {
    let expires_at = end(expires_at)?;
    let (role, resource) = (role.as_str(), resource.map(ResourcePattern::as_str));
    let mut change = Change::begin(app).await?;
    store::rights::change_roles(&mut change).await?;
    let epoch = store::groups::epoch(&mut change, group_id).await?;
    store::roles::find(&mut *change, role).await?;
    let granted = store::roles::granted(&mut change, role).await?;
    actor.may_hand_out(&granted)?;
    let current = store::assignments::find::<GroupAssignment>(&mut change, group_id, role, resource).await?;
    if let Some(current) = current.as_ref().filter(|current| current.expires_at == expires_at) {
        return Ok((current.clone(), epoch));
    }
    let may_end = current.is_some() && expires_at.is_some() && grants_everything(&granted);
    let administered = may_end && has_an_administrator(&mut change).await?;
    let assignment =
        store::assignments::put::<GroupAssignment>(&mut change, group_id, role, resource, expires_at).await?;
    keep_an_administrator(&mut change, administered).await?;
    let epoch = raise(&mut change, group_id, &[role]).await?;
    let data =
        json!({"role": role, "resource": resource, "expiresAt": expires_at, "epoch": epoch, "by": actor.named()});
    change.tell(&Event::new("kronos.group.role-given", group_id.to_string(), data)).await?;
    change.commit(app).await?;
    app.fanout_left.notify_one();
    if expires_at.is_some() {
        app.ends_changed.notify_one();
    }
    Ok((assignment, epoch))
}

/// Takes a role from the members of a group. Gives the epoch from which on it does not hold.
pub(crate) async fn delete(
    app: &App,
    actor: Actor<'_>,
    group_id: Uuid,
    role: &RoleName,
    resource: Option<&ResourcePattern>,
) -> Result<i64> {
    let mut change = Change::begin(app).await?;
    store::rights::change_roles(&mut change).await?;
    store::groups::epoch(&mut change, group_id).await?;
    let granted = store::roles::granted(&mut change, role.as_str()).await?;
    actor.may_hand_out(&granted)?;
    let may_end = resource.is_none() && grants_everything(&granted);
    let administered = may_end && has_an_administrator(&mut change).await?;
    let (role, resource) = (role.as_str(), resource.map(ResourcePattern::as_str));
    store::assignments::delete::<GroupAssignment>(&mut change, group_id, role, resource).await?;
    keep_an_administrator(&mut change, administered).await?;
    let epoch = raise(&mut change, group_id, &[role]).await?;
    let data = json!({"role": role, "resource": resource, "epoch": epoch, "by": actor.named()});
    change.tell(&Event::new("kronos.group.role-taken", group_id.to_string(), data)).await?;
    change.commit(app).await?;
    app.fanout_left.notify_one();
    Ok(epoch)
}

/// Takes away what a group's assignments ended by `now`, one group at a time. Gives whether more may be left.
pub(crate) async fn expire(app: &App, now: DateTime<Utc>) -> Result<bool> {
    if !store::group_assignments::any_ended(&app.pool, now).await? {
        return Ok(false);
    }
    let mut change = Change::begin(app).await?;
    store::rights::change_roles(&mut change).await?;
    let ended = store::group_assignments::take_expired(&mut change, now).await?;
    let Some(group_id) = ended.first().map(|assignment| assignment.group_id) else { return Ok(false) };
    let roles: Vec<&str> = ended.iter().map(|assignment| assignment.role.as_str()).collect();
    let epoch = raise(&mut change, group_id, &roles).await?;
    for GroupAssignment { role, resource, expires_at, .. } in &ended {
        let data = json!({"role": role, "resource": resource, "expiresAt": expires_at, "epoch": epoch});
        change.tell(&Event::new("kronos.group.role-ended", group_id.to_string(), data)).await?;
    }
    change.commit(app).await?;
    app.fanout_left.notify_one();
    Ok(true)
}

/// The next epoch of a group, and with it of all members; these roles of it are what has changed. Whose tokens are earlier,
/// needs new ones.
async fn raise(change: &mut Change, group_id: Uuid, roles: &[&str]) -> Result<i64> {
    let epoch = store::rights::next_epoch(change).await?;
    store::groups::raise(change, group_id, epoch).await?;
    let members = store::groups::member_ids(change, group_id, None, FEW + 1).await?;
    if members.len() as i64 <= FEW {
        change.revoke_people(&members, epoch).await?;
        return Ok(epoch);
    }
    for role in roles {
        store::rights::raise_roles(change, role, epoch).await?;
        change.revoke_role(role, epoch).await?;
    }
    let fanout = Fanout { epoch, role: None, group_id: Some(group_id), after: None };
    store::rights::leave_fanout(change, &fanout).await?;
    Ok(epoch)
}
