//! The tests of messaging-service, all in one program: rules, HTTP with the real stores and brokers, and faults.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod away;
mod broadcasts;
mod channels;
mod chaos;
mod deliveries;
mod documents;
mod events;
mod failures;
mod faults;
mod harness;
mod input;
mod instances;
mod publishing;
mod queues;
mod requests;
mod resuming;
mod rights;
mod rules;
mod schedules;
mod sealing;
mod settings;
mod standstill;
mod streams;
mod tls;
mod topics;
mod websocket;
