//! Rate limits counted over a fleet that shares a Redis.

use std::sync::Arc;
use std::time::Duration;

use portcullis::clock::Timestamp;
use portcullis::limits::{Caller, FleetLimiter};
use portcullis::store::redis::{Clock, Redis};
use portcullis::store::{Lease, RateLimits};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::redis::settings;
use crate::servers::shared_redis;
use crate::support::{MS, SECOND, start};

async fn store(clock: Clock) -> Arc<Redis> {
    let prefix = format!("test-{}", Uuid::new_v4().simple());
    let store = Redis::open(&settings(shared_redis(), &prefix), Arc::new(()), clock).unwrap();
    store.caught_up().await;
    store
}

fn gateways(store: &Arc<Redis>, count: usize, requests: u32, window: Duration) -> Vec<FleetLimiter> {
    (0..count).map(|_| FleetLimiter::new(store.clone(), "/api".into(), requests, window)).collect()
}

const ANN: Caller<'static> = Caller::User { issuer: "https://issuer.example", subject: "ann" };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_over_three_gateways_gets_the_limit_exactly() {
    for requests in [1, 5, 100, 1_000] {
        let fleet = gateways(&store(Clock::Caller).await, 3, requests, 3_600 * SECOND);
        let now = start();
        let mut through = 0;
        for n in 0..requests as usize * 2 + 3 {
            through += u32::from(fleet[n % 3].check(&ANN, now).await.is_ok());
        }
        assert_eq!(through, requests);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parallel_requests_over_three_gateways_never_get_more() {
    let fleet: Arc<Vec<_>> = Arc::new(gateways(&store(Clock::Caller).await, 3, 100, 3_600 * SECOND));
    let now = start();
    let mut tasks = JoinSet::new();
    for n in 0..600_usize {
        let fleet = fleet.clone();
        tasks.spawn(async move { fleet[n % 3].check(&ANN, now).await.is_ok() });
    }
    let through = tasks.join_all().await.into_iter().filter(|passed| *passed).count();
    // What is leased at the same moment by several is counted at once: a little may be left unused on one of them.
    assert!(through <= 100 && through > 60, "{through}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_any_span_no_caller_gets_more_than_the_even_flow() {
    let fleet = gateways(&store(Clock::Caller).await, 3, 50, SECOND);
    let mut passed: Vec<Timestamp> = vec![];
    for n in 0..3_000_u64 {
        let now = start_of_run().plus(n as u32 * MS);
        if fleet[(n % 7 % 3) as usize].check(&ANN, now).await.is_ok() {
            passed.push(now);
        }
    }
    for (i, first) in passed.iter().enumerate() {
        for (j, last) in passed.iter().enumerate().skip(i) {
            let span = (last.0 - first.0) as usize;
            assert!(j - i < 50 + span * 50 / 1000 + 1, "{} in {span} ms", j - i + 1);
        }
    }
    assert!(passed.len() >= 180, "three seconds allow 200, {} went through", passed.len());
}

fn start_of_run() -> Timestamp {
    Timestamp(1_700_000_000_000)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_is_asked_for_several_at_a_time_and_not_at_all_by_who_has_to_wait() {
    let store = store(Clock::Caller).await;
    let (name, now) = ("x", start());
    let first = store.lease(name, 800, 3_600 * SECOND, now).await.unwrap();
    assert_eq!(first, Lease::Granted { requests: 100, lifetime: 450 * SECOND });
    let fleet = gateways(&store, 1, 3, 3_600 * SECOND);
    while fleet[0].check(&ANN, now).await.is_ok() {}
    // Redis forgets; this gateway knows until when ann has to wait.
    let wait = fleet[0].check(&ANN, now.plus(SECOND)).await.unwrap_err();
    assert_eq!(wait, 1_199 * SECOND);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_the_clock_of_redis_too() {
    let fleet = gateways(&store(Clock::Server).await, 2, 2, 3_600 * SECOND);
    // A gateway whose clock is an hour ahead.
    let ahead = start().plus(3_600 * SECOND);
    assert!(fleet[0].check(&ANN, start()).await.is_ok());
    assert!(fleet[1].check(&ANN, ahead).await.is_ok());
    assert!(fleet[0].check(&ANN, start()).await.is_err());
    assert!(fleet[1].check(&ANN, ahead).await.is_err());
}
