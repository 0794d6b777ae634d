//! Which route answers: the clean path, patterns, and the table. See `CleanPath`, `Pattern`, `Table`.
mod clean_path;
mod host;
mod pattern;
mod table;

pub use clean_path::{CleanPath, PathError};
pub use host::{Host, HostError, HostPattern};
pub use pattern::{Methods, Pattern, PatternError};
pub use table::{Conflict, Match, NoMatch, Table};
