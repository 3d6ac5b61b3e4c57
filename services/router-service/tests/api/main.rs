//! All tests of the gateway: real sockets, a real PostgreSQL and Redis, instances that are real servers.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod answers;
mod authentication;
mod balancing;
mod choosing;
mod documents;
mod forwarding;
mod harness;
mod heads;
mod history;
mod limits;
mod matching;
mod process;
mod rules;
mod seeds;
mod streams;
mod survival;

mod wire;
