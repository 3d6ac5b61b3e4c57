//! May they, and why: the answer, and the judgement of what auth-service knows itself: clients, and users while user-service
//! is away.

use chrono::{DateTime, Utc};
use kronos_common::identity::{permission_matches, resource_matches};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    clients::Client,
    grants::{KnownGrants, ScopedGrant},
};

/// How many near grants are told.
const MOST_NEAR: usize = 5;

/// May they, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    pub allowed: bool,
    /// Sentences for a person, the deciding one first.
    pub why: Vec<String>,
    /// Of a yes: what grants it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<GrantPath>,
    /// Of a no: what is missing, and what comes nearest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<Missing>,
}

/// How somebody comes by a permission.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrantPath {
    /// From the assigned role to the one that grants; empty for a client, and while user-service is away.
    pub path: Vec<String>,
    /// As it is granted; it may have wildcards.
    pub permission: String,
    /// Null: everywhere.
    pub resource: Option<String>,
    /// Null: without end.
    pub expires_at: Option<DateTime<Utc>>,
}

/// What would have made it a yes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Missing {
    pub permission: String,
    pub resource: Option<String>,
    /// What is held that comes nearest, the nearest first.
    pub nearest: Vec<NearGrant>,
    /// Roles that grant the permission.
    pub roles: Vec<String>,
}

/// A grant that is not the one asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NearGrant {
    pub because: Shortfall,
    #[serde(flatten)]
    pub grant: GrantPath,
}

/// Why a grant does not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Shortfall {
    /// The permission is held, elsewhere.
    OtherResource,
    /// It was held, and has ended.
    Ended,
    /// Another action on the same kind of thing is held.
    OtherAction,
}

impl GrantPath {
    fn everywhere(permission: &str) -> Self {
        Self { path: Vec::new(), permission: permission.to_owned(), resource: None, expires_at: None }
    }
}

impl Decision {
    /// A yes.
    pub fn allow(why: impl Into<String>) -> Self {
        Self { allowed: true, why: vec![why.into()], grant: None, missing: None }
    }

    /// A no.
    pub fn deny(why: impl Into<String>) -> Self {
        Self { allowed: false, why: vec![why.into()], grant: None, missing: None }
    }

    /// Adds a sentence.
    #[must_use]
    pub fn noting(mut self, why: impl Into<String>) -> Self {
        self.why.push(why.into());
        self
    }
}

/// Judges by what is held everywhere.
fn judge_global(holder: &str, permissions: &[String], wanted: &str) -> Decision {
    if let Some(granted) = permissions.iter().find(|granted| permission_matches(granted, wanted)) {
        let covers = if granted == wanted { String::new() } else { format!(", which covers {wanted}") };
        let allowed = Decision::allow(format!("{holder} holds {granted}{covers}"));
        return Decision { grant: Some(GrantPath::everywhere(granted)), ..allowed };
    }
    let kind = wanted.split(':').next();
    let near = permissions.iter().filter(|held| held.split(':').next() == kind).take(MOST_NEAR);
    let nearest: Vec<NearGrant> =
        near.map(|held| NearGrant { because: Shortfall::OtherAction, grant: GrantPath::everywhere(held) }).collect();
    let mut denied = Decision::deny(format!("{holder} holds nothing that covers {wanted}"));
    if !nearest.is_empty() {
        let held: Vec<&str> = nearest.iter().map(|near| near.grant.permission.as_str()).collect();
        denied.why.push(format!("the nearest that {holder} holds: {}", held.join(", ")));
    }
    let missing = Missing { permission: wanted.to_owned(), resource: None, nearest, roles: Vec::new() };
    Decision { missing: Some(missing), ..denied }
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
    judge("the user", (&known.permissions, &known.scoped), (wanted, resource), now).noting(basis)
}

/// Judges a client by what it holds.
pub fn judge_client(client: &Client, wanted: &str, resource: Option<&str>, now: DateTime<Utc>) -> Decision {
    judge("the client", (&client.permissions, &client.scoped_permissions), (wanted, resource), now)
}

/// Judges by what is held everywhere, then by what is held somewhere.
fn judge(
    holder: &str,
    (permissions, scoped): (&[String], &[ScopedGrant]),
    (wanted, resource): (&str, Option<&str>),
    now: DateTime<Utc>,
) -> Decision {
    let mut decision = judge_global(holder, permissions, wanted);
    if decision.allowed {
        return decision;
    }
    let held = |because, grant: &ScopedGrant| NearGrant {
        because,
        grant: GrantPath {
            path: Vec::new(),
            permission: grant.permission.clone(),
            resource: grant.resource.clone(),
            expires_at: grant.expires_at,
        },
    };
    let granting = scoped.iter().find(|grant| {
        permission_matches(&grant.permission, wanted)
            && covers(grant.resource.as_deref(), resource)
            && grant.expires_at.is_none_or(|end| now < end)
    });
    if let Some(grant) = granting {
        let place = resource.map(|resource| format!(" on {resource}")).unwrap_or_default();
        let allowed = Decision::allow(format!("{holder} holds {}{place}", grant.permission));
        return Decision { grant: Some(held(Shortfall::OtherResource, grant).grant), ..allowed };
    }
    if let Some(resource) = resource {
        decision.why[0] = format!("{holder} holds nothing that covers {wanted} on {resource}");
    }
    if let Some(missing) = &mut decision.missing {
        missing.resource = resource.map(str::to_owned);
        let elsewhere = scoped.iter().filter(|grant| permission_matches(&grant.permission, wanted)).map(|grant| {
            let ended = grant.expires_at.is_some_and(|end| end <= now);
            held(if ended { Shortfall::Ended } else { Shortfall::OtherResource }, grant)
        });
        missing.nearest = elsewhere.chain(std::mem::take(&mut missing.nearest)).take(MOST_NEAR).collect();
    }
    decision
}

/// Whether a right tied to `pattern` holds on `resource`: the same one, or below it if the pattern ends with `/*`.
fn covers(pattern: Option<&str>, resource: Option<&str>) -> bool {
    match (pattern, resource) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(pattern), Some(resource)) => resource_matches(pattern, resource),
    }
}
