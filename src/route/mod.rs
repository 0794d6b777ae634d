//! Which route answers: the clean path, patterns, and the table. See [`CleanPath`], [`Pattern`], [`Table`].
//!
//! Knows neither headers nor targets: a table maps host, path and method to a value of any type.
mod clean_path;
mod host;
mod methods;
mod octets;
mod pattern;
mod table;

pub use clean_path::{CleanPath, PathError, split_absolute};
pub use host::{Host, HostError, HostPattern};
pub use methods::Methods;
pub use pattern::{Pattern, PatternError, Segment};
pub use table::{Conflict, Match, NoMatch, Table};
