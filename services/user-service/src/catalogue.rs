//! The permissions that there are: every service declares its own when it starts, Kronos's like all others. A role grants only what is declared, so that a misspelt permission is found when it is
//! written and not when it is missed.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::roles::{Description, PermissionName, RoleName};

/// A permission that a service knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema, sqlx::FromRow)]
#[serde(rename_all = "camelCase")]
pub struct Permission {
    pub name: String,
    /// Who declared it.
    pub service: String,
    pub description: String,
    pub declared_at: DateTime<Utc>,
}

/// A permission as its service declares it.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeclaredPermission {
    /// `resource:action`.
    pub name: PermissionName,
    /// What it allows.
    #[serde(default)]
    pub description: Description,
}

/// Who declares; the id of an OAuth client.
pub type ServiceName = RoleName;

/// What this service asks for, and what Hypérion, which declares nothing itself: service, permission, what it allows.
pub const BUILT_IN: [(&str, &str, &str); 9] = [
    ("user-service", "grants:read", "See what anybody may do"),
    ("user-service", "roles:read", "See roles and permissions"),
    ("user-service", "roles:write", "Make, change and remove roles, and declare permissions"),
    ("user-service", "users:manage", "Rule what is known of people: the schema, all that is held on somebody, erasure"),
    ("user-service", "users:read", "See people and groups"),
    ("user-service", "users:write", "Make, change and remove people and groups, and give them roles"),
    ("hyperion", "robots:repair", "Repair a robot"),
    ("hyperion", "robots:see", "See a robot and its state"),
    ("hyperion", "robots:use", "Use a robot"),
];

/// What is wrong with a pattern that covers nothing of what is declared: a sentence, with what may have been meant.
pub fn unknown(pattern: &str, declared: &[String]) -> Option<String> {
    let covers = |name: &String| kronos_common::identity::permission_matches(pattern, name);
    if pattern == crate::roles::EVERYTHING || declared.iter().any(covers) {
        return None;
    }
    let (kind, action) = pattern.split_once(':').unwrap_or((pattern, ""));
    let related = |name: &&String| {
        name.split_once(':').is_some_and(|(other_kind, other_action)| {
            close(kind, other_kind) && (action == "*" || kind == other_kind || close(action, other_action))
        })
    };
    let near: Vec<&str> = declared.iter().filter(related).map(String::as_str).take(5).collect();
    let hint = if near.is_empty() { String::new() } else { format!("; there are {}", near.join(", ")) };
    Some(format!("no service has declared {pattern}{hint}"))
}

/// Equal but for a plural or one letter.
fn close(a: &str, b: &str) -> bool {
    let prefix = a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
    a.len().max(b.len()) - prefix <= 1
        || a.bytes().rev().zip(b.bytes().rev()).take_while(|(a, b)| a == b).count() + prefix + 1 >= a.len().max(b.len())
}
