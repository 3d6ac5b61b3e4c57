//! Making, changing and removing roles: everybody who holds one, by whatever way, gets the next epoch.

use std::collections::BTreeSet;

use axum::http::StatusCode;
use kronos_common::{
    etag::{ETag, IfMatch},
    event::Event,
    outbox,
    problem::{FieldError, Problem, Result},
};
use serde_json::json;
use sqlx::PgConnection;

use super::{Actor, bump, commit, has_an_administrator, keep_an_administrator};
use crate::{
    App,
    roles::{self, Role, RoleDefinition, RoleName},
    store,
};

/// Makes a role.
pub(crate) async fn create(app: &App, actor: Actor<'_>, name: &RoleName, definition: &RoleDefinition) -> Result<Role> {
    let mut transaction = app.pool.begin().await?;
    store::rights::change_roles(&mut transaction).await?;
    store::roles::insert(&mut transaction, name.as_str(), definition).await?;
    inherit(&mut transaction, name.as_str(), definition).await?;
    actor.may_hand_out(&store::roles::granted(&mut transaction, name.as_str()).await?)?;
    tell(&mut transaction, "created", name.as_str()).await?;
    let role = store::roles::find(&mut *transaction, name.as_str()).await?;
    commit(app, transaction).await?;
    Ok(role)
}

/// Gives a role other permissions or another inheritance.
pub(crate) async fn replace(
    app: &App,
    actor: Actor<'_>,
    name: &RoleName,
    condition: &IfMatch,
    definition: &RoleDefinition,
) -> Result<Role> {
    let name = name.as_str();
    let mut transaction = app.pool.begin().await?;
    store::rights::change_roles(&mut transaction).await?;
    let current = store::roles::find(&mut *transaction, name).await?;
    condition.check(&ETag::of_version(current.version))?;
    // Both what it grants now and what it shall grant.
    actor.may_hand_out(&store::roles::granted(&mut transaction, name).await?)?;
    let rights_change = !same_rights(&current, definition);
    if !rights_change && current.description == definition.description.as_str() {
        return Ok(current);
    }
    if !rights_change {
        store::roles::update(&mut transaction, name, definition).await?;
    } else {
        // The people before the administrators' lock, in the order in which everybody takes them.
        let holders = store::rights::holders(&mut transaction, name).await?;
        bump(&mut transaction, &holders, "role-changed").await?;
        let administered = has_an_administrator(&mut transaction).await?;
        store::roles::update(&mut transaction, name, definition).await?;
        inherit(&mut transaction, name, definition).await?;
        actor.may_hand_out(&store::roles::granted(&mut transaction, name).await?)?;
        keep_an_administrator(&mut transaction, administered).await?;
    }
    tell(&mut transaction, "updated", name).await?;
    let role = store::roles::find(&mut *transaction, name).await?;
    commit(app, transaction).await?;
    Ok(role)
}

/// Removes a role that no other inherits, from everybody who holds it too.
pub(crate) async fn delete(app: &App, actor: Actor<'_>, name: &RoleName, condition: &IfMatch) -> Result<()> {
    let name = name.as_str();
    let mut transaction = app.pool.begin().await?;
    store::rights::change_roles(&mut transaction).await?;
    let current = store::roles::find(&mut *transaction, name).await?;
    condition.check(&ETag::of_version(current.version))?;
    actor.may_hand_out(&store::roles::granted(&mut transaction, name).await?)?;
    let holders = store::rights::holders(&mut transaction, name).await?;
    bump(&mut transaction, &holders, "role-deleted").await?;
    let administered = has_an_administrator(&mut transaction).await?;
    store::roles::delete(&mut transaction, name).await?;
    keep_an_administrator(&mut transaction, administered).await?;
    tell(&mut transaction, "deleted", name).await?;
    commit(app, transaction).await
}

/// The administrator's role, made if it is not there; for the first start.
pub(crate) async fn ensure_administrator(connection: &mut PgConnection, definition: &RoleDefinition) -> Result<()> {
    store::rights::change_roles(connection).await?;
    if store::roles::existing(connection, &[roles::ADMINISTRATOR]).await?.is_empty() {
        store::roles::insert(connection, roles::ADMINISTRATOR, definition).await?;
        inherit(connection, roles::ADMINISTRATOR, definition).await?;
        tell(connection, "created", roles::ADMINISTRATOR).await?;
    }
    Ok(())
}

/// Writes the inheritance: 422 that names each role that there is not, 409 that names the circle.
async fn inherit(connection: &mut PgConnection, name: &str, definition: &RoleDefinition) -> Result<()> {
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
    store::roles::set_inheritance(connection, name, &inheritance).await
}

fn same_rights(role: &Role, definition: &RoleDefinition) -> bool {
    let permissions: BTreeSet<&str> = definition.permissions.iter().map(|permission| permission.as_str()).collect();
    let inherits: BTreeSet<&str> = definition.inherits.iter().map(RoleName::as_str).collect();
    permissions == role.permissions.iter().map(String::as_str).collect()
        && inherits == role.inherits.iter().map(String::as_str).collect()
}

async fn tell(connection: &mut PgConnection, what: &str, name: &str) -> Result<()> {
    let event = Event::new(format!("kronos.role.{what}"), name, json!({"name": name}));
    outbox::insert(connection, &event).await?;
    Ok(())
}
