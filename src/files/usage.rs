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
/// One that may be too high, since uploads ran while it was made, for so long.
const ROUGH: Duration = Duration::from_secs(2);
/// Prefixes remembered; beyond, those nobody is using are forgotten.
const REMEMBERED: usize = 10_000;

#[derive(Default)]
pub struct Usages(Mutex<HashMap<String, Arc<Usage>>>);

#[derive(Default)]
struct Usage {
    /// Held while counting and reserving: one request counts, and the others wait.
    admission: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

/// Never less than what is stored, as far as it was stored through here.
#[derive(Default)]
struct State {
    believed_until: Option<Instant>,
    stored: Total,
    /// By uploads that run.
    reserved: Total,
    /// Stored since the count that runs began: it may have seen it, or not.
    stored_meanwhile: Total,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Total {
    bytes: u64,
    objects: u64,
}

impl Total {
    fn plus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            objects: self.objects.saturating_add(other.objects),
        }
    }

    fn minus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_sub(other.bytes),
            objects: self.objects.saturating_sub(other.objects),
        }
    }
}

/// Room for one upload; given back unless the upload succeeds.
pub struct Reservation {
    usage: Arc<Usage>,
    room: Total,
    /// The object replaces a larger one.
    shrinks: bool,
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
        let old = self.backend.size(key).await?;
        let admission = usage.admission.lock().await;
        usage.count(&*self.backend, key.prefix()).await?;
        // What is replaced by less is not room for others before it is counted again: two uploads may replace one object.
        let replaced = old.unwrap_or_default();
        let room = Total { bytes: size.saturating_sub(replaced), objects: u64::from(old.is_none()) };
        let mut state = usage.state.lock();
        let used = state.stored.plus(state.reserved);
        let after = used.plus(room);
        let over =
            |limit: Option<u64>, after: u64, more: u64| more > 0 && limit.is_some_and(|limit| after > limit);
        if over(quota.bytes, after.bytes, room.bytes) || over(quota.objects, after.objects, room.objects) {
            return Err(FileError::Client(full(quota, used, size)));
        }
        state.reserved = state.reserved.plus(room);
        drop(state);
        drop(admission);
        Ok(Reservation { usage, room, shrinks: size < replaced })
    }

    /// Something below `prefix` was removed: how much cannot be known when several remove it.
    pub(super) fn removed(&self, prefix: &str) {
        if let Some(usage) = self.usages.0.lock().get(prefix) {
            usage.state.lock().believed_until = None;
        }
    }
}

impl Reservation {
    /// The object is stored.
    pub fn keep(mut self) {
        let room = std::mem::take(&mut self.room);
        let mut state = self.usage.state.lock();
        state.reserved = state.reserved.minus(room);
        state.stored = state.stored.plus(room);
        state.stored_meanwhile = state.stored_meanwhile.plus(room);
        if self.shrinks {
            state.believed_until = None;
        }
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
        {
            let mut state = self.state.lock();
            if state.believed_until.is_some_and(|end| Instant::now() < end) {
                return Ok(());
            }
            state.stored_meanwhile = Total::default();
            // A removal while it is counted makes the next one count again.
            state.believed_until = Some(Instant::now() + FRESH);
        }
        let counted = total(store, prefix).await;
        let mut state = self.state.lock();
        let total = match counted {
            Ok(total) => total,
            Err(e) => {
                state.believed_until = None;
                return Err(e);
            }
        };
        state.stored = total.plus(state.stored_meanwhile);
        let is_rough = state.stored_meanwhile != Total::default() || state.reserved != Total::default();
        if state.believed_until.is_some() && is_rough {
            state.believed_until = Some(Instant::now() + ROUGH);
        }
        Ok(())
    }
}

async fn total(store: &dyn FileStore, prefix: &str) -> Result<Total, FileError> {
    let mut total = Total::default();
    let mut list = List { prefix: prefix.to_owned(), after: None, folders: false, limit: 1000 };
    loop {
        let page = store.list(&list).await?;
        for entry in &page.entries {
            if let Entry::Object { size, .. } = entry {
                total = total.plus(Total { bytes: *size, objects: 1 });
            }
        }
        match page.entries.last() {
            Some(last) if page.more => list.after = Some(last.key().to_owned()),
            _ => return Ok(total),
        }
    }
}

fn full(quota: &Quota, used: Total, size: u64) -> Fault {
    let mut numbers = vec![("size", size), ("used_bytes", used.bytes), ("used_objects", used.objects)];
    numbers.extend(quota.bytes.map(|n| ("quota_bytes", n)));
    numbers.extend(quota.objects.map(|n| ("quota_objects", n)));
    let detail = "There is no room left for this file: delete others, or ask for a larger quota.";
    Fault::new(507, "quota_exceeded", detail).numbers(numbers).closing()
}
