//! What people hold, remembered. An answer is good until the revocations, which tell of every change of rights, name an epoch
//! that is later than its own; while they cannot be followed, every question goes to the database.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use kronos_common::{
    identity::Revocations,
    problem::{Problem, Result},
};
use moka::sync::Cache;
use sqlx::PgPool;
use tokio::sync::OnceCell;
use uuid::Uuid;

use crate::{
    rights::{Holding, IncludedRole, Person},
    roles::PermissionName,
    store::{self, rights::Assigned},
};

/// Shorter than revocations are remembered, so that nothing is kept whose change has been forgotten.
const KEPT: Duration = Duration::from_secs(300);
/// How long another instance's change of roles may be missing in the hints of a refusal.
const HINTS_KEPT: Duration = Duration::from_secs(5);
const MOST_ROLES: u64 = 10_000;
const MOST_HINTS: u64 = 1_000;
/// How often a role may change between the two questions of one load.
const ATTEMPTS: usize = 10;

/// A person and all that they hold, as of one moment. Assignments whose time is over may be among them.
pub(crate) struct Held {
    pub(crate) person: Person,
    pub(crate) holdings: Vec<Holding>,
    /// What was taken away when its time was over; read when a refusal first speaks of it.
    ended: OnceCell<Vec<Holding>>,
    /// The id as revocations name it.
    subject: String,
    roles: Vec<Arc<RoleGrants>>,
}

/// All that comes with a role, at one epoch of it.
pub(crate) struct RoleGrants {
    pub(crate) epoch: i64,
    pub(crate) includes: Vec<Arc<IncludedRole>>,
}

impl RoleGrants {
    fn names(&self) -> impl Iterator<Item = &str> {
        self.includes.iter().filter_map(|included| included.path.last()).map(String::as_str)
    }
}

/// What is remembered.
pub(crate) struct HeldRights {
    people: Cache<Uuid, Arc<Held>>,
    roles: Cache<String, Arc<RoleGrants>>,
    /// Permission → a few roles that grant it.
    hints: Cache<String, Arc<Vec<String>>>,
    revocations: Revocations,
    /// Of checks alone, so that nothing else holds them up; few, because each is used in turn, and a server process that was
    /// not used for a while has nothing at hand.
    pool: PgPool,
}

impl HeldRights {
    /// Remembers at most `most_people`; `pool` is for checks alone.
    pub(crate) fn new(most_people: u64, revocations: Revocations, pool: PgPool) -> Self {
        Self {
            pool,
            people: Cache::builder().max_capacity(most_people).time_to_live(KEPT).build(),
            roles: Cache::new(MOST_ROLES),
            hints: Cache::builder().max_capacity(MOST_HINTS).time_to_live(HINTS_KEPT).build(),
            revocations,
        }
    }

    /// What a person holds: as of `min_epoch` or later, if the caller has seen a change.
    ///
    /// # Errors
    /// 404 without such a person.
    pub(crate) async fn of(&self, id: Uuid, min_epoch: Option<i64>) -> Result<Arc<Held>> {
        if let Some(held) = self.people.get(&id)
            && min_epoch.is_none_or(|least| held.person.epoch >= least)
            && self.is_current(&held)
        {
            return Ok(held);
        }
        let held = self.load(&self.pool, &[id]).await?.pop().ok_or_else(store::users::no_user)?;
        self.people.insert(id, held.clone());
        Ok(held)
    }

    /// What was taken from a person when its time was over, and is not forgotten yet.
    pub(crate) async fn ended<'held>(&self, held: &'held Held) -> Result<&'held [Holding]> {
        Ok(held.ended.get_or_try_init(|| self.load_ended(held.person.id)).await?)
    }

    /// What these people hold now, in the order of their ids; from the database.
    pub(crate) async fn of_all(&self, pool: &PgPool, ids: &[Uuid]) -> Result<Vec<Arc<Held>>> {
        self.load(pool, ids).await
    }

    /// A few roles that grant the permission, by themselves or by what they include.
    pub(crate) async fn roles_granting(&self, pool: &PgPool, permission: &PermissionName) -> Result<Arc<Vec<String>>> {
        if let Some(roles) = self.hints.get(permission.as_str()) {
            return Ok(roles);
        }
        let roles = Arc::new(store::roles::granting(pool, &permission.covering()).await?);
        self.hints.insert(permission.as_str().to_owned(), roles.clone());
        Ok(roles)
    }

    /// A person's name has changed here: not a right, but answers name it.
    pub(crate) fn forget_person(&self, id: Uuid) {
        self.people.invalidate(&id);
    }

    /// Roles have changed here.
    pub(crate) fn forget_hints(&self) {
        self.hints.invalidate_all();
    }

    fn is_current(&self, held: &Held) -> bool {
        let own = self.revocations.subject_epoch(&held.subject);
        let of_roles = self.revocations.role_epoch(held.roles.iter().flat_map(|role| role.names()));
        self.revocations.is_current() && own.max(of_roles).is_none_or(|epoch| epoch <= held.person.epoch)
    }

    async fn load(&self, pool: &PgPool, ids: &[Uuid]) -> Result<Vec<Arc<Held>>> {
        for _ in 0..ATTEMPTS {
            let rows = match ids {
                [id] => store::rights::assigned_to(pool, *id).await?,
                ids => store::rights::assigned(pool, ids).await?,
            };
            let wanted = rows.iter().filter_map(|row| Some((row.role.as_deref()?, row.role_epoch?))).collect();
            if let Some(roles) = self.roles_of(pool, wanted).await? {
                return Ok(assemble(rows, &roles));
            }
        }
        Err(Problem::unavailable("rights", Duration::from_secs(1)))
    }

    async fn load_ended(&self, id: Uuid) -> Result<Vec<Holding>> {
        for _ in 0..ATTEMPTS {
            let rows = store::rights::ended(&self.pool, id).await?;
            let wanted = rows.iter().map(|row| (row.role.as_str(), row.role_epoch)).collect();
            let Some(roles) = self.roles_of(&self.pool, wanted).await? else { continue };
            let holdings = rows.into_iter().filter_map(|row| {
                let group = row.group_name.map(Into::into);
                Some(holdings(roles.get(&row.role)?, row.resource, row.expires_at, group).collect::<Vec<_>>())
            });
            return Ok(holdings.flatten().collect());
        }
        Err(Problem::unavailable("rights", Duration::from_secs(1)))
    }

    /// The roles of these names at these very epochs; `None` if one has changed since.
    async fn roles_of(
        &self,
        pool: &PgPool,
        wanted: BTreeMap<&str, i64>,
    ) -> Result<Option<BTreeMap<String, Arc<RoleGrants>>>> {
        let mut found = BTreeMap::new();
        let mut missing = Vec::new();
        for (name, epoch) in &wanted {
            match self.roles.get(*name).filter(|role| role.epoch == *epoch) {
                Some(role) => _ = found.insert((*name).to_owned(), role),
                None => missing.push(*name),
            }
        }
        if !missing.is_empty() {
            for (name, role) in store::roles::grants(pool, &missing).await? {
                let role = Arc::new(role);
                self.roles.insert(name.clone(), role.clone());
                if wanted.get(name.as_str()) == Some(&role.epoch) {
                    found.insert(name, role);
                }
            }
        }
        Ok((found.len() == wanted.len()).then_some(found))
    }
}

/// Rows of people, each person's together.
fn assemble(rows: Vec<Assigned>, roles: &BTreeMap<String, Arc<RoleGrants>>) -> Vec<Arc<Held>> {
    let mut people: Vec<Held> = Vec::new();
    for row in rows {
        if people.last().is_none_or(|held| held.person.id != row.person.id) {
            let subject = row.person.id.to_string();
            let (holdings, roles) = (Vec::new(), Vec::new());
            people.push(Held { person: row.person.clone(), holdings, ended: OnceCell::new(), subject, roles });
        }
        let Some(held) = people.last_mut() else { continue };
        let role = row.role.as_ref().and_then(|role| roles.get(role));
        let epochs = [row.group_epoch, role.map(|role| role.epoch), Some(held.person.epoch)];
        held.person.epoch = epochs.into_iter().flatten().max().unwrap_or_default();
        let Some(role) = role else { continue };
        let group = row.group_name.map(Into::into);
        held.holdings.extend(holdings(role, row.resource, row.expires_at, group));
        if !held.roles.iter().any(|known| Arc::ptr_eq(known, role)) {
            held.roles.push(role.clone());
        }
    }
    people.into_iter().map(Arc::new).collect()
}

/// What comes with one assignment: a holding for each role that its role includes.
fn holdings(
    role: &RoleGrants,
    resource: Option<String>,
    expires_at: Option<DateTime<Utc>>,
    group: Option<Arc<str>>,
) -> impl Iterator<Item = Holding> {
    role.includes.iter().map(move |included| Holding {
        resource: resource.clone(),
        expires_at,
        group: group.clone(),
        role: included.clone(),
    })
}
