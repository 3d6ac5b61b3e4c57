//! The tests of log-service, all in one program: rules, HTTP with the real stores, and faults.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod agreement;
mod brokers;
mod degraded;
mod faults;
mod federation;
mod harness;
mod ingest;
mod input;
mod language;
mod otlp;
mod retention;
mod rules;
mod search;
mod tail;
