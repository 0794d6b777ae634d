//! Portcullis, a reverse-proxy auth gateway.
//!
//! # The way of a request
//!
//! ```text
//! connection -> CleanPath -> route -> authenticate -> authorize -> target
//! 400/408/431   400          404/405  401             403          upstream | files | endpoint | echo | respond | redirect
//! ```
//!
//! `gateway::Gateway` holds that sequence in one function. Each stage returns a value that proves it
//! happened (`CleanPath`, `&Route`, `Identity`, `Permitted`) and the next one takes it.
//!
//! # The map
//!
//! * `connection`, `request_stream`, `head`, `chunked`: HTTP/1 framing, checked byte by byte before pingora parses it.
//! * `gateway`: the stages in order; `context`, what is known so far; `target`, a route ready to run; `edit`, changes to
//!   the requests and responses that pass; `reply`, `body`, `fault`: answers of our own.
//! * `route`: `CleanPath`, patterns, the table. `auth`: credentials, identity, policy, identity headers.
//!   `upstream`: servers in turn, X-Forwarded-*, the echo server. `endpoints`: login, refresh and the rest. `files`: whose
//!   object is meant (`plan`), and the stores that have it, S3 and a folder; `key_prefix`, the caller's part of a store.
//! * `tokens`: keys, verification and its cache, revocations, refresh tokens. `store`: users and sessions, the rotation's
//!   decision. `passwords`, `limits`, `import`, `queue`, `digest`, `addresses`, `percent`: what their names say.
//! * `config`: `gateway.toml`, read, checked, explained. `cli`, `server`: from the command line to running services;
//!   `background`, `admin`, `metrics`, `observed` (stores with a meter), `access_log` beside them.
//!
//! # Layers
//!
//! * `config` turns `gateway.toml` into one checked, immutable value. It knows patterns, nothing that runs.
//! * `route`, `auth`, `endpoints`, `files`, `upstream` are the stages. They do not import each other, except that `endpoints`
//!   takes `auth`'s identity and `route`'s path.
//! * `tokens` and `store` know no HTTP.
//! * `server` is the composition root; its `stores` and `file_stores` are the only modules that name a concrete store.
//! * pingora appears only in `gateway server connection request_stream upstream reply body admin background`, in the
//!   exchange with S3 (`files::s3`), and where a header map is edited (`edit`, `auth::headers`).
//!
//! `tests/layers.rs` enforces this by reading the `use crate::` lines.

pub mod access_log;
pub mod addresses;
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
pub mod digest;
pub mod edit;
pub mod endpoints;
pub mod fault;
pub mod files;
pub mod gateway;
pub mod head;
pub mod header_alias;
pub mod import;
pub mod key_prefix;
pub mod limits;
pub mod metrics;
pub mod observed;
pub mod passwords;
pub mod percent;
pub mod queue;
pub mod reply;
pub mod request_stream;
pub mod route;
pub mod server;
pub mod store;
pub mod target;
pub mod tokens;
pub mod upstream;
