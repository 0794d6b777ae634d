//! What Prometheus scrapes. Labels hold route patterns and fixed words only: never a path, a user or a token.

use std::time::Duration;

use parking_lot::RwLock;
use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder,
};

/// Upper bounds of the latency histogram, in seconds.
const LATENCY: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    duration: HistogramVec,
    pub in_flight: IntGauge,
    pub connections: IntGauge,
    pub rejected_heads: IntCounterVec,
    /// Requests refused for their credentials, by reason.
    pub token_rejections: IntCounterVec,
    pub token_cache_hits: IntGauge,
    pub token_cache_misses: IntGauge,
    pub token_cache_bytes: IntGauge,
    pub logins: IntCounterVec,
    pub refreshes: IntCounterVec,
    pub revocations: IntGauge,
    /// Seconds.
    pub revocation_lag: Gauge,
    /// 1 or 0, by part.
    pub store_up: IntGaugeVec,
    pub store_seconds: HistogramVec,
    pub store_errors: IntCounterVec,
    pub upstream_errors: IntCounterVec,
    pub rate_limited: IntCounterVec,
    /// By store, operation and outcome.
    pub file_operations: IntCounterVec,
    /// By store and direction.
    pub file_bytes: IntCounterVec,
    /// By store and operation.
    pub file_first_byte: HistogramVec,
    /// By store and source.
    pub file_signatures: IntCounterVec,
    pub access_log_dropped: IntCounter,
    pub panics: IntCounter,
}

/// The handles of one route, looked up once.
pub struct RouteMetrics {
    route: String,
    requests: IntCounterVec,
    by_status: RwLock<Vec<(u16, IntCounter)>>,
    duration: Histogram,
}

impl Metrics {
    /// # Errors
    /// Never in practice: names and labels are literals. A typo in one would show at start.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let counters = |name: &str, help: &str, labels: &[&str]| -> prometheus::Result<IntCounterVec> {
            let vec = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(vec.clone()))?;
            Ok(vec)
        };
        let counter = |name: &str, help: &str| -> prometheus::Result<IntCounter> {
            let c = IntCounter::new(name, help)?;
            registry.register(Box::new(c.clone()))?;
            Ok(c)
        };
        let gauge = |name: &str, help: &str| -> prometheus::Result<IntGauge> {
            let g = IntGauge::new(name, help)?;
            registry.register(Box::new(g.clone()))?;
            Ok(g)
        };
        let duration = HistogramVec::new(
            HistogramOpts::new(
                "portcullis_http_request_duration_seconds",
                "Time from the end of the request's head to the end of its response",
            )
            .buckets(LATENCY.to_vec()),
            &["route"],
        )?;
        registry.register(Box::new(duration.clone()))?;
        let store_seconds = HistogramVec::new(
            HistogramOpts::new("portcullis_store_call_duration_seconds", "Time a call to a store took")
                .buckets(LATENCY.to_vec()),
            &["part", "call"],
        )?;
        registry.register(Box::new(store_seconds.clone()))?;
        let store_up = IntGaugeVec::new(
            Opts::new("portcullis_store_up", "Whether the last call to the store of this part succeeded"),
            &["part"],
        )?;
        registry.register(Box::new(store_up.clone()))?;
        let file_first_byte = HistogramVec::new(
            HistogramOpts::new(
                "portcullis_file_first_byte_seconds",
                "Time until a store of files began to answer; of an upload, until it had answered",
            )
            .buckets(LATENCY.to_vec()),
            &["store", "operation"],
        )?;
        registry.register(Box::new(file_first_byte.clone()))?;
        let revocation_lag = Gauge::new(
            "portcullis_revocation_lag_seconds",
            "Age of the newest news of revocations; 0 with embedded sessions",
        )?;
        registry.register(Box::new(revocation_lag.clone()))?;
        Ok(Self {
            requests: counters(
                "portcullis_http_requests_total",
                "Requests answered, by route and status",
                &["route", "status"],
            )?,
            in_flight: gauge("portcullis_http_requests_in_flight", "Requests being handled now")?,
            connections: gauge("portcullis_connections", "Client connections open now")?,
            rejected_heads: counters(
                "portcullis_http_rejected_heads_total",
                "HTTP/1 requests refused before routing for their head, or a body that came with it, by status",
                &["status"],
            )?,
            token_rejections: counters(
                "portcullis_token_rejections_total",
                "Requests refused with 401, by reason",
                &["reason"],
            )?,
            token_cache_hits: gauge(
                "portcullis_token_cache_hits",
                "Verified tokens found in the cache since start",
            )?,
            token_cache_misses: gauge("portcullis_token_cache_misses", "Tokens verified afresh since start")?,
            token_cache_bytes: gauge(
                "portcullis_token_cache_bytes",
                "Memory held by the cache of verified tokens",
            )?,
            logins: counters("portcullis_logins_total", "Login attempts, by outcome", &["outcome"])?,
            refreshes: counters("portcullis_refreshes_total", "Refresh attempts, by outcome", &["outcome"])?,
            revocations: gauge("portcullis_revocations", "Revoked sessions and users held in memory")?,
            revocation_lag,
            store_up,
            store_seconds,
            store_errors: counters(
                "portcullis_store_errors_total",
                "Calls to a store that were not answered, by part and call",
                &["part", "call"],
            )?,
            upstream_errors: counters(
                "portcullis_upstream_errors_total",
                "Failed requests to an upstream, by upstream and kind",
                &["upstream", "kind"],
            )?,
            rate_limited: counters(
                "portcullis_rate_limited_total",
                "Requests refused with 429 by a route's rate limit",
                &["route"],
            )?,
            file_operations: counters(
                "portcullis_file_operations_total",
                "Operations on files, by store, operation and outcome",
                &["store", "operation", "outcome"],
            )?,
            file_bytes: counters(
                "portcullis_file_bytes_total",
                "Bytes of files received from clients (in) and sent to them (out), by store",
                &["store", "direction"],
            )?,
            file_first_byte,
            file_signatures: counters(
                "portcullis_file_signatures_total",
                "Signatures of requests to S3, by store: made (fresh) or used again (cache)",
                &["store", "source"],
            )?,
            access_log_dropped: counter(
                "portcullis_access_log_dropped_total",
                "Access-log lines dropped because standard output did not keep up",
            )?,
            panics: counter("portcullis_panics_total", "Panics caught; each dropped one connection")?,
            duration,
            registry,
        })
    }

    /// The handles of the route labelled `route`.
    pub fn route(&self, route: &str) -> RouteMetrics {
        RouteMetrics {
            route: route.to_owned(),
            requests: self.requests.clone(),
            by_status: RwLock::default(),
            duration: self.duration.with_label_values(&[route]),
        }
    }

    /// The exposition format Prometheus reads (text, version 0.0.4).
    pub fn render(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if let Err(e) = TextEncoder::new().encode(&self.registry.gather(), &mut out) {
            tracing::error!(error = %e, "metrics not rendered");
        }
        out
    }
}

impl RouteMetrics {
    pub fn observe(&self, status: u16, elapsed: Duration) {
        self.duration.observe(elapsed.as_secs_f64());
        if let Some((_, counter)) = self.by_status.read().iter().find(|(s, _)| *s == status) {
            counter.inc();
            return;
        }
        let counter = self.requests.with_label_values(&[&self.route, &status.to_string()]);
        counter.inc();
        let mut known = self.by_status.write();
        if known.iter().all(|(s, _)| *s != status) {
            known.push((status, counter));
        }
    }
}
