//! Making, changing and removing people.

use kronos_common::{
    etag::{ETag, IfMatch},
    event::Event,
    problem::Result,
};
use serde_json::json;
use uuid::Uuid;

use super::{Actor, Change, has_an_administrator, keep_an_administrator};
use crate::{
    App, store,
    users::{NewUser, Password, User},
};

/// Makes a person. With a password, auth-service has it before anybody can see the person, or nothing was made.
pub(crate) async fn create(
    app: &App,
    actor: Actor<'_>,
    id: Uuid,
    new: &NewUser,
    password: Option<&Password>,
) -> Result<User> {
    let mut change = Change::begin(app).await?;
    let user = store::users::insert(&mut change, id, new).await?;
    tell(&mut change, Some(actor), "created", None, Some(&user)).await?;
    if let Some(Password(password)) = password {
        app.credentials.put(&user, Some(password)).await?;
    }
    change.commit(app).await?;
    Ok(user)
}

/// Changes a person: to what `plan` makes of who they are, and with the new password that it gives.
pub(crate) async fn change(
    app: &App,
    actor: Actor<'_>,
    id: Uuid,
    condition: &IfMatch,
    plan: impl FnOnce(&User) -> Result<(User, Option<Password>)>,
) -> Result<User> {
    let mut change = Change::begin(app).await?;
    store::rights::share_roles(&mut change).await?;
    let current = store::users::lock(&mut change, id).await?;
    condition.check(&ETag::of_version(current.version))?;
    actor.may_change(&mut change, id).await?;
    let (wanted, password) = plan(&current)?;
    if wanted == current && password.is_none() {
        return Ok(current);
    }
    let disabling = wanted.disabled && !current.disabled;
    let administered = disabling && has_an_administrator(&mut change).await?;
    let mut user = store::users::update(&mut change, &wanted).await?;
    keep_an_administrator(&mut change, administered).await?;
    if wanted.disabled != current.disabled {
        let cause = if disabling { "disabled" } else { "enabled" };
        user.epoch = change.raise_person(id, cause).await?;
        tell(&mut change, Some(actor), cause, Some(&current), Some(&user)).await?;
    }
    tell(&mut change, Some(actor), "updated", Some(&current), Some(&user)).await?;
    let renamed = (&user.username, &user.email) != (&current.username, &current.email);
    if renamed || password.is_some() {
        app.credentials.put(&user, password.as_ref().map(|Password(password)| password)).await?;
    }
    change.commit(app).await?;
    app.held.forget_person(id);
    Ok(user)
}

/// Removes a person: their tokens end, and auth-service forgets them by the event.
pub(crate) async fn delete(app: &App, actor: Actor<'_>, id: Uuid, condition: &IfMatch) -> Result<()> {
    let mut change = Change::begin(app).await?;
    store::rights::share_roles(&mut change).await?;
    let mut user = store::users::lock(&mut change, id).await?;
    condition.check(&ETag::of_version(user.version))?;
    actor.may_change(&mut change, id).await?;
    let administered = has_an_administrator(&mut change).await?;
    store::users::delete(&mut change, id).await?;
    keep_an_administrator(&mut change, administered).await?;
    user.epoch = store::rights::next_epoch(&mut change).await?;
    change.revoke_people(&[id], user.epoch).await?;
    tell(&mut change, Some(actor), "deleted", Some(&user), None).await?;
    change.commit(app).await
}

/// An event on a person, with what they were and are. It names no more of them than others need, and of the rest only what has
/// changed: who wants to know asks.
pub(crate) async fn tell(
    change: &mut Change,
    by: Option<Actor<'_>>,
    what: &str,
    before: Option<&User>,
    after: Option<&User>,
) -> Result<()> {
    let Some(user) = after.or(before) else { return Ok(()) };
    let seen = |user: &User| json!({"username": user.username, "disabled": user.disabled});
    let mut data = seen(user);
    data["epoch"] = user.epoch.into();
    data["before"] = before.map(seen).into();
    data["after"] = after.map(seen).into();
    if let (Some(before), Some(after)) = (before, after) {
        data["changed"] = before.differences(after).into();
    }
    data["by"] = by.map(Actor::named).into();
    change.tell(&Event::new(format!("kronos.user.{what}"), user.id.to_string(), data)).await
}
