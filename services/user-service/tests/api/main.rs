//! user-service through its API, on real stores; auth-service is a small server that plays its part of the contract.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod access;
mod administrators;
mod assignments;
mod attributes;
mod epochs;
mod filters;
mod groups;
mod harness;
mod history;
mod imports;
mod input;
mod model;
mod operations;
mod permissions;
mod privacy;
mod roles;
mod rules;
mod scim;
mod scim_changes;
mod users;
