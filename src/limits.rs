//! How often a caller may use a route.
//!
//! The generic cell rate algorithm (GCRA, the virtual scheduling form of ITU-T I.371): per caller one instant,
//! the time at which the requests let through so far would have arrived had they come evenly spaced. A table of
//! fixed size holds them. It never grows: when callers outnumber its slots, those nearest to a clean record are
//! forgotten first, so a flood of new callers does not set free the one that is being held back. [`RateLimiter`]
//! shares nothing between processes and stores nothing; [`FleetLimiter`] counts over all gateways.

mod fleet;

use std::hash::{BuildHasher, Hash, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use parking_lot::Mutex;

pub use self::fleet::FleetLimiter;
use crate::clock::Timestamp;

/// Who is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Caller<'a> {
    /// A user is issuer and subject together.
    User { issuer: &'a str, subject: &'a str },
    /// As [`client_key`] has it.
    Address(IpAddr),
}

/// The address a client is counted by. An IPv6 client owns a /64 at least (RFC 6177), so only those bits count;
/// an IPv4 address mapped into IPv6 is the IPv4 address.
pub fn client_key(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

/// The limit of a route, counted here or over the fleet.
pub enum Limiter {
    Local(Box<RateLimiter>),
    Fleet(Box<FleetLimiter>),
}

impl Limiter {
    /// As [`RateLimiter::check`].
    pub async fn check(&self, caller: &Caller<'_>, now: Timestamp) -> Result<(), Duration> {
        match self {
            Self::Local(limiter) => limiter.check(caller, now),
            // Boxed, since it is rare and large: every request's future would have room for it.
            Self::Fleet(limiter) => Box::pin(limiter.check(caller, now)).await,
        }
    }
}

const SHARDS: usize = 16;
const SLOTS: usize = 8;

/// Hash of a caller, and the nanosecond since 1970 up to which he has used what he is entitled to. A time that
/// has passed says as much as no entry at all, so the zeroed slot is the empty slot.
type Slot = (u64, i64);
type Bucket = [Slot; SLOTS];

/// The limit of one route: `requests` in each window, all of which may come at once.
///
/// Over any span of time a caller gets at most `requests` plus one for each `window / requests` in it.
#[derive(Debug)]
pub struct RateLimiter {
    /// Nanoseconds that one request uses up.
    interval: i64,
    /// Nanoseconds a caller may be ahead and still get one more request.
    tolerance: i64,
    shards: [Mutex<Box<[Bucket]>>; SHARDS],
    /// Keyed at random, so that nobody picks callers which share a bucket.
    hasher: RandomState,
}

impl RateLimiter {
    /// Callers a limiter of [`RateLimiter::new`] remembers; 16 bytes each, touched only when used.
    pub const CALLERS: usize = 65_536;

    /// `requests` and `window` are not zero in a checked configuration; zero is read as one request, one nanosecond.
    pub fn new(requests: u32, window: Duration) -> Self {
        Self::with_capacity(requests, window, Self::CALLERS)
    }

    /// One that remembers `callers`, rounded up to a full table.
    pub fn with_capacity(requests: u32, window: Duration, callers: usize) -> Self {
        const CENTURY: Duration = Duration::from_secs(100 * 366 * 86_400);
        let requests = u64::from(requests.max(1));
        // Rounded up, so that rounding never gives a request away.
        let window = u64::try_from(window.min(CENTURY).as_nanos()).unwrap_or(u64::MAX);
        let interval = window.div_ceil(requests).max(1);
        let buckets = callers.div_ceil(SHARDS * SLOTS).max(1);
        Self {
            interval: i64::try_from(interval).unwrap_or(i64::MAX),
            tolerance: i64::try_from(interval * (requests - 1)).unwrap_or(i64::MAX),
            shards: std::array::from_fn(|_| Mutex::new(vec![[(0, 0); SLOTS]; buckets].into_boxed_slice())),
            hasher: RandomState::new(),
        }
    }

    /// Counts a request of `caller`; the error is the time after which the next one will be let through, for
    /// Retry-After. A refused request costs nothing.
    pub fn check(&self, caller: &Caller<'_>, now: Timestamp) -> Result<(), Duration> {
        let now = now.0.saturating_mul(1_000_000);
        let key = self.hasher.hash_one(caller);
        let mut shard = self.shards[key as usize % SHARDS].lock();
        let buckets = shard.len();
        let bucket = &mut shard[(key as usize / SHARDS) % buckets];

        let known = bucket.iter().position(|slot| slot.0 == key);
        let arrival = known.map_or(now, |at| bucket[at].1.max(now));
        // A clock that was set back must not lock anybody out for as long.
        let arrival = arrival.min(now.saturating_add(self.tolerance).saturating_add(self.interval));
        let ahead = arrival.saturating_sub(now);
        if ahead > self.tolerance {
            return Err(Duration::from_nanos((ahead - self.tolerance).unsigned_abs()));
        }
        let slot = match known {
            Some(at) => &mut bucket[at],
            None => soonest_over(bucket),
        };
        *slot = (key, arrival.saturating_add(self.interval));
        Ok(())
    }

    /// Callers with something on record at `now`.
    pub fn callers(&self, now: Timestamp) -> usize {
        let now = now.0.saturating_mul(1_000_000);
        let live = |bucket: &Bucket| bucket.iter().filter(|slot| slot.1 > now).count();
        self.shards.iter().map(|shard| shard.lock().iter().map(live).sum::<usize>()).sum()
    }
}

/// The slot to give to a new caller: one that is over, or else the one that will be first.
fn soonest_over(bucket: &mut Bucket) -> &mut Slot {
    let mut soonest = 0;
    for at in 1..SLOTS {
        if bucket[at].1 < bucket[soonest].1 {
            soonest = at;
        }
    }
    &mut bucket[soonest]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: Timestamp = Timestamp(1_700_000_000_000);

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn at(n: u64) -> Timestamp {
        START.plus(ms(n))
    }

    fn user(subject: &str) -> Caller<'_> {
        Caller::User { issuer: "https://issuer.example", subject }
    }

    #[test]
    fn a_burst_then_an_even_flow() {
        let limiter = RateLimiter::new(10, ms(1000));
        for _ in 0..10 {
            assert_eq!(limiter.check(&user("a"), START), Ok(()));
        }
        assert_eq!(limiter.check(&user("a"), START), Err(ms(100)));
        assert_eq!(limiter.check(&user("a"), at(60)), Err(ms(40)));
        assert_eq!(limiter.check(&user("a"), at(100)), Ok(()));
        assert_eq!(limiter.check(&user("a"), at(100)), Err(ms(100)));
        assert_eq!(limiter.check(&user("b"), at(100)), Ok(()));
        // After a quiet window all of it is there again, and not more.
        for _ in 0..10 {
            assert_eq!(limiter.check(&user("a"), at(5000)), Ok(()));
        }
        assert!(limiter.check(&user("a"), at(5000)).is_err());
    }

    #[test]
    fn one_in_a_window_is_one() {
        let limiter = RateLimiter::new(1, ms(1000));
        assert_eq!(limiter.check(&user("a"), START), Ok(()));
        assert_eq!(limiter.check(&user("a"), at(999)), Err(ms(1)));
        assert_eq!(limiter.check(&user("a"), at(1000)), Ok(()));
    }

    #[test]
    fn a_clock_set_back_locks_nobody_out() {
        let limiter = RateLimiter::new(2, ms(1000));
        let later = START.plus(Duration::from_secs(86_400));
        assert_eq!((limiter.check(&user("a"), later), limiter.check(&user("a"), later)), (Ok(()), Ok(())));
        assert_eq!(limiter.check(&user("a"), START), Err(ms(500)));
    }

    #[test]
    fn extreme_limits_do_not_overflow() {
        for (requests, window) in
            [(0, Duration::ZERO), (u32::MAX, Duration::MAX), (u32::MAX, ms(1)), (1, Duration::MAX)]
        {
            let limiter = RateLimiter::with_capacity(requests, window, 1);
            for now in [Timestamp(i64::MIN), Timestamp(0), START, Timestamp(i64::MAX)] {
                let _ = limiter.check(&user("a"), now);
            }
        }
    }

    #[test]
    fn callers_are_told_apart() {
        let limiter = RateLimiter::new(1, ms(1000));
        let address = Caller::Address("192.0.2.1".parse().unwrap());
        let callers = [
            Caller::User { issuer: "a", subject: "bc" },
            Caller::User { issuer: "ab", subject: "c" },
            Caller::User { issuer: "", subject: "192.0.2.1" },
            address,
        ];
        for caller in callers {
            assert_eq!(limiter.check(&caller, START), Ok(()), "{caller:?}");
            assert!(limiter.check(&caller, START).is_err(), "{caller:?}");
        }
    }

    #[test]
    fn an_ipv6_client_is_its_64_bit_prefix() {
        let key = |text: &str| client_key(text.parse().unwrap()).to_string();
        assert_eq!(key("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
        assert_eq!(key("::ffff:192.0.2.1"), "192.0.2.1");
        assert_eq!(key("192.0.2.1"), "192.0.2.1");
    }

    #[test]
    fn a_million_callers_fit_and_do_not_free_the_one_held_back() {
        let limiter = RateLimiter::with_capacity(100, ms(60_000), 4096);
        let bytes = || limiter.shards.iter().map(|s| s.lock().len() * size_of::<Bucket>()).sum::<usize>();
        let before = bytes();
        assert!((0..=100).any(|_| limiter.check(&user("greedy"), START).is_err()));
        for n in 0..1_000_000u32 {
            assert_eq!(limiter.check(&Caller::Address(IpAddr::V4(n.into())), START), Ok(()));
        }
        assert_eq!((bytes(), before), (4096 * 16, 4096 * 16));
        assert!(limiter.callers(START) <= 4096);
        assert!(limiter.check(&user("greedy"), START).is_err());
        assert_eq!(limiter.callers(at(60_000)), 0);
    }

    #[test]
    fn parallel_requests_are_each_counted() {
        let limiter = RateLimiter::new(1000, ms(3_600_000));
        let let_through: usize = std::thread::scope(|scope| {
            let count = || (0..1000).filter(|_| limiter.check(&user("a"), START).is_ok()).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(count)).collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert_eq!(let_through, 1000);
    }

    proptest! {
        #[test]
        fn never_above_the_bound_in_any_span(
            requests in 1u32..20,
            window in 1u64..5000,
            gaps in prop::collection::vec(0u64..300, 1..200),
        ) {
            let limiter = RateLimiter::new(requests, ms(window));
            let mut now = 0;
            let mut passed = Vec::new();
            for gap in gaps {
                now += gap;
                match limiter.check(&user("a"), at(now)) {
                    Ok(()) => passed.push(now),
                    Err(wait) => {
                        prop_assert!(wait > Duration::ZERO && wait <= ms(window));
                        // Retry-After is honest: then, and not a millisecond earlier.
                        let whole = u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap();
                        if whole > 1 {
                            prop_assert!(limiter.check(&user("a"), at(now + whole - 1)).is_err());
                        }
                    }
                }
            }
            for (i, first) in passed.iter().enumerate() {
                for (j, last) in passed.iter().enumerate().skip(i) {
                    let span = last - first;
                    let bound = u64::from(requests) + span * u64::from(requests) / window;
                    prop_assert!((j - i + 1) as u64 <= bound, "{} in {span} ms", j - i + 1);
                }
            }
        }

        #[test]
        fn after_the_wait_it_passes(requests in 1u32..20, window in 1u64..5000) {
            let limiter = RateLimiter::new(requests, ms(window));
            let refusal = (0..=requests).find_map(|_| limiter.check(&user("a"), START).err());
            let wait = refusal.expect("a burst is over after as many as are allowed");
            let whole = u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap();
            prop_assert_eq!(limiter.check(&user("a"), at(whole)), Ok(()));
        }
    }
}
