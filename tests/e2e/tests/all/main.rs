//! Kronos end to end: the seven real processes over real stores, entered only through the gateway. One binary, so that it
//! is linked once; each test has a platform of its own.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod asynchronous;
mod audit;
mod bad_input;
mod benchmark;
mod faults;
mod journey;
mod oauth_clients;
mod platform;
mod privacy;
mod python;
mod recipes;
mod scim;
