//! What a user may do, as user-service said it: the answer at login, and the judgement while user-service is away.

use chrono::{DateTime, Utc};
use kronos_common::identity::{permission_matches, resource_matches};
use serde::{Deserialize, Serialize};
use sqlx::types::Json;
use utoipa::ToSchema;
use uuid::Uuid;

/// user-service's answer to `GET /users/{id}/grants`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Grants {
    pub user_id: Uuid,
    pub username: String,
    #[serde(default)]
    pub disabled: bool,
    /// Names of roles, inherited ones too.
    pub roles: Vec<String>,
    /// Permissions that hold everywhere.
    pub permissions: Vec<String>,
    /// Permissions tied to a resource, or to a time.
    #[serde(default)]
    pub scoped: Vec<ScopedGrant>,
    pub epoch: i64,
    /// When the first of these rights ends by itself.
    #[serde(default)]
    pub valid_until: Option<DateTime<Utc>>,
}

/// A permission on one resource, perhaps until a time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScopedGrant {
    pub permission: String,
    #[serde(default)]
    pub resource: Option<String>,
    #[serde(default)]
    pub expires_at: Option<DateTime<Utc>>,
}

/// A stored [`Grants`], with when it was true.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct KnownGrants {
    pub user_id: Uuid,
    pub username: String,
    pub disabled: bool,
    pub roles: Vec<String>,
    pub permissions: Vec<String>,
    pub scoped: Json<Vec<ScopedGrant>>,
    pub epoch: i64,
    pub newest_epoch: i64,
    pub valid_until: Option<DateTime<Utc>>,
    pub fetched_at: DateTime<Utc>,
}

impl KnownGrants {
    /// Whether a change is known of that is not in here.
    pub fn is_outdated(&self, now: DateTime<Utc>) -> bool {
        self.newest_epoch > self.epoch || self.valid_until.is_some_and(|end| end <= now)
    }
}

impl From<KnownGrants> for Grants {
    fn from(known: KnownGrants) -> Self {
        Self {
            user_id: known.user_id,
            username: known.username,
            disabled: known.disabled,
            roles: known.roles,
            permissions: known.permissions,
            scoped: known.scoped.0,
            epoch: known.epoch,
            valid_until: known.valid_until,
        }
    }
}

/// May they, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    pub allowed: bool,
    /// Sentences for a person, the deciding one first.
    pub why: Vec<String>,
}

impl Decision {
    /// A yes.
    pub fn allow(why: impl Into<String>) -> Self {
        Self { allowed: true, why: vec![why.into()] }
    }

    /// A no.
    pub fn deny(why: impl Into<String>) -> Self {
        Self { allowed: false, why: vec![why.into()] }
    }

    /// Adds a sentence.
    #[must_use]
    pub fn noting(mut self, why: impl Into<String>) -> Self {
        self.why.push(why.into());
        self
    }
}

/// Judges by what is held everywhere.
pub fn judge_global(holder: &str, permissions: &[String], wanted: &str) -> Decision {
    match permissions.iter().find(|granted| permission_matches(granted, wanted)) {
        Some(granted) if granted == wanted => Decision::allow(format!("{holder} holds {granted}")),
        Some(granted) => Decision::allow(format!("{holder} holds {granted}, which covers {wanted}")),
        None => Decision::deny(format!("{holder} holds nothing that covers {wanted}")),
    }
}

/// Judges by what was last known of a user, because user-service does not answer.
pub fn judge_last_known(
    known: Option<&KnownGrants>,
    wanted: &str,
    resource: Option<&str>,
    now: DateTime<Utc>,
) -> Decision {
    const AWAY: &str = "user-service does not answer";
    let Some(known) = known else {
        return Decision::deny(format!("{AWAY}, and nothing is known of this user"));
    };
    let basis = format!("{AWAY}: judged by what was known at {}", known.fetched_at.to_rfc3339());
    if known.disabled {
        return Decision::deny("the user is disabled").noting(basis);
    }
    if known.is_outdated(now) {
        let why = format!("the user's rights have changed since {}", known.fetched_at.to_rfc3339());
        return Decision::deny(why).noting(format!("{AWAY}, so the new ones are not known"));
    }
    let global = judge_global("the user", &known.permissions, wanted);
    if global.allowed {
        return global.noting(basis);
    }
    let scoped = known.scoped.iter().find(|grant| {
        permission_matches(&grant.permission, wanted)
            && covers(grant.resource.as_deref(), resource)
            && grant.expires_at.is_none_or(|end| now < end)
    });
    match (scoped, resource) {
        (Some(grant), Some(resource)) => {
            Decision::allow(format!("the user holds {} on {resource}", grant.permission)).noting(basis)
        }
        (Some(grant), None) => Decision::allow(format!("the user holds {}", grant.permission)).noting(basis),
        (None, Some(resource)) => {
            Decision::deny(format!("the user holds nothing that covers {wanted} on {resource}")).noting(basis)
        }
        (None, None) => global.noting(basis),
    }
}

/// Whether a right tied to `pattern` holds on `resource`: the same one, or below it if the pattern ends with `/*`.
fn covers(pattern: Option<&str>, resource: Option<&str>) -> bool {
    match (pattern, resource) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(pattern), Some(resource)) => resource_matches(pattern, resource),
    }
}
