//! The keys S3 is asked with: from the configuration, or from the usual chain (environment, profile, web identity,
//! container, instance role), fetched anew before they expire.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future};
use aws_smithy_runtime_api::client::identity::Identity;
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};

use crate::config::S3Credentials;
use crate::files::error::FileError;

/// New credentials are fetched this long before the old ones expire, or after three quarters of their life when it is
/// short.
const AHEAD: Duration = Duration::from_secs(300);
/// After a failure, and after S3 refused credentials that had not expired.
const RETRY: Duration = Duration::from_secs(5);
/// Credentials without an expiry are looked for again at most as often when S3 refuses them.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);
/// Longest a request waits for the first ones.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest the whole chain may take.
const CHAIN: Duration = Duration::from_secs(30);

pub struct Keys {
    held: ArcSwapOption<Held>,
    source: Source,
    /// One fetch at a time; when the last one began.
    fetching: Mutex<Option<Instant>>,
    runtime: Handle,
}

/// Credentials, and the number by which they are told from those before.
#[derive(Debug)]
pub struct Held {
    pub credentials: Credentials,
    /// The same, as the signer takes it.
    pub identity: Identity,
    pub epoch: u64,
    fetched: SystemTime,
}

enum Source {
    Fixed,
    Chain { profile: Option<String> },
}

impl Keys {
    /// Nothing is fetched yet; `runtime` outlives every request.
    pub fn new(settings: &S3Credentials, runtime: Handle) -> Arc<Self> {
        let (held, source) = match settings {
            S3Credentials::Keys { id, secret } => {
                let credentials = Credentials::new(id, secret.expose(), None, None, "gateway.toml");
                (Some(Held::new(credentials, 1)), Source::Fixed)
            }
            S3Credentials::Chain { profile } => (None, Source::Chain { profile: profile.clone() }),
        };
        let held = ArcSwapOption::from_pointee(held);
        Arc::new(Self { held, source, fetching: Mutex::new(None), runtime })
    }

    /// Credentials that have not expired. Waits for them when there are none yet.
    ///
    /// # Errors
    /// `Broken`, with what the chain said.
    pub async fn current(self: &Arc<Self>) -> Result<Arc<Held>, FileError> {
        if let Some(held) = self.valid() {
            return Ok(held);
        }
        let this = self.clone();
        // On the runtime that stays, so that the fetch does not end with the request.
        let fetch = self.runtime.spawn(async move { this.fetch(|| this.valid().is_none()).await });
        let failed = match timeout(PATIENCE, fetch).await {
            Ok(Ok(Ok(()))) => None,
            Ok(Ok(Err(cause))) => Some(cause),
            Ok(Err(e)) => Some(e.to_string()),
            Err(_) => Some(format!("not found within {PATIENCE:?}")),
        };
        self.valid().ok_or_else(|| {
            FileError::Broken(format!(
                "no credentials for S3: {}",
                failed.as_deref().unwrap_or("they have expired")
            ))
        })
    }

    /// S3 does not know the credentials of `epoch`: looks for others. Whether there are some now.
    pub async fn refused(self: &Arc<Self>, epoch: u64) -> bool {
        let changed = move |this: &Self| this.held.load().as_ref().is_some_and(|held| held.epoch != epoch);
        if matches!(self.source, Source::Fixed) || changed(self) {
            return changed(self);
        }
        let this = self.clone();
        let fetch = self.runtime.spawn(async move { this.fetch(|| !changed(&this)).await });
        let _ = timeout(PATIENCE, fetch).await;
        changed(self)
    }

    /// Keeps the credentials fresh. Never ends.
    pub async fn keep_fresh(self: Arc<Self>) {
        if matches!(self.source, Source::Fixed) {
            return;
        }
        loop {
            let wait = match self.held.load().as_ref() {
                None => Duration::ZERO,
                Some(held) => held.due(SystemTime::now()),
            };
            if !wait.is_zero() {
                sleep(wait.min(LONGEST_SLEEP)).await;
                continue;
            }
            let due = || self.held.load().as_ref().is_none_or(|h| h.due(SystemTime::now()).is_zero());
            if let Err(cause) = self.fetch(due).await {
                tracing::error!(cause, "credentials for S3 not fetched");
            }
            // Also when what came is as old as what was there.
            sleep(RETRY).await;
        }
    }

    fn valid(&self) -> Option<Arc<Held>> {
        let held = self.held.load_full()?;
        let expired = held.credentials.expiry().is_some_and(|end| end <= SystemTime::now());
        (!expired).then_some(held)
    }

    /// Asks the source, when they are still `wanted` once it is our turn; at most once in [`RETRY`].
    async fn fetch(&self, wanted: impl Fn() -> bool) -> Result<(), String> {
        let Source::Chain { profile } = &self.source else { return Ok(()) };
        let mut last = self.fetching.lock().await;
        if !wanted() {
            return Ok(());
        }
        if last.is_some_and(|at| at.elapsed() < RETRY) {
            return Err("asked for a moment ago".into());
        }
        *last = Some(Instant::now());
        // Made anew, since it reads files and the environment only once.
        let builder = DefaultCredentialsChain::builder();
        let chain = match profile {
            Some(name) => builder.profile_name(name).build().await,
            None => builder.build().await,
        };
        let found = timeout(CHAIN, chain.provide_credentials()).await;
        let credentials = found
            .map_err(|_| format!("no answer within {CHAIN:?}"))?
            // Its Debug form may hold what was found; the chain of causes does not.
            .map_err(|e| causes(&e))?;
        let known = self.held.load();
        let same = known.as_ref().is_some_and(|held| held.same(&credentials));
        if !same {
            let epoch = known.as_ref().map_or(1, |held| held.epoch + 1);
            tracing::info!(expires = credentials.expiry().is_some(), "credentials for S3 fetched");
            self.held.store(Some(Arc::new(Held::new(credentials, epoch))));
        }
        Ok(())
    }
}

impl Held {
    fn new(credentials: Credentials, epoch: u64) -> Self {
        Self { identity: credentials.clone().into(), credentials, epoch, fetched: SystemTime::now() }
    }

    /// How long these need not be replaced; a day when they do not expire.
    fn due(&self, now: SystemTime) -> Duration {
        let Some(expiry) = self.credentials.expiry() else { return Duration::from_secs(86_400) };
        let life = expiry.duration_since(self.fetched).unwrap_or_default();
        let ahead = AHEAD.min(life / 4);
        expiry.duration_since(now).unwrap_or_default().saturating_sub(ahead)
    }

    /// Whether `other` signs in the same way. Short-lived ones may be prolonged under the same keys.
    fn same(&self, other: &Credentials) -> bool {
        let ours = &self.credentials;
        ours.access_key_id() == other.access_key_id()
            && ours.secret_access_key() == other.secret_access_key()
            && ours.session_token() == other.session_token()
            && ours.expiry() == other.expiry()
    }
}

/// For the SDK: what is held, or an error.
#[derive(Clone)]
pub struct SdkKeys(pub Arc<Keys>);

impl fmt::Debug for SdkKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[credentials]")
    }
}

impl ProvideCredentials for SdkKeys {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async move {
            let held = self.0.current().await;
            held.map(|held| held.credentials.clone())
                .map_err(|e| CredentialsError::provider_error(format!("{e:?}")))
        })
    }
}

/// An error and what lies beneath it, in one line.
pub fn causes(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut next = e.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.ends_with(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        next = cause.source();
    }
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
