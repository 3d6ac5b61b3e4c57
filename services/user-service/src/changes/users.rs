//! Making, changing and removing people.

use kronos_common::{
    etag::{ETag, IfMatch},
    event::Event,
    problem::{Problem, Result},
};
use serde_json::json;
use uuid::Uuid;

use super::{Actor, Change, has_an_administrator, keep_an_administrator};
use crate::{
    App,
    attributes::Schema,
    store,
    users::{NewUser, Password, User},
};

/// How many people are sealed again before others are looked for.
const RESEALED_AT_ONCE: i64 = 200;

/// Makes a person. With a password, auth-service has it before anybody can see the person, or nothing was made.
pub(crate) async fn create(
    app: &App,
    actor: Actor<'_>,
    id: Uuid,
    new: &NewUser,
    password: Option<&Password>,
) -> Result<User> {
    let mut change = Change::begin(app).await?;
    let mut user = store::users::insert(&mut change, id, new).await?;
    if let Some(attributes) = &new.attributes {
        user.attributes.0.clone_from(attributes);
        put_attributes(app, &mut change, &mut user).await?;
    }
    tell(&mut change, Some(actor), "created", None, Some(&user)).await?;
    let told = user.told(&user.differences(&nobody(&user)));
    store::history::note(&mut change, "created", Some(&actor.named()), &[(id, None, Some(told.into()))]).await?;
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
    let mut current = store::users::lock(&mut change, id).await?;
    condition.check(&ETag::of_version(current.version))?;
    actor.may_change(&mut change, id).await?;
    app.sealer.open(&mut current)?;
    let (mut wanted, password) = plan(&current)?;
    if wanted.attributes != current.attributes {
        put_attributes(app, &mut change, &mut wanted).await?;
    }
    if wanted == current && password.is_none() {
        return Ok(current);
    }
    let disabling = wanted.disabled && !current.disabled;
    let administered = disabling && has_an_administrator(&mut change).await?;
    let mut user = store::users::update(&mut change, &wanted).await?;
    (user.attributes, user.sealed_names) = (wanted.attributes, wanted.sealed_names);
    keep_an_administrator(&mut change, administered).await?;
    if wanted.disabled != current.disabled {
        let cause = if disabling { "disabled" } else { "enabled" };
        user.epoch = change.raise_person(id, cause).await?;
        tell(&mut change, Some(actor), cause, Some(&current), Some(&user)).await?;
    }
    tell(&mut change, Some(actor), "updated", Some(&current), Some(&user)).await?;
    let names = current.differences(&user);
    if !names.is_empty() {
        let happened = (id, Some(current.told(&names).into()), Some(user.told(&names).into()));
        store::history::note(&mut change, "updated", Some(&actor.named()), &[happened]).await?;
    }
    if password.is_some() {
        store::history::note(&mut change, "password-set", Some(&actor.named()), &[(id, None, None)]).await?;
    }
    let renamed = (&user.username, &user.email) != (&current.username, &current.email);
    if renamed || password.is_some() {
        app.credentials.put(&user, password.as_ref().map(|Password(password)| password)).await?;
    }
    change.commit(app).await?;
    app.held.forget_person(id);
    Ok(user)
}

/// Whom somebody is different from in everything that they are.
fn nobody(user: &User) -> User {
    User {
        username: String::new(),
        email: String::new(),
        display_name: String::new(),
        disabled: !user.disabled,
        attributes: Default::default(),
        profile: Default::default(),
        external_id: None,
        ..user.clone()
    }
}

/// Writes the attributes that a person shall have, by the schema, which makes them what they are kept as.
async fn put_attributes(app: &App, change: &mut Change, user: &mut User) -> Result<()> {
    let schema = store::attributes::share_schema(change).await?;
    user.attributes.0 = schema.read(std::mem::take(&mut user.attributes.0)).map_err(Problem::invalid)?;
    let kept = app.sealer.seal(&schema, user.id, user.attributes.0.clone())?;
    user.sealed_names = user.attributes.keys().filter(|name| !kept.plain.contains_key(*name)).cloned().collect();
    store::attributes::put(change, user.id, &kept).await
}

/// Seals the attributes of some people again, who are sealed under another key than the active one; those after the id `after`.
/// Gives the last one, if more may follow.
pub(crate) async fn reseal(app: &App, after: Uuid) -> Result<Option<Uuid>> {
    let Some(key) = app.sealer.active_id() else { return Ok(None) };
    let ids = store::attributes::under_other_keys(&app.pool, key, after, RESEALED_AT_ONCE).await?;
    for id in &ids {
        let mut change = Change::begin(app).await?;
        // Somebody may be gone meanwhile.
        let Ok(mut user) = store::users::lock(&mut change, *id).await else { continue };
        app.sealer.open(&mut user)?;
        let schema = store::attributes::share_schema(&mut change).await?;
        let kept = app.sealer.seal(&schema, user.id, user.attributes.0)?;
        store::attributes::put(&mut change, *id, &kept).await?;
        change.commit(app).await?;
    }
    Ok(ids.last().copied())
}

/// Changes the schema. What somebody has cannot become something else.
pub(crate) async fn put_schema(app: &App, condition: &IfMatch, schema: &Schema) -> Result<i64> {
    if schema.attributes.values().any(|definition| definition.sealed) {
        app.sealer.keyring()?;
    }
    let mut change = Change::begin(app).await?;
    let (current, version) = store::attributes::lock_schema(&mut change).await?;
    condition.check(&ETag::of_version(version))?;
    if current == *schema {
        return Ok(version);
    }
    for (name, definition) in current.narrowed(schema) {
        if store::attributes::in_use(&mut change, name, definition.sealed).await? {
            return Err(Problem::conflict(
                "attribute_in_use",
                format!(
                    "somebody has a value of {name}: it can be removed, sealed, shortened or of another type only without"
                ),
            ));
        }
    }
    let version = store::attributes::put_schema(&mut change, schema).await?;
    let data = json!({"attributes": schema.attributes.keys().collect::<Vec<_>>(), "version": version});
    change.tell(&Event::new("kronos.user-schema.updated", "user-schema", data)).await?;
    change.commit(app).await?;
    Ok(version)
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
