//! `RateLimits` in Redis: one key a caller and route, gone when its record is clean again.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::timeout;

use super::Redis;
use super::link::unavailable;
use crate::clock::Timestamp;
use crate::store::{Lease, RateLimits, Result};

/// Longest a request waits.
const PATIENCE: Duration = Duration::from_millis(100);
/// One lease takes one in so many of the requests that are left.
const SHARE: u32 = 8;
/// Above this a double would no longer hold every microsecond.
const LONGEST_WINDOW: Duration = Duration::from_secs(100 * 366 * 86_400);

#[async_trait]
impl RateLimits for Redis {
    async fn lease(&self, name: &str, requests: u32, window: Duration, now: Timestamp) -> Result<Lease> {
        let requests = requests.max(1);
        let window = u64::try_from(window.min(LONGEST_WINDOW).as_micros()).unwrap_or(u64::MAX);
        let mut call = self.scripts.lease.arg(self.instant(now));
        call.arg(window.div_ceil(u64::from(requests)).max(1)).arg(requests).arg(SHARE);
        call.key(format!("{}:rate:{{{name}}}", self.prefix));
        let call = &call;
        let (granted, microseconds): (String, String) =
            timeout(PATIENCE, self.link.call(async |mut connection| call.invoke(&mut connection).await))
                .await
                .map_err(|_| unavailable(format!("no answer within {PATIENCE:?}")))??;
        let odd = |_| unavailable("an odd script reply");
        let time = Duration::from_micros(microseconds.parse().map_err(odd)?);
        Ok(match granted.parse().map_err(odd)? {
            0 => Lease::Exhausted { retry_after: time },
            requests => Lease::Granted { requests, lifetime: time },
        })
    }
}
