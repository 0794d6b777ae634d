//! Failed logins: counted together, slowed down, never a weapon against the owner.

use std::time::Duration;

use portcullis::clock::Timestamp;
use portcullis::store::{Admission, LoginAttempt, ThrottlePolicy};
use tokio::task::JoinSet;

use crate::support::{DAY, Deployment, Gateway, HOUR, MS, SECOND, start};

pub fn policy() -> ThrottlePolicy {
    ThrottlePolicy {
        free_failures: 5,
        first_delay: SECOND,
        max_delay: 900 * SECOND,
        max_failures: 100,
        address_failures: 1_000,
        address_window: HOUR,
    }
}

fn stranger(account: &str) -> LoginAttempt {
    LoginAttempt { account: account.into(), address: "203.0.113.9".into(), known_device: None }
}

fn owner(account: &str) -> LoginAttempt {
    LoginAttempt { known_device: Some("laptop".into()), ..stranger(account) }
}

async fn begin(gateway: &Gateway, attempt: &LoginAttempt, now: Timestamp) -> Admission {
    gateway.throttle.begin(attempt, policy(), now).await.unwrap()
}

/// Lets `count` attempts fail, each as soon as it is allowed; the time of the last one.
async fn fail(gateway: &Gateway, attempt: &LoginAttempt, count: u32, mut now: Timestamp) -> Timestamp {
    for n in 0..count {
        if let Admission::Blocked { retry_after } = begin(gateway, attempt, now).await {
            now = now.plus(retry_after);
            assert_eq!(begin(gateway, attempt, now).await, Admission::Allowed, "attempt {n}");
        }
    }
    now
}

fn blocked(admission: Admission) -> Duration {
    match admission {
        Admission::Blocked { retry_after } => retry_after,
        Admission::Allowed => panic!("let through"),
    }
}

pub async fn two_hundred_parallel_guesses_share_one_counter(on: &dyn Deployment) {
    let (one, two) = (on.gateway().await, on.gateway().await);
    let t0 = start();
    let mut tasks = JoinSet::new();
    for i in 0..200 {
        let throttle = if i % 2 == 0 { one.throttle.clone() } else { two.throttle.clone() };
        tasks.spawn(async move { throttle.begin(&stranger("ann@example.com"), policy(), t0).await.unwrap() });
    }
    let answers = tasks.join_all().await;
    // Five free failures, and the one that starts the first delay.
    assert_eq!(answers.iter().filter(|a| **a == Admission::Allowed).count(), 6);
}

pub async fn delays_double_up_to_the_longest(on: &dyn Deployment) {
    let gateway = on.gateway().await;
    let attempt = stranger("ann@example.com");
    let mut now = fail(&gateway, &attempt, 6, start()).await;
    for expected in [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900] {
        let expected = expected * SECOND;
        assert_eq!(blocked(begin(&gateway, &attempt, now).await), expected);
        assert_eq!(blocked(begin(&gateway, &attempt, now.plus(expected).minus(MS)).await), MS);
        now = now.plus(expected);
        assert_eq!(begin(&gateway, &attempt, now).await, Admission::Allowed);
    }
}

pub async fn a_known_device_is_not_blocked_by_strangers(on: &dyn Deployment) {
    let gateway = on.gateway().await;
    let now = fail(&gateway, &stranger("ann@example.com"), 20, start()).await;
    blocked(begin(&gateway, &stranger("ann@example.com"), now).await);
    assert_eq!(begin(&gateway, &owner("ann@example.com"), now).await, Admission::Allowed);

    // Nor when the stranger sits behind the same address.
    let strict = ThrottlePolicy { address_failures: 1, ..policy() };
    let admission = gateway.throttle.begin(&owner("ann@example.com"), strict, now).await.unwrap();
    assert_eq!(admission, Admission::Allowed);
}

pub async fn a_known_device_has_a_run_of_its_own(on: &dyn Deployment) {
    let gateway = on.gateway().await;
    let t0 = start();
    fail(&gateway, &owner("ann@example.com"), 6, t0).await;
    blocked(begin(&gateway, &owner("ann@example.com"), t0).await);
    assert_eq!(begin(&gateway, &stranger("ann@example.com"), t0).await, Admission::Allowed);
    let phone = LoginAttempt { known_device: Some("phone".into()), ..owner("ann@example.com") };
    assert_eq!(begin(&gateway, &phone, t0).await, Admission::Allowed);
    let of_another = owner("bob@example.com");
    assert_eq!(begin(&gateway, &of_another, t0).await, Admission::Allowed);
}

pub async fn an_address_is_limited_over_all_accounts(on: &dyn Deployment) {
    let gateway = on.gateway().await;
    let t0 = start();
    let policy = ThrottlePolicy { address_failures: 10, ..policy() };
    for i in 0..10 {
        let admission =
            gateway.throttle.begin(&stranger(&format!("a{i}@example.com")), policy, t0).await.unwrap();
        assert_eq!(admission, Admission::Allowed);
    }
    let now = t0.plus(SECOND);
    let next = gateway.throttle.begin(&stranger("new@example.com"), policy, now).await.unwrap();
    assert_eq!(blocked(next), HOUR - SECOND);
    let elsewhere = LoginAttempt { address: "203.0.113.10".into(), ..stranger("new@example.com") };
    assert_eq!(gateway.throttle.begin(&elsewhere, policy, now).await.unwrap(), Admission::Allowed);
}

pub async fn an_addresses_window_ends(on: &dyn Deployment) {
    let gateway = on.gateway().await;
    let t0 = start();
    let policy = ThrottlePolicy { address_failures: 1, ..policy() };
    let attempts = [stranger("a@example.com"), stranger("b@example.com")];
    assert_eq!(gateway.throttle.begin(&attempts[0], policy, t0).await.unwrap(), Admission::Allowed);
    let last = t0.plus(HOUR).minus(MS);
    assert_eq!(blocked(gateway.throttle.begin(&attempts[1], policy, last).await.unwrap()), MS);
    assert_eq!(
        gateway.throttle.begin(&attempts[1], policy, t0.plus(HOUR)).await.unwrap(),
        Admission::Allowed
    );
    blocked(gateway.throttle.begin(&attempts[0], policy, t0.plus(HOUR)).await.unwrap());
}

pub async fn success_clears_the_run_and_takes_its_count_back(on: &dyn Deployment) {
    let gateway = on.gateway().await;
    let policy = ThrottlePolicy { address_failures: 7, ..policy() };
    let t0 = start();
    let ann = stranger("ann@example.com");
    for _ in 0..3 {
        for _ in 0..2 {
            assert_eq!(gateway.throttle.begin(&ann, policy, t0).await.unwrap(), Admission::Allowed);
        }
        gateway.throttle.succeeded(&ann, t0).await.unwrap();
    }
    // Six attempts, three of them good: three failures count for the address, none for the account.
    for _ in 0..4 {
        assert_eq!(gateway.throttle.begin(&ann, policy, t0).await.unwrap(), Admission::Allowed);
    }
    blocked(gateway.throttle.begin(&ann, policy, t0).await.unwrap());
}

pub async fn an_undecided_attempt_counts_for_nothing(on: &dyn Deployment) {
    let gateway = on.gateway().await;
    let ann = stranger("ann@example.com");
    let last = fail(&gateway, &ann, 8, start()).await;
    let now = last.plus(4 * SECOND);
    for _ in 0..3 {
        // Were it counted, or its time kept, the next one would have to wait.
        assert_eq!(begin(&gateway, &ann, now).await, Admission::Allowed);
        gateway.throttle.undecided(&ann, now).await.unwrap();
    }
    assert_eq!(blocked(begin(&gateway, &ann, now.minus(MS)).await), MS);
    for _ in 0..3 {
        gateway.throttle.undecided(&stranger("never@example.com"), now).await.unwrap();
    }
    fail(&gateway, &stranger("never@example.com"), 6, now).await;
    blocked(begin(&gateway, &stranger("never@example.com"), now).await);
}

pub async fn after_the_last_failure_only_forgiveness_or_the_known_device_unlocks(on: &dyn Deployment) {
    let gateway = on.gateway().await;
    let ann = stranger("ann@example.com");
    let last = fail(&gateway, &ann, 100, start()).await;
    let much_later = last.plus(20 * DAY);
    blocked(begin(&gateway, &ann, much_later).await);

    gateway.throttle.forgive("bob@example.com").await.unwrap();
    blocked(begin(&gateway, &ann, much_later).await);
    gateway.throttle.forgive("ann@example.com").await.unwrap();
    assert_eq!(begin(&gateway, &ann, much_later).await, Admission::Allowed);

    let last = fail(&gateway, &ann, 99, much_later).await;
    blocked(begin(&gateway, &ann, last.plus(DAY)).await);
    assert_eq!(begin(&gateway, &owner("ann@example.com"), last).await, Admission::Allowed);
    gateway.throttle.succeeded(&owner("ann@example.com"), last).await.unwrap();
    assert_eq!(begin(&gateway, &ann, last).await, Admission::Allowed);
}

pub async fn blocked_attempts_are_not_counted(on: &dyn Deployment) {
    let gateway = on.gateway().await;
    let ann = stranger("ann@example.com");
    let last = fail(&gateway, &ann, 6, start()).await;
    for i in 0..300 {
        blocked(begin(&gateway, &ann, last.plus(i * MS)).await);
    }
    assert_eq!(begin(&gateway, &ann, last.plus(SECOND)).await, Admission::Allowed);
    assert_eq!(blocked(begin(&gateway, &ann, last.plus(SECOND)).await), 2 * SECOND);
}

pub async fn a_clock_that_went_backwards_blocks_no_longer_than_the_delay(on: &dyn Deployment) {
    let gateway = on.gateway().await;
    let strict = ThrottlePolicy { address_failures: 7, ..policy() };
    let ann = stranger("ann@example.com");
    let last = fail(&gateway, &ann, 6, start()).await;
    let earlier = last.minus(DAY);
    assert_eq!(blocked(gateway.throttle.begin(&ann, strict, earlier).await.unwrap()), SECOND);
    let now = earlier.plus(SECOND);
    assert_eq!(gateway.throttle.begin(&ann, strict, now).await.unwrap(), Admission::Allowed);
    // Seven failures of this address now; its window ends within the hour by the new clock.
    assert!(blocked(gateway.throttle.begin(&stranger("x@example.com"), strict, now).await.unwrap()) <= HOUR);
    let later = now.plus(HOUR);
    let admission = gateway.throttle.begin(&stranger("x@example.com"), strict, later).await.unwrap();
    assert_eq!(admission, Admission::Allowed);
}

pub async fn a_run_outlives_a_sweep(on: &dyn Deployment) {
    let gateway = on.gateway().await;
    let ann = stranger("ann@example.com");
    let last = fail(&gateway, &ann, 100, start()).await;
    gateway.sessions.sweep(last.plus(29 * DAY)).await.unwrap();
    blocked(begin(&gateway, &ann, last.plus(29 * DAY)).await);
    gateway.sessions.sweep(last.plus(31 * DAY)).await.unwrap();
    assert_eq!(begin(&gateway, &ann, last.plus(31 * DAY)).await, Admission::Allowed);
}
