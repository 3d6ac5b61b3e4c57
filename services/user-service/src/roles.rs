//! Roles: what a name and a permission may be, which roles inherit which, and why they never do so in a circle.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The role of the first administrator.
pub const ADMINISTRATOR: &str = "administrator";
/// What an administrator holds: every permission.
pub const EVERYTHING: &str = "*:*";

/// A role, as stored and as sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema, sqlx::FromRow)]
#[serde(rename_all = "camelCase")]
pub struct Role {
    pub name: String,
    pub description: String,
    /// `resource:action`, each of the two perhaps `*`.
    pub permissions: Vec<String>,
    /// Roles whose permissions this one has as well.
    pub inherits: Vec<String>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    /// The entity tag.
    #[serde(skip)]
    pub version: i64,
    /// The last change of what it grants.
    #[serde(skip)]
    pub epoch: i64,
}

/// What a role is to be.
#[derive(Debug, Clone)]
pub struct RoleDefinition {
    pub description: Description,
    pub permissions: BTreeSet<PermissionPattern>,
    pub inherits: BTreeSet<RoleName>,
}

/// The name of a role; it never changes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, min_length = 1, max_length = 64, pattern = "^[a-z0-9][a-z0-9._-]{0,63}$", example = "technician")]
pub struct RoleName(String);

/// A permission that a role grants; `*` stands for any resource or any action.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, min_length = 3, max_length = 128, pattern = r"^(\*|[a-z][a-z0-9-]*):(\*|[a-z][a-z0-9-]*)$", example = "logs:read")]
pub struct PermissionPattern(String);

/// A permission that is asked for: no wildcard.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, min_length = 3, max_length = 128, pattern = "^[a-z][a-z0-9-]*:[a-z][a-z0-9-]*$", example = "logs:read")]
pub struct PermissionName(String);

/// What a role is for, in a person's words.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, max_length = 500)]
pub struct Description(String);

impl TryFrom<String> for RoleName {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        const RULE: &str = "1 to 64 of a-z, 0-9, '.', '_' and '-', the first a letter or digit";
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let first = text.bytes().next().is_some_and(plain);
        let rest = text.bytes().all(|byte| plain(byte) || b"._-".contains(&byte));
        if first && rest && text.len() <= 64 { Ok(Self(text)) } else { Err(RULE) }
    }
}

impl TryFrom<String> for PermissionPattern {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        const RULE: &str = "resource:action, each lower case letters, digits and '-', or '*'";
        let good = text.len() <= 128
            && text.split_once(':').is_some_and(|(resource, action)| {
                [resource, action].into_iter().all(|segment| segment == "*" || is_segment(segment))
            });
        if good { Ok(Self(text)) } else { Err(RULE) }
    }
}

impl TryFrom<String> for PermissionName {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        const RULE: &str = "resource:action, each lower case letters, digits and '-'; no wildcard";
        let good = text.len() <= 128
            && text.split_once(':').is_some_and(|(resource, action)| is_segment(resource) && is_segment(action));
        if good { Ok(Self(text)) } else { Err(RULE) }
    }
}

impl TryFrom<String> for Description {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text.chars().count() <= 500 && !text.contains('\0') { Ok(Self(text)) } else { Err("at most 500 characters") }
    }
}

fn is_segment(text: &str) -> bool {
    text.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

impl RoleName {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl PermissionPattern {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Description {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl PermissionName {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Every pattern that covers this permission, so that a store can look them up by equality.
    pub fn covering(&self) -> Vec<String> {
        let (resource, action) = self.0.split_once(':').expect("checked when it was made");
        vec![self.0.clone(), format!("{resource}:*"), format!("*:{action}"), EVERYTHING.to_owned()]
    }
}

/// Which role inherits which, directly.
pub type Inheritance = BTreeMap<String, BTreeSet<String>>;

/// For each role that `start` includes, itself too, the shortest path to it, both ends included; among equally short ones
/// the first by name, so that the answer never depends on the order of rows.
pub fn closure(inheritance: &Inheritance, start: &str) -> BTreeMap<String, Vec<String>> {
    let mut paths = BTreeMap::from([(start.to_owned(), vec![start.to_owned()])]);
    let mut queue = VecDeque::from([start.to_owned()]);
    while let Some(role) = queue.pop_front() {
        for inherited in inheritance.get(&role).into_iter().flatten() {
            if !paths.contains_key(inherited) {
                let mut path = paths[&role].clone();
                path.push(inherited.clone());
                paths.insert(inherited.clone(), path);
                queue.push_back(inherited.clone());
            }
        }
    }
    paths
}

/// The circle that `role` is in, beginning and ending with it, if it is in one.
pub fn cycle(inheritance: &Inheritance, role: &str) -> Option<Vec<String>> {
    let direct = inheritance.get(role)?;
    if direct.contains(role) {
        return Some(vec![role.to_owned(), role.to_owned()]);
    }
    // The shortest way from a role that is inherited back to this one.
    let back = direct.iter().filter_map(|inherited| closure(inheritance, inherited).remove(role));
    let shortest = back.min_by_key(Vec::len)?;
    Some([vec![role.to_owned()], shortest].concat())
}

/// `role` and every role that includes it: those whose closure changes with it.
pub fn including(inheritance: &Inheritance, role: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::from([role.to_owned()]);
    let mut queue = vec![role.to_owned()];
    while let Some(current) = queue.pop() {
        for (heir, inherits) in inheritance {
            if inherits.contains(&current) && found.insert(heir.clone()) {
                queue.push(heir.clone());
            }
        }
    }
    found
}
