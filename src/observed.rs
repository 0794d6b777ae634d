//! Stores with a meter: how long each call took and how it ended, and one log line when a store goes and one when it is
//! back, however many requests found out.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;
use prometheus::{HistogramVec, IntCounterVec, IntGauge};

use crate::clock::Timestamp;
use crate::metrics::Metrics;
use crate::store::{
    Admission, CreateError, Email, Family, Lease, LoginAttempt, LoginThrottle, RateLimits, RefreshPolicy,
    Result, Rotation, SessionId, Sessions, SessionsCut, ThrottlePolicy, Unavailable, User, UserChange,
    UserId, Users,
};

/// A store and what is known of its health.
pub struct Observed<S: ?Sized> {
    inner: Arc<S>,
    meter: Meter,
}

impl<S: ?Sized> Observed<S> {
    /// `part` is what it keeps: `users`, `sessions`, `throttle`, `rate_limits`.
    pub fn new(inner: Arc<S>, part: &'static str, metrics: &Metrics) -> Arc<Self> {
        let up = metrics.store_up.with_label_values(&[part]);
        up.set(1);
        let meter = Meter {
            part,
            seconds: metrics.store_seconds.clone(),
            errors: metrics.store_errors.clone(),
            up,
            is_down: AtomicBool::new(false),
            outage: Mutex::new(None),
        };
        Arc::new(Self { inner, meter })
    }
}

struct Meter {
    part: &'static str,
    seconds: HistogramVec,
    errors: IntCounterVec,
    up: IntGauge,
    is_down: AtomicBool,
    outage: Mutex<Option<Outage>>,
}

struct Outage {
    since: Instant,
    last_failure: Instant,
    /// The calls that failed, and have not succeeded since.
    calls: BTreeSet<&'static str>,
}

/// A store that refuses to write may go on reading: a success of one call says little about another. After this long
/// without a failure it says enough.
const QUIET: Duration = Duration::from_secs(5);

impl Meter {
    async fn of<T>(&self, call: &'static str, work: impl Future<Output = Result<T>>) -> Result<T> {
        let start = Instant::now();
        let outcome = work.await;
        self.note(call, start, outcome.as_ref().err());
        outcome
    }

    fn note(&self, call: &'static str, start: Instant, error: Option<&Unavailable>) {
        self.seconds.with_label_values(&[self.part, call]).observe(start.elapsed().as_secs_f64());
        match error {
            Some(error) => {
                self.errors.with_label_values(&[self.part, call]).inc();
                self.failed(call, start, error);
            }
            None if self.is_down.load(Ordering::Acquire) => self.succeeded(call),
            None => {}
        }
    }

    fn failed(&self, call: &'static str, start: Instant, error: &Unavailable) {
        let now = Instant::now();
        let mut outage = self.outage.lock();
        let known = outage.is_some();
        let outage =
            outage.get_or_insert_with(|| Outage { since: start, last_failure: now, calls: BTreeSet::new() });
        outage.last_failure = now;
        outage.calls.insert(call);
        if !known {
            self.is_down.store(true, Ordering::Release);
            self.up.set(0);
            tracing::error!(part = self.part, call, error = %error, "store unavailable");
        }
    }

    fn succeeded(&self, call: &'static str) {
        let mut held = self.outage.lock();
        let Some(outage) = held.as_mut() else { return };
        outage.calls.remove(call);
        if !outage.calls.is_empty() && outage.last_failure.elapsed() < QUIET {
            return;
        }
        let seconds = outage.since.elapsed().as_secs();
        *held = None;
        self.is_down.store(false, Ordering::Release);
        self.up.set(1);
        tracing::info!(part = self.part, after_seconds = seconds, "store available again");
    }
}

#[async_trait]
impl Users for Observed<dyn Users> {
    fn new_id(&self) -> UserId {
        self.inner.new_id()
    }

    async fn create(&self, user: User) -> Result<(), CreateError> {
        let start = Instant::now();
        let outcome = self.inner.create(user).await;
        let error = match &outcome {
            Err(CreateError::Unavailable(error)) => Some(error),
            _ => None,
        };
        self.meter.note("create", start, error);
        outcome
    }

    async fn by_id(&self, id: &str) -> Result<Option<User>> {
        self.meter.of("by_id", self.inner.by_id(id)).await
    }

    async fn by_email(&self, email: &Email) -> Result<Option<User>> {
        self.meter.of("by_email", self.inner.by_email(email)).await
    }

    async fn list(&self, after: Option<&str>, limit: usize) -> Result<Vec<User>> {
        self.meter.of("list", self.inner.list(after, limit)).await
    }

    async fn update(&self, id: &str, change: UserChange) -> Result<Option<User>> {
        self.meter.of("update", self.inner.update(id, change)).await
    }

    async fn delete(&self, id: &str) -> Result<bool> {
        self.meter.of("delete", self.inner.delete(id)).await
    }
}

#[async_trait]
impl RateLimits for Observed<dyn RateLimits> {
    async fn lease(&self, name: &str, requests: u32, window: Duration, now: Timestamp) -> Result<Lease> {
        self.meter.of("lease", self.inner.lease(name, requests, window, now)).await
    }
}

#[async_trait]
impl Sessions for Observed<dyn Sessions> {
    fn clock(&self, now: Timestamp) -> Timestamp {
        self.inner.clock(now)
    }

    async fn open(&self, family: Family) -> Result<()> {
        self.meter.of("open", self.inner.open(family)).await
    }

    async fn rotate(
        &self,
        user: &str,
        family: SessionId,
        presented: u64,
        address: &str,
        policy: RefreshPolicy,
        now: Timestamp,
    ) -> Result<Rotation> {
        self.meter.of("rotate", self.inner.rotate(user, family, presented, address, policy, now)).await
    }

    async fn end(
        &self,
        user: &str,
        family: SessionId,
        policy: RefreshPolicy,
        now: Timestamp,
    ) -> Result<bool> {
        self.meter.of("end", self.inner.end(user, family, policy, now)).await
    }

    async fn end_all(&self, user: &str, cut: SessionsCut, policy: RefreshPolicy) -> Result<()> {
        self.meter.of("end_all", self.inner.end_all(user, cut, policy)).await
    }

    async fn list(&self, user: &str, now: Timestamp) -> Result<Vec<Family>> {
        self.meter.of("list", self.inner.list(user, now)).await
    }

    async fn check(&self) -> Result<()> {
        self.meter.of("check", self.inner.check()).await
    }

    async fn sweep(&self, now: Timestamp) -> Result<usize> {
        self.meter.of("sweep", self.inner.sweep(now)).await
    }
}

#[async_trait]
impl LoginThrottle for Observed<dyn LoginThrottle> {
    async fn begin(
        &self,
        attempt: &LoginAttempt,
        policy: ThrottlePolicy,
        now: Timestamp,
    ) -> Result<Admission> {
        self.meter.of("begin", self.inner.begin(attempt, policy, now)).await
    }

    async fn succeeded(&self, attempt: &LoginAttempt, now: Timestamp) -> Result<()> {
        self.meter.of("succeeded", self.inner.succeeded(attempt, now)).await
    }

    async fn undecided(&self, attempt: &LoginAttempt, now: Timestamp) -> Result<()> {
        self.meter.of("undecided", self.inner.undecided(attempt, now)).await
    }

    async fn forgive(&self, account: &str) -> Result<()> {
        self.meter.of("forgive", self.inner.forgive(account)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_store_that_reads_and_does_not_write_is_down_until_it_writes() {
        let metrics = Metrics::new().unwrap();
        let store: Arc<Observed<dyn Sessions>> = Observed::new(Arc::new(ReadOnly), "sessions", &metrics);
        let up = || metrics.store_up.with_label_values(&["sessions"]).get();
        let errors = || metrics.store_errors.with_label_values(&["sessions", "check"]).get();
        assert_eq!((up(), errors()), (1, 0));
        store.check().await.unwrap_err();
        store.check().await.unwrap_err();
        assert_eq!((up(), errors()), (0, 2));
        store.list("u1", Timestamp(0)).await.unwrap();
        assert_eq!(up(), 0, "reading says nothing about writing");
        store.meter.note("check", Instant::now(), None);
        assert_eq!(up(), 1);
    }

    struct ReadOnly;

    #[async_trait]
    impl Sessions for ReadOnly {
        async fn open(&self, _: Family) -> Result<()> {
            full()
        }
        async fn rotate(
            &self,
            _: &str,
            _: SessionId,
            _: u64,
            _: &str,
            _: RefreshPolicy,
            _: Timestamp,
        ) -> Result<Rotation> {
            full()
        }
        async fn end(&self, _: &str, _: SessionId, _: RefreshPolicy, _: Timestamp) -> Result<bool> {
            full()
        }
        async fn end_all(&self, _: &str, _: SessionsCut, _: RefreshPolicy) -> Result<()> {
            full()
        }
        async fn list(&self, _: &str, _: Timestamp) -> Result<Vec<Family>> {
            Ok(vec![])
        }
        async fn check(&self) -> Result<()> {
            full()
        }
        async fn sweep(&self, _: Timestamp) -> Result<usize> {
            full()
        }
    }

    fn full<T>() -> Result<T> {
        Err(Unavailable { store: "redis", cause: "OOM".into() })
    }
}
