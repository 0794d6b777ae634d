//! Following the stream of revocations: from the last entry on, and the whole window at the start and after every
//! new connection, since what answers there may be another server with another past.
//!
//! A replica is listened to as well, but never believed to have said everything; meanwhile another connection is asked for.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::announcement::Announcement;
use super::link::{Link, unavailable};
use super::scripts::Scripts;
use crate::clock::Timestamp;
use crate::store::{Result, RevocationSink};

/// How often the stream is looked at. Asking costs Redis a few microseconds; a blocking read would be heard a little sooner, on a
/// connection of its own that would have to be watched over in turn.
const PERIOD: Duration = Duration::from_millis(50);
/// Entries read at once.
const PAGE: usize = 2_000;

/// Milliseconds and sequence number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct EntryId(u64, u64);

impl EntryId {
    fn parse(text: &str) -> Option<Self> {
        let (milliseconds, sequence) = text.split_once('-')?;
        Some(Self(milliseconds.parse().ok()?, sequence.parse().ok()?))
    }
}

/// Passes entries on to the sink, each once, whether they come by the stream or are our own and were passed on
/// before the call that made them was answered.
pub struct Delivery {
    sink: Arc<dyn RevocationSink>,
    progress: Mutex<Progress>,
}

#[derive(Default)]
struct Progress {
    last: EntryId,
    /// Ours, which the stream has not brought yet.
    own: BTreeSet<EntryId>,
    /// Milliseconds that the clock of Redis is ahead of this machine's, at most. Redis says by its own when a revocation is
    /// over, and the tokens it is about live by ours.
    ahead: i64,
}

impl Delivery {
    pub fn new(sink: Arc<dyn RevocationSink>) -> Self {
        Self { sink, progress: Mutex::default() }
    }

    /// `entry` is the number and then names and values.
    pub fn deliver_own(&self, entry: &[String]) -> Result<()> {
        let odd = || unavailable("an odd script reply");
        let (number, fields) = entry.split_first().ok_or_else(odd)?;
        let number = EntryId::parse(number).ok_or_else(odd)?;
        let announcement = Announcement::parse(fields).ok_or_else(odd)?;
        let mut progress = self.progress.lock();
        if number > progress.last && progress.own.insert(number) {
            self.in_force_here(announcement, number, &progress).pass_on(&*self.sink);
        }
        Ok(())
    }

    /// Until when it matters here: by this machine's clock, and for as long as tokens live that this gateway made before,
    /// though those of the gateway that revoked them may live for a shorter time.
    fn in_force_here(
        &self,
        announcement: Announcement,
        number: EntryId,
        progress: &Progress,
    ) -> Announcement {
        let made = Timestamp(i64::try_from(number.0).unwrap_or(i64::MAX));
        let behind = Duration::from_millis(u64::try_from(-progress.ahead).unwrap_or(0));
        announcement.at_least_until(made.plus(self.sink.token_lifetime())).later(behind)
    }

    /// `instant` of this machine's clock by that of Redis, or a little later.
    pub fn by_server_clock(&self, instant: Timestamp) -> Timestamp {
        Timestamp(instant.0.saturating_add(self.progress.lock().ahead))
    }

    fn deliver(&self, number: EntryId, fields: &[String], now: Timestamp) {
        let mut progress = self.progress.lock();
        progress.last = number;
        if progress.own.remove(&number) {
            return;
        }
        let announcement = Announcement::parse(fields);
        match announcement.map(|announcement| self.in_force_here(announcement, number, &progress)) {
            Some(announcement) if announcement.until() > now => announcement.pass_on(&*self.sink),
            Some(_) => {}
            None => tracing::error!(
                entry = %format!("{}-{}", number.0, number.1),
                "a revocation was not understood: is a newer version running beside this one?"
            ),
        }
    }

    /// What was passed over up to here, because the stream was trimmed or lost, comes no more.
    fn forget_passed(&self) {
        let mut progress = self.progress.lock();
        let last = progress.last;
        progress.own.retain(|number| *number > last);
    }

    fn last(&self) -> EntryId {
        self.progress.lock().last
    }

    fn begin_again(&self) {
        let mut progress = self.progress.lock();
        *progress = Progress { ahead: progress.ahead, ..Progress::default() };
    }

    /// On one connection the smallest is the truest: the others include more of the time the question took.
    fn learn_skew(&self, ahead: i64, is_new: bool) {
        let mut progress = self.progress.lock();
        progress.ahead = if is_new { ahead } else { ahead.min(progress.ahead) };
    }
}

/// Follows `stream` until nobody holds the link any more.
pub async fn follow(
    link: Weak<Link>,
    scripts: Arc<Scripts>,
    stream: String,
    delivery: Arc<Delivery>,
    caught_up: watch::Sender<bool>,
) {
    let mut heard_on = 0;
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(link) = link.upgrade().filter(|_| !caught_up.is_closed()) else { return };
        // Down is reported by those who need Redis; here it shows as lag.
        while let Ok(more) = read_page(&link, &scripts, &stream, &delivery, &mut heard_on).await {
            if !more {
                let _ = caught_up.send_replace(true);
                break;
            }
        }
    }
}

/// Whether there is more to read.
async fn read_page(
    link: &Link,
    scripts: &Scripts,
    stream: &str,
    delivery: &Delivery,
    heard_on: &mut u64,
) -> Result<bool> {
    let asked = Timestamp::now();
    let last = delivery.last();
    let mut call = scripts.follow.arg("");
    call.arg(format!("{}-{}", last.0, last.1)).arg(PAGE).key(stream);
    let call = &call;
    type Page = (i64, bool, String, Vec<(String, Vec<String>)>);
    let (connection, (server_time, is_replica, newest, entries)): (u64, Page) =
        link.call_numbered(async |mut connection| call.invoke(&mut connection).await).await?;
    let newest = EntryId::parse(&newest).ok_or_else(|| unavailable("an odd script reply"))?;
    let is_new = connection != *heard_on;
    delivery.learn_skew(server_time.saturating_sub(asked.0), is_new);
    if is_new {
        *heard_on = connection;
        warn_of_skew(server_time, asked);
    }
    if (is_new || newest < last) && last != EntryId::default() {
        delivery.begin_again();
        return Ok(true);
    }
    let more = entries.len() == PAGE;
    for (number, fields) in &entries {
        let number = EntryId::parse(number).ok_or_else(|| unavailable("an odd script reply"))?;
        delivery.deliver(number, fields, asked);
    }
    if more {
        return Ok(true);
    }
    delivery.forget_passed();
    if is_replica {
        let cause = "READONLY it is a replica";
        link.report(connection, cause);
        return Err(unavailable(cause));
    }
    delivery.sink.heard_until(asked);
    Ok(false)
}

/// Clocks that differ by seconds make tokens expire early or late, and logins look older than a logout before them.
fn warn_of_skew(server_time: i64, local: Timestamp) {
    let skew = server_time.saturating_sub(local.0);
    if skew.unsigned_abs() > 2_000 {
        tracing::warn!(
            milliseconds = skew,
            "the clock of Redis differs from this machine's: synchronise both (NTP), or logins close to a logout fail"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::store::{SessionId, SessionsCut};

    #[derive(Default)]
    struct Ends(Mutex<Vec<i64>>, Mutex<Duration>);

    impl RevocationSink for Ends {
        fn session(&self, _: &str, _: SessionId, until: Timestamp) {
            self.0.lock().push(until.0);
        }
        fn user(&self, _: &str, _: SessionsCut, until: Timestamp) {
            self.0.lock().push(until.0);
        }
        fn token_lifetime(&self) -> Duration {
            *self.1.lock()
        }
        fn heard_until(&self, _: Timestamp) {}
    }

    fn delivery() -> (Delivery, Arc<Ends>) {
        let ends = Arc::new(Ends::default());
        (Delivery::new(ends.clone()), ends)
    }

    /// Entry `number`, which is over at `until`, in the words of the stream.
    fn entry(number: u64, until: i64) -> Vec<String> {
        let session = uuid::Uuid::from_u128(number.into()).simple().to_string();
        let text = format!("{number}-0 user u1 session {session} until {until}");
        text.split(' ').map(str::to_owned).collect()
    }

    fn deliver(delivery: &Delivery, number: u64, until: i64) {
        delivery.deliver(EntryId(number, 0), &entry(number, until)[1..], Timestamp(1_000));
    }

    #[test]
    fn an_entry_is_passed_on_once_whichever_way_it_comes_first() {
        let (delivery, ends) = delivery();
        delivery.deliver_own(&entry(1, 5_000)).unwrap();
        delivery.deliver_own(&entry(1, 5_000)).unwrap();
        deliver(&delivery, 1, 5_000);
        deliver(&delivery, 2, 5_001);
        delivery.deliver_own(&entry(2, 5_001)).unwrap();
        deliver(&delivery, 3, 1_000);
        assert_eq!(*ends.0.lock(), [5_000, 5_001], "the third was over");
        assert!(delivery.progress.lock().own.is_empty());
    }

    #[test]
    fn what_the_stream_never_brings_is_not_waited_for() {
        let (delivery, ends) = delivery();
        for number in 1..=1_000 {
            delivery.deliver_own(&entry(number, 5_000)).unwrap();
        }
        deliver(&delivery, 900, 5_000);
        delivery.forget_passed();
        assert_eq!(delivery.progress.lock().own.len(), 100);
        delivery.begin_again();
        assert!(delivery.progress.lock().own.is_empty());
        assert_eq!(ends.0.lock().len(), 1_000);
    }

    #[test]
    fn a_revocation_lasts_by_the_clock_of_this_machine() {
        let (delivery, ends) = delivery();
        delivery.learn_skew(-3_000, true);
        // The next answer took half a second longer.
        delivery.learn_skew(-2_500, false);
        deliver(&delivery, 1, 500);
        delivery.deliver_own(&entry(2, 600)).unwrap();
        delivery.begin_again();
        deliver(&delivery, 3, 700);
        delivery.learn_skew(0, true);
        deliver(&delivery, 4, 5_000);
        assert_eq!(*ends.0.lock(), [3_500, 3_600, 3_700, 5_000]);
    }

    #[test]
    fn tokens_of_a_longer_life_than_that_of_who_revoked_them_stay_revoked() {
        let (delivery, ends) = delivery();
        *ends.1.lock() = Duration::from_millis(10_000);
        deliver(&delivery, 100, 500);
        delivery.deliver_own(&entry(200, 90_000)).unwrap();
        assert_eq!(*ends.0.lock(), [10_100, 90_000]);
    }

    #[test]
    fn odd_replies_are_refused() {
        let (delivery, ends) = delivery();
        for odd in ["", "1-0", "1-0 user", "x user u1 session 1 until 5", "1 user u1"] {
            let fields: Vec<String> = odd.split(' ').map(str::to_owned).collect();
            delivery.deliver_own(&fields).unwrap_err();
        }
        delivery.deliver_own(&[]).unwrap_err();
        assert!(ends.0.lock().is_empty());
        let ids: HashSet<_> = ["1-2", "-1-2", "1", "1-", "x-1", ""].map(EntryId::parse).into();
        assert_eq!(ids, HashSet::from([Some(EntryId(1, 2)), None]));
    }
}
