//! What a person loses and gains when a role changes: no grant is lost that another one covers.

use chrono::{DateTime, Utc};
use kronos_common::identity::{permission_matches, resource_matches};
use serde::Serialize;
use utoipa::ToSchema;

use super::{GrantPath, Holding, Person, effective};

/// What becomes of one person's rights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Difference {
    /// What they have now and would have no more.
    pub loses: Vec<GrantPath>,
    /// What they would have and have not now.
    pub gains: Vec<GrantPath>,
}

/// Compares what a person holds at `now` with what they would hold.
pub fn difference(person: &Person, before: &[Holding], after: &[Holding], now: DateTime<Utc>) -> Difference {
    let (before, after) = (effective(person, before, now), effective(person, after, now));
    let beyond = |these: &[GrantPath], those: &[GrantPath]| {
        let mut found: Vec<GrantPath> = Vec::new();
        for grant in these {
            let known = found.iter().any(|found| {
                (&found.permission, &found.resource, found.expires_at)
                    == (&grant.permission, &grant.resource, grant.expires_at)
            });
            if !known && !those.iter().any(|other| covers(other, grant)) {
                found.push(grant.clone());
            }
        }
        found
    };
    Difference { loses: beyond(&before, &after), gains: beyond(&after, &before) }
}

/// Whether one grant alone gives all that the other gives, for as long.
fn covers(wide: &GrantPath, narrow: &GrantPath) -> bool {
    let place = match (&wide.resource, &narrow.resource) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(wide), Some(narrow)) => wide == narrow || resource_matches(wide, narrow),
    };
    let time = match (wide.expires_at, narrow.expires_at) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(wide), Some(narrow)) => wide >= narrow,
    };
    place && time && permission_matches(&wide.permission, &narrow.permission)
}
