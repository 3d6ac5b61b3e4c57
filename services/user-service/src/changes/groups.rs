//! Making, changing and removing groups, and who is in them.

use std::collections::BTreeSet;

use kronos_common::{
    etag::{ETag, IfMatch},
    event::Event,
    outbox,
    problem::{Problem, Result},
};
use serde_json::json;
use uuid::Uuid;

use super::{Actor, Change, FEW, grants_everything, has_an_administrator, keep_an_administrator};
use crate::{
    App,
    groups::{Group, GroupChanges, GroupDefinition, Members},
    scim::group,
    store,
};

/// Makes a group without roles. Gives the epoch of the members, if it has any.
pub(crate) async fn create(
    app: &App,
    actor: Actor<'_>,
    definition: &GroupDefinition,
    members: &[Uuid],
) -> Result<(Group, Option<i64>)> {
    let mut change = Change::begin(app).await?;
    store::rights::share_roles(&mut change).await?;
    let group = store::groups::insert(&mut change, Uuid::now_v7(), definition).await?;
    tell(&mut change, actor, "created", &group).await?;
    let members: BTreeSet<Uuid> = members.iter().copied().collect();
    let epoch = change_members(&mut change, actor, group.id, &members, &BTreeSet::new()).await?;
    change.commit(app).await?;
    Ok((group, epoch))
}

/// Changes a group. Gives also the epoch of the people whose rights changed with it, if there are any.
pub(crate) async fn change(
    app: &App,
    actor: Actor<'_>,
    id: Uuid,
    condition: Option<&IfMatch>,
    changes: &GroupChanges,
) -> Result<(Group, Option<i64>)> {
    let mut change = Change::begin(app).await?;
    store::rights::share_roles(&mut change).await?;
    let mut group = store::groups::lock(&mut change, id).await?;
    condition.map_or(Ok(()), |condition| condition.check(&ETag::of_version(group.version)))?;
    actor.may_hand_out(&store::groups::granted(&mut change, id).await?)?;
    let before = group.clone();
    if let Some(name) = &changes.name {
        name.as_str().clone_into(&mut group.name);
    }
    if let Some(description) = &changes.description {
        description.as_str().clone_into(&mut group.description);
    }
    if let Some(external_id) = &changes.external_id {
        group.external_id.clone_from(external_id);
    }
    let (added, removed) = difference(&mut change, id, &changes.members).await?;
    let epoch = change_members(&mut change, actor, id, &added, &removed).await?;
    if group != before {
        group = store::groups::update(&mut change, &group).await?;
        tell(&mut change, actor, "updated", &group).await?;
    } else if epoch.is_some() {
        group = store::groups::touch(&mut change, id).await?;
    } else {
        return Ok((group, None));
    }
    change.commit(app).await?;
    Ok((group, epoch))
}

/// Who is to be taken in, and who is to go, after all these steps.
async fn difference(change: &mut Change, id: Uuid, steps: &[Members]) -> Result<(BTreeSet<Uuid>, BTreeSet<Uuid>)> {
    let (mut added, mut removed) = (BTreeSet::new(), BTreeSet::new());
    for step in steps {
        match step {
            Members::Add(people) => added.extend(people.iter().inspect(|person| _ = removed.remove(*person))),
            Members::Remove(people) => removed.extend(people.iter().inspect(|person| _ = added.remove(*person))),
            Members::Set(people) => {
                removed = store::groups::member_ids(change, id, None, i64::MAX).await?.into_iter().collect();
                added = people.iter().inspect(|person| _ = removed.remove(*person)).copied().collect();
            }
            Members::RemoveFound(filter) => {
                let mut members = store::groups::member_ids(change, id, None, i64::MAX).await?;
                members.extend(&added);
                for person in members {
                    if group::is_found(filter, person)? {
                        added.remove(&person);
                        removed.insert(person);
                    }
                }
            }
        }
    }
    Ok((added, removed))
}

/// Takes people in and lets others go. The group is locked, or new. Gives their epoch, if there is anybody.
async fn change_members(
    change: &mut Change,
    actor: Actor<'_>,
    id: Uuid,
    added: &BTreeSet<Uuid>,
    removed: &BTreeSet<Uuid>,
) -> Result<Option<i64>> {
    let everybody: Vec<Uuid> = added.union(removed).copied().collect();
    let found: BTreeSet<Uuid> = store::users::lock_all(change, &everybody).await?.into_iter().collect();
    if let Some(unknown) = added.difference(&found).next() {
        return Err(Problem::bad_request("invalid_value", format!("members: there is no person {unknown}")));
    }
    let added: Vec<Uuid> = added.iter().copied().collect();
    let removed: Vec<Uuid> = removed.iter().copied().collect();
    let granted = store::groups::granted(change, id).await?;
    let administered = !removed.is_empty() && grants_everything(&granted) && has_an_administrator(change).await?;
    let joined = store::groups::add_members(change, id, &added).await?;
    let left = store::groups::remove_members(change, id, &removed).await?;
    keep_an_administrator(change, administered).await?;
    let mut epoch = None;
    for (people, what, cause) in [(joined, "member-added", "group-joined"), (left, "member-removed", "group-left")] {
        if people.is_empty() {
            continue;
        }
        let raised = change.raise_people(&people).await?;
        let group = json!({"group": id});
        let happened: Vec<_> = people
            .iter()
            .map(|person| match what {
                "member-added" => (*person, None, Some(group.clone())),
                _ => (*person, Some(group.clone()), None),
            })
            .collect();
        store::history::note(change, cause, Some(&actor.named()), &happened).await?;
        change.tell_rights_changed(&people, raised, cause).await?;
        let told = |person: &Uuid| {
            let data = json!({"userId": person, "by": actor.named()});
            Event::new(format!("kronos.group.{what}"), id.to_string(), data)
        };
        let events: Vec<Event> = people.iter().map(told).collect();
        outbox::insert_all(change, &events).await?;
        epoch = Some(raised);
    }
    Ok(epoch)
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
    store::users::find(&app.pool, user_id).await?;
    let changes = GroupChanges { members: vec![Members::Add(vec![user_id])], ..GroupChanges::default() };
    Ok(change(app, actor, id, None, &changes).await?.1)
}

/// Lets somebody go. Gives the epoch from which on the group's roles are not theirs.
pub(crate) async fn remove_member(app: &App, actor: Actor<'_>, id: Uuid, user_id: Uuid) -> Result<i64> {
    let changes = GroupChanges { members: vec![Members::Remove(vec![user_id])], ..GroupChanges::default() };
    let (_, epoch) = change(app, actor, id, None, &changes).await?;
    epoch.ok_or_else(|| Problem::not_found("member"))
}

async fn tell(change: &mut Change, actor: Actor<'_>, what: &str, group: &Group) -> Result<()> {
    let data = json!({"name": group.name, "by": actor.named()});
    change.tell(&Event::new(format!("kronos.group.{what}"), group.id.to_string(), data)).await
}
