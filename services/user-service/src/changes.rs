//! What one request does across store, auth-service, epochs and events: a transaction, and what must follow its commit.

pub(crate) mod assignments;
pub(crate) mod roles;
pub(crate) mod users;

use kronos_common::{
    event::Event,
    identity::Caller,
    outbox,
    problem::{Problem, Result},
};
use serde_json::json;
use sqlx::{PgConnection, Postgres, Transaction};
use uuid::Uuid;

use crate::{App, rights, store};

/// Who asks for a change: rights that the caller does not hold cannot be handed out or touched.
pub(crate) struct Actor<'a>(pub(crate) &'a Caller);

impl Actor<'_> {
    /// # Errors
    /// 403 `permission_denied` that names the privileged permission that the caller lacks.
    pub(crate) fn may_hand_out(&self, permissions: &[String]) -> Result<()> {
        let granted = permissions.iter().map(String::as_str);
        match rights::beyond(granted, |permission| self.0.may(permission)) {
            None => Ok(()),
            Some(missing) => Err(Problem::forbidden(format!(
                "this concerns rights that include {missing}: only who holds that permission may change them"
            ))),
        }
    }

    /// # Errors
    /// 403 if the user holds something privileged that the caller lacks.
    pub(crate) async fn may_change(&self, connection: &mut PgConnection, user_id: Uuid) -> Result<()> {
        let held = store::rights::of_person(connection, user_id).await?;
        let permissions: Vec<String> =
            held.into_iter().flat_map(|(_, holdings)| holdings).flat_map(|holding| holding.permissions).collect();
        self.may_hand_out(&permissions)
    }
}

/// Makes the next epoch of these people, and tells why.
pub(crate) async fn bump(connection: &mut PgConnection, ids: &[Uuid], cause: &str) -> Result<Vec<(Uuid, i64)>> {
    let bumped = store::rights::bump(connection, ids).await?;
    let events: Vec<Event> = bumped
        .iter()
        .map(|(id, epoch)| {
            Event::new("kronos.user.rights-changed", id.to_string(), json!({"epoch": epoch, "cause": cause}))
        })
        .collect();
    outbox::insert_all(connection, &events).await?;
    Ok(bumped)
}

/// Refuses a change that has left no administrator. Call it after the change, in its transaction; `before` is whether there
/// was one before, which a platform without bootstrap need not have.
pub(crate) async fn keep_an_administrator(connection: &mut PgConnection, before: bool) -> Result<()> {
    if before && store::rights::administrators(connection).await? == 0 {
        return Err(Problem::conflict(
            "last_administrator",
            "this would leave nobody who may administer: make another administrator first",
        ));
    }
    Ok(())
}

/// Whether there is an administrator now; nobody else takes one away until the transaction ends.
pub(crate) async fn has_an_administrator(connection: &mut PgConnection) -> Result<bool> {
    store::rights::change_administrators(connection).await?;
    Ok(store::rights::administrators(connection).await? > 0)
}

/// Commits, tells every service which tokens have ended, and wakes the relay: when the answer leaves, the fact is known.
pub(crate) async fn commit(app: &App, transaction: Transaction<'static, Postgres>) -> Result<()> {
    transaction.commit().await?;
    app.relay.wake();
    app.publisher.flush().await;
    Ok(())
}
