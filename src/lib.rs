//! Portcullis, a reverse-proxy auth gateway.
//!
//! # The way of a request
//!
//! ```text
//! connection -> CleanPath -> route -> authenticate -> authorize -> target
//! 400/408/431   400          404/405  401             403          upstream | endpoint | echo | respond | redirect
//! ```
//!
//! `gateway::Gateway` holds that sequence in one function. Each stage returns a value that proves it
//! happened (`CleanPath`, `&Route`, `Identity`, `Permitted`) and the next one takes it.
//!
//! # Layers
//!
//! * `config` turns `gateway.toml` into one checked, immutable value. It knows patterns, nothing that runs.
//! * `route`, `auth`, `endpoints`, `upstream` are the stages. They do not import each other, except
//!   `endpoints -> auth`.
//! * `tokens` and `store` know no HTTP.
//! * `server` is the composition root: the only module that names a concrete store or mailer.
//! * pingora appears only in `gateway server connection request_stream upstream reply body admin background` and where a
//!   header map is edited (`auth::headers`).
//!
//! `tests/layers.rs` enforces this by reading the `use crate::` lines.

pub mod access_log;
pub mod admin;
pub mod auth;
pub mod background;
pub mod body;
pub mod chunked;
pub mod claim_path;
pub mod cli;
pub mod clock;
pub mod config;
pub mod connection;
pub mod context;
pub mod edit;
pub mod endpoints;
pub mod fault;
pub mod gateway;
pub mod head;
pub mod header_alias;
pub mod import;
pub mod limits;
pub mod metrics;
pub mod passwords;
pub mod queue;
pub mod reply;
pub mod request_stream;
pub mod route;
pub mod server;
pub mod store;
pub mod target;
pub mod tokens;
pub mod upstream;
