//! A route ready to run: its policy from the configuration, its target, its limiter and its counters.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderValue};

use crate::config;
use crate::endpoints::Endpoint;
use crate::files::Files;
use crate::header_alias::{fold, reads_as};
use crate::limits::Limiter;
use crate::metrics::RouteMetrics;
use crate::reply::Reply;
use crate::route::{CleanPath, Host, NoMatch, Table};
use crate::upstream::Upstream;

pub struct Route {
    pub policy: config::Route,
    pub target: Target,
    pub limiter: Option<Limiter>,
    pub metrics: RouteMetrics,
    pub edits: HeaderEdits,
}

/// All routes. Endpoints are looked at first, on every host: no route of the configuration, however specific its
/// host, can take the place of /auth/login.
pub struct Routes {
    endpoints: Table<Arc<Route>>,
    configured: Table<Arc<Route>>,
}

impl Routes {
    pub fn new(endpoints: Table<Arc<Route>>, configured: Table<Arc<Route>>) -> Self {
        Self { endpoints, configured }
    }

    /// # Errors
    /// [`NoMatch`]: 404 or 405.
    pub fn find<'a>(
        &'a self,
        host: &Host<'_>,
        path: &'a CleanPath,
        method: &str,
    ) -> Result<&'a Arc<Route>, NoMatch<'a>> {
        let found = match self.endpoints.find(host, path, method) {
            Err(NoMatch::NotFound) => self.configured.find(host, path, method),
            decided => decided,
        };
        found.map(|m| m.value)
    }
}

/// What answers a permitted request.
pub enum Target {
    Upstream(Arc<Upstream>),
    Files(Box<Files>),
    Echo,
    /// `respond` and `redirect`: the same response every time.
    Fixed(Reply),
    Endpoint(Endpoint),
}

/// Header edits with names and values parsed.
#[derive(Default)]
pub struct HeaderEdits {
    pub request: Edits,
    pub response: Edits,
}

#[derive(Default)]
pub struct Edits {
    pub set: Vec<(header::HeaderName, HeaderValue)>,
    pub remove: Vec<header::HeaderName>,
    /// Names of both, in folded form: a client's alias of a header we set or remove must not pass for it.
    folded: Vec<String>,
}

impl HeaderEdits {
    pub fn new(route: &config::Route) -> Self {
        Self { request: Edits::new(&route.request_headers), response: Edits::new(&route.response_headers) }
    }
}

impl Edits {
    /// The names and values were checked with the configuration; what does not parse is left out.
    fn new(edits: &config::HeaderEdits) -> Self {
        let set = edits.set.iter().filter_map(|(n, v)| Some((n.parse().ok()?, v.parse().ok()?))).collect();
        let names = edits.set.iter().map(|(n, _)| n).chain(&edits.remove);
        let folded = names.map(|n| n.bytes().map(|b| char::from(fold(b))).collect()).collect();
        Self { set, remove: edits.remove.iter().filter_map(|n| n.parse().ok()).collect(), folded }
    }

    /// Whether `name` reads as a header these edits set or remove.
    pub fn concern(&self, name: &str) -> bool {
        self.folded.iter().any(|f| reads_as(name, f))
    }
}

impl Target {
    /// A `respond` target.
    pub fn respond(status: u16, body: &str, content_type: &str) -> Self {
        let content_type = HeaderValue::from_str(content_type)
            .unwrap_or(HeaderValue::from_static("text/plain; charset=utf-8"));
        Self::Fixed(Reply::of(status, content_type, Bytes::copy_from_slice(body.as_bytes())))
    }

    /// A `redirect` target. `to` comes from the configuration alone, so no request can choose where it leads.
    pub fn redirect(status: u16, to: &str) -> Self {
        let reply = Reply::empty(status);
        Self::Fixed(match HeaderValue::from_str(to) {
            Ok(location) => reply.with(header::LOCATION, location),
            Err(_) => reply,
        })
    }

    /// What `explain` and the access log call it.
    pub fn describe(&self) -> String {
        match self {
            Self::Upstream(upstream) => format!("upstream {:?}", upstream.name),
            Self::Files(files) => files.describe(),
            Self::Echo => "echo".into(),
            Self::Fixed(reply) if (300..400).contains(&reply.status) => format!("redirect {}", reply.status),
            Self::Fixed(reply) => format!("respond {}", reply.status),
            Self::Endpoint(endpoint) => format!("endpoint {}", endpoint.name()),
        }
    }
}
