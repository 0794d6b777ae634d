//! From a request's headers to an [`Identity`]: the cache first, the verifier when it must.

use std::sync::Arc;

use http::HeaderMap;

use super::bearer::{Credentials, credentials};
use super::{Identity, IdentityHeaders};
use crate::clock::Timestamp;
use crate::config::AuthMode;
use crate::fault::{Challenge, Fault};
use crate::tokens::{Rejection, TokenCache, TokenDigest, Verifier};

/// Finds out who is calling. Holds no policy.
pub struct Authenticator {
    verifier: Arc<Verifier>,
    cache: TokenCache<Arc<Identity>>,
    headers: Arc<IdentityHeaders>,
}

impl Authenticator {
    pub fn new(verifier: Arc<Verifier>, cache_bytes: usize, headers: Arc<IdentityHeaders>) -> Self {
        Self { verifier, cache: TokenCache::new(cache_bytes), headers }
    }

    /// The caller of a request on a route with `mode`; `None` for anonymous.
    ///
    /// A token that was sent is judged even where none is required: a route with `optional` authentication
    /// refuses a bad one rather than taking its bearer for a stranger.
    ///
    /// # Errors
    /// 400 or 401 for the credentials (see `bearer`), 401 for a refused token or a missing one where it is
    /// required, 503 when the issuer's keys, or what was revoked, are not known.
    pub async fn authenticate(
        &self,
        mode: AuthMode,
        headers: &HeaderMap,
        query: Option<&str>,
        now: Timestamp,
    ) -> Result<Option<Arc<Identity>>, Fault> {
        if mode == AuthMode::None {
            return Ok(None);
        }
        match credentials(headers, query)? {
            Credentials::Bearer(token) => self.identify(token, now).await.map(Some),
            Credentials::None if mode == AuthMode::Optional => Ok(None),
            Credentials::None => Err(Fault::unauthenticated(Challenge::Missing, "no bearer token")),
        }
    }

    /// The identity behind `token`. A cached result is rechecked for what can change: time, keys, revocation.
    pub async fn identify(&self, token: &str, now: Timestamp) -> Result<Arc<Identity>, Fault> {
        let digest = TokenDigest::of(token);
        if let Some(identity) = self.cache.get(&digest) {
            self.verifier.recheck(&identity.claims, now).map_err(refused)?;
            return Ok(identity);
        }
        // Boxed, since it is rare and large: every request's future would have room for it.
        let claims = Box::pin(self.verifier.verify_or_refetch(token, now)).await.map_err(refused)?;
        let identity = Arc::new(Identity { headers: self.headers.render(&claims), claims });
        self.cache.insert(digest, identity.clone(), identity.weight());
        Ok(identity)
    }

    /// Hits and misses of the cache since start, and the bytes it holds.
    pub fn cache_statistics(&self) -> (u64, u64, u64) {
        let (hits, misses) = self.cache.counts();
        (hits, misses, self.cache.size().1)
    }
}

fn refused(rejection: Rejection) -> Fault {
    match rejection {
        Rejection::Unavailable => {
            Fault::unavailable("issuer_unavailable", "the issuer's keys are not available")
        }
        Rejection::RevocationsUnknown => Fault::unavailable("store_unavailable", rejection.to_string()),
        other => Fault::unauthenticated(Challenge::InvalidToken, other.reason()),
    }
}
