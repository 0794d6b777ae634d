//! `LoginThrottle` in Redis. Account and address are counted one after the other, each in one step: they may lie on
//! different nodes of a cluster. An address that was counted for an account which then turns out to be blocked is uncounted.

use std::time::Duration;

use async_trait::async_trait;

use super::link::unavailable;
use super::scripts::Call;
use super::{Clock, Redis, milliseconds};
use crate::clock::Timestamp;
use crate::digest::short_digest;
use crate::store::{Admission, LoginAttempt, LoginThrottle, Result, ThrottlePolicy};

/// How long a run of failures is remembered after the last one.
const MEMORY: Duration = Duration::from_secs(30 * 24 * 3600);
/// All devices that are not known.
const STRANGER: &str = "-";

#[async_trait]
impl LoginThrottle for Redis {
    async fn begin(
        &self,
        attempt: &LoginAttempt,
        policy: ThrottlePolicy,
        now: Timestamp,
    ) -> Result<Admission> {
        let address_wait = match &attempt.known_device {
            Some(_) => Duration::ZERO,
            None => {
                self.count_in_time(now, |instant| {
                    let mut call = self.scripts.window.arg(instant);
                    call.arg(policy.address_failures).arg(milliseconds(policy.address_window));
                    call.key(self.address_key(&attempt.address));
                    call
                })
                .await?
            }
        };
        if !address_wait.is_zero() {
            return Ok(Admission::Blocked { retry_after: address_wait });
        }
        let counting = self.count_in_time(now, |instant| {
            let mut call = self.scripts.run.arg(instant);
            call.arg(device(attempt)).arg(policy.free_failures);
            call.arg(milliseconds(policy.first_delay)).arg(milliseconds(policy.max_delay));
            call.arg(policy.max_failures).arg(milliseconds(MEMORY));
            call.key(self.account_key(&attempt.account));
            call
        });
        let run = counting.await;
        if matches!(run, Ok(Duration::ZERO)) {
            return Ok(Admission::Allowed);
        }
        // Also when the account's node is down: the others behind this address are not to pay for it.
        let uncounted = self.uncount_address(attempt, now).await;
        let retry_after = run?;
        uncounted?;
        Ok(Admission::Blocked { retry_after })
    }

    async fn succeeded(&self, attempt: &LoginAttempt, now: Timestamp) -> Result<()> {
        // The owner on his device ends the strangers' run too; his other devices keep theirs.
        let mut forget = ::redis::cmd("HDEL");
        forget.arg(self.account_key(&attempt.account)).arg(device(attempt)).arg(STRANGER);
        let forget = &forget;
        self.link.call(async |mut connection| forget.query_async::<()>(&mut connection).await).await?;
        self.uncount_address(attempt, now).await
    }

    async fn undecided(&self, attempt: &LoginAttempt, now: Timestamp) -> Result<()> {
        let mut call = self.scripts.run_undo.arg(self.instant(now));
        call.arg(device(attempt)).key(self.account_key(&attempt.account));
        self.ask(&call).await?;
        self.uncount_address(attempt, now).await
    }

    async fn forgive(&self, account: &str) -> Result<()> {
        let mut forget = ::redis::cmd("DEL");
        forget.arg(self.account_key(account));
        let forget = &forget;
        self.link.call(async |mut connection| forget.query_async::<()>(&mut connection).await).await
    }
}

impl Redis {
    /// Not for a known device, which passes the address by: strangers behind the same one must not lock its owner out,
    /// and its own run limits it.
    async fn uncount_address(&self, attempt: &LoginAttempt, now: Timestamp) -> Result<()> {
        if attempt.known_device.is_some() {
            return Ok(());
        }
        let mut call = self.scripts.window_undo.arg(self.instant(now));
        call.key(self.address_key(&attempt.address));
        self.ask(&call).await.map(drop)
    }

    /// Runs a script that counts and answers how long to wait, unless its turn comes when nobody waits for the answer any more.
    async fn count_in_time<'s>(&self, now: Timestamp, call: impl Fn(String) -> Call<'s>) -> Result<Duration> {
        let instant = match self.clock {
            Clock::Caller => self.instant(now),
            Clock::Server => {
                let end = self.delivery.by_server_clock(Timestamp::now().plus(self.link.limit()));
                format!("by {}", end.0.max(0))
            }
        };
        let mut wait = self.ask(&call(instant)).await?;
        if wait == "late" {
            // The answer came in time, so it is the clocks that moved apart.
            wait = self.ask(&call(self.instant(now))).await?;
        }
        wait.parse().map(Duration::from_millis).map_err(|_| unavailable("an odd script reply"))
    }

    async fn ask(&self, call: &Call<'_>) -> Result<String> {
        self.link.call(async |mut connection| call.invoke(&mut connection).await).await
    }
}

fn device(attempt: &LoginAttempt) -> String {
    let known = attempt.known_device.as_deref();
    known.map_or_else(|| STRANGER.to_owned(), |device| format!("{:032x}", short_digest(device)))
}
