//! What is known about a request so far: one typed field a stage.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use prometheus::IntGauge;

use crate::access_log::Line;
use crate::auth::Permitted;
use crate::fault::Fault;
use crate::route::CleanPath;
use crate::target::Route;
use crate::upstream::Attempts;
use crate::upstream::forwarded::Origin;

pub struct Context {
    pub started: Instant,
    pub request_id: String,
    pub origin: Origin,
    /// The authority as the client wrote it, for X-Forwarded-Host.
    pub authority: Option<String>,
    pub path: Option<CleanPath>,
    pub route: Option<Arc<Route>>,
    pub permitted: Option<Permitted>,
    pub attempts: Attempts,
    pub upstream: Option<std::net::SocketAddr>,
    pub body_received: u64,
    pub fault: Option<Fault>,
    /// The upstream answered 101: what follows is a tunnel.
    pub upgraded: bool,
    pub in_flight: Option<InFlight>,
}

impl Context {
    pub fn new(request_id: String) -> Self {
        let nowhere = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        Self {
            started: Instant::now(),
            request_id,
            origin: Origin { peer: nowhere, client: nowhere, trusted: false, https: false },
            authority: None,
            path: None,
            route: None,
            permitted: None,
            attempts: Attempts::default(),
            upstream: None,
            body_received: 0,
            fault: None,
            upgraded: false,
            in_flight: None,
        }
    }
}

impl Context {
    /// The request's line in the access log.
    pub fn log_line<'a>(&'a self, method: &'a str, raw_path: &'a str, response: Answered) -> Line<'a> {
        let claims = self.permitted.as_ref().and_then(Permitted::identity).map(|i| &i.claims);
        Line {
            time: jiff::Timestamp::now().to_string(),
            request_id: &self.request_id,
            client: self.origin.client,
            method,
            host: self.authority.as_deref().unwrap_or_default(),
            // Without the query, which may hold secrets; a path that was refused is shown as it came.
            path: self.path.as_ref().map_or(raw_path, |p| p.as_str()),
            route: self.route.as_ref().map_or("-", |r| r.policy.path.as_str()),
            status: response.status,
            bytes_in: response.bytes_in,
            bytes_out: response.bytes_out,
            duration_ms: response.elapsed.as_secs_f64() * 1000.0,
            user: claims.map(|c| c.subject.as_str()),
            session: claims.and_then(|c| c.session).map(|s| s.to_string()),
            upstream: self.upstream,
            code: self.fault.as_ref().map(|f| f.code),
            cause: self.fault.as_ref().and_then(|f| f.cause.as_deref()),
        }
    }
}

/// How a request ended.
pub struct Answered {
    pub status: u16,
    /// Body bytes, not heads.
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub elapsed: Duration,
}

/// Counts a request for as long as it is handled, panics included.
pub struct InFlight(IntGauge);

impl InFlight {
    pub fn count(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Request ids: unique, not secret. 64 random bits a process, then a counter.
pub struct RequestIds {
    process: u64,
    next: AtomicU64,
}

impl RequestIds {
    pub fn new() -> Self {
        let (high, _) = uuid::Uuid::new_v4().as_u64_pair();
        Self { process: high, next: AtomicU64::new(0) }
    }

    pub fn next(&self) -> String {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let mut id = String::with_capacity(32);
        let _ = write!(id, "{:016x}{n:016x}", self.process);
        id
    }
}

impl Default for RequestIds {
    fn default() -> Self {
        Self::new()
    }
}
