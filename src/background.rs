//! Work beside the requests, on a runtime of its own: keys, names, and sweeping.
//!
//! pingora gives each service its own runtime and tears it down with the service; stores and clients live
//! here instead, for as long as the process.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use crate::clock::Timestamp;
use crate::store::Sessions;
use crate::tokens::{Issuers, Mint, Revocations};
use crate::upstream::Upstream;

const KEYS: Duration = Duration::from_secs(1);
const NAMES: Duration = Duration::from_secs(10);
const SWEEP: Duration = Duration::from_secs(60);

pub struct Background {
    pub mint: Arc<Mint>,
    pub issuers: Arc<Issuers>,
    pub revocations: Arc<Revocations>,
    pub sessions: Arc<dyn Sessions>,
    pub upstreams: Vec<Arc<Upstream>>,
}

impl Background {
    /// Starts every task on `runtime`. They end with it.
    pub fn start(self, runtime: &tokio::runtime::Handle) {
        let Self { mint, issuers, revocations, sessions, upstreams } = self;
        // `keys rotate` is another process's command: its result is noticed here.
        runtime.spawn(every(KEYS, move || {
            let mint = mint.clone();
            async move {
                match tokio::task::spawn_blocking(move || mint.reload_if_changed(Timestamp::now())).await {
                    Ok(Err(e)) => tracing::error!(error = %e, "signing keys not reloaded; the old ones stay"),
                    Err(e) => tracing::error!(error = %e, "signing keys not reloaded"),
                    Ok(Ok(_)) => {}
                }
            }
        }));
        runtime.spawn(issuers.run());
        runtime.spawn(every(NAMES, move || {
            let upstreams = upstreams.clone();
            async move {
                for upstream in &upstreams {
                    upstream.resolve().await;
                }
            }
        }));
        runtime.spawn(every(SWEEP, move || {
            let (revocations, sessions) = (revocations.clone(), sessions.clone());
            async move {
                let now = Timestamp::now();
                revocations.sweep(now);
                if let Err(e) = sessions.sweep(now).await {
                    tracing::warn!(error = %e, "expired sessions not swept");
                }
            }
        }));
    }
}

/// Runs `task` now and then once a `period`, one at a time.
async fn every<F: Future<Output = ()>>(period: Duration, task: impl Fn() -> F) {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        task().await;
    }
}
