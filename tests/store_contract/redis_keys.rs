//! What lies in Redis: which keys, for how long, and that nothing grows without end.

use std::sync::Arc;
use std::time::Duration;

use portcullis::clock::Timestamp;
use portcullis::store::redis::{Clock, Redis};
use portcullis::store::{
    Family, LoginAttempt, LoginThrottle, RefreshPolicy, Rotation, Sessions, SessionsCut,
};
use uuid::Uuid;

use crate::redis::settings;
use crate::servers::{Server, cli, free_port, redis_on};
use crate::support::{DAY, HOUR, Heard, MS, SECOND, family, policy, start};
use crate::throttle::policy as throttle_policy;

/// A server of its own, and a store that turns the clock.
struct Turned {
    server: Server,
    store: Arc<Redis>,
}

impl Turned {
    async fn new() -> Self {
        let server = redis_on(free_port(), &[]);
        let store =
            Redis::open(&settings(server.port, "p"), Arc::new(Heard::default()), Clock::Caller).unwrap();
        store.caught_up().await;
        Self { server, store }
    }

    async fn login(&self, user: &str, at: Timestamp) -> Family {
        let family = family(user, at);
        self.store.open(family.clone()).await.unwrap();
        family
    }

    async fn end(&self, family: &Family, at: Timestamp) -> bool {
        self.store.end(&family.user, family.id, policy(), at).await.unwrap()
    }

    fn ask(&self, command: &[&str]) -> String {
        cli(self.server.port, command)
    }

    fn number(&self, command: &[&str]) -> u64 {
        self.ask(command).parse().unwrap()
    }

    fn lives(&self, key: &str) -> Duration {
        Duration::from_millis(self.number(&["pttl", key]))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_key_expires_in_time() {
    let turned = Turned::new().await;
    let now = start();
    for i in 0..20 {
        let user = format!("u{i}");
        let families = [turned.login(&user, now).await, turned.login(&user, now).await];
        for presented in [1, 2, 2, 1] {
            turned
                .store
                .rotate(&user, families[i % 2].id, presented, "192.0.2.1", policy(), now)
                .await
                .unwrap();
        }
        turned.store.rotate(&user, Uuid::now_v7(), 1, "192.0.2.1", policy(), now).await.unwrap();
        turned.end(&families[1], now).await;
        turned.end(&family(&format!("nobody{i}"), now), now).await;
        if i % 3 == 0 {
            turned.store.end_all(&user, SessionsCut { at: now, keep: None }, policy()).await.unwrap();
            turned.login(&user, now.minus(SECOND)).await;
        }
        for known_device in [None, Some(format!("device{i}"))] {
            let attempt =
                LoginAttempt { account: format!("a{i}@b"), address: "192.0.2.1".into(), known_device };
            for _ in 0..8 {
                turned.store.begin(&attempt, throttle_policy(), now).await.unwrap();
            }
            turned.store.undecided(&attempt, now).await.unwrap();
            if i % 2 == 0 {
                turned.store.succeeded(&attempt, now).await.unwrap();
            }
        }
        turned.store.forgive(&format!("a{}@b", i / 2)).await.unwrap();
    }
    let keys = turned.ask(&["--scan"]);
    assert!(keys.lines().count() > 40, "{keys}");
    for key in keys.lines() {
        let most = match key.split(':').collect::<Vec<_>>()[..] {
            ["p", "user", user] if user.starts_with("{nobody") => policy().access_lifetime + 60 * SECOND,
            ["p", "user", _] => policy().idle_ttl + 60 * SECOND,
            ["p", "login", _] => 30 * DAY,
            ["p", "login-address", _] => throttle_policy().address_window + 60 * SECOND,
            ["p", "revocations"] => policy().access_lifetime + HOUR,
            _ => panic!("an odd key: {key}"),
        };
        let lives = turned.lives(key);
        assert!(
            most - 20 * SECOND < lives && lives <= most + SECOND,
            "{key} lives for {lives:?}, not {most:?}"
        );
        let tag = key.split_once('{').and_then(|(_, rest)| rest.strip_suffix('}'));
        assert!(key == "p:revocations" || tag.is_some_and(|tag| !tag.is_empty()), "{key}");
    }
    let users = keys.lines().filter(|key| key.contains("{u")).count();
    assert_eq!(users, 20, "all of a user is one key");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_kept_of_a_user_shrinks_again() {
    let turned = Turned::new().await;
    let now = start();
    let mut families = vec![];
    for _ in 0..6 {
        families.push(turned.login("u1", now).await);
    }
    for family in &families[1..] {
        assert!(turned.end(family, now).await);
    }
    assert_eq!(
        turned.number(&["hlen", "p:user:{u1}"]),
        6,
        "a session, and five notes that they were announced"
    );
    assert!(turned.lives("p:user:{u1}") > 89 * DAY);
    turned.end(&families[0], now).await;
    assert!(turned.lives("p:user:{u1}") <= policy().access_lifetime + 60 * SECOND);
    // The notes go with the next login, the sessions when they have expired.
    let later = now.plus(policy().access_lifetime);
    turned.login("u1", later).await;
    assert_eq!(turned.ask(&["hlen", "p:user:{u1}"]), "1");
    turned.login("u1", later.plus(policy().idle_ttl)).await;
    assert_eq!(turned.ask(&["hlen", "p:user:{u1}"]), "1");
    // A cut goes as well.
    let cut = SessionsCut { at: later.plus(policy().idle_ttl), keep: None };
    turned.store.end_all("u1", cut, policy()).await.unwrap();
    assert_eq!(turned.ask(&["hlen", "p:user:{u1}"]), "2");
    turned.login("u1", cut.at.plus(policy().access_lifetime)).await;
    assert_eq!(turned.ask(&["hexists", "p:user:{u1}", "cut"]), "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_has_a_bounded_number_of_sessions() {
    let turned = Turned::new().await;
    let now = start();
    let first = turned.login("u1", now).await;
    let second = turned.login("u1", now).await;
    for i in 1..=1_600 {
        let at = now.plus(i * MS);
        turned.login("u1", at).await;
        if i % 100 == 0 {
            // In use, and therefore kept.
            let presented = u64::from(i) / 100;
            let answer =
                turned.store.rotate("u1", first.id, presented, "192.0.2.1", policy(), at).await.unwrap();
            assert_eq!(answer, Rotation::Rotated { generation: presented + 1 });
        }
    }
    let live = turned.store.list("u1", now.plus(1_600 * MS)).await.unwrap();
    assert!((1_000..=1_500).contains(&live.len()), "{}", live.len());
    assert!(live.iter().any(|family| family.id == first.id));
    assert!(live.iter().all(|family| family.id != second.id), "unused for longest");
    assert_eq!(live[0].began, now.plus(1_600 * MS));
    assert!(turned.lives("p:user:{u1}") > 89 * DAY);
    // Looking through them is not done every time.
    cli(turned.server.port, &["config", "resetstat"]);
    for i in 0..50 {
        turned.login("u1", now.plus(SECOND * 2 + i * MS)).await;
    }
    let stats = turned.ask(&["info", "commandstats"]);
    assert!(!stats.contains("cmdstat_hgetall"), "{stats}");
    // After an hour it is, and what has expired goes.
    let later = now.plus(policy().idle_ttl).plus(SECOND);
    turned.login("u1", later).await;
    let left = turned.store.list("u1", later).await.unwrap().len() as u64;
    assert_eq!(turned.number(&["hlen", "p:user:{u1}"]), left + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stream_holds_what_is_in_force_and_little_else() {
    let turned = Turned::new().await;
    let now = start();
    let long = RefreshPolicy { access_lifetime: DAY, ..policy() };
    // Over, the margin included, since a millisecond; in force for another; by tokens that live for a day.
    let end = async |user: &str, policy: RefreshPolicy, at: Timestamp| {
        turned.store.end(user, Uuid::now_v7(), policy, at).await.unwrap();
    };
    for i in 0..3_000 {
        end(&format!("old{i}"), policy(), now.minus(HOUR + HOUR + MS)).await;
    }
    assert!(turned.number(&["xlen", "p:revocations"]) <= 1, "what is over goes with the next one");
    end("day", long, now.minus(3 * HOUR)).await;
    end("hour", policy(), now.minus(HOUR)).await;
    for i in 0..50 {
        end(&format!("new{i}"), policy(), now).await;
    }
    let users = turned.ask(&["xrange", "p:revocations", "-", "+"]);
    assert_eq!(turned.ask(&["xlen", "p:revocations"]), "52", "{users}");
    let lives = turned.lives("p:revocations");
    assert!(lives > 21 * HOUR && lives <= 22 * HOUR, "the longest decides: {lives:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_on_its_way_that_was_to_be_kept_is() {
    let turned = Turned::new().await;
    let now = start();
    let (kept, other) = (family("u1", now.minus(MS)), family("u1", now.minus(MS)));
    let cut = SessionsCut { at: now, keep: Some(kept.id) };
    turned.store.end_all("u1", cut, policy()).await.unwrap();
    for family in [&kept, &other] {
        turned.store.open(family.clone()).await.unwrap();
    }
    assert_eq!(turned.store.list("u1", now).await.unwrap(), [kept]);
}
