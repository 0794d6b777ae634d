//! `LoginThrottle` on SQLite.
//!
//! Two counters: a run of consecutive failures for each account (and apart, for each known device of it), and
//! a window for each client address. A known device passes the address window by: strangers behind the same
//! address must not lock its owner out, and its own run limits it.

use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, params};

use super::Embedded;
use crate::clock::Timestamp;
use crate::digest::short_digest;
use crate::store::{Admission, LoginAttempt, LoginThrottle, Result, ThrottlePolicy};

/// How long a run of failures is remembered after the last one.
const MEMORY: Duration = Duration::from_secs(30 * 24 * 3600);

#[async_trait]
impl LoginThrottle for Embedded {
    async fn begin(
        &self,
        attempt: &LoginAttempt,
        policy: ThrottlePolicy,
        now: Timestamp,
    ) -> Result<Admission> {
        let (run, address) = keys(attempt);
        self.write(move |connection| {
            let wait = match &address {
                Some(address) => window_left(connection, address, policy, now)?,
                None => Duration::ZERO,
            };
            let wait = wait.max(delay_left(connection, &run, policy, now)?);
            if !wait.is_zero() {
                return Ok(Admission::Blocked { retry_after: wait });
            }
            count_run(connection, &run, now)?;
            if let Some(address) = &address {
                count_address(connection, address, policy, now)?;
            }
            Ok(Admission::Allowed)
        })
        .await
    }

    async fn succeeded(&self, attempt: &LoginAttempt, _now: Timestamp) -> Result<()> {
        let (run, address) = keys(attempt);
        self.write(move |connection| {
            // The owner on his device ends the strangers' run too; his other devices keep theirs.
            connection.execute(
                "DELETE FROM login_runs WHERE account = ?1 AND device IN (?2, x'')",
                params![run.account, run.device],
            )?;
            uncount_address(connection, address.as_deref())
        })
        .await
    }

    async fn undecided(&self, attempt: &LoginAttempt, _now: Timestamp) -> Result<()> {
        let (run, address) = keys(attempt);
        self.write(move |connection| {
            connection.execute(
                "UPDATE login_runs SET failures = failures - 1, last_failure = earlier_failure
                 WHERE account = ?1 AND device = ?2 AND failures > 0",
                params![run.account, run.device],
            )?;
            uncount_address(connection, address.as_deref())
        })
        .await
    }

    async fn forgive(&self, account: &str) -> Result<()> {
        let account = key(account);
        self.write(move |connection| {
            connection.execute("DELETE FROM login_runs WHERE account = ?1", [account])?;
            Ok(())
        })
        .await
    }
}

/// What a sweep removes: a statement (?1 the instant, ?2 how many at most) and its instant.
pub fn expired(now: Timestamp) -> [(&'static str, Timestamp); 2] {
    [
        (
            "DELETE FROM login_runs WHERE (account, device) IN
                 (SELECT account, device FROM login_runs WHERE last_failure <= ?1 LIMIT ?2)",
            now.minus(MEMORY),
        ),
        (
            "DELETE FROM login_addresses WHERE address IN
                 (SELECT address FROM login_addresses WHERE window_end <= ?1 LIMIT ?2)",
            now,
        ),
    ]
}

struct RunKey {
    account: Vec<u8>,
    /// Empty for every device that is not known.
    device: Vec<u8>,
}

/// The run an attempt counts for, and the address when that counts too.
fn keys(attempt: &LoginAttempt) -> (RunKey, Option<String>) {
    let device = attempt.known_device.as_deref().map(key).unwrap_or_default();
    let address = attempt.known_device.is_none().then(|| attempt.address.clone());
    (RunKey { account: key(&attempt.account), device }, address)
}

/// As kept in a column.
fn key(text: &str) -> Vec<u8> {
    short_digest(text).to_be_bytes().to_vec()
}

/// How long `run` must still wait at `now`. A last failure in the future (the clock went back) becomes now.
fn delay_left(
    connection: &Connection,
    run: &RunKey,
    policy: ThrottlePolicy,
    now: Timestamp,
) -> rusqlite::Result<Duration> {
    let kept = connection
        .query_row(
            "UPDATE login_runs SET last_failure = min(last_failure, ?3), earlier_failure = min(earlier_failure, ?3)
             WHERE account = ?1 AND device = ?2 RETURNING failures, last_failure",
            params![run.account, run.device, now.0],
            |row| Ok((row.get::<_, u32>(0)?, Timestamp(row.get(1)?))),
        )
        .optional()?;
    let Some((failures, last)) = kept else { return Ok(Duration::ZERO) };
    if failures >= policy.max_failures {
        // There is no end to name; this is when asking again is of any use at the earliest.
        return Ok(policy.max_delay.max(Duration::from_secs(1)));
    }
    Ok(last.plus(delay_after(failures, policy)).until(now))
}

/// The delay that the `failures`th consecutive failure brings.
fn delay_after(failures: u32, policy: ThrottlePolicy) -> Duration {
    let Some(doublings) = failures.checked_sub(policy.free_failures.saturating_add(1)) else {
        return Duration::ZERO;
    };
    let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
    policy.first_delay.saturating_mul(factor).min(policy.max_delay)
}

fn count_run(connection: &Connection, run: &RunKey, now: Timestamp) -> rusqlite::Result<()> {
    connection.execute(
        "INSERT INTO login_runs (account, device, failures, last_failure, earlier_failure) VALUES (?1, ?2, 1, ?3, ?3)
         ON CONFLICT DO UPDATE SET failures = failures + 1, earlier_failure = last_failure, last_failure = ?3",
        params![run.account, run.device, now.0],
    )?;
    Ok(())
}

/// How long `address` must still wait at `now`; no longer than a window even when the clock went back.
fn window_left(
    connection: &Connection,
    address: &str,
    policy: ThrottlePolicy,
    now: Timestamp,
) -> rusqlite::Result<Duration> {
    let kept = connection
        .query_row(
            "UPDATE login_addresses SET window_end = min(window_end, ?2) WHERE address = ?1
             RETURNING failures, window_end",
            params![address, now.plus(policy.address_window).0],
            |row| Ok((row.get::<_, u32>(0)?, Timestamp(row.get(1)?))),
        )
        .optional()?;
    let full = |(failures, _): &(u32, Timestamp)| *failures >= policy.address_failures;
    Ok(kept.filter(full).map_or(Duration::ZERO, |(_, end)| end.until(now)))
}

fn count_address(
    connection: &Connection,
    address: &str,
    policy: ThrottlePolicy,
    now: Timestamp,
) -> rusqlite::Result<()> {
    connection.execute(
        "INSERT INTO login_addresses (address, failures, window_end) VALUES (?1, 1, ?2)
         ON CONFLICT DO UPDATE SET
             failures = iif(window_end <= ?3, 1, failures + 1),
             window_end = iif(window_end <= ?3, ?2, window_end)",
        params![address, now.plus(policy.address_window).0, now.0],
    )?;
    Ok(())
}

fn uncount_address(connection: &Connection, address: Option<&str>) -> rusqlite::Result<()> {
    connection.execute(
        "UPDATE login_addresses SET failures = failures - 1 WHERE address = ?1 AND failures > 0",
        [address],
    )?;
    Ok(())
}
