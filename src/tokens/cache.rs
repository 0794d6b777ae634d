//! Tokens that were verified before, so that a signature is checked once and not on every request.
//!
//! Invariant 4: what lies here is the result of verification only. Whoever takes it out must pass it to
//! [`super::Verifier::recheck`] (expiry, removed keys, revocations) and evaluate the route's policy anew.
//! Entries are found by the SHA-256 of the whole token, signature included, so a token that differs in one
//! bit finds nothing.

use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::digest;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

/// SHA-256 of a token as it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TokenDigest([u8; 32]);

impl TokenDigest {
    pub fn of(token: &str) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
        Self(bytes)
    }
}

/// What one entry costs beside its value: key, weight, links, table slots.
const ENTRY_OVERHEAD: u64 = 160;
/// A first guess for the tables' size; they hold what fits whatever this says.
const TYPICAL_ENTRY: usize = 2048;

/// A cache bounded in bytes; what is used least makes room.
pub struct TokenCache<T: Clone> {
    entries: Cache<TokenDigest, Entry<T>, ByWeight>,
    hits: AtomicU64,
    misses: AtomicU64,
}

#[derive(Clone)]
struct Entry<T> {
    value: T,
    weight: u64,
}

#[derive(Clone)]
struct ByWeight;

impl<T> Weighter<TokenDigest, Entry<T>> for ByWeight {
    fn weight(&self, _: &TokenDigest, entry: &Entry<T>) -> u64 {
        entry.weight + ENTRY_OVERHEAD
    }
}

impl<T: Clone> TokenCache<T> {
    /// Holds at most `bytes`, counting the weights given to [`Self::insert`] and a fixed overhead an entry.
    pub fn new(bytes: usize) -> Self {
        let entries = Cache::with_weighter((bytes / TYPICAL_ENTRY).max(1), bytes as u64, ByWeight);
        Self { entries, hits: AtomicU64::new(0), misses: AtomicU64::new(0) }
    }

    pub fn get(&self, token: &TokenDigest) -> Option<T> {
        let found = self.entries.get(token).map(|entry| entry.value);
        let counter = if found.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// `weight`: bytes that `value` holds, its heap included. A value too heavy for the cache is not kept.
    pub fn insert(&self, token: TokenDigest, value: T, weight: usize) {
        self.entries.insert(token, Entry { value, weight: weight as u64 });
    }

    /// Drops a token that no longer passes the recheck.
    pub fn remove(&self, token: &TokenDigest) {
        self.entries.remove(token);
    }

    /// Hits and misses since start.
    pub fn counts(&self) -> (u64, u64) {
        (self.hits.load(Ordering::Relaxed), self.misses.load(Ordering::Relaxed))
    }

    /// Entries held, and the bytes they weigh.
    pub fn size(&self) -> (usize, u64) {
        (self.entries.len(), self.entries.weight())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_bounded_in_bytes_and_counts() {
        let cache = TokenCache::new(64 * 1024);
        for i in 0..10_000_u32 {
            cache.insert(TokenDigest::of(&i.to_string()), i, 1000);
        }
        let (entries, bytes) = cache.size();
        assert!(bytes <= 64 * 1024 && entries >= 30, "{entries} entries, {bytes} bytes");
        let kept = (0..10_000).filter(|i| cache.get(&TokenDigest::of(&i.to_string())) == Some(*i)).count();
        assert_eq!(kept, entries);
        assert_eq!(cache.counts(), (kept as u64, 10_000 - kept as u64));
    }

    #[test]
    fn a_token_that_differs_in_one_bit_is_another_one() {
        let cache = TokenCache::new(64 * 1024);
        cache.insert(TokenDigest::of("a.b.c"), 1, 10);
        assert_eq!(cache.get(&TokenDigest::of("a.b.c")), Some(1));
        assert_eq!(cache.get(&TokenDigest::of("a.b.b")), None);
        cache.remove(&TokenDigest::of("a.b.c"));
        assert_eq!(cache.get(&TokenDigest::of("a.b.c")), None);
    }

    #[test]
    fn a_value_too_heavy_is_not_kept() {
        let cache = TokenCache::new(4096);
        cache.insert(TokenDigest::of("x"), 1, 1_000_000);
        assert_eq!(cache.size(), (0, 0));
    }
}
