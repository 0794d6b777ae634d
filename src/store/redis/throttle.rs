//! `LoginThrottle` in Redis. Account and address are counted one after the other, each in one step: they may lie on
//! different nodes of a cluster. An address that was counted for an account which then turns out to be blocked is uncounted.

use std::time::Duration;

use async_trait::async_trait;

use super::link::unavailable;
use super::scripts::{Call, Script};
use super::{Redis, short_digest};
use crate::clock::Timestamp;
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
        let address_wait = match self.window(attempt, &self.scripts.window, now) {
            Some(mut call) => {
                call.arg(policy.address_failures).arg(milliseconds(policy.address_window));
                self.count(&call).await?
            }
            None => Duration::ZERO,
        };
        if !address_wait.is_zero() {
            return Ok(Admission::Blocked { retry_after: address_wait });
        }
        let mut call = self.run(attempt, &self.scripts.run, now);
        call.arg(policy.free_failures)
            .arg(milliseconds(policy.first_delay))
            .arg(milliseconds(policy.max_delay));
        call.arg(policy.max_failures).arg(milliseconds(MEMORY));
        let run = self.count(&call).await;
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
        let call = self.run(attempt, &self.scripts.run_undo, now);
        self.count(&call).await?;
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
    fn run<'s>(&self, attempt: &LoginAttempt, script: &'s Script, now: Timestamp) -> Call<'s> {
        let mut call = script.arg(self.instant(now));
        call.arg(device(attempt)).key(self.account_key(&attempt.account));
        call
    }

    /// `None` for a known device, which passes the address by: strangers behind the same one must not lock its owner out, and
    /// its own run limits it.
    fn window<'s>(&self, attempt: &LoginAttempt, script: &'s Script, now: Timestamp) -> Option<Call<'s>> {
        if attempt.known_device.is_some() {
            return None;
        }
        let mut call = script.arg(self.instant(now));
        call.key(self.address_key(&attempt.address));
        Some(call)
    }

    async fn uncount_address(&self, attempt: &LoginAttempt, now: Timestamp) -> Result<()> {
        match self.window(attempt, &self.scripts.window_undo, now) {
            Some(call) => self.count(&call).await.map(drop),
            None => Ok(()),
        }
    }

    /// Runs a script that answers how long to wait.
    async fn count(&self, call: &Call<'_>) -> Result<Duration> {
        let wait: String = self.link.call(async |mut connection| call.invoke(&mut connection).await).await?;
        wait.parse().map(Duration::from_millis).map_err(|_| unavailable("an odd script reply"))
    }
}

fn device(attempt: &LoginAttempt) -> String {
    attempt.known_device.as_deref().map_or_else(|| STRANGER.to_owned(), short_digest)
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
