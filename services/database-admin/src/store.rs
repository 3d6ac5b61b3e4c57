//! Every SQL statement of database-admin that is its own; a caller's is run by `reader`, and by nothing else.

pub mod audit;
pub mod backups;
pub mod catalogue;
pub mod parameters;
mod privacy;
pub mod reader;
pub mod status;
