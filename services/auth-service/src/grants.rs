//! What a user may do, as user-service said it.

use chrono::{DateTime, Utc};
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

/// A permission on one resource, or all below one, perhaps until a time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
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
