//! Rights: what follows from the roles that a person holds. No I/O, and the clock is the caller's.

pub mod difference;

use std::{collections::BTreeSet, sync::Arc};

use chrono::{DateTime, SecondsFormat, Utc};
use kronos_common::identity::{is_resource, is_resource_pattern, permission_matches, resource_matches};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::roles::PermissionName;

/// Permissions with which one can give oneself more, or see or destroy what is everybody's. Who does not hold one of these
/// cannot hand it out, nor change the account of somebody who holds it.
pub const PRIVILEGED: [&str; 14] = [
    "users:write",
    "users:manage",
    "roles:write",
    "grants:read",
    "credentials:write",
    "clients:read",
    "clients:write",
    "sessions:write",
    "audit:read",
    "routes:write",
    "logs:manage",
    "db:query",
    "db:read",
    "db:backup",
];

/// A role that somebody holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema, sqlx::FromRow)]
#[serde(rename_all = "camelCase")]
pub struct Assignment {
    pub user_id: Uuid,
    pub role: String,
    /// Null: everywhere.
    pub resource: Option<String>,
    /// Null: without end.
    pub expires_at: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
}

/// What rights need to know of a person.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Person {
    pub id: Uuid,
    pub username: String,
    pub disabled: bool,
    pub epoch: i64,
}

/// One role that comes with one assignment: the assigned one, or one that it includes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// The resource of the assignment; `None`: everywhere.
    pub resource: Option<String>,
    /// The end of the assignment.
    pub expires_at: Option<DateTime<Utc>>,
    /// The group whose assignment it is; `None`: the person's own.
    pub group: Option<Arc<str>>,
    /// Shared by all who have the same role assigned.
    pub role: Arc<IncludedRole>,
}

/// A role as part of another one, or of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IncludedRole {
    /// From the assigned role to the role that grants, both included.
    pub path: Vec<String>,
    /// What that role itself grants.
    pub permissions: Vec<String>,
}

/// All that a person may do, as auth-service puts it in tokens and keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Grants {
    pub user_id: Uuid,
    pub username: String,
    pub disabled: bool,
    /// Names of the roles that are held everywhere, inherited ones too.
    pub roles: Vec<String>,
    /// Permissions that hold everywhere, now.
    pub permissions: Vec<String>,
    /// Permissions tied to a resource, to a time, or both.
    pub scoped: Vec<ScopedGrant>,
    /// The version of these rights; it grows with every change.
    pub epoch: i64,
    /// When the first of these rights ends by itself; they must not be gone by after that.
    pub valid_until: Option<DateTime<Utc>>,
}

/// A permission on one resource or until a time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScopedGrant {
    pub permission: String,
    /// Null: everywhere.
    pub resource: Option<String>,
    /// Null: without end.
    pub expires_at: Option<DateTime<Utc>>,
}

/// May they, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    pub allowed: bool,
    /// Sentences for a person, in the order of the argument.
    pub why: Vec<String>,
    /// Of a yes: what grants it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grant: Option<GrantPath>,
    /// Of a no: what is missing, and what comes nearest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing: Option<Missing>,
    /// The version of the rights that were judged.
    pub epoch: i64,
}

/// How a person comes by a permission.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrantPath {
    /// From the assigned role to the one that grants.
    pub path: Vec<String>,
    /// As it is granted; it may have wildcards.
    pub permission: String,
    /// Null: everywhere.
    pub resource: Option<String>,
    /// Null: without end.
    pub expires_at: Option<DateTime<Utc>>,
    /// The group that has the assigned role; absent: the person has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}

/// Permission, resource, group, path and end.
pub type GrantOrder<'a> = (&'a str, Option<&'a str>, Option<&'a str>, &'a [String], Option<DateTime<Utc>>);

impl GrantPath {
    /// By permission, then where, then by which way; complete, so that it can be a page's position.
    pub fn order(&self) -> GrantOrder<'_> {
        (&self.permission, self.resource.as_deref(), self.group.as_deref(), &self.path, self.expires_at)
    }
}

/// What would have made it a yes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Missing {
    pub permission: String,
    pub resource: Option<String>,
    /// What the person holds that comes nearest, the nearest first.
    pub nearest: Vec<NearGrant>,
    /// Roles that grant the permission.
    pub roles: Vec<String>,
}

/// A grant that is not the one asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct NearGrant {
    pub because: Shortfall,
    #[serde(flatten)]
    pub grant: GrantPath,
}

/// Why a grant does not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Shortfall {
    /// The permission is held, elsewhere.
    OtherResource,
    /// It was held, and has ended.
    Ended,
    /// Another action on the same kind of thing is held.
    OtherAction,
}

/// How many near grants are told.
const MOST_NEAR: usize = 5;

impl Holding {
    fn grant(&self, permission: &str) -> GrantPath {
        GrantPath {
            path: self.role.path.clone(),
            permission: permission.to_owned(),
            resource: self.resource.clone(),
            expires_at: self.expires_at,
            group: self.group.as_deref().map(str::to_owned),
        }
    }

    fn role_name(&self) -> &str {
        self.role.path.last().map_or("", String::as_str)
    }

    fn holds_at(&self, now: DateTime<Utc>) -> bool {
        self.expires_at.is_none_or(|end| now < end)
    }

    fn covers(&self, resource: Option<&str>) -> bool {
        match (&self.resource, resource) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(pattern), Some(resource)) => resource_matches(pattern, resource),
        }
    }

    fn granting(&self, permission: &str) -> Option<&str> {
        self.role.permissions.iter().map(String::as_str).find(|granted| permission_matches(granted, permission))
    }
}

fn scope(grant: &GrantPath) -> String {
    let place = grant.resource.as_ref().map_or("everywhere".to_owned(), |resource| format!("on {resource}"));
    let end = grant.expires_at.map(|end| format!(" until {}", end.to_rfc3339_opts(SecondsFormat::Secs, true)));
    format!("{place}{}", end.unwrap_or_default())
}

/// Everything that follows from what is held at `now`. A person who is disabled may nothing.
pub fn grants(person: &Person, holdings: &[Holding], now: DateTime<Utc>) -> Grants {
    let (mut roles, mut permissions, mut scoped) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut valid_until = None;
    for holding in holdings.iter().filter(|holding| !person.disabled && holding.holds_at(now)) {
        if holding.resource.is_none() {
            roles.insert(holding.role_name().to_owned());
            permissions.extend(holding.role.permissions.iter().cloned());
        }
        if holding.resource.is_some() || holding.expires_at.is_some() {
            scoped.extend(holding.role.permissions.iter().map(|permission| ScopedGrant {
                permission: permission.clone(),
                resource: holding.resource.clone(),
                expires_at: holding.expires_at,
            }));
        }
        valid_until = [valid_until, holding.expires_at].into_iter().flatten().min();
    }
    Grants {
        user_id: person.id,
        username: person.username.clone(),
        disabled: person.disabled,
        roles: roles.into_iter().collect(),
        permissions: permissions.into_iter().collect(),
        scoped: scoped.into_iter().collect(),
        epoch: person.epoch,
        valid_until,
    }
}

/// Every way by which a person has a permission at `now`, in the order of permissions; nothing for who is disabled.
pub fn effective(person: &Person, holdings: &[Holding], now: DateTime<Utc>) -> Vec<GrantPath> {
    let mut grants: Vec<GrantPath> = holdings
        .iter()
        .filter(|holding| !person.disabled && holding.holds_at(now))
        .flat_map(|holding| holding.role.permissions.iter().map(|permission| holding.grant(permission)))
        .collect();
    grants.sort_unstable_by(|a, b| a.order().cmp(&b.order()));
    grants.dedup();
    grants
}

/// Every way by which a person has this permission at `now`; without a resource, wherever.
pub fn granting(
    person: &Person,
    holdings: &[Holding],
    permission: &PermissionName,
    resource: Option<&str>,
    now: DateTime<Utc>,
) -> Vec<GrantPath> {
    let there = |holding: &&Holding| resource.is_none() || holding.covers(resource);
    let holding = holdings.iter().filter(|holding| !person.disabled && holding.holds_at(now)).filter(there);
    holding.filter_map(|holding| Some(holding.grant(holding.granting(permission.as_str())?))).collect()
}

/// Whether `person` may, at `now`: on `resource`, or without one: everywhere. The shortest path is the one that is told.
pub fn judge(
    person: &Person,
    holdings: &[Holding],
    permission: &PermissionName,
    resource: Option<&str>,
    now: DateTime<Utc>,
) -> Decision {
    let wanted = permission.as_str();
    let missing = |nearest| Missing {
        permission: wanted.to_owned(),
        resource: resource.map(str::to_owned),
        nearest,
        roles: Vec::new(),
    };
    if person.disabled {
        let why = vec![format!("{} is disabled", person.username)];
        return Decision { allowed: false, why, grant: None, missing: None, epoch: person.epoch };
    }
    let granting = holdings
        .iter()
        .filter(|holding| holding.holds_at(now) && holding.covers(resource))
        .filter_map(|holding| Some((holding, holding.granting(wanted)?)))
        .min_by_key(|(holding, _)| holding.role.path.len());
    match granting {
        Some((holding, granted)) => Decision {
            allowed: true,
            why: argument(person, holding, granted, wanted),
            grant: Some(holding.grant(granted)),
            missing: None,
            epoch: person.epoch,
        },
        None => {
            let nearest = nearest(holdings, wanted, resource, now);
            let why = refusal(person, holdings.iter().any(|holding| holding.holds_at(now)), &nearest, wanted, resource);
            Decision { allowed: false, why, grant: None, missing: Some(missing(nearest)), epoch: person.epoch }
        }
    }
}

/// What is held that comes nearest: the permission elsewhere, the permission earlier, another action on that kind of thing.
fn nearest(holdings: &[Holding], wanted: &str, resource: Option<&str>, now: DateTime<Utc>) -> Vec<NearGrant> {
    let kind = wanted.split(':').next();
    let mut found = BTreeSet::new();
    for holding in holdings {
        match (holding.granting(wanted), holding.holds_at(now)) {
            (Some(granted), true) => found.insert((Shortfall::OtherResource, holding.grant(granted))),
            (Some(granted), false) if holding.covers(resource) => {
                found.insert((Shortfall::Ended, holding.grant(granted)))
            }
            (None, true) => {
                let others = holding.role.permissions.iter().filter(|held| held.split(':').next() == kind);
                found.extend(others.map(|held| (Shortfall::OtherAction, holding.grant(held))));
                continue;
            }
            _ => continue,
        };
    }
    found.into_iter().take(MOST_NEAR).map(|(because, grant)| NearGrant { because, grant }).collect()
}

fn argument(person: &Person, holding: &Holding, granted: &str, wanted: &str) -> Vec<String> {
    let path = &holding.role.path;
    let mut why = Vec::with_capacity(path.len() + 2);
    if let Some(group) = &holding.group {
        why.push(format!("{} is a member of {group}", person.username));
    }
    if let Some(assigned) = path.first() {
        let holder = holding.group.as_deref().unwrap_or(&person.username);
        why.push(format!("{holder} has the role {assigned} {}", scope(&holding.grant(granted))));
    }
    why.extend(path.windows(2).map(|pair| format!("{} inherits {}", pair[0], pair[1])));
    why.push(if granted == wanted {
        format!("{} grants {granted}", holding.role_name())
    } else {
        format!("{} grants {granted}, which covers {wanted}", holding.role_name())
    });
    why
}

/// What is missing, and what comes nearest.
fn refusal(
    person: &Person,
    has_role: bool,
    nearest: &[NearGrant],
    wanted: &str,
    resource: Option<&str>,
) -> Vec<String> {
    let name = &person.username;
    let place = resource.map_or(String::new(), |resource| format!(" on {resource}"));
    let mut why = vec![format!("{name} holds nothing that grants {wanted}{place}")];
    let of = |because| nearest.iter().filter(move |near| near.because == because).map(|near| &near.grant);
    let assigned = |grant: &GrantPath| grant.path.first().cloned().unwrap_or_default();
    for grant in of(Shortfall::OtherResource) {
        why.push(format!("{name} may {wanted} {}, by the role {}", scope(grant), assigned(grant)));
    }
    if resource.is_none() && of(Shortfall::OtherResource).next().is_some() {
        why.push("the question names no resource, so only what is held everywhere counts".to_owned());
    }
    for grant in of(Shortfall::Ended) {
        why.push(format!("{name} had {wanted} {}, by the role {}", scope(grant), assigned(grant)));
    }
    let related: BTreeSet<&str> = of(Shortfall::OtherAction).map(|grant| grant.permission.as_str()).collect();
    if !related.is_empty() && why.len() == 1 {
        why.push(format!("the nearest that {name} holds: {}", related.into_iter().collect::<Vec<_>>().join(", ")));
    } else if !has_role {
        why.push(format!("{name} has no role"));
    }
    why
}

/// What is asked about: `type:id`, perhaps with parts below: `customer:17/robot:R-42`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, min_length = 3, max_length = 256, example = "robot:R-42")]
pub struct Resource(String);

/// What a right is tied to: a resource, or with `/*` or `.*` at the end all that is below it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, min_length = 3, max_length = 256, example = "customer:17/*")]
pub struct ResourcePattern(String);

impl TryFrom<String> for Resource {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        const RULE: &str = "a resource such as robot:R-42 or customer:17/robot:R-42, at most 256 characters";
        if is_resource(&text) { Ok(Self(text)) } else { Err(RULE) }
    }
}

impl TryFrom<String> for ResourcePattern {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        const RULE: &str =
            "a resource such as robot:R-42, or all below one: customer:17/*, topic:orders.*; at most 256 characters";
        if is_resource_pattern(&text) { Ok(Self(text)) } else { Err(RULE) }
    }
}

impl Resource {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Every pattern that covers this resource, so that a store can look them up by equality.
    pub fn covering(&self) -> Vec<String> {
        // What is before the kind's colon is no resource.
        let parts = self.0.match_indices(['/', '.']).filter(|(at, _)| self.0[..*at].contains(':'));
        let above = parts.map(|(at, separator)| format!("{}{separator}*", &self.0[..at]));
        std::iter::once(self.0.clone()).chain(above).collect()
    }
}

impl ResourcePattern {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The privileged permissions that `granted` covers and that `holds` does not: what would be handed out without being held.
pub fn beyond<'a>(
    granted: impl IntoIterator<Item = &'a str> + Clone,
    holds: impl Fn(&str) -> bool,
) -> Option<&'static str> {
    PRIVILEGED.into_iter().find(|permission| {
        granted.clone().into_iter().any(|granted| permission_matches(granted, permission)) && !holds(permission)
    })
}
