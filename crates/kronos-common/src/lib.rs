//! What at least two services of Kronos need: configuration, life, problems, identity, stores, events. It knows no
//! service and holds no business rule.
#![warn(missing_docs)]

mod cli;
pub mod config;
pub mod etag;
pub mod event;
pub mod events;
pub mod extract;
pub mod http_stack;
pub mod idempotency;
pub mod identity;
pub mod kafka;
pub mod leftover;
pub mod log_shipping;
pub mod name;
mod operations;
pub mod outbox;
pub mod page;
pub mod postgres;
pub mod privacy;
pub mod problem;
pub mod rabbit;
pub mod redis;
pub mod request_lines;
pub mod schema;
pub mod seal;
pub mod service;
pub mod telemetry;
pub mod trace;
