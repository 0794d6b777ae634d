//! Foreign issuers and their keys, from a JWKS URL or file, kept fresh in the background.
//!
//! Requests never wait for an issuer, with one exception: a token whose key is unknown waits up to two
//! seconds for one shared fetch. Keys that can no longer be fetched stay good for `max_stale`; after that
//! the issuer's tokens are refused as [`Rejection::Unavailable`], which is no judgement on them. Start-up
//! does not wait either. Absent: discovery documents; the JWKS address is configured.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwapOption, Guard};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::claims::{Paths, Terms};
use super::fetch::{Fetched, Source, SourceError};
use super::jwks::{self, JwksError};
use super::keys::{KeyError, KeySet};
use super::rejection::Rejection;
use crate::claim_path::ClaimPathError;
use crate::clock::Timestamp;
use crate::config::{Algorithm, Issuer, JwksSource};

/// Least time between two fetches that unknown kids of one issuer cause.
const REFETCH_EVERY: Duration = Duration::from_secs(30);
/// Longest wait of a request for such a fetch.
const REFETCH_WAIT: Duration = Duration::from_secs(2);
/// `Cache-Control: max-age` may ask for fetches this often, not more.
const MIN_INTERVAL: Duration = Duration::from_secs(60);
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);
/// How often a file's time of change is looked at.
const FILE_INTERVAL: Duration = Duration::from_secs(1);
const NEVER: i64 = i64::MIN;

/// An issuer cannot be set up as configured.
#[derive(Debug, thiserror::Error)]
pub enum IssuersError {
    #[error("issuer {issuer}: {cause}")]
    Claims { issuer: String, cause: ClaimPathError },
    #[error("the HTTP client for JWKS cannot be built: {0}")]
    Client(#[from] reqwest::Error),
}

/// Why an attempt to read an issuer's keys failed.
#[derive(Debug, thiserror::Error)]
enum RefreshError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Document(#[from] JwksError),
    #[error(transparent)]
    Keys(#[from] KeyError),
}

/// All foreign issuers, in the order of the configuration.
pub struct Issuers {
    list: Vec<Arc<ForeignIssuer>>,
    by_name: HashMap<String, usize>,
}

/// How an issuer's keys stand, for readiness, metrics and `token inspect`.
#[derive(Clone, Debug)]
pub struct IssuerStatus {
    pub issuer: String,
    pub keys: usize,
    /// When the keys were last known to be current; `None`: never fetched.
    pub fresh_at: Option<Timestamp>,
    pub available: bool,
}

impl Issuers {
    /// Nothing is fetched before [`Self::run`].
    ///
    /// # Errors
    /// [`IssuersError`].
    pub fn new(issuers: &[Issuer]) -> Result<Self, IssuersError> {
        let mut client = None;
        let mut list = Vec::with_capacity(issuers.len());
        for issuer in issuers {
            let source = match &issuer.jwks {
                JwksSource::File(path) => Source::file(path.clone()),
                JwksSource::Url(url) => {
                    if client.is_none() {
                        client = Some(super::fetch::client()?);
                    }
                    // Cloning shares the connections.
                    Source::url(url.clone(), client.clone().unwrap_or_default())
                }
            };
            list.push(Arc::new(ForeignIssuer::new(issuer, source)?));
        }
        let by_name =
            list.iter().enumerate().map(|(index, issuer)| (issuer.terms.issuer.clone(), index)).collect();
        Ok(Self { list, by_name })
    }

    /// Keeps every issuer's keys fresh, as long as this future is polled.
    pub async fn run(self: Arc<Self>) {
        let mut tasks: JoinSet<()> = self.list.iter().map(|issuer| issuer.clone().keep_fresh()).collect();
        while tasks.join_next().await.is_some() {}
    }

    /// Fetches every issuer's keys once; failures are logged.
    pub async fn refresh_once(&self) {
        let mut tasks: JoinSet<()> = self.list.iter().map(|issuer| issuer.clone().try_refresh()).collect();
        while tasks.join_next().await.is_some() {}
    }

    pub fn status(&self, now: Timestamp) -> Vec<IssuerStatus> {
        self.list.iter().map(|issuer| issuer.status(now)).collect()
    }

    pub(super) fn get(&self, index: usize) -> Option<&Arc<ForeignIssuer>> {
        self.list.get(index)
    }

    pub(super) fn by_name(&self, name: &str) -> Option<(usize, &Arc<ForeignIssuer>)> {
        let index = *self.by_name.get(name)?;
        Some((index, self.list.get(index)?))
    }
}

/// One foreign issuer and the keys it was last seen with.
pub(super) struct ForeignIssuer {
    terms: Terms,
    algorithms: Vec<Algorithm>,
    max_stale: Duration,
    refresh_interval: Duration,
    source: Source,
    keys: ArcSwapOption<KeySet>,
    /// Milliseconds since 1970 when the keys were last known to be current.
    fresh_at: AtomicI64,
    /// When an unknown key last caused a fetch.
    refetched_at: AtomicI64,
    /// One fetch at a time.
    fetching: tokio::sync::Mutex<()>,
    /// Counts fetches on account of unknown keys: begun here, finished in the channel.
    begun: AtomicU64,
    finished: watch::Sender<u64>,
}

impl ForeignIssuer {
    fn new(issuer: &Issuer, source: Source) -> Result<Self, IssuersError> {
        let paths = Paths::new(&issuer.claims)
            .map_err(|cause| IssuersError::Claims { issuer: issuer.issuer.clone(), cause })?;
        Ok(Self {
            terms: Terms {
                issuer: issuer.issuer.clone(),
                audience: issuer.audience.clone(),
                own: false,
                paths,
            },
            algorithms: issuer.algorithms.clone(),
            max_stale: issuer.max_stale,
            refresh_interval: issuer.refresh_interval,
            source,
            keys: ArcSwapOption::empty(),
            fresh_at: AtomicI64::new(NEVER),
            refetched_at: AtomicI64::new(NEVER),
            fetching: tokio::sync::Mutex::new(()),
            begun: AtomicU64::new(0),
            finished: watch::Sender::new(0),
        })
    }

    pub(super) fn terms(&self) -> &Terms {
        &self.terms
    }

    /// The keys in force at `now`.
    ///
    /// # Errors
    /// [`Rejection::Unavailable`] before the first fetch and when the last good one is older than `max_stale`.
    pub(super) fn keys(&self, now: Timestamp) -> Result<LoadedKeys, Rejection> {
        let keys = self.keys.load();
        if keys.is_none() || now > self.fresh_at().plus(self.max_stale) {
            return Err(Rejection::Unavailable);
        }
        Ok(LoadedKeys(keys))
    }

    /// Fetches on account of an unknown key, or waits for a fetch somebody else began; whether looking again
    /// is worth while. Does nothing within 30 seconds of the last such fetch.
    pub(super) async fn refetch(self: &Arc<Self>, now: Timestamp) -> bool {
        let mut finished = self.finished.subscribe();
        let awaited = match self.claim_refetch(now) {
            Some(number) => {
                let issuer = self.clone();
                // A task of its own: a client that goes away takes no fetch with it that others wait for.
                tokio::spawn(async move {
                    issuer.clone().try_refresh().await;
                    issuer.finished.send_modify(|done| *done = number.max(*done));
                });
                number
            }
            None => self.begun.load(Ordering::Acquire),
        };
        if awaited == 0 {
            return false;
        }
        let arrived = finished.wait_for(|done| *done >= awaited);
        matches!(tokio::time::timeout(REFETCH_WAIT, arrived).await, Ok(Ok(_)))
    }

    /// The number of the fetch the caller is now to make, if one is allowed.
    fn claim_refetch(&self, now: Timestamp) -> Option<u64> {
        let last = self.refetched_at.load(Ordering::Acquire);
        if last != NEVER && now < Timestamp(last).plus(REFETCH_EVERY) {
            return None;
        }
        self.refetched_at.compare_exchange(last, now.0, Ordering::AcqRel, Ordering::Acquire).ok()?;
        Some(self.begun.fetch_add(1, Ordering::AcqRel) + 1)
    }

    async fn try_refresh(self: Arc<Self>) {
        if let Err(error) = self.refresh().await {
            self.warn(&error);
        }
    }

    /// Fetches again and again: after the interval when it went well, sooner and less and less often when not.
    async fn keep_fresh(self: Arc<Self>) {
        let mut retry = FIRST_RETRY;
        loop {
            let wait = match self.refresh().await {
                Ok(max_age) => {
                    retry = FIRST_RETRY;
                    match &self.source {
                        Source::File { .. } => FILE_INTERVAL,
                        Source::Url { .. } => jittered(interval(self.refresh_interval, max_age)),
                    }
                }
                Err(error) => {
                    self.warn(&error);
                    let wait = jittered(retry);
                    retry = (retry * 2).min(LAST_RETRY);
                    wait
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// Reads the source once and publishes what it holds; answers its `max-age`.
    async fn refresh(&self) -> Result<Option<Duration>, RefreshError> {
        let _one_at_a_time = self.fetching.lock().await;
        let fetched = self.source.fetch().await?;
        // The clock is read here because this runs on its own, with no request that could bring the time.
        let now = Timestamp::now();
        let Fetched::Document { body, max_age } = fetched else {
            self.fresh_at.store(now.0, Ordering::Release);
            return Ok(None);
        };
        self.publish(&body, now)?;
        self.source.remember();
        Ok(max_age)
    }

    fn publish(&self, document: &[u8], now: Timestamp) -> Result<(), RefreshError> {
        let jwks = jwks::parse(document, &self.algorithms)?;
        let mut set = KeySet::new(jwks.keys)?;
        let previous = self.keys.load_full();
        let unchanged = previous.as_ref().is_some_and(|previous| previous.same_keys(&set));
        if !unchanged {
            if let Some(previous) = previous {
                set = set.following(&previous);
            }
            for skipped in &jwks.skipped {
                tracing::info!(jwks.issuer = %self.terms.issuer, jwks.kid = ?skipped.kid, reason = skipped.reason, "a key was skipped");
            }
            if set.keys().is_empty() {
                tracing::warn!(jwks.issuer = %self.terms.issuer, "the issuer has no key we can use");
            }
            self.keys.store(Some(Arc::new(set)));
        }
        self.fresh_at.store(now.0, Ordering::Release);
        Ok(())
    }

    fn fresh_at(&self) -> Timestamp {
        Timestamp(self.fresh_at.load(Ordering::Acquire))
    }

    fn status(&self, now: Timestamp) -> IssuerStatus {
        IssuerStatus {
            issuer: self.terms.issuer.clone(),
            keys: self.keys.load().as_ref().map_or(0, |keys| keys.keys().len()),
            fresh_at: Some(self.fresh_at()).filter(|at| at.0 != NEVER),
            available: self.keys(now).is_ok(),
        }
    }

    fn warn(&self, error: &RefreshError) {
        tracing::warn!(jwks.issuer = %self.terms.issuer, %error, "the issuer's keys could not be refreshed");
    }
}

/// Keys held while they are used, without a lock.
pub(super) struct LoadedKeys(Guard<Option<Arc<KeySet>>>);

impl std::ops::Deref for LoadedKeys {
    type Target = KeySet;

    fn deref(&self) -> &KeySet {
        static NONE: std::sync::LazyLock<KeySet> = std::sync::LazyLock::new(KeySet::default);
        self.0.as_deref().unwrap_or(&NONE)
    }
}

/// `max-age` may shorten the interval, down to a minute; it cannot lengthen it.
fn interval(configured: Duration, max_age: Option<Duration>) -> Duration {
    max_age.map_or(configured, |max_age| configured.min(max_age.max(MIN_INTERVAL)))
}

/// Between 90 and 110 per cent, so that a fleet that started together does not fetch together.
fn jittered(wait: Duration) -> Duration {
    let mut byte = [0];
    // Without randomness there is no jitter, which is no reason to stop.
    let _ = aws_lc_rs::rand::fill(&mut byte);
    wait.mul_f64(0.9 + 0.2 * f64::from(byte[0]) / 255.0)
}

#[cfg(test)]
#[path = "issuers_tests.rs"]
mod tests;
