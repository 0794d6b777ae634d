//! Sessions, revocations and login throttles in Redis, shared by any number of gateways.
//!
//! Every decision is one Lua script on one key (`scripts`, lua/): all that is kept of a user lies under one hash tag, so a cluster can
//! spread the users. The instant of a decision is Redis's own TIME, so gateways with clocks that differ decide alike. Every key expires.
//! What was revoked goes into one stream, which each gateway follows (`follow`); from one server the script that revokes
//! writes it, in the same step. In a cluster the stream has a slot of its own: there the gateway that called the script
//! writes it before it answers, and when it dies in between, the next call on the session makes up for it.
//!
//! Needs Redis 6.2 (XADD MINID), or a fork of it that has the same commands.

mod announcement;
mod connection;
mod follow;
mod link;
mod rate_limits;
mod scripts;
mod sessions;
mod throttle;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

pub use self::link::OpenError;

use self::announcement::Announcement;
use self::follow::Delivery;
use self::link::Link;
use self::scripts::{Call, Scripts};
use crate::clock::Timestamp;
use crate::digest::short_digest;
use crate::store::settings::RedisSettings;
use crate::store::{Result, RevocationSink, Sessions};

/// How long a fleet is remembered after its last gateway was started: longer than any session lives without one.
const FLEET_MEMORY: Duration = Duration::from_secs(400 * 86_400);

/// Whose clock decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// That of Redis.
    Server,
    /// The instant each call is given: for tests that turn the clock.
    Caller,
}

pub struct Redis {
    link: Arc<Link>,
    scripts: Arc<Scripts>,
    prefix: String,
    clock: Clock,
    delivery: Arc<Delivery>,
    caught_up: watch::Receiver<bool>,
}

impl Redis {
    /// Starts connecting, on the runtime this is called in, and following the revocations, which it passes on to
    /// `sink` until it is dropped. Redis need not be there yet.
    ///
    /// # Errors
    /// [`OpenError`]: settings no connection can be made with.
    pub fn open(
        settings: &RedisSettings,
        sink: Arc<dyn RevocationSink>,
        clock: Clock,
    ) -> Result<Arc<Self>, OpenError> {
        let link = Arc::new(Link::open(settings)?);
        let scripts = Arc::new(Scripts::new());
        let delivery = Arc::new(Delivery::new(sink));
        let stream = stream(&settings.prefix);
        let (publish, caught_up) = watch::channel(false);
        tokio::spawn(follow::follow(
            Arc::downgrade(&link),
            scripts.clone(),
            stream,
            delivery.clone(),
            publish,
        ));
        Ok(Arc::new(Self { link, scripts, prefix: settings.prefix.clone(), clock, delivery, caught_up }))
    }

    /// Returns once the revocations in force have been passed on. Without Redis that is never.
    pub async fn caught_up(&self) {
        let _ = self.caught_up.clone().wait_for(|done| *done).await;
    }

    /// Whether `fingerprint`, of what all gateways of a fleet must have in common, is the fleet's. The first gateway
    /// of all says what it is.
    pub async fn is_of_this_fleet(&self, fingerprint: &str) -> Result<bool> {
        let key = self.fleet_key();
        let mut claim = ::redis::pipe();
        claim
            .cmd("SET")
            .arg(&key)
            .arg(fingerprint)
            .arg("NX")
            .arg("PX")
            .arg(FLEET_MEMORY.as_millis() as u64)
            .ignore();
        claim.cmd("PEXPIRE").arg(&key).arg(FLEET_MEMORY.as_millis() as u64).ignore();
        claim.cmd("GET").arg(&key);
        let claim = &claim;
        let (known,): (String,) =
            self.link.call(async |mut connection| claim.query_async(&mut connection).await).await?;
        Ok(known == fingerprint)
    }

    /// Where the fingerprint of the fleet is kept.
    pub fn fleet_key(&self) -> String {
        format!("{}:fleet", self.prefix)
    }

    /// ARGV[1] of every script.
    fn instant(&self, now: Timestamp) -> String {
        match self.clock {
            Clock::Server => String::new(),
            Clock::Caller => now.0.to_string(),
        }
    }

    /// How long ago `then` was, an instant as [`Sessions::clock`] gives it, in milliseconds.
    fn age(&self, then: Timestamp) -> i64 {
        match self.clock {
            Clock::Server => self.clock(Timestamp::now()).0.saturating_sub(then.0).max(0),
            Clock::Caller => 0,
        }
    }

    /// Runs a script that may revoke, on what is kept of `user`, and passes on what it revoked.
    async fn decide(&self, user: &str, call: &mut Call<'_>) -> Result<(String, String)> {
        call.key(self.user_key(user));
        if !self.link.is_cluster() {
            call.key(stream(&self.prefix));
        }
        let call = &*call;
        type Reply = (Vec<Vec<String>>, Vec<Vec<String>>, String, String);
        let (entries, owed, decision, detail): Reply =
            self.link.call(async |mut connection| call.invoke(&mut connection).await).await?;
        for entry in &entries {
            self.delivery.deliver_own(entry)?;
        }
        for fields in owed {
            self.publish(user, fields).await?;
        }
        Ok((decision, detail))
    }

    /// Writes into the stream what a script could not reach, and notes that it is there.
    async fn publish(&self, user: &str, fields: Vec<String>) -> Result<()> {
        let announcement =
            Announcement::parse(&fields).ok_or_else(|| link::unavailable("an odd script reply"))?;
        let mut add = self.scripts.announce.arg("");
        add.arg(announcement.until().0).arg(&fields).key(stream(&self.prefix));
        let add = &add;
        let number: String = self.link.call(async |mut connection| add.invoke(&mut connection).await).await?;
        let mut entry = vec![number];
        entry.extend(fields);
        self.delivery.deliver_own(&entry)?;
        let Announcement::Session { session, until, .. } = announcement else { return Ok(()) };
        let mut note = self.scripts.announced.arg(self.instant(Timestamp::now()));
        note.arg(session.simple().to_string()).arg(until.0).key(self.user_key(user));
        let note = &note;
        self.link.call(async |mut connection| note.invoke::<()>(&mut connection).await).await
    }

    fn user_key(&self, user: &str) -> String {
        format!("{}:user:{{{user}}}", self.prefix)
    }

    /// Accounts are kept as digests: people type passwords into the wrong field, and those must not be found in a dump.
    fn account_key(&self, account: &str) -> String {
        format!("{}:login:{{{:032x}}}", self.prefix, short_digest(account))
    }

    fn address_key(&self, address: &str) -> String {
        format!("{}:login-address:{{{address}}}", self.prefix)
    }
}

fn stream(prefix: &str) -> String {
    format!("{prefix}:revocations")
}

/// How the scripts are told lengths of time.
fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
