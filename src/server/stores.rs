//! Which store keeps what: the only module that names a concrete one.

use std::sync::Arc;
use std::time::Duration;

use crate::config::{Config, SessionStore, UserStore};
use crate::server::StartError;
use crate::store::embedded::Embedded;
use crate::store::mongodb::MongoDbUsers;
use crate::store::redis::{Clock, Redis};
use crate::store::{LoginThrottle, RateLimits, RevocationSink, Sessions, Users};

/// Sessions, users and throttles, whichever stores they are in.
pub struct Stores {
    pub users: Arc<dyn Users>,
    pub sessions: Arc<dyn Sessions>,
    pub throttle: Arc<dyn LoginThrottle>,
    /// Shared by the fleet; `None`: this process counts for itself.
    pub rate_limits: Option<Arc<dyn RateLimits>>,
    redis: Option<Arc<Redis>>,
}

impl Stores {
    /// Opens the configured stores, whose clients live on the runtime this is called in. Embedded ones are there, with their
    /// revocations in `sink`, when this returns; others need not be reachable yet (see [`Self::catch_up`]).
    ///
    /// # Errors
    /// A file that cannot be used, or an address no connection can ever be made with.
    pub async fn open(config: &Config, sink: Arc<dyn RevocationSink>) -> Result<Self, StartError> {
        let needs_file =
            matches!(config.users, UserStore::Embedded) || matches!(config.sessions, SessionStore::Embedded);
        let embedded = match needs_file {
            true => Some(Embedded::open(&config.server.data_dir, sink.clone())?),
            false => None,
        };
        let file = || embedded.clone().ok_or("the embedded store is not open");
        let users: Arc<dyn Users> = match &config.users {
            UserStore::Embedded => file()?,
            UserStore::MongoDb(settings) => MongoDbUsers::open(settings).await?,
        };
        Ok(match &config.sessions {
            SessionStore::Embedded => {
                let file = file()?;
                Self { users, sessions: file.clone(), throttle: file, rate_limits: None, redis: None }
            }
            SessionStore::Redis(settings, _) => {
                let redis = Redis::open(settings, sink, Clock::Server)?;
                Self {
                    users,
                    sessions: redis.clone(),
                    throttle: redis.clone(),
                    rate_limits: Some(redis.clone()),
                    redis: Some(redis),
                }
            }
        })
    }

    /// Refuses to run beside gateways whose refresh tokens this one does not know: it would log their users out.
    ///
    /// # Errors
    /// With the remedy. A store that cannot be asked now is no error.
    pub async fn check_fleet(&self, fingerprint: &str) -> Result<(), StartError> {
        let Some(redis) = &self.redis else { return Ok(()) };
        if redis.is_of_this_fleet(fingerprint).await.unwrap_or(true) {
            return Ok(());
        }
        Err(format!(
            "keys/refresh.key in server.data_dir is not that of the other gateways on this Redis: copy the folder keys/ from \
             one of them. If all of them have a new one (everybody logs in again), delete {} in Redis first; if this is another \
             fleet, give it a sessions.prefix of its own",
            redis.fleet_key()
        )
        .into())
    }

    /// Waits until the revocations in force have been heard, at most `limit`. Whether they have been.
    pub async fn catch_up(&self, limit: Duration) -> bool {
        match &self.redis {
            Some(redis) => tokio::time::timeout(limit, redis.caught_up()).await.is_ok(),
            None => true,
        }
    }
}
