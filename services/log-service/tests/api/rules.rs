//! Rules without I/O, in tables.

mod event_line;
mod line;
mod merge;
mod redact;
mod terms;
