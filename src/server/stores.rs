//! Which store keeps what: the only module that names a concrete one.

use std::sync::Arc;
use std::time::Duration;

use crate::config::{Config, SessionStore, UserStore};
use crate::server::StartError;
use crate::store::embedded::Embedded;
use crate::store::mongodb::MongoDbUsers;
use crate::store::redis::{Clock, Redis};
use crate::store::{LoginThrottle, RateLimits, RevocationSink, Sessions, Unavailable, Users};
use crate::tokens::RefreshTokens;

/// Sessions, users and throttles, whichever stores they are in.
pub struct Stores {
    pub users: Arc<dyn Users>,
    pub sessions: Arc<dyn Sessions>,
    pub throttle: Arc<dyn LoginThrottle>,
    /// Shared by the fleet; `None`: this process counts for itself.
    pub rate_limits: Option<Arc<dyn RateLimits>>,
    pub fleet: Fleet,
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
                Self { users, sessions: file.clone(), throttle: file, rate_limits: None, fleet: Fleet(None) }
            }
            SessionStore::Redis(settings, _) => {
                let redis = Redis::open(settings, sink, Clock::Server)?;
                Self {
                    users,
                    sessions: redis.clone(),
                    throttle: redis.clone(),
                    rate_limits: Some(redis.clone()),
                    fleet: Fleet(Some(redis)),
                }
            }
        })
    }

    /// Waits until the revocations in force have been heard, at most `limit`. Whether they have been.
    pub async fn catch_up(&self, limit: Duration) -> bool {
        match &self.fleet.0 {
            Some(redis) => tokio::time::timeout(limit, redis.caught_up()).await.is_ok(),
            None => true,
        }
    }
}

/// The gateways that share a session store with this one; `None` when it is alone.
#[derive(Clone)]
pub struct Fleet(Option<Arc<Redis>>);

impl Fleet {
    /// Whether `fingerprint`, of the secret of refresh tokens, is that of the other gateways: one that does not know their refresh
    /// tokens would log their users out.
    ///
    /// # Errors
    /// When the store cannot be asked now.
    pub async fn has_fingerprint(&self, fingerprint: &str) -> Result<bool, Unavailable> {
        match &self.0 {
            Some(redis) => redis.is_of_this_fleet(fingerprint).await,
            None => Ok(true),
        }
    }

    /// What an operator is told when it is not.
    pub fn stranger(&self) -> String {
        let key = self.0.as_ref().map(|redis| redis.fleet_key()).unwrap_or_default();
        format!(
            "keys/refresh.key in server.data_dir is not that of the other gateways on this Redis: copy the folder keys/ from \
             one of them. If all of them have a new one (everybody logs in again), delete {key} in Redis first; if this is another \
             fleet, give it a sessions.prefix of its own"
        )
    }

    /// Confirms `tokens` as soon as the store can be asked and says yes; until then complains now and then.
    pub async fn confirm_in_time(self, tokens: Arc<RefreshTokens>) {
        let fingerprint = tokens.fingerprint();
        for attempt in 0_u32.. {
            match self.has_fingerprint(&fingerprint).await {
                Ok(true) => return tokens.confirm(),
                Ok(false) if attempt % 60 == 0 => tracing::error!("{}", self.stranger()),
                Ok(false) | Err(_) => {}
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}
