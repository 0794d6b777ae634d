//! How much lies below a prefix, for quotas.
//!
//! The store is the truth: it is counted by listing, and what passes through here is added until it is counted again. Room
//! is reserved before an upload begins, so that parallel ones do not all get the last of it. Gateways of a fleet count
//! each for itself: together they may let through what the others stored since they last counted.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Store;
use super::error::FileError;
use super::key::ObjectKey;
use super::plan::exceeds;
use super::store::{Entry, FileStore, List};
use crate::config::Quota;
use crate::fault::Fault;

/// A count is believed for so long.
const FRESH: Duration = Duration::from_secs(60);
/// Prefixes remembered; beyond, those nobody is using are forgotten.
const REMEMBERED: usize = 10_000;

#[derive(Default)]
pub struct Usages(Mutex<HashMap<String, Arc<Usage>>>);

#[derive(Default)]
struct Usage {
    /// Held while counting, so that one request counts and the others wait.
    counting: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    counted: Option<Instant>,
    stored: Total,
    /// By uploads that run.
    reserved: Total,
    /// Changes with every count and every end of an upload.
    version: u64,
}

/// May be negative: a smaller object replaces a larger one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Total {
    bytes: i64,
    objects: i64,
}

impl Total {
    fn plus(self, other: Self) -> Self {
        Self { bytes: self.bytes + other.bytes, objects: self.objects + other.objects }
    }

    fn minus(self, other: Self) -> Self {
        Self { bytes: self.bytes - other.bytes, objects: self.objects - other.objects }
    }
}

/// Room for one upload; given back unless the upload succeeds.
pub struct Reservation {
    usage: Arc<Usage>,
    room: Total,
    version: u64,
}

impl Store {
    /// Room for `size` bytes at `key`.
    ///
    /// # Errors
    /// 413 when they could never fit, 507 when they do not fit now, both with the numbers; or what is wrong with the store.
    pub(super) async fn reserve(
        &self,
        key: &ObjectKey,
        size: u64,
        quota: &Quota,
    ) -> Result<Reservation, FileError> {
        if let Some(fault) = exceeds(quota, size) {
            return Err(FileError::Client(fault));
        }
        let usage = self.usages.of(key.prefix());
        usage.count(&*self.backend, key.prefix()).await?;
        let old = self.backend.size(key).await?;
        let room = Total {
            bytes: signed(size) - signed(old.unwrap_or_default()),
            objects: i64::from(old.is_none()),
        };
        let mut state = usage.state.lock();
        let used = state.stored.plus(state.reserved);
        let after = used.plus(room);
        let over = |limit: Option<u64>, after: i64, more: i64| {
            more > 0 && limit.is_some_and(|limit| after > signed(limit))
        };
        if over(quota.bytes, after.bytes, room.bytes) || over(quota.objects, after.objects, room.objects) {
            return Err(FileError::Client(full(quota, used, size)));
        }
        state.reserved = state.reserved.plus(room);
        let version = state.version;
        drop(state);
        Ok(Reservation { usage, room, version })
    }

    /// Counts `size` bytes less below `key`'s prefix.
    pub(super) fn removed(&self, key: &ObjectKey, size: u64) {
        let usage = self.usages.of(key.prefix());
        let mut state = usage.state.lock();
        state.stored = state.stored.minus(Total { bytes: signed(size), objects: 1 });
        state.version += 1;
    }
}

impl Reservation {
    /// The object is stored.
    pub fn keep(mut self) {
        let room = std::mem::take(&mut self.room);
        let mut state = self.usage.state.lock();
        state.reserved = state.reserved.minus(room);
        state.stored = state.stored.plus(room);
        if state.version != self.version {
            // Whether a count in between saw the object cannot be known.
            state.counted = None;
        }
        state.version += 1;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut state = self.usage.state.lock();
        state.reserved = state.reserved.minus(self.room);
    }
}

impl Usages {
    fn of(&self, prefix: &str) -> Arc<Usage> {
        let mut known = self.0.lock();
        if let Some(usage) = known.get(prefix) {
            return usage.clone();
        }
        if known.len() >= REMEMBERED {
            known.retain(|_, usage| Arc::strong_count(usage) > 1);
        }
        known.entry(prefix.to_owned()).or_default().clone()
    }
}

impl Usage {
    /// Counts what is stored, unless that was done a moment ago.
    async fn count(&self, store: &dyn FileStore, prefix: &str) -> Result<(), FileError> {
        let fresh = || self.state.lock().counted.is_some_and(|at| at.elapsed() < FRESH);
        if fresh() {
            return Ok(());
        }
        let _alone = self.counting.lock().await;
        if fresh() {
            return Ok(());
        }
        let before = self.state.lock().version;
        let mut total = Total::default();
        let mut list = List { prefix: prefix.to_owned(), after: None, folders: false, limit: 1000 };
        loop {
            let page = store.list(&list).await?;
            for entry in &page.entries {
                if let Entry::Object { size, .. } = entry {
                    total = total.plus(Total { bytes: signed(*size), objects: 1 });
                }
            }
            match page.entries.last() {
                Some(last) if page.more => list.after = Some(last.key().to_owned()),
                _ => break,
            }
        }
        let mut state = self.state.lock();
        state.stored = total;
        // What ended meanwhile may or may not be in it: then the next one counts again.
        state.counted = (state.version == before).then(Instant::now);
        state.version += 1;
        Ok(())
    }
}

fn full(quota: &Quota, used: Total, size: u64) -> Fault {
    let count = |n: i64| u64::try_from(n).unwrap_or_default();
    let mut numbers =
        vec![("size", size), ("used_bytes", count(used.bytes)), ("used_objects", count(used.objects))];
    numbers.extend(quota.bytes.map(|n| ("quota_bytes", n)));
    numbers.extend(quota.objects.map(|n| ("quota_objects", n)));
    let detail = "There is no room left for this file: delete others, or ask for a larger quota.";
    Fault { numbers, ..Fault::new(507, "quota_exceeded", detail).closing() }
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX / 4)
}
