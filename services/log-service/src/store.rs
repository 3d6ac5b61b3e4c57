//! Where lines are: PostgreSQL (the record), Elasticsearch (the index), the spill file (while PostgreSQL is away), and
//! other systems that are asked. No HTTP towards callers.

pub mod elastic;
pub mod federated;
pub mod index_state;
pub mod lines;
pub mod partitions;
mod privacy;
pub mod remote;
pub mod search;
pub mod sources;
pub mod spill;

use chrono::{DateTime, Utc};

use crate::query::Filter;

/// Which end comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Newest,
    Oldest,
}

/// A search in one of our own stores: lines beyond a place, in order.
#[derive(Debug, Clone)]
pub struct Search {
    pub filter: Filter,
    pub order: Order,
    pub after: Option<After>,
    pub limit: usize,
}

/// Where the search goes on: beyond this time and, at this very time, beyond this seq.
#[derive(Debug, Clone, Copy)]
pub struct After {
    pub occurred_at: DateTime<Utc>,
    pub seq: i64,
}
