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
use super::plan::too_large;
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
    /// Uploads that run, by name: how many.
    running: HashMap<String, usize>,
    /// By them, less what they replace.
    reserved: Total,
    /// By them, as if they replaced nothing.
    reserved_whole: Total,
    /// What they replace may be gone by the time they end: something was removed, or two are of one name.
    disturbed: bool,
    /// Stored since the count that runs began: it may have seen it, or not.
    stored_meanwhile: Total,
}

impl State {
    fn used(&self) -> Total {
        self.stored.plus(if self.disturbed { self.reserved_whole } else { self.reserved })
    }
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

/// Room for one upload.
pub struct Reservation {
    usage: Arc<Usage>,
    name: String,
    room: Total,
    whole: Total,
    /// By a smaller object that replaces a larger one, in bytes.
    freed: u64,
    stored: bool,
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
        if let Some(limit) = quota.bytes.filter(|limit| size > *limit) {
            return Err(FileError::Client(too_large(size, limit)));
        }
        let usage = self.usages.of(key.prefix());
        let admission = usage.admission.lock().await;
        usage.count(&*self.backend, key.prefix()).await?;
        let old = self.backend.size(key).await?;
        let whole = Total { bytes: size, objects: 1 };
        // What is replaced by less is no room for others before it is replaced.
        let room = old.map_or(whole, |old| Total { bytes: size.saturating_sub(old), objects: 0 });
        let mut state = usage.state.lock();
        let used = state.used();
        let after = used.plus(if state.disturbed { whole } else { room });
        let over =
            |limit: Option<u64>, after: u64, more: u64| more > 0 && limit.is_some_and(|limit| after > limit);
        if over(quota.bytes, after.bytes, room.bytes) || over(quota.objects, after.objects, room.objects) {
            return Err(FileError::Client(full(quota, used, size)));
        }
        state.reserved = state.reserved.plus(room);
        state.reserved_whole = state.reserved_whole.plus(whole);
        let of_this_name = state.running.entry(key.name().to_owned()).or_default();
        *of_this_name += 1;
        if *of_this_name > 1 {
            state.disturbed = true;
        }
        drop(state);
        drop(admission);
        let freed = old.unwrap_or_default().saturating_sub(size);
        Ok(Reservation { usage, name: key.name().to_owned(), room, whole, freed, stored: false })
    }

    /// Something below `prefix` was removed: how much cannot be known when several remove it.
    pub(super) fn removed(&self, prefix: &str) {
        if let Some(usage) = self.usages.0.lock().get(prefix) {
            let mut state = usage.state.lock();
            state.believed_until = None;
            state.disturbed |= !state.running.is_empty();
        }
    }
}

impl Reservation {
    /// The object is stored.
    pub fn keep(mut self) {
        self.stored = true;
    }
}

/// The upload has ended.
impl Drop for Reservation {
    fn drop(&mut self) {
        let mut state = self.usage.state.lock();
        if self.stored {
            let more = if state.disturbed { self.whole } else { self.room };
            state.stored = state.stored.plus(more);
            if !state.disturbed {
                state.stored.bytes = state.stored.bytes.saturating_sub(self.freed);
            }
            state.stored_meanwhile = state.stored_meanwhile.plus(more);
        } else {
            // A store that failed may have the object all the same.
            state.believed_until = None;
        }
        state.reserved = state.reserved.minus(self.room);
        state.reserved_whole = state.reserved_whole.minus(self.whole);
        if let Some(running) = state.running.get_mut(&self.name) {
            *running -= 1;
            if *running == 0 {
                state.running.remove(&self.name);
            }
        }
        if state.disturbed {
            state.believed_until = None;
            state.disturbed = !state.running.is_empty();
        }
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
        let is_rough = state.stored_meanwhile != Total::default() || !state.running.is_empty();
        if state.believed_until.is_some() && is_rough {
            state.believed_until = Some(Instant::now() + ROUGH);
        }
        Ok(())
    }
}

async fn total(store: &dyn FileStore, prefix: &str) -> Result<Total, FileError> {
    let mut total = Total::default();
    let mut list = List { prefix: prefix.to_owned(), from: None, folders: false, limit: 1000 };
    loop {
        let page = store.list(&list).await?;
        for entry in &page.entries {
            if let Entry::Object { size, .. } = entry {
                total = total.plus(Total { bytes: *size, objects: 1 });
            }
        }
        if page.next.is_none() {
            return Ok(total);
        }
        list.from = page.next;
    }
}

fn full(quota: &Quota, used: Total, size: u64) -> Fault {
    let mut numbers = vec![("size", size), ("used_bytes", used.bytes), ("used_objects", used.objects)];
    numbers.extend(quota.bytes.map(|n| ("quota_bytes", n)));
    numbers.extend(quota.objects.map(|n| ("quota_objects", n)));
    let detail = "There is no room left for this file: delete others, or ask for a larger quota.";
    Fault::new(507, "quota_exceeded", detail).numbers(numbers).closing()
}
