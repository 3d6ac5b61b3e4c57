//! What at least two services of Kronos need: configuration, life, problems, identity, stores, events. It knows no
//! service and holds no business rule.
#![warn(missing_docs)]

mod cli;
pub mod config;
pub mod extract;
pub mod http_stack;
pub mod identity;
pub mod log_shipping;
mod operations;
pub mod problem;
pub mod schema;
pub mod service;
pub mod telemetry;
pub mod trace;
