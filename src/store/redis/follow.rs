//! Following the stream of revocations: from the last entry on, and the whole window at the start and after every
//! new connection, since what answers there may be another server with another past.

use std::collections::HashSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::announcement::Announcement;
use super::link::{Link, unavailable};
use crate::clock::Timestamp;
use crate::store::{Result, RevocationSink};

/// How often the stream is looked at. Asking costs Redis a few microseconds; a blocking read would be heard a little sooner, on a
/// connection of its own that would have to be watched over in turn.
const PERIOD: Duration = Duration::from_millis(50);
/// Entries read at once.
const PAGE: usize = 10_000;

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
    own: HashSet<EntryId>,
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
            announcement.pass_on(&*self.sink);
        }
        Ok(())
    }

    fn deliver(&self, number: EntryId, fields: &[String], now: Timestamp) {
        let mut progress = self.progress.lock();
        progress.last = number;
        if progress.own.remove(&number) {
            return;
        }
        match Announcement::parse(fields) {
            Some(announcement) if announcement.until() > now => announcement.pass_on(&*self.sink),
            Some(_) => {}
            None => tracing::error!(
                entry = %format!("{}-{}", number.0, number.1),
                "a revocation was not understood: is a newer version running beside this one?"
            ),
        }
    }

    fn last(&self) -> EntryId {
        self.progress.lock().last
    }

    fn begin_again(&self) {
        *self.progress.lock() = Progress::default();
    }
}

/// Follows `stream` until nobody holds the link any more.
pub async fn follow(
    link: Weak<Link>,
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
        while let Ok(more) = read_page(&link, &stream, &delivery, &mut heard_on).await {
            if !more {
                let _ = caught_up.send_replace(true);
                break;
            }
        }
    }
}

/// Whether there is more to read.
async fn read_page(link: &Link, stream: &str, delivery: &Delivery, heard_on: &mut u64) -> Result<bool> {
    let asked = Timestamp::now();
    let last = delivery.last();
    let mut question = redis::pipe();
    question.cmd("XREVRANGE").arg(stream).arg("+").arg("-").arg("COUNT").arg(1);
    let after = format!("({}-{}", last.0, last.1);
    question.cmd("XRANGE").arg(stream).arg(after).arg("+").arg("COUNT").arg(PAGE);
    let question = &question;
    type Entries = Vec<(String, Vec<String>)>;
    let (connection, (newest, entries)): (u64, (Entries, Entries)) =
        link.call_numbered(async |mut connection| question.query_async(&mut connection).await).await?;
    let number = |text: &str| EntryId::parse(text).ok_or_else(|| unavailable("an odd stream entry"));
    let newest = newest.first().map_or(Ok(EntryId::default()), |(text, _)| number(text))?;
    if connection != *heard_on || newest < last {
        warn_of_skew(link).await?;
        *heard_on = connection;
        if last != EntryId::default() {
            delivery.begin_again();
            return Ok(true);
        }
    }
    let more = entries.len() == PAGE;
    for (text, fields) in &entries {
        delivery.deliver(number(text)?, fields, asked);
    }
    if !more {
        delivery.sink.heard_until(asked);
    }
    Ok(more)
}

/// Clocks that differ by seconds make tokens expire early or late, and logins look older than a logout before them.
async fn warn_of_skew(link: &Link) -> Result<()> {
    let question = redis::cmd("TIME");
    let question = &question;
    let (seconds, microseconds): (i64, i64) =
        link.call(async |mut connection| question.query_async(&mut connection).await).await?;
    let skew =
        seconds.saturating_mul(1000).saturating_add(microseconds / 1000).saturating_sub(Timestamp::now().0);
    if skew.unsigned_abs() > 2_000 {
        tracing::warn!(
            milliseconds = skew,
            "the clock of Redis differs from this machine's: synchronise both (NTP), or logins close to a logout fail"
        );
    }
    Ok(())
}
