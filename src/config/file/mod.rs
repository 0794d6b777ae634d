//! `gateway.toml` as it is written: a serde mirror, keys and their defaults in the file's own notation.
//!
//! Every value knows where it stands, so that `check` can point at it. Nothing is interpreted here: a
//! default is the same text a user would write, read by the same checks. The doc comments are what
//! editors show while somebody types; they reach them through the JSON Schema.

mod files;
mod identity;
mod stores;
mod traffic;
mod written;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(super) use files::{FileStore, Files, Quota};
pub(super) use identity::{
    Claims, Endpoints, Identity, Issuer, Mail, OneOrMany, Passwords, Throttle, Tokens,
};
pub(super) use stores::{Fields, Sessions, Users};
pub(super) use traffic::{HeaderEdits, Redirect, Respond, Route, Timeouts, Upstream};
pub(super) use written::{Later, Listen, ListenTable, Section, Span, Written};

/// Keys that are known, and refused until a later version has what they ask for: an ignored `cors` or
/// `health` would be a lie. No one is told to write them. Each with the outermost table it belongs to.
const LATER_KEYS: [(&str, &str); 5] =
    [("routes", "cors"), ("upstreams", "health"), ("mail", "from"), ("mail", "api_key"), ("mail", "url")];

/// Whether `key` of `table`, a dotted name, is one of a later version.
pub(super) fn is_later(table: &str, key: &str) -> bool {
    let outermost = table.split('.').next().unwrap_or_default();
    LATER_KEYS.contains(&(outermost, key))
}

/// The configuration of the Portcullis gateway, usually `gateway.toml`.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(title = "gateway.toml")]
pub(super) struct File {
    /// Where the gateway listens and how much it takes from a client.
    pub server: Section<Server>,
    /// What is written to standard output and standard error.
    pub log: Section<Log>,
    /// The tokens the gateway issues.
    pub tokens: Section<Tokens>,
    /// Issuers elsewhere whose access tokens are accepted beside our own.
    pub issuers: Vec<Section<Issuer>>,
    /// Where users are kept.
    pub users: Section<Users>,
    /// Where sessions (logins) are kept.
    pub sessions: Section<Sessions>,
    /// How passwords are hashed.
    pub passwords: Section<Passwords>,
    /// Limits on failed logins.
    pub throttle: Section<Throttle>,
    /// How mail is sent.
    pub mail: Section<Mail>,
    /// The gateway's own endpoints: login, refresh and so on.
    pub endpoints: Section<Endpoints>,
    /// What a backend is told about the caller.
    pub identity: Section<Identity>,
    /// Groups of servers, by name.
    pub upstreams: BTreeMap<Written<String>, Section<Upstream>>,
    /// Where the files of file routes lie, by name.
    pub file_stores: BTreeMap<Written<String>, Section<FileStore>>,
    /// Which request goes where, and who may make it. The most specific route answers, whatever the order.
    pub routes: Vec<Section<Route>>,
}

#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Server {
    /// Addresses clients connect to: `"0.0.0.0:8080"`, or a table with `address`, `tls` and `h2`.
    pub listen: Written<Vec<Written<Listen>>>,
    /// Address of `/metrics`, `/livez` and `/readyz`; `"off"` for none. Keep it away from clients.
    pub admin: Written<String>,
    /// Worker threads, 0 to 1024; 0 is one per core.
    #[schemars(range(min = 0, max = 1024))]
    pub threads: Written<i64>,
    /// Networks whose `X-Forwarded-*` is believed, such as `"10.0.0.0/8"`; from all others it is replaced.
    pub trusted_proxies: Vec<Written<String>>,
    /// Folder of keys, secrets and the embedded database, relative to the configuration file.
    pub data_dir: Written<String>,
    /// Time running requests get to finish after SIGTERM, 0s to 1h.
    pub shutdown_grace: Written<String>,
    /// What is taken from a client at most.
    pub limits: Section<Limits>,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: Written::from(vec![Written::from(Listen::Address("0.0.0.0:8080".to_owned()))]),
            admin: "127.0.0.1:9901".into(),
            threads: 0.into(),
            trusted_proxies: Vec::new(),
            data_dir: "data".into(),
            shutdown_grace: "30s".into(),
            limits: Section::default(),
        }
    }
}

#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Limits {
    /// Request line and header section together, 1KiB to 1023KiB; beyond: 431.
    pub header_bytes: Written<String>,
    /// Header fields of a request, 1 to 256; beyond: 431.
    #[schemars(range(min = 1, max = 256))]
    pub header_count: Written<i64>,
    /// Request body, up to 1024GiB; beyond: 413. A route's `max_body` overrides it.
    pub body: Written<String>,
    /// From the first byte of a request's head to its last, 100ms to 5m; beyond: 408.
    pub header_timeout: Written<String>,
    /// Longest wait for more of a request body, 100ms to 1h; beyond: 408.
    pub body_timeout: Written<String>,
    /// A keep-alive connection without a request is closed after this, 1s to 1h.
    pub idle_timeout: Written<String>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_bytes: "32KiB".into(),
            header_count: 100.into(),
            body: "10MiB".into(),
            header_timeout: "10s".into(),
            body_timeout: "30s".into(),
            idle_timeout: "60s".into(),
        }
    }
}

#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Log {
    /// One JSON line a request, on standard output.
    pub access: Written<bool>,
    /// How much else is logged: `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,portcullis=debug`.
    pub level: Written<String>,
}

impl Default for Log {
    fn default() -> Self {
        Self { access: true.into(), level: "info".into() }
    }
}
