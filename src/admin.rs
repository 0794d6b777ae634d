//! The admin listener: /metrics, /livez, /readyz. Never on a public address.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use http::{Method, Response, StatusCode, header};
use pingora_core::apps::http_app::ServeHttp;
use pingora_core::protocols::http::ServerSession;
use serde_json::json;
use tokio::time::timeout;

use crate::auth::Authenticator;
use crate::clock::Timestamp;
use crate::fault::Fault;
use crate::files::Store;
use crate::metrics::Metrics;
use crate::store::{Sessions, Users};
use crate::tokens::Revocations;
use crate::upstream::Upstream;

pub struct Admin {
    pub metrics: Arc<Metrics>,
    pub authenticator: Arc<Authenticator>,
    pub revocations: Arc<Revocations>,
    pub users: Arc<dyn Users>,
    pub sessions: Arc<dyn Sessions>,
    pub upstreams: Vec<Arc<Upstream>>,
    pub file_stores: Vec<Arc<Store>>,
    /// Set when the process has been told to stop.
    pub draining: Arc<AtomicBool>,
}

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let request = session.req_header();
        if !matches!(request.method, Method::GET | Method::HEAD) {
            return answer(StatusCode::METHOD_NOT_ALLOWED, "text/plain", b"GET only\n".to_vec());
        }
        match request.uri.path() {
            "/metrics" => self.metrics(),
            "/livez" => answer(StatusCode::OK, "text/plain", b"alive\n".to_vec()),
            "/readyz" => self.ready(request.uri.query().unwrap_or_default()).await,
            _ => answer(StatusCode::NOT_FOUND, "text/plain", b"/metrics /livez /readyz\n".to_vec()),
        }
    }
}

impl Admin {
    fn metrics(&self) -> Response<Vec<u8>> {
        let (hits, misses, bytes) = self.authenticator.cache_statistics();
        let gauge = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        self.metrics.token_cache_hits.set(gauge(hits));
        self.metrics.token_cache_misses.set(gauge(misses));
        self.metrics.token_cache_bytes.set(gauge(bytes));
        self.metrics.revocations.set(gauge(self.revocations.len() as u64));
        self.metrics.revocation_lag.set(self.revocations.lag(Timestamp::now()).as_secs_f64());
        answer(StatusCode::OK, "text/plain; version=0.0.4", self.metrics.render())
    }

    /// 200 while everything works; 503 with the parts that do not. The stores are really asked.
    ///
    /// `exclude=users`, `exclude=sessions`, `exclude=file_stores` in `query`: without this part, which is reported all the same. A load balancer that
    /// took every gateway out because Redis is down would end the requests that do not need it.
    async fn ready(&self, query: &str) -> Response<Vec<u8>> {
        let now = Timestamp::now();
        let (users, sessions, file_stores) =
            tokio::join!(self.users.by_id(""), self.sessions.check(), self.file_stores());
        let users = state(users.map(drop).map_err(|e| e.to_string()));
        let sessions = state(sessions.map(drop).map_err(|e| e.to_string()));
        let revocations = state(self.hearing(now));
        let draining = self.draining.load(Ordering::Acquire);
        let unresolved: Vec<&str> =
            self.upstreams.iter().filter(|u| !u.is_resolved()).map(|u| u.name.as_str()).collect();
        let excluded = |part: &str| query.split('&').any(|pair| pair.strip_prefix("exclude=") == Some(part));
        let ready = !draining
            && revocations == OK
            && (users == OK || excluded("users"))
            && (sessions == OK || excluded("sessions"))
            && (file_stores.values().all(|state| state == OK) || excluded("file_stores"));
        let report = json!({
            "ready": ready, "users": users, "sessions": sessions, "revocations": revocations, "draining": draining,
            "file_stores": file_stores, "unresolved_upstreams": unresolved,
        });
        let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        answer(status, "application/json", format!("{report}\n").into_bytes())
    }

    /// The state of each file store, all asked at once.
    async fn file_stores(&self) -> BTreeMap<&str, String> {
        let asked = self.file_stores.iter().map(|store| async move {
            let outcome = timeout(PATIENCE, store.backend.check()).await;
            let outcome = match outcome {
                Ok(outcome) => outcome.map_err(|e| Fault::from(e).cause.unwrap_or_default()),
                Err(_) => Err(format!("no answer within {PATIENCE:?}")),
            };
            (store.name.as_str(), state(outcome))
        });
        join_all(asked).await.into_iter().collect()
    }

    fn hearing(&self, now: Timestamp) -> Result<(), String> {
        if self.revocations.is_deaf(now) || !self.revocations.has_caught_up() {
            return Err(format!("not heard of for {} s", self.revocations.lag(now).as_secs()));
        }
        Ok(())
    }
}

const OK: &str = "ok";
/// Longest wait for a file store's answer.
const PATIENCE: Duration = Duration::from_secs(3);

fn state(outcome: Result<(), String>) -> String {
    outcome.err().unwrap_or_else(|| OK.to_owned())
}

fn answer(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Response<Vec<u8>> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    let length = response.body().len();
    response.headers_mut().insert(header::CONTENT_LENGTH, header::HeaderValue::from(length));
    response
}
