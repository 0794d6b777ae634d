//! A route's limit counted over all gateways of a fleet.
//!
//! What a caller may do is kept once, in the shared store; a gateway takes a lease on an eighth of what is left of
//! it and counts that down by itself. So no caller gets more than the limit however he spreads his requests, and the store is asked
//! once for several of them: every time only when little is left, or allowed. While the store cannot be
//! reached, each gateway counts for itself.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::{Caller, RateLimiter};
use crate::clock::Timestamp;
use crate::digest::short_digest;
use crate::store::{Lease, RateLimits};

/// How long each gateway counts for itself before the store is tried again.
const ALONE: Duration = Duration::from_secs(1);
const SHARDS: usize = 16;
/// Callers remembered in a shard. Who is forgotten costs another question to the store.
const CALLERS: usize = 4_096;

pub struct FleetLimiter {
    store: Arc<dyn RateLimits>,
    /// What the limit is called in the store: the same on every gateway, another for every route.
    name: String,
    requests: u32,
    window: Duration,
    alone: RateLimiter,
    /// Milliseconds since 1970.
    alone_until: AtomicI64,
    shards: [Mutex<HashMap<u64, Standing>>; SHARDS],
    hasher: RandomState,
}

/// What a gateway knows of a caller, until an instant: that he may make `left` more requests, or, when that is zero, that he
/// has to wait.
#[derive(Clone, Copy)]
struct Standing {
    left: u32,
    until: Timestamp,
}

impl FleetLimiter {
    pub fn new(store: Arc<dyn RateLimits>, name: String, requests: u32, window: Duration) -> Self {
        Self {
            store,
            name,
            requests,
            window,
            alone: RateLimiter::new(requests, window),
            alone_until: AtomicI64::new(0),
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
        }
    }

    /// As [`RateLimiter::check`], for the whole fleet.
    pub async fn check(&self, caller: &Caller<'_>, now: Timestamp) -> Result<(), Duration> {
        let key = self.hasher.hash_one(caller);
        if let Some(decided) = self.decide_here(key, now) {
            return decided;
        }
        if now.0 < self.alone_until.load(Ordering::Relaxed) {
            return self.alone.check(caller, now);
        }
        let name = self.stored_name(caller);
        let Ok(lease) = self.store.lease(&name, self.requests, self.window, now).await else {
            self.alone_until.store(now.plus(ALONE).0, Ordering::Relaxed);
            return self.alone.check(caller, now);
        };
        match lease {
            Lease::Granted { requests, lifetime } => {
                // This request is one of them. None left is not the same as having to wait.
                if requests > 1 {
                    self.remember(key, Standing { left: requests - 1, until: now.plus(lifetime) }, now);
                }
                Ok(())
            }
            Lease::Exhausted { retry_after } => {
                // Another request of his may have been granted some meanwhile.
                if let Some(Ok(())) = self.decide_here(key, now) {
                    return Ok(());
                }
                self.remember(key, Standing { left: 0, until: now.plus(retry_after) }, now);
                Err(retry_after)
            }
        }
    }

    /// What follows from what is known here; `None` when the store has to be asked.
    fn decide_here(&self, key: u64, now: Timestamp) -> Option<Result<(), Duration>> {
        let mut shard = self.shard(key).lock();
        let standing = shard.get_mut(&key).filter(|standing| standing.until > now)?;
        if standing.left == 0 {
            return Some(Err(standing.until.until(now)));
        }
        standing.left -= 1;
        if standing.left == 0 {
            shard.remove(&key);
        }
        Some(Ok(()))
    }

    fn remember(&self, key: u64, new: Standing, now: Timestamp) {
        let mut shard = self.shard(key).lock();
        if shard.len() >= CALLERS && !shard.contains_key(&key) {
            shard.retain(|_, standing| standing.until > now);
            if shard.len() >= CALLERS {
                return;
            }
        }
        shard.entry(key).and_modify(|known| *known = known.and(new, now)).or_insert(new);
    }

    fn shard(&self, key: u64) -> &Mutex<HashMap<u64, Standing>> {
        &self.shards[key as usize % SHARDS]
    }

    /// A digest, so that nobody's name or address can be found in the store, and no name is too long for it.
    fn stored_name(&self, caller: &Caller<'_>) -> String {
        let text = match caller {
            Caller::User { issuer, subject } => format!("{}\nuser\n{issuer}\n{subject}", self.name),
            Caller::Address(address) => format!("{}\naddress\n{address}", self.name),
        };
        format!("{:032x}", short_digest(&text))
    }
}

impl Standing {
    /// Of two leases taken at the same time both count, until the earlier one ends. News that the caller has to wait does not take
    /// away what he was granted before.
    fn and(self, new: Self, now: Timestamp) -> Self {
        if self.until <= now || self.left == 0 {
            return new;
        }
        if new.left == 0 {
            return self;
        }
        Self { left: self.left.saturating_add(new.left), until: self.until.min(new.until) }
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;
    use crate::store::{Result as StoreResult, Unavailable};

    const START: Timestamp = Timestamp(1_700_000_000_000);
    const MINUTE: Duration = Duration::from_secs(60);

    /// A store that is down.
    struct Down;

    #[async_trait]
    impl RateLimits for Down {
        async fn lease(&self, _: &str, _: u32, _: Duration, _: Timestamp) -> StoreResult<Lease> {
            Err(Unavailable { store: "redis", cause: "down".into() })
        }
    }

    fn ann() -> Caller<'static> {
        Caller::User { issuer: "https://issuer.example", subject: "ann" }
    }

    #[tokio::test]
    async fn without_the_store_each_gateway_counts_for_itself() {
        let limiter = FleetLimiter::new(Arc::new(Down), "r".into(), 3, MINUTE);
        for _ in 0..3 {
            assert_eq!(limiter.check(&ann(), START).await, Ok(()));
        }
        assert_eq!(limiter.check(&ann(), START).await, Err(MINUTE / 3));
    }

    #[test]
    fn leases_add_up_and_a_refusal_takes_nothing_back() {
        let standing = |left, at| Standing { left, until: START.plus(Duration::from_secs(at)) };
        let sum = standing(3, 5).and(standing(4, 2), START);
        assert_eq!((sum.left, sum.until), (7, START.plus(Duration::from_secs(2))));
        assert_eq!(standing(3, 5).and(standing(0, 9), START).left, 3);
        assert_eq!(standing(0, 5).and(standing(4, 9), START).left, 4);
        assert_eq!(standing(3, 0).and(standing(4, 9), START).left, 4);
    }

    #[test]
    fn callers_and_routes_have_names_of_their_own() {
        let limiter = |name: &str| FleetLimiter::new(Arc::new(Down), name.into(), 1, MINUTE);
        let address = Caller::Address("192.0.2.1".parse().unwrap());
        let names = [
            limiter("a").stored_name(&ann()),
            limiter("b").stored_name(&ann()),
            limiter("a").stored_name(&address),
            limiter("a").stored_name(&Caller::User { issuer: "https://issuer.exampl", subject: "eann" }),
        ];
        assert!(names.iter().all(|name| name.len() == 32));
        assert_eq!(names.iter().collect::<std::collections::HashSet<_>>().len(), 4);
    }
}
