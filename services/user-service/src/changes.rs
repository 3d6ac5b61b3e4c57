//! What one request does across store, auth-service, epochs and events: a transaction, and what must follow its commit.

pub(crate) mod assignments;
pub(crate) mod group_assignments;
pub(crate) mod groups;
pub(crate) mod imports;
pub(crate) mod permissions;
pub(crate) mod privacy;
pub(crate) mod roles;
pub(crate) mod users;

use std::ops::{Deref, DerefMut};

use kronos_common::{
    event::Event,
    identity::{Caller, Revocation, RevocationPublisher},
    outbox,
    problem::{Problem, Result},
};
use serde_json::{Value, json};
use sqlx::{PgConnection, Postgres, Transaction};
use tokio::sync::OwnedSemaphorePermit;
use uuid::Uuid;

use crate::{
    App, rights,
    store::{self, rights::Fanout},
};

/// So many people are named one by one when a change ends their tokens; more of them right after it, by a job. Either way
/// the tokens that name the roles in question have ended when the change is answered: only those that name no roles wait.
const FEW: i64 = 1_000;

/// Who asks for a change: rights that the caller does not hold cannot be handed out or touched.
#[derive(Clone, Copy)]
pub(crate) struct Actor<'a>(pub(crate) &'a Caller);

impl Actor<'_> {
    /// # Errors
    /// 403 `permission_denied` that names the privileged permission that the caller lacks.
    pub(crate) fn may_hand_out(self, permissions: &[String]) -> Result<()> {
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
    pub(crate) async fn may_change(self, connection: &mut PgConnection, user_id: Uuid) -> Result<()> {
        self.may_hand_out(&store::rights::permissions_of(connection, user_id).await?)
    }

    /// For events: who it was.
    pub(crate) fn named(self) -> Value {
        json!({"subject": self.0.subject(), "clientId": self.0.client_id()})
    }
}

/// A transaction that may end tokens.
pub(crate) struct Change {
    _turn: OwnedSemaphorePermit,
    transaction: Transaction<'static, Postgres>,
    revocations: Vec<Revocation>,
}

impl Change {
    pub(crate) async fn begin(app: &App) -> Result<Self> {
        let turn = app.writers.clone().acquire_owned().await.map_err(Problem::internal)?;
        Ok(Self { _turn: turn, transaction: app.pool.begin().await?, revocations: Vec::new() })
    }

    /// Gives these people the next epoch, and ends their tokens of earlier ones. Gives the epoch.
    pub(crate) async fn raise_people(&mut self, ids: &[Uuid]) -> Result<i64> {
        let epoch = store::rights::next_epoch(self).await?;
        store::rights::raise_people(self, ids, epoch).await?;
        self.revoke_people(ids, epoch).await?;
        Ok(epoch)
    }

    /// The same of one person, and tells why.
    pub(crate) async fn raise_person(&mut self, id: Uuid, cause: &str) -> Result<i64> {
        let epoch = self.raise_people(&[id]).await?;
        self.tell_rights_changed(&[id], epoch, cause).await?;
        Ok(epoch)
    }

    /// Ends the tokens of these people that are of epochs before this one.
    pub(crate) async fn revoke_people(&mut self, ids: &[Uuid], epoch: i64) -> Result<()> {
        store::rights::revoke(self, ids, epoch).await?;
        self.revocations.extend(ids.iter().map(|id| Revocation::Subject { subject: id.to_string(), epoch }));
        Ok(())
    }

    /// Ends the tokens of all to whom this epoch was given at once: now, or if they are many, by the job.
    pub(crate) async fn revoke_raised(&mut self, epoch: i64) -> Result<()> {
        let people = store::rights::raised(self, epoch, None, FEW + 1).await?;
        if people.len() as i64 > FEW {
            let fanout = Fanout { epoch, role: None, group_id: None, after: None };
            return Ok(store::rights::leave_fanout(self, &fanout).await?);
        }
        self.revoke_people(&people, epoch).await
    }

    /// Ends the tokens that name this role and are of epochs before this one.
    pub(crate) async fn revoke_role(&mut self, role: &str, epoch: i64) -> Result<()> {
        let revocation = Revocation::Role { role: role.to_owned(), epoch };
        RevocationPublisher::in_transaction(self, &revocation).await?;
        self.revocations.push(revocation);
        Ok(())
    }

    /// An event for each of a few people.
    pub(crate) async fn tell_rights_changed(&mut self, ids: &[Uuid], epoch: i64, cause: &str) -> Result<()> {
        let data = json!({"epoch": epoch, "cause": cause});
        let events: Vec<Event> =
            ids.iter().map(|id| Event::new("kronos.user.rights-changed", id.to_string(), data.clone())).collect();
        Ok(outbox::insert_all(self, &events).await?)
    }

    /// An event.
    pub(crate) async fn tell(&mut self, event: &Event) -> Result<()> {
        Ok(outbox::insert(self, event).await?)
    }

    /// Commits, tells every service which tokens have ended, and wakes the relay: when the answer leaves, the fact is known.
    pub(crate) async fn commit(self, app: &App) -> Result<()> {
        self.transaction.commit().await?;
        for revocation in &self.revocations {
            app.revocations.apply(revocation);
        }
        app.relay.wake();
        if !self.revocations.is_empty() {
            app.publisher.flush().await;
        }
        Ok(())
    }
}

impl Deref for Change {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.transaction
    }
}

impl DerefMut for Change {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.transaction
    }
}

/// Refuses a change that has left no administrator. Call it after the change, in its transaction; `before` is whether there
/// was one before, which a platform without bootstrap need not have.
pub(crate) async fn keep_an_administrator(connection: &mut PgConnection, before: bool) -> Result<()> {
    if before && !store::rights::has_administrator(connection).await? {
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
    Ok(store::rights::has_administrator(connection).await?)
}

/// Whether these permissions make an administrator.
fn grants_everything(granted: &[String]) -> bool {
    granted.iter().any(|permission| permission == crate::roles::EVERYTHING)
}
