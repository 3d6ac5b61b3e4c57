//! All tests of database-admin: real stores, a real server on a free port.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod attacks;
mod backups;
mod harness;
mod input;
mod migrations;
mod query;
mod roles;
mod rules;
mod status;
