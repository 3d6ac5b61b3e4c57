//! All tests of cache-service: a real Redis, a real server on a free port.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod entries;
mod harness;
mod outage;
mod refusals;
mod rules;
mod tags;
