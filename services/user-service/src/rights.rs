//! Rights: what follows from the roles that a person holds. No I/O, and the clock is the caller's.

use std::collections::BTreeSet;

use chrono::{DateTime, SecondsFormat, Utc};
use kronos_common::identity::{permission_matches, resource_matches};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::roles::PermissionName;

/// Permissions with which one can give oneself more, or see or destroy what is everybody's. Who does not hold one of these
/// cannot hand it out, nor change the account of somebody who holds it.
pub const PRIVILEGED: [&str; 13] = [
    "users:write",
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
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Holding {
    /// The resource of the assignment; `None`: everywhere.
    pub resource: Option<String>,
    /// The end of the assignment.
    pub expires_at: Option<DateTime<Utc>>,
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
}

impl Holding {
    fn role(&self) -> &str {
        self.path.last().map_or("", String::as_str)
    }

    fn assigned(&self) -> &str {
        self.path.first().map_or("", String::as_str)
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
        self.permissions.iter().map(String::as_str).find(|granted| permission_matches(granted, permission))
    }

    fn scope(&self) -> String {
        let place = self.resource.as_ref().map_or("everywhere".to_owned(), |resource| format!("on {resource}"));
        let end = self.expires_at.map(|end| format!(" until {}", end.to_rfc3339_opts(SecondsFormat::Secs, true)));
        format!("{place}{}", end.unwrap_or_default())
    }
}

/// Everything that follows from what is held at `now`. A person who is disabled may nothing.
pub fn grants(person: &Person, holdings: &[Holding], now: DateTime<Utc>) -> Grants {
    let (mut roles, mut permissions, mut scoped) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut valid_until = None;
    for holding in holdings.iter().filter(|holding| !person.disabled && holding.holds_at(now)) {
        if holding.resource.is_none() {
            roles.insert(holding.role().to_owned());
            permissions.extend(holding.permissions.iter().cloned());
        }
        if holding.resource.is_some() || holding.expires_at.is_some() {
            scoped.extend(holding.permissions.iter().map(|permission| ScopedGrant {
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

/// Whether `person` may, at `now`: on `resource`, or without one: everywhere. The shortest path is the one that is told.
pub fn judge(
    person: &Person,
    holdings: &[Holding],
    permission: &PermissionName,
    resource: Option<&str>,
    now: DateTime<Utc>,
) -> Decision {
    let wanted = permission.as_str();
    if person.disabled {
        return Decision { allowed: false, why: vec![format!("{} is disabled", person.username)] };
    }
    let current = || holdings.iter().filter(|holding| holding.holds_at(now));
    let granting = current()
        .filter(|holding| holding.covers(resource))
        .filter_map(|holding| Some((holding, holding.granting(wanted)?)))
        .min_by_key(|(holding, _)| holding.path.len());
    match granting {
        Some((holding, granted)) => Decision { allowed: true, why: argument(person, holding, granted, wanted) },
        None => Decision { allowed: false, why: refusal(person, current().collect(), wanted, resource) },
    }
}

fn argument(person: &Person, holding: &Holding, granted: &str, wanted: &str) -> Vec<String> {
    let mut why = Vec::with_capacity(holding.path.len() + 1);
    if let Some(assigned) = holding.path.first() {
        why.push(format!("{} has the role {assigned} {}", person.username, holding.scope()));
    }
    why.extend(holding.path.windows(2).map(|pair| format!("{} inherits {}", pair[0], pair[1])));
    why.push(if granted == wanted {
        format!("{} grants {granted}", holding.role())
    } else {
        format!("{} grants {granted}, which covers {wanted}", holding.role())
    });
    why
}

/// What is missing, and what comes nearest.
fn refusal(person: &Person, current: Vec<&Holding>, wanted: &str, resource: Option<&str>) -> Vec<String> {
    let name = &person.username;
    let place = resource.map_or(String::new(), |resource| format!(" on {resource}"));
    let mut why = vec![format!("{name} holds nothing that grants {wanted}{place}")];
    let elsewhere: BTreeSet<String> = current
        .iter()
        .filter(|holding| holding.granting(wanted).is_some())
        .map(|holding| format!("{name} may {wanted} {}, by the role {}", holding.scope(), holding.assigned()))
        .collect();
    if !elsewhere.is_empty() {
        why.extend(elsewhere.into_iter().take(5));
        if resource.is_none() {
            why.push("the question names no resource, so only what is held everywhere counts".to_owned());
        }
        return why;
    }
    let of_resource = wanted.split(':').next().unwrap_or_default();
    let related: BTreeSet<&str> = current
        .iter()
        .flat_map(|holding| &holding.permissions)
        .filter(|granted| granted.split(':').next() == Some(of_resource))
        .map(String::as_str)
        .collect();
    if !related.is_empty() {
        let related: Vec<&str> = related.into_iter().take(5).collect();
        why.push(format!("the nearest that {name} holds: {}", related.join(", ")));
    } else if current.is_empty() {
        why.push(format!("{name} has no role"));
    }
    why
}

/// What is asked about: `type:id`, perhaps with parts below: `customer:17/robot:R-42`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, min_length = 3, max_length = 256, example = "robot:R-42")]
pub struct Resource(String);

/// What a right is tied to: a resource, or with `/*` at the end all that is below it.
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
        const RULE: &str = "a resource such as robot:R-42, or all below one: customer:17/*; at most 256 characters";
        let resource = text.strip_suffix("/*").unwrap_or(&text);
        if is_resource(resource) && text.len() <= 256 { Ok(Self(text)) } else { Err(RULE) }
    }
}

impl Resource {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ResourcePattern {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_resource(text: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte))
    };
    let typed = text.split_once(':').is_some_and(|(kind, id)| {
        kind.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase())
            && kind.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !id.is_empty()
            && !id.starts_with('/')
    });
    text.len() <= 256 && typed && text.split('/').all(part)
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
