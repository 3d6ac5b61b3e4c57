//! Making, changing and removing groups, and who is in them.

use kronos_common::{
    etag::{ETag, IfMatch},
    event::Event,
    problem::{Problem, Result},
};
use serde_json::json;
use uuid::Uuid;

use super::{Actor, Change, FEW, grants_everything, has_an_administrator, keep_an_administrator};
use crate::{
    App,
    groups::{Group, GroupDefinition, GroupName},
    roles::Description,
    store,
};

/// Makes a group without members and roles.
pub(crate) async fn create(app: &App, actor: Actor<'_>, definition: &GroupDefinition) -> Result<Group> {
    let mut change = Change::begin(app).await?;
    let group = store::groups::insert(&mut change, Uuid::now_v7(), definition).await?;
    tell(&mut change, actor, "created", &group).await?;
    change.commit(app).await?;
    Ok(group)
}

/// Gives a group another name or description.
pub(crate) async fn rename(
    app: &App,
    actor: Actor<'_>,
    id: Uuid,
    condition: &IfMatch,
    name: Option<GroupName>,
    description: Option<Description>,
) -> Result<Group> {
    let mut change = Change::begin(app).await?;
    let mut group = store::groups::lock(&mut change, id).await?;
    condition.check(&ETag::of_version(group.version))?;
    actor.may_hand_out(&store::groups::granted(&mut change, id).await?)?;
    let before = group.clone();
    if let Some(name) = &name {
        name.as_str().clone_into(&mut group.name);
    }
    if let Some(description) = &description {
        description.as_str().clone_into(&mut group.description);
    }
    if group == before {
        return Ok(group);
    }
    let group = store::groups::update(&mut change, &group).await?;
    tell(&mut change, actor, "updated", &group).await?;
    change.commit(app).await?;
    Ok(group)
}

/// Removes a group; its members lose its roles. Gives the epoch from which on they do.
pub(crate) async fn delete(app: &App, actor: Actor<'_>, id: Uuid, condition: &IfMatch) -> Result<i64> {
    let mut change = Change::begin(app).await?;
    store::rights::change_roles(&mut change).await?;
    let group = store::groups::lock(&mut change, id).await?;
    condition.check(&ETag::of_version(group.version))?;
    let granted = store::groups::granted(&mut change, id).await?;
    actor.may_hand_out(&granted)?;
    let administered = grants_everything(&granted) && has_an_administrator(&mut change).await?;
    let epoch = store::rights::next_epoch(&mut change).await?;
    if store::rights::raise_members(&mut change, id, epoch).await? > FEW.unsigned_abs() {
        for role in store::group_assignments::roles(&mut change, id).await? {
            store::rights::raise_roles(&mut change, &role, epoch).await?;
            change.revoke_role(&role, epoch).await?;
        }
    }
    change.revoke_raised(epoch).await?;
    store::groups::delete(&mut change, id).await?;
    keep_an_administrator(&mut change, administered).await?;
    tell(&mut change, actor, "deleted", &group).await?;
    change.commit(app).await?;
    app.fanout_left.notify_one();
    Ok(epoch)
}

/// Takes somebody in. Gives the epoch from which on the group's roles are theirs; `None` if they were a member before.
pub(crate) async fn add_member(app: &App, actor: Actor<'_>, id: Uuid, user_id: Uuid) -> Result<Option<i64>> {
    let mut change = Change::begin(app).await?;
    store::rights::share_roles(&mut change).await?;
    store::users::lock(&mut change, user_id).await?;
    store::groups::epoch(&mut change, id).await?;
    actor.may_hand_out(&store::groups::granted(&mut change, id).await?)?;
    if !store::groups::add_member(&mut change, id, user_id).await? {
        return Ok(None);
    }
    let epoch = change.raise_person(user_id, "group-joined").await?;
    tell_member(&mut change, actor, "member-added", id, user_id).await?;
    change.commit(app).await?;
    Ok(Some(epoch))
}

/// Lets somebody go. Gives the epoch from which on the group's roles are not theirs.
pub(crate) async fn remove_member(app: &App, actor: Actor<'_>, id: Uuid, user_id: Uuid) -> Result<i64> {
    let mut change = Change::begin(app).await?;
    store::rights::share_roles(&mut change).await?;
    store::users::lock(&mut change, user_id).await?;
    store::groups::epoch(&mut change, id).await?;
    let granted = store::groups::granted(&mut change, id).await?;
    actor.may_hand_out(&granted)?;
    let administered = grants_everything(&granted) && has_an_administrator(&mut change).await?;
    if !store::groups::remove_member(&mut change, id, user_id).await? {
        return Err(Problem::not_found("member"));
    }
    keep_an_administrator(&mut change, administered).await?;
    let epoch = change.raise_person(user_id, "group-left").await?;
    tell_member(&mut change, actor, "member-removed", id, user_id).await?;
    change.commit(app).await?;
    Ok(epoch)
}

async fn tell(change: &mut Change, actor: Actor<'_>, what: &str, group: &Group) -> Result<()> {
    let data = json!({"name": group.name, "by": actor.named()});
    change.tell(&Event::new(format!("kronos.group.{what}"), group.id.to_string(), data)).await
}

async fn tell_member(change: &mut Change, actor: Actor<'_>, what: &str, id: Uuid, user_id: Uuid) -> Result<()> {
    let data = json!({"userId": user_id, "by": actor.named()});
    change.tell(&Event::new(format!("kronos.group.{what}"), id.to_string(), data)).await
}
