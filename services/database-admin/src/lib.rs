//! database-admin: the database's condition, restricted queries, backups, and the migrations of all seven schemas.
//! It is the only service that sees more than its own schema, through grants that are explicit.

pub mod migrate;
