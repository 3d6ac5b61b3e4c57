//! Making, changing and removing people.

use kronos_common::{
    etag::{ETag, IfMatch},
    event::Event,
    identity::Revocation,
    identity::RevocationPublisher,
    outbox,
    problem::Result,
};
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Actor, bump, commit, has_an_administrator, keep_an_administrator};
use crate::{
    App, store,
    users::{Changes, NewUser, Password, User},
};

/// Makes a person. With a password, auth-service has it before anybody can see the person, or nothing was made.
pub(crate) async fn create(app: &App, new: &NewUser, password: Option<&Password>) -> Result<User> {
    let mut transaction = app.pool.begin().await?;
    let user = store::users::insert(&mut transaction, Uuid::now_v7(), new).await?;
    tell(&mut transaction, "created", &user).await?;
    if let Some(Password(password)) = password {
        app.credentials.put(&user, Some(password)).await?;
    }
    commit(app, transaction).await?;
    Ok(user)
}

/// Changes a person.
pub(crate) async fn change(
    app: &App,
    actor: Actor<'_>,
    id: Uuid,
    condition: &IfMatch,
    changes: &Changes,
) -> Result<User> {
    let mut transaction = app.pool.begin().await?;
    let current = store::users::lock(&mut transaction, id).await?;
    condition.check(&ETag::of_version(current.version))?;
    actor.may_change(&mut transaction, id).await?;
    let wanted = changes.apply(&current);
    if wanted == current && changes.password.is_none() {
        return Ok(current);
    }
    let disabling = wanted.disabled && !current.disabled;
    let administered = disabling && has_an_administrator(&mut transaction).await?;
    let mut user = store::users::update(&mut transaction, &wanted).await?;
    keep_an_administrator(&mut transaction, administered).await?;
    if wanted.disabled != current.disabled {
        let cause = if disabling { "disabled" } else { "enabled" };
        for (_, epoch) in bump(&mut transaction, &[id], cause).await? {
            user.epoch = epoch;
        }
        tell(&mut transaction, cause, &user).await?;
    }
    tell(&mut transaction, "updated", &user).await?;
    let renamed = (&user.username, &user.email) != (&current.username, &current.email);
    if renamed || changes.password.is_some() {
        let password = changes.password.as_ref().map(|Password(password)| password);
        app.credentials.put(&user, password).await?;
    }
    commit(app, transaction).await?;
    Ok(user)
}

/// Removes a person: their tokens end, and auth-service forgets them by the event.
pub(crate) async fn delete(app: &App, actor: Actor<'_>, id: Uuid, condition: &IfMatch) -> Result<()> {
    let mut transaction = app.pool.begin().await?;
    let mut user = store::users::lock(&mut transaction, id).await?;
    condition.check(&ETag::of_version(user.version))?;
    actor.may_change(&mut transaction, id).await?;
    let administered = has_an_administrator(&mut transaction).await?;
    store::users::delete(&mut transaction, id).await?;
    keep_an_administrator(&mut transaction, administered).await?;
    user.epoch += 1;
    let revocation = Revocation::Subject { subject: id.to_string(), epoch: user.epoch };
    RevocationPublisher::in_transaction(&mut transaction, &revocation).await?;
    tell(&mut transaction, "deleted", &user).await?;
    commit(app, transaction).await
}

/// An event on a person. It names no more of them than others need: who wants the rest asks.
pub(crate) async fn tell(connection: &mut PgConnection, what: &str, user: &User) -> Result<()> {
    let data = json!({"username": user.username, "disabled": user.disabled, "epoch": user.epoch});
    let event = Event::new(format!("kronos.user.{what}"), user.id.to_string(), data);
    outbox::insert(connection, &event).await?;
    Ok(())
}
