//! Making, changing and removing roles. A change is one number, one event and one revocation, however many people have the
//! role: it is done in the time of a few rows.

use std::collections::{BTreeMap, BTreeSet};

use axum::http::StatusCode;
use chrono::Utc;
use kronos_common::{
    etag::{ETag, IfMatch},
    event::Event,
    problem::{FieldError, Problem, Result},
};
use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Actor, Change, FEW, grants_everything, has_an_administrator, keep_an_administrator};
use crate::{
    App,
    catalogue::unknown,
    held::Held,
    rights::{Holding, difference::Difference, difference::difference},
    roles::{self, Inheritance, PermissionPattern, Role, RoleDefinition, RoleName},
    store::{self, rights::Fanout},
};

/// So many people are named at once by the job that ends the tokens of many.
const BATCH: i64 = 2_000;

/// What becomes of one holder of a role that would change.
pub(crate) struct Affected {
    pub(crate) user_id: Uuid,
    pub(crate) username: String,
    pub(crate) difference: Difference,
}

/// Makes a role.
pub(crate) async fn create(app: &App, actor: Actor<'_>, name: &RoleName, definition: &RoleDefinition) -> Result<Role> {
    let mut change = Change::begin(app).await?;
    store::rights::change_roles(&mut change).await?;
    known_permissions(&mut change, definition, &[]).await?;
    store::roles::insert(&mut change, name.as_str(), definition).await?;
    let inheritance = inherited(&mut change, name.as_str(), definition).await?;
    store::roles::set_inheritance(&mut change, name.as_str(), &inheritance).await?;
    actor.may_hand_out(&store::roles::granted(&mut change, name.as_str()).await?)?;
    let role = store::roles::find(&mut *change, name.as_str()).await?;
    let data = json!({"name": role.name, "after": rights_of(&role), "by": actor.named()});
    change.tell(&Event::new("kronos.role.created", name.as_str(), data)).await?;
    change.commit(app).await?;
    app.held.forget_hints();
    Ok(role)
}

/// Gives a role other permissions or another inheritance. Gives the epoch from which on they hold; that of before if only
/// words changed.
pub(crate) async fn replace(
    app: &App,
    actor: Actor<'_>,
    name: &RoleName,
    condition: &IfMatch,
    definition: &RoleDefinition,
) -> Result<(Role, i64)> {
    let name = name.as_str();
    let mut change = Change::begin(app).await?;
    store::rights::change_roles(&mut change).await?;
    let current = store::roles::find(&mut *change, name).await?;
    condition.check(&ETag::of_version(current.version))?;
    // Both what it grants now and what it shall grant.
    let granted = store::roles::granted(&mut change, name).await?;
    actor.may_hand_out(&granted)?;
    let rights_change = !same_rights(&current, definition);
    if !rights_change && current.description == definition.description.as_str() {
        let epoch = current.epoch;
        return Ok((current, epoch));
    }
    let mut epoch = current.epoch;
    if rights_change {
        known_permissions(&mut change, definition, &current.permissions).await?;
        let administered = grants_everything(&granted) && has_an_administrator(&mut change).await?;
        store::roles::update(&mut change, name, definition).await?;
        let inheritance = inherited(&mut change, name, definition).await?;
        store::roles::set_inheritance(&mut change, name, &inheritance).await?;
        actor.may_hand_out(&store::roles::granted(&mut change, name).await?)?;
        keep_an_administrator(&mut change, administered).await?;
        epoch = store::rights::next_epoch(&mut change).await?;
        store::rights::raise_roles(&mut change, name, epoch).await?;
        change.revoke_role(name, epoch).await?;
        let holders = store::rights::some_holders(&mut change, name, FEW + 1).await?;
        if holders.len() as i64 > FEW {
            let fanout = Fanout { epoch, role: Some(name.to_owned()), group_id: None, after: None };
            store::rights::leave_fanout(&mut change, &fanout).await?;
        } else {
            change.revoke_people(&holders, epoch).await?;
        }
    } else {
        store::roles::update(&mut change, name, definition).await?;
    }
    let role = store::roles::find(&mut *change, name).await?;
    let (before, after) = (rights_of(&current), rights_of(&role));
    let data = json!({"name": name, "epoch": epoch, "before": before, "after": after, "by": actor.named()});
    change.tell(&Event::new("kronos.role.updated", name, data)).await?;
    change.commit(app).await?;
    app.held.forget_hints();
    app.fanout_left.notify_one();
    Ok((role, epoch))
}

/// Removes a role that no other inherits, from everybody who holds it too. Gives the epoch from which on nobody does.
pub(crate) async fn delete(app: &App, actor: Actor<'_>, name: &RoleName, condition: &IfMatch) -> Result<i64> {
    let name = name.as_str();
    let mut change = Change::begin(app).await?;
    store::rights::change_roles(&mut change).await?;
    let current = store::roles::find(&mut *change, name).await?;
    condition.check(&ETag::of_version(current.version))?;
    let granted = store::roles::granted(&mut change, name).await?;
    actor.may_hand_out(&granted)?;
    let administered = grants_everything(&granted) && has_an_administrator(&mut change).await?;
    let epoch = store::rights::next_epoch(&mut change).await?;
    store::rights::raise_assigned(&mut change, name, epoch).await?;
    store::roles::delete(&mut change, name).await?;
    keep_an_administrator(&mut change, administered).await?;
    change.revoke_role(name, epoch).await?;
    change.revoke_raised(epoch).await?;
    let data = json!({"name": name, "epoch": epoch, "before": rights_of(&current), "by": actor.named()});
    change.tell(&Event::new("kronos.role.deleted", name, data)).await?;
    change.commit(app).await?;
    app.held.forget_hints();
    app.fanout_left.notify_one();
    Ok(epoch)
}

/// Ends the tokens of some of those whom a change of many concerns; gives whether there was one.
pub(crate) async fn fan_out(app: &App) -> Result<bool> {
    let mut change = Change::begin(app).await?;
    let Some(mut fanout) = store::rights::take_fanout(&mut change).await? else { return Ok(false) };
    let people = match (&fanout.role, fanout.group_id) {
        (Some(role), _) => {
            store::roles::page_of_holders(&mut change, std::slice::from_ref(role), None, fanout.after, BATCH).await?
        }
        (None, Some(group_id)) => store::groups::member_ids(&mut change, group_id, fanout.after, BATCH).await?,
        (None, None) => store::rights::raised(&mut change, fanout.epoch, fanout.after, BATCH).await?,
    };
    change.revoke_people(&people, fanout.epoch).await?;
    if people.len() as i64 == BATCH {
        fanout.after = people.last().copied();
        store::rights::leave_fanout(&mut change, &fanout).await?;
    }
    change.commit(app).await?;
    Ok(true)
}

/// What each holder of a role would lose and gain if it were so, or were removed (`None`): people after `after`, by id, with
/// the whole number of holders. Nothing changes.
pub(crate) async fn dry_run(
    app: &App,
    name: &RoleName,
    definition: Option<&RoleDefinition>,
    after: Option<Uuid>,
    count: i64,
) -> Result<(i64, Vec<Affected>)> {
    let name = name.as_str();
    let mut change = Change::begin(app).await?;
    let current = store::roles::find(&mut *change, name).await?;
    let mut permissions = store::roles::permissions(&mut change).await?;
    let mut inheritance = store::roles::inheritance(&mut change).await?;
    match definition {
        Some(definition) => {
            known_permissions(&mut change, definition, &current.permissions).await?;
            inheritance = inherited(&mut change, name, definition).await?;
            let wanted = definition.permissions.iter().map(|permission| permission.as_str().to_owned()).collect();
            permissions.insert(name.to_owned(), wanted);
        }
        None => _ = permissions.remove(name),
    }
    let holders = store::roles::count_holders(&mut change, name).await?;
    let ids = store::roles::page_of_holders(&mut change, &[name.to_owned()], None, after, count).await?;
    drop(change);
    let now = Utc::now();
    let judged = app.held.of_all(&app.pool, &ids).await?.into_iter().map(|held| {
        let would_hold = reassigned(&held, &permissions, &inheritance);
        let Held { person, holdings, .. } = &*held;
        let difference = difference(person, holdings, &would_hold, now);
        Affected { user_id: person.id, username: person.username.clone(), difference }
    });
    Ok((holders, judged.collect()))
}

/// The same assignments under other roles; those of a role that is not among them fall away.
fn reassigned(held: &Held, permissions: &BTreeMap<String, Vec<String>>, inheritance: &Inheritance) -> Vec<Holding> {
    let assigned = held.holdings.iter().filter(|holding| holding.role.path.len() == 1);
    let mut holdings = Vec::new();
    for holding in assigned {
        let role = &holding.role.path[0];
        if !permissions.contains_key(role) {
            continue;
        }
        for (included, path) in roles::closure(inheritance, role) {
            let permissions = permissions.get(&included).cloned().unwrap_or_default();
            let role = crate::rights::IncludedRole { path, permissions }.into();
            holdings.push(Holding { role, ..holding.clone() });
        }
    }
    holdings
}

/// The administrator's role, made if it is not there; for the first start.
pub(crate) async fn ensure_administrator(change: &mut Change, definition: &RoleDefinition) -> Result<()> {
    store::rights::change_roles(change).await?;
    if store::roles::existing(change, &[roles::ADMINISTRATOR]).await?.is_empty() {
        store::roles::insert(change, roles::ADMINISTRATOR, definition).await?;
        let inheritance = inherited(change, roles::ADMINISTRATOR, definition).await?;
        store::roles::set_inheritance(change, roles::ADMINISTRATOR, &inheritance).await?;
        let data = json!({"name": roles::ADMINISTRATOR});
        change.tell(&Event::new("kronos.role.created", roles::ADMINISTRATOR, data)).await?;
    }
    Ok(())
}

/// 422 that names each permission that no service has declared and that the role did not have before.
async fn known_permissions(
    connection: &mut PgConnection,
    definition: &RoleDefinition,
    before: &[String],
) -> Result<()> {
    let new = definition.permissions.iter().filter(|permission| !before.iter().any(|had| had == permission.as_str()));
    let new: Vec<&PermissionPattern> = new.collect();
    if new.is_empty() {
        return Ok(());
    }
    let declared = store::permissions::names(connection).await?;
    let errors: Vec<FieldError> = new
        .into_iter()
        .filter_map(|permission| unknown(permission.as_str(), &declared))
        .map(|detail| FieldError::new("/permissions", "unknown_permission", detail))
        .collect();
    if errors.is_empty() { Ok(()) } else { Err(Problem::invalid(errors)) }
}

/// The whole inheritance with that of this role: 422 that names each role that there is not, 409 that names the circle.
async fn inherited(connection: &mut PgConnection, name: &str, definition: &RoleDefinition) -> Result<Inheritance> {
    let wanted: Vec<&str> = definition.inherits.iter().map(RoleName::as_str).collect();
    let existing = store::roles::existing(connection, &wanted).await?;
    let unknown: Vec<FieldError> = wanted
        .iter()
        .filter(|role| !existing.contains(**role))
        .map(|role| FieldError::new("/inherits", "unknown_role", format!("there is no role {role}")))
        .collect();
    if !unknown.is_empty() {
        return Err(Problem::invalid(unknown));
    }
    let mut inheritance = store::roles::inheritance(connection).await?;
    inheritance.insert(name.to_owned(), wanted.iter().map(|role| (*role).to_owned()).collect());
    if let Some(circle) = roles::cycle(&inheritance, name) {
        let detail = format!("a role cannot inherit itself: {}", circle.join(" → "));
        return Err(Problem::new(StatusCode::CONFLICT, "role_cycle", detail));
    }
    Ok(inheritance)
}

fn same_rights(role: &Role, definition: &RoleDefinition) -> bool {
    let permissions: BTreeSet<&str> = definition.permissions.iter().map(|permission| permission.as_str()).collect();
    let inherits: BTreeSet<&str> = definition.inherits.iter().map(RoleName::as_str).collect();
    permissions == role.permissions.iter().map(String::as_str).collect()
        && inherits == role.inherits.iter().map(String::as_str).collect()
}

fn rights_of(role: &Role) -> Value {
    json!({"permissions": role.permissions, "inherits": role.inherits})
}
