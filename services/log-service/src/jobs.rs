//! The loops of log-service: group commit, spill replay, indexing, following for live tails, retention.

pub mod indexer;
pub mod retention;
pub mod spill_replay;
pub mod tail;
pub mod writer;
