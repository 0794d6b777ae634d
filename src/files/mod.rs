//! Files: objects of a store, below the caller's own prefix.
//!
//! ```text
//! Request -> Plan                                   -> Answer
//!            whose file, which, under what conditions   from the store
//! ```
//!
//! `plan` decides everything that can be decided without the store and makes every refusal of ours; `carry_out` talks to
//! it. `store` says what a store can do; `s3` and `directory` do it. Nothing here knows pingora's sessions: what comes
//! from the client is a [`store::Content`], what goes to it a [`store::Body`].

mod carry_out;
pub mod checksum;
pub mod conditions;
pub mod directory;
pub mod error;
mod headers;
pub mod key;
mod meter;
mod plan;
mod query;
pub mod range;
pub mod s3;
mod sharing;
pub mod store;
mod usage;

use std::sync::Arc;

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

use self::headers::RouteHeaders;
use self::meter::{Meters, Operation};
use self::store::{Body, FileStore};
use self::usage::Usages;
use crate::config;
use crate::metrics::Metrics;
use crate::reply::Reply;
use crate::tokens::{Claims, FileTokens, ShareGrant};

pub use plan::Plan;

/// A store under the name the configuration has for it. Routes share it.
pub struct Store {
    pub name: String,
    pub backend: Arc<dyn FileStore>,
    usages: Usages,
}

impl Store {
    pub fn new(name: &str, backend: Arc<dyn FileStore>) -> Self {
        Self { name: name.to_owned(), backend, usages: Usages::default() }
    }
}

/// A `files` target, ready to serve.
pub struct Files {
    policy: config::Files,
    /// The route's path as far as it is literal, without a final slash.
    root: String,
    headers: RouteHeaders,
    store: Arc<Store>,
    tokens: Arc<FileTokens>,
    meters: Meters,
}

/// What is known of a request once the route let it in.
pub struct Request<'r> {
    pub method: &'r str,
    pub headers: &'r HeaderMap,
    /// Canonical, as matched.
    pub path: &'r str,
    pub query: Option<&'r str>,
    pub caller: Caller<'r>,
}

#[derive(Clone, Copy)]
pub enum Caller<'r> {
    Anonymous,
    User(&'r Claims),
    Link(&'r ShareGrant),
}

pub enum Answer {
    Reply(Reply),
    Object(Box<Download>),
}

/// An object on its way out.
pub struct Download {
    pub status: u16,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Of the body that GET would have; none with 304.
    pub length: Option<u64>,
    /// Empty for HEAD and 304.
    pub body: Box<dyn Body>,
    pub operation: Operation,
}

impl Files {
    /// `root` is the literal part of the route's path.
    pub fn new(
        policy: &config::Files,
        root: &str,
        needs_token: bool,
        store: Arc<Store>,
        tokens: Arc<FileTokens>,
        metrics: &Metrics,
    ) -> Self {
        let root = root.strip_suffix('/').unwrap_or(root).to_owned();
        let meters = Meters::new(&store.name, metrics);
        let headers = RouteHeaders::new(&policy.cache_control, needs_token);
        Self { policy: policy.clone(), root, headers, store, tokens, meters }
    }

    pub fn store_name(&self) -> &str {
        &self.store.name
    }

    /// The token of the share link by which a request was made, where there are any.
    pub fn link_token(&self, method: &str, query: Option<&str>) -> Option<String> {
        self.policy.share.and_then(|_| query::link_token(method, query))
    }

    /// The part of a matched path that names the file: canonical, percent-encoded.
    fn rest<'p>(&self, path: &'p str) -> &'p str {
        let rest = path.strip_prefix(&self.root).unwrap_or_default();
        rest.strip_prefix('/').unwrap_or(rest)
    }

    /// For `explain`.
    pub fn describe(&self) -> String {
        format!("files of {:?} below {:?}", self.store.name, self.policy.prefix.as_str())
    }
}
