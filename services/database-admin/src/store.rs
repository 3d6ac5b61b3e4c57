//! Every SQL statement of database-admin that is its own; a caller's is run by `reader`, and by nothing else.

pub mod audit;
pub mod backups;
pub mod catalogue;
pub mod parameters;
pub mod reader;
pub mod status;
