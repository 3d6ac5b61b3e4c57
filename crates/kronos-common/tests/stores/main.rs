//! The stores and brokers of kronos-common against real servers: what survives a fault, what is done once, what is bounded.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod events;
mod idempotency;
mod outbox;
mod postgres;
mod rabbit;
mod redis;
mod revocation;
