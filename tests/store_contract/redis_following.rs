//! Hearing of what others revoked: all of it, whatever happened to the connection in between.

use std::collections::HashSet;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use portcullis::clock::Timestamp;
use portcullis::store::redis::{Clock, Redis};
use portcullis::store::settings::{OnUnreachable, RevocationPolicy};
use portcullis::store::{Family, RevocationSink, Sessions, SessionsCut};
use portcullis::tokens::revocations::Revocations;
use uuid::Uuid;

use crate::redis::{Client, settings};
use crate::redis_faults::Relay;
use crate::servers::{Server, cli, free_port, redis_on};
use crate::support::{HOUR, MS, SECOND, family, policy, start, within};

/// As many entries as `count`, made by a gateway long ago or just now, each about a session of its own.
async fn announce(port: u16, count: usize) {
    let client = ::redis::Client::open(("127.0.0.1", port)).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let until = start().plus(HOUR).0;
    for page in (0..count).collect::<Vec<_>>().chunks(5_000) {
        let mut add = ::redis::pipe();
        for i in page {
            let session = Uuid::new_v4().simple().to_string();
            add.cmd("XADD").arg("p:revocations").arg("*").arg("user").arg(format!("u{i}"));
            add.arg("session").arg(session).arg("until").arg(until).ignore();
        }
        add.query_async::<()>(&mut connection).await.unwrap();
    }
}

fn distinct(client: &Client) -> usize {
    client.heard.sessions().into_iter().map(|(_, session, _)| session).collect::<HashSet<_>>().len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_number_of_entries_is_heard_each_once() {
    for count in [1_999, 2_000, 2_001, 4_000, 50_000] {
        let server = redis_on(free_port(), &[]);
        announce(server.port, count).await;
        let begin = Instant::now();
        let client = Client::connected(&settings(server.port, "p")).await;
        let took = begin.elapsed();
        assert_eq!((client.heard.sessions().len(), distinct(&client)), (count, count));
        println!("{count} entries at the start: {took:?}");
        announce(server.port, count).await;
        within(5 * SECOND, "what came since", || client.heard.sessions().len() == 2 * count).await;
        assert_eq!(distinct(&client), 2 * count);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_revoked_while_disconnected_is_caught_up() {
    let server = redis_on(free_port(), &[]);
    let relay = Relay::to(server.port).await;
    let settings = settings(relay.port, "p");
    let client = Client::connected(&settings).await;
    // A sink as the gateway has it, beside one that counts.
    let policy = RevocationPolicy { unreachable_after: 10 * SECOND, on_unreachable: OnUnreachable::Serve };
    let revocations = Arc::new(Revocations::heard_from_afar(policy, start()));
    let _store = Redis::open(&settings, revocations.clone(), Clock::Server).unwrap();
    announce(server.port, 10).await;
    within(SECOND, "ten", || client.heard.sessions().len() == 10 && revocations.len() == 10).await;

    let port = relay.port;
    drop(relay);
    tokio::time::sleep(200 * MS).await;
    let lag = revocations.lag(start());
    assert!(lag > 100 * MS, "{lag:?}");
    announce(server.port, 5_000).await;
    // By the number it comes before all that was heard: another server would have such.
    let until = start().plus(HOUR).0.to_string();
    let session = Uuid::new_v4().simple().to_string();
    let entries = cli(server.port, &["xrange", "p:revocations", "-", "+"]);
    assert!(entries.contains("user"));
    cli(server.port, &["copy", "p:revocations", "p:all"]);
    cli(server.port, &["del", "p:revocations"]);
    cli(
        server.port,
        &["xadd", "p:revocations", "1-1", "user", "early", "session", &session, "until", &until],
    );
    let last = start().plus(SECOND).0.to_string();
    let late = Uuid::new_v4().simple().to_string();
    cli(server.port, &["xadd", "p:revocations", &last, "user", "late", "session", &late, "until", &until]);

    let _relay = Relay::on(port, server.port).await;
    within(5 * SECOND, "what came in between", || revocations.len() == 12 && distinct(&client) == 12).await;
    within(SECOND, "no lag", || revocations.lag(start()) < 100 * MS + SECOND / 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hearing_twice_does_no_harm() {
    let server = redis_on(free_port(), &[]);
    let relay = Relay::to(server.port).await;
    let policy = RevocationPolicy { unreachable_after: 10 * SECOND, on_unreachable: OnUnreachable::Serve };
    let revocations = Arc::new(Revocations::heard_from_afar(policy, start()));
    let _store = Redis::open(&settings(relay.port, "p"), revocations.clone(), Clock::Server).unwrap();
    announce(server.port, 5_000).await;
    within(2 * SECOND, "all", || revocations.len() == 5_000).await;
    let port = relay.port;
    drop(relay);
    announce(server.port, 1).await;
    let _relay = Relay::on(port, server.port).await;
    within(5 * SECOND, "one more", || revocations.len() == 5_001).await;
    tokio::time::sleep(200 * MS).await;
    assert_eq!(revocations.len(), 5_001);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_of_another_kind_is_passed_over() {
    let server = redis_on(free_port(), &[]);
    for odd in [
        &["foo", "bar"][..],
        &["user", "u", "at", "x", "keep", "", "until", "y"],
        &["until", "1", "x", "\u{1}"],
    ] {
        cli(server.port, &[&["xadd", "p:revocations", "*"], odd].concat());
    }
    let client = Client::connected(&settings(server.port, "p")).await;
    assert!(client.heard.nothing());
    announce(server.port, 1).await;
    within(SECOND, "the next one", || distinct(&client) == 1).await;
    let family = client.login("u1").await;
    assert!(client.end(&family).await.unwrap());
    within(SECOND, "our own", || distinct(&client) == 2).await;
}

/// What a sink was told until when.
#[derive(Default)]
struct Ends(parking_lot::Mutex<Vec<Timestamp>>);

impl RevocationSink for Ends {
    fn session(&self, _: &str, _: portcullis::store::SessionId, until: Timestamp) {
        self.0.lock().push(until);
    }
    fn user(&self, _: &str, _: SessionsCut, until: Timestamp) {
        self.0.lock().push(until);
    }
    fn heard_until(&self, _: Timestamp) {}
}

/// Takes the place of the C library's, and is two hours behind.
const CLOCK: &str = "#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
int gettimeofday(struct timeval *now, void *zone) {
  struct timespec real;
  syscall(SYS_clock_gettime, CLOCK_REALTIME, &real);
  now->tv_sec = real.tv_sec - 7200;
  now->tv_usec = real.tv_nsec / 1000;
  return 0;
}";

/// A Redis whose clock is two hours behind, where there is a C compiler to pretend it with.
fn redis_behind() -> Option<Server> {
    let (port, folder) = (free_port(), tempfile::tempdir().unwrap().keep());
    let [source, library] = ["clock.c", "clock.so"].map(|name| folder.join(name));
    std::fs::write(&source, CLOCK).unwrap();
    let made = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status();
    if !made.is_ok_and(|status| status.success()) {
        return None;
    }
    let preload = format!("LD_PRELOAD={}", library.display());
    let listen = port.to_string();
    let command = ["env", &preload, "redis-server", "--port", &listen, "--bind", "127.0.0.1", "--save", ""];
    Some(Server::start(port, &folder, &command))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_of_redis_that_is_two_hours_behind_shortens_no_revocation() {
    let Some(server) = redis_behind() else {
        println!("no C compiler: left out");
        return;
    };
    let (ours, others) = (Arc::new(Ends::default()), Arc::new(Ends::default()));
    let [store, _other] = [&ours, &others]
        .map(|ends| Redis::open(&settings(server.port, "p"), ends.clone(), Clock::Server).unwrap());
    store.caught_up().await;
    let server_time: i64 = cli(server.port, &["time"]).lines().next().unwrap().parse().unwrap();
    assert!(start().seconds() - server_time > 7_000, "the clock is not set back");
    let family = family("u1", start());
    store.open(family.clone()).await.unwrap();
    store.end("u1", family.id, policy(), start()).await.unwrap();
    let needed = start().plus(policy().access_lifetime);
    let long_enough =
        |ends: &Ends| ends.0.lock().first().is_some_and(|until| *until >= needed.minus(20 * MS));
    assert!(long_enough(&ours));
    within(SECOND, "the other gateway", || long_enough(&others)).await;
    let late = Arc::new(Ends::default());
    let store = Redis::open(&settings(server.port, "p"), late.clone(), Clock::Server).unwrap();
    store.caught_up().await;
    assert!(long_enough(&late), "{:?}", late.0.lock());
}

/// Gateways tell by a session's id when it began. One whose clock runs ahead makes ids that look later than the cut.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_would_be_taken_for_later_ones_are_named() {
    let server = redis_on(free_port(), &[]);
    let client = Client::connected(&settings(server.port, "p")).await;
    let id = |at: Timestamp| uuid::Builder::from_unix_timestamp_millis(at.0 as u64, &[7; 10]).into_uuid();
    let began = start();
    let (ahead, right) = (id(began.plus(HOUR)), id(began));
    for id in [ahead, right] {
        client.store.open(Family { id, ..family("u1", began) }).await.unwrap();
    }
    tokio::time::sleep(5 * MS).await;
    let cut = SessionsCut { at: start(), keep: None };
    client.store.end_all("u1", cut, policy()).await.unwrap();
    let named: Vec<_> = client.heard.sessions().into_iter().map(|(_, id, _)| id).collect();
    assert_eq!(named, [ahead]);
    assert_eq!(client.heard.users().len(), 1);
}
