//! All tests of the gateway: real sockets, a real PostgreSQL and Redis, instances that are real servers.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod answers;
mod audit;
mod authentication;
mod balance_rules;
mod balancing;
mod beside;
mod caching;
mod choosing;
mod defence;
mod documents;
mod edge;
mod forwarding;
mod harness;
mod heads;
mod history;
mod hostile;
mod life;
mod limits;
mod matching;
mod metrics;
mod nginx;
mod process;
mod protocols;
mod quotas;
mod recipes;
mod rolling;
mod rules;
mod seeds;
mod signatures;
mod smuggling;
mod streams;
mod survival;
mod tls;
mod upstream_policies;
mod wire;
