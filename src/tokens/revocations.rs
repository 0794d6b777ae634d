//! Sessions and users whose access tokens are dead before they expire, held in memory.
//!
//! The session store announces every revocation here before it answers, and replays those in force at start.
//! An entry is needed for as long as an access token may live, so the size is bounded by the number of
//! logouts in one `access_ttl`. A million sessions take about 52 MiB.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::RwLock;

use crate::clock::Timestamp;
use crate::store::settings::{OnUnreachable, RevocationPolicy};
use crate::store::{RevocationSink, SessionId, SessionsCut};

const SHARDS: usize = 64;

pub struct Revocations {
    /// The id as bytes, not as a number: less alignment an entry.
    sessions: Sharded<[u8; 16], SessionEnd>,
    /// Says in 32 bits whose session it is, so that nobody ends another's.
    owners: RandomState,
    users: Sharded<String, UserCut>,
    /// Of the access tokens made here, leeway included; zero when it is not known.
    token_lifetime: Duration,
    /// `None`: every revocation is announced at once, by this process or one on this machine.
    remote: Option<Remote>,
}

/// How far behind others this process may be.
struct Remote {
    policy: RevocationPolicy,
    since: Timestamp,
    /// Milliseconds since 1970, or [`NEVER`].
    heard_until: AtomicI64,
}

const NEVER: i64 = i64::MIN;

const ANYBODY: u32 = 0;

#[derive(Clone, Copy)]
struct SessionEnd {
    owner: u32,
    /// Seconds since 1970, rounded up.
    until: u32,
}

#[derive(Clone, Copy)]
struct UserCut {
    cut: SessionsCut,
    until: u32,
}

impl Default for Revocations {
    fn default() -> Self {
        Self::new()
    }
}

impl Revocations {
    /// For a store that announces every revocation at once.
    pub fn new() -> Self {
        Self {
            sessions: Sharded::default(),
            owners: RandomState::new(),
            users: Sharded::default(),
            token_lifetime: Duration::ZERO,
            remote: None,
        }
    }

    /// For a store that has to be heard over the network, from `now` on, under `policy`.
    pub fn heard_from_afar(policy: RevocationPolicy, now: Timestamp) -> Self {
        let remote = Remote { policy, since: now, heard_until: AtomicI64::new(NEVER) };
        Self { remote: Some(remote), ..Self::new() }
    }

    /// For a process whose access tokens live for `lifetime`, leeway included.
    #[must_use]
    pub fn of_tokens(self, lifetime: Duration) -> Self {
        Self { token_lifetime: lifetime, ..self }
    }

    /// Whether so much may have been revoked unheard that no token can be believed at `now`. A process that has
    /// never heard anything is deaf as well, until `unreachable_after` has passed and the policy decides.
    pub fn is_deaf(&self, now: Timestamp) -> bool {
        let Some(remote) = &self.remote else { return false };
        let heard_until = remote.heard_until.load(Ordering::Acquire);
        let patience = remote.policy.unreachable_after;
        if heard_until != NEVER && now <= Timestamp(heard_until).plus(patience) {
            return false;
        }
        let starting = heard_until == NEVER && now <= remote.since.plus(patience);
        starting || remote.policy.on_unreachable == OnUnreachable::Refuse
    }

    /// Whether the revocations in force when this process started have been heard.
    pub fn has_caught_up(&self) -> bool {
        self.remote.as_ref().is_none_or(|remote| remote.heard_until.load(Ordering::Acquire) != NEVER)
    }

    /// How old the newest news is; since the start when there never was any.
    pub fn lag(&self, now: Timestamp) -> Duration {
        let Some(remote) = &self.remote else { return Duration::ZERO };
        match remote.heard_until.load(Ordering::Acquire) {
            NEVER => now.until(remote.since),
            heard_until => now.until(Timestamp(heard_until)),
        }
    }

    /// Whether a token of `session`, begun at `began`, of our user `user` is dead. While nothing is revoked
    /// this reads two counters.
    pub fn is_revoked(&self, session: Option<SessionId>, began: Timestamp, user: &str) -> bool {
        let ended = session.and_then(|id| self.sessions.get(id.as_bytes()));
        if ended.is_some_and(|end| end.owner == ANYBODY || end.owner == self.owner(user)) {
            return true;
        }
        self.users.get(user).is_some_and(|UserCut { cut, .. }| match session {
            Some(id) => !cut.spares(id, began),
            None => began <= cut.at,
        })
    }

    /// Forgets what is over at `now`; returns how many entries went.
    pub fn sweep(&self, now: Timestamp) -> usize {
        let now = now.seconds();
        self.sessions.retain(|session| i64::from(session.until) >= now)
            + self.users.retain(|user| i64::from(user.until) >= now)
    }

    fn owner(&self, user: &str) -> u32 {
        if user.is_empty() {
            return ANYBODY;
        }
        (self.owners.hash_one(user) as u32).max(1)
    }

    /// Sessions and users held.
    pub fn len(&self) -> usize {
        self.sessions.len() + self.users.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl RevocationSink for Revocations {
    fn session(&self, user: &str, session: SessionId, until: Timestamp) {
        let end = SessionEnd { owner: self.owner(user), until: seconds_up(until) };
        self.sessions.update(*session.as_bytes(), |known| match known {
            Some(known) => SessionEnd {
                // Two who claim one session: what is revoked must stay so, whoever was right.
                owner: if known.owner == end.owner { end.owner } else { ANYBODY },
                until: end.until.max(known.until),
            },
            None => end,
        });
    }

    fn user(&self, user: &str, cut: SessionsCut, until: Timestamp) {
        let until = seconds_up(until);
        self.users.update(user.to_owned(), |known| {
            let Some(known) = known else { return UserCut { cut, until } };
            UserCut { cut: stricter(known.cut, cut), until: until.max(known.until) }
        });
    }

    fn token_lifetime(&self) -> Duration {
        self.token_lifetime
    }

    fn heard_until(&self, at: Timestamp) {
        if let Some(remote) = &self.remote {
            remote.heard_until.fetch_max(at.0, Ordering::Release);
        }
    }
}

/// Both cuts are in force. The later one covers the earlier; of two at the same instant, no session is
/// spared that either of them ends.
fn stricter(a: SessionsCut, b: SessionsCut) -> SessionsCut {
    match a.at.cmp(&b.at) {
        std::cmp::Ordering::Less => b,
        std::cmp::Ordering::Greater => a,
        std::cmp::Ordering::Equal => SessionsCut { at: a.at, keep: a.keep.filter(|_| a.keep == b.keep) },
    }
}

fn seconds_up(time: Timestamp) -> u32 {
    u32::try_from(time.0.max(0).saturating_add(999) / 1000).unwrap_or(u32::MAX)
}

/// A map in shards, so that a writer holds up one reader in 64, with a count that spares readers the locks
/// while it is zero.
struct Sharded<K, V> {
    shards: [RwLock<HashMap<K, V>>; SHARDS],
    count: AtomicUsize,
    hasher: RandomState,
}

impl<K, V> Default for Sharded<K, V> {
    fn default() -> Self {
        Self {
            shards: std::array::from_fn(|_| RwLock::default()),
            count: AtomicUsize::new(0),
            hasher: RandomState::new(),
        }
    }
}

impl<K: Hash + Eq, V: Copy> Sharded<K, V> {
    fn shard<Q: Hash + ?Sized>(&self, key: &Q) -> &RwLock<HashMap<K, V>> {
        // The top bits: each map takes its own from the bottom of another hash.
        &self.shards[(self.hasher.hash_one(key) >> 58) as usize]
    }

    fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<V>
    where
        K: std::borrow::Borrow<Q>,
    {
        // Acquire pairs with the release in `update`: who sees a revocation announced sees it here.
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        self.shard(key).read().get(key).copied()
    }

    fn update(&self, key: K, value: impl FnOnce(Option<&V>) -> V) {
        let mut shard = self.shard(&key).write();
        let value = value(shard.get(&key));
        if shard.insert(key, value).is_none() {
            self.count.fetch_add(1, Ordering::Release);
        }
    }

    fn retain(&self, keep: impl Fn(&V) -> bool) -> usize {
        let mut removed = 0;
        for shard in &self.shards {
            let mut shard = shard.write();
            let before = shard.len();
            shard.retain(|_, value| keep(value));
            let gone = before - shard.len();
            if shard.capacity() > 4 * shard.len().max(64) {
                shard.shrink_to_fit();
            }
            self.count.fetch_sub(gone, Ordering::Release);
            removed += gone;
        }
        removed
    }

    fn len(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    #[cfg(test)]
    fn table_bytes(&self) -> usize {
        // hashbrown: buckets are a power of two, 7/8 of them usable, one control byte each.
        let buckets =
            |capacity: usize| if capacity == 0 { 0 } else { (capacity * 8 / 7).next_power_of_two() };
        self.shards.iter().map(|shard| buckets(shard.read().capacity()) * (size_of::<(K, V)>() + 1)).sum()
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const USER: &str = "u1";

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(seconds)
    }

    #[test]
    fn a_session_is_revoked_until_swept() {
        let revocations = Revocations::new();
        let (dead, alive) = (Uuid::now_v7(), Uuid::now_v7());
        assert!(!revocations.is_revoked(Some(dead), at(1), USER));
        revocations.session(USER, dead, Timestamp(100_001));
        assert!(revocations.is_revoked(Some(dead), at(1), USER));
        assert!(!revocations.is_revoked(Some(alive), at(1), USER));
        assert!(!revocations.is_revoked(Some(dead), at(1), "u2"), "nobody ends another's session");
        revocations.session("u2", dead, at(1));
        assert!(revocations.is_revoked(Some(dead), at(1), USER), "nobody revives another's session");
        assert_eq!(revocations.sweep(at(101)), 0, "100.001 s is not over at 101 s sharp");
        assert_eq!(revocations.sweep(at(102)), 1);
        assert!(!revocations.is_revoked(Some(dead), at(1), USER));
        assert!(revocations.is_empty());
    }

    #[test]
    fn a_cut_ends_what_began_before_except_the_kept_session() {
        let revocations = Revocations::new();
        let (kept, other) = (Uuid::now_v7(), Uuid::now_v7());
        revocations.user(USER, SessionsCut { at: at(50), keep: Some(kept) }, at(100));
        assert!(revocations.is_revoked(Some(other), at(50), USER));
        assert!(!revocations.is_revoked(Some(other), at(51), USER));
        assert!(!revocations.is_revoked(Some(kept), at(10), USER));
        assert!(!revocations.is_revoked(Some(other), at(10), "u2"));
        assert!(revocations.is_revoked(None, at(50), USER));
    }

    #[test]
    fn cuts_that_arrive_in_any_order_only_get_stricter() {
        let (kept, later_kept) = (Uuid::now_v7(), Uuid::now_v7());
        let early = SessionsCut { at: at(50), keep: Some(kept) };
        let late = SessionsCut { at: at(60), keep: Some(later_kept) };
        let same_instant = SessionsCut { at: at(60), keep: None };
        for order in [[early, late, same_instant], [same_instant, late, early], [late, early, same_instant]] {
            let revocations = Revocations::new();
            for cut in order {
                revocations.user(USER, cut, at(100));
            }
            assert_eq!(revocations.len(), 1);
            assert!(revocations.is_revoked(Some(kept), at(1), USER));
            assert!(revocations.is_revoked(Some(later_kept), at(55), USER));
            assert!(!revocations.is_revoked(Some(later_kept), at(61), USER));
        }
    }

    #[test]
    fn a_shorter_end_does_not_shorten_a_longer_one() {
        let revocations = Revocations::new();
        let session = Uuid::now_v7();
        revocations.session(USER, session, at(100));
        revocations.session(USER, session, at(50));
        assert_eq!((revocations.len(), revocations.sweep(at(80))), (1, 0));
    }

    #[test]
    fn deaf_at_the_start_and_then_as_the_policy_says() {
        for (on_unreachable, deaf_in_the_end) in
            [(OnUnreachable::Serve, false), (OnUnreachable::Refuse, true)]
        {
            let policy = RevocationPolicy { unreachable_after: Duration::from_secs(10), on_unreachable };
            let revocations = Revocations::heard_from_afar(policy, at(100));
            assert!(revocations.is_deaf(at(100)) && revocations.is_deaf(at(110)));
            assert_eq!(revocations.is_deaf(at(111)), deaf_in_the_end);
            assert_eq!((revocations.has_caught_up(), revocations.lag(at(103)).as_secs()), (false, 3));

            revocations.heard_until(at(120));
            revocations.heard_until(at(119));
            assert!(!revocations.is_deaf(at(130)));
            assert_eq!(revocations.is_deaf(at(131)), deaf_in_the_end);
            assert_eq!((revocations.has_caught_up(), revocations.lag(at(125)).as_secs()), (true, 5));
        }
        assert!(!Revocations::new().is_deaf(at(i64::MAX / 1000)));
    }

    #[test]
    fn a_million_sessions_fit_in_64_mib() {
        let revocations = Revocations::new();
        for i in 0..1_000_000_u128 {
            revocations.session(USER, Uuid::from_u128(i << 64 | i), at(100));
        }
        assert_eq!(revocations.len(), 1_000_000);
        let bytes = revocations.sessions.table_bytes();
        assert!(bytes <= 64 << 20, "{bytes} bytes");
        assert_eq!(revocations.sweep(at(101)), 1_000_000);
        assert!(revocations.sessions.table_bytes() < 1 << 20, "memory is given back");
    }
}
