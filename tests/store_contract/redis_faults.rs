//! A Redis that is not there, hangs, resets, is full or odd: every call is refused in time, nothing is decided by guessing,
//! and service returns within five seconds of Redis.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use portcullis::store::settings::RedisSettings;
use portcullis::store::{Family, Rotation, Sessions, SessionsCut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::redis::{Client, PATIENCE, in_time, prefix, settings};
use crate::servers::{cli, free_port, redis_on};
use crate::support::{MS, SECOND, family, policy, start, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_at_the_start_and_then_there() {
    let port = free_port();
    let client = Client::open(&settings(port, "p"));
    client.is_down().await;
    // Known to be gone: nobody waits.
    let begin = Instant::now();
    client.is_down().await;
    assert!(begin.elapsed() < 50 * MS, "{:?}", begin.elapsed());
    let server = redis_on(port, &[]);
    client.recovers(async || client.store.list("u1", start()).await).await;
    tokio::time::timeout(SECOND, client.store.caught_up()).await.expect("caught up");

    let family = client.login("u1").await;
    drop(server);
    client.is_down().await;
    let _server = redis_on(port, &[]);
    let answer = client.recovers(async || client.rotate(&family, 1).await).await;
    assert_eq!(answer, Rotation::Unknown, "the new server has nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_stopped_and_goes_on() {
    let server = redis_on(free_port(), &[]);
    let client = Client::connected(&settings(server.port, "p")).await;
    let family = client.login("u1").await;
    for generation in 1..=3 {
        server.signal(libc::SIGSTOP);
        in_time(client.rotate(&family, generation)).await.unwrap_err();
        client.is_down().await;
        tokio::time::sleep(3 * PATIENCE).await;
        // Known to hang: nobody waits.
        let begin = Instant::now();
        client.is_down().await;
        assert!(begin.elapsed() < 50 * MS, "{:?}", begin.elapsed());
        server.signal(libc::SIGCONT);
        let answer = client.recovers(async || client.rotate(&family, generation).await).await;
        let generation = generation + 1;
        // The call that nobody waited for any more may have been made all the same.
        let whichever = [Rotation::Rotated { generation }, Rotation::Replay { generation }];
        assert!(whichever.contains(&answer), "{answer:?}");
    }
    assert!(client.heard.nothing());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_are_paused() {
    let server = redis_on(free_port(), &[]);
    let client = Client::connected(&settings(server.port, "p")).await;
    let family = client.login("u1").await;
    assert_eq!(cli(server.port, &["client", "pause", "2500", "all"]), "OK");
    in_time(client.rotate(&family, 1)).await.unwrap_err();
    in_time(client.rotate(&family, 1)).await.unwrap_err();
    let answer = client.recovers(async || client.rotate(&family, 1).await).await;
    let whichever = [Rotation::Rotated { generation: 2 }, Rotation::Replay { generation: 2 }];
    assert!(whichever.contains(&answer), "{answer:?}");
}

/// What is slow but within the limit is only slow.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_server_serves() {
    let server = redis_on(free_port(), &[]);
    let client = Client::connected(&settings(server.port, "p")).await;
    let family = client.login("u1").await;
    cli(server.port, &["config", "resetstat"]);
    for generation in 1..=5 {
        cli(server.port, &["client", "pause", "200", "all"]);
        let answer = in_time(client.rotate(&family, generation)).await.unwrap();
        assert_eq!(answer, Rotation::Rotated { generation: generation + 1 });
    }
    let stats = cli(server.port, &["info", "commandstats"]);
    assert!(!stats.contains("hello"), "connected anew: {stats}");
}

/// Passes bytes on to a server. The reply that comes after `cut` has been set is cut off after so many bytes, and
/// the connection reset; then it passes everything on again.
pub struct Relay {
    pub port: u16,
    pub cut: Arc<AtomicUsize>,
    /// Connections made before it was raised pass nothing on any more, and stay.
    mute: watch::Sender<bool>,
    task: JoinHandle<()>,
}

pub const WHOLE: usize = usize::MAX;

impl Relay {
    pub async fn to(server: u16) -> Self {
        Self::on(0, server).await
    }

    pub async fn on(port: u16, server: u16) -> Self {
        let end = Instant::now() + 2 * SECOND;
        let listener = loop {
            match TcpListener::bind(("127.0.0.1", port)).await {
                Ok(listener) => break listener,
                // The one before is going.
                Err(error) => assert!(Instant::now() < end, "{error}"),
            }
            tokio::time::sleep(5 * MS).await;
        };
        let port = listener.local_addr().unwrap().port();
        let cut = Arc::new(AtomicUsize::new(WHOLE));
        let (mute, muted) = watch::channel(false);
        let shared = cut.clone();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(relay(client, server, shared.clone(), muted.clone()));
            }
        });
        Self { port, cut, mute, task }
    }
}

/// Breaks all connections.
impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn relay(client: TcpStream, server: u16, cut: Arc<AtomicUsize>, mut mute: watch::Receiver<bool>) {
    mute.mark_unchanged();
    let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let replies = async {
        let mut buffer = vec![0; 65536];
        while let Ok(length @ 1..) = from_server.read(&mut buffer).await {
            let reply = &buffer[..length];
            let is_decision =
                [&b"rotated"[..], b"opened"].iter().any(|d| reply.windows(d.len()).any(|w| w == *d));
            let keep = if is_decision { cut.swap(WHOLE, Ordering::SeqCst) } else { WHOLE };
            let sent = to_client.write_all(&reply[..keep.min(length)]).await;
            if keep != WHOLE {
                let _ = to_client.as_ref().set_zero_linger();
            }
            if keep != WHOLE || sent.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        Ok(()) = mute.changed() => std::future::pending().await,
        () = replies => {}
        _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_in_the_middle_of_a_reply() {
    let server = redis_on(free_port(), &[]);
    let relay = Relay::to(server.port).await;
    let client = Client::connected(&settings(relay.port, "p")).await;
    let family = client.login("u1").await;
    for (generation, keep) in (1..).zip([0, 1, 5, 20, 30]) {
        relay.cut.store(keep, Ordering::SeqCst);
        in_time(client.rotate(&family, generation)).await.unwrap_err();
        assert_eq!(relay.cut.load(Ordering::SeqCst), WHOLE);
        let answer = client.recovers(async || client.rotate(&family, generation).await).await;
        assert_eq!(answer, Rotation::Replay { generation: generation + 1 }, "after {keep} bytes");
    }
    // A login whose answer is lost was one, and may be made again.
    relay.cut.store(3, Ordering::SeqCst);
    in_time(client.store.open(family.clone())).await.unwrap_err();
    client.recovers(async || client.store.open(family.clone()).await).await;
    assert!(client.heard.nothing());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_fell_silent_is_replaced() {
    let server = redis_on(free_port(), &[]);
    let relay = Relay::to(server.port).await;
    let client = Client::connected(&settings(relay.port, "p")).await;
    let family = client.login("u1").await;
    relay.mute.send(true).unwrap();
    in_time(client.rotate(&family, 1)).await.unwrap_err();
    let answer = client.recovers(async || client.rotate(&family, 1).await).await;
    assert_eq!(answer, Rotation::Rotated { generation: 2 }, "it was not passed on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_memory_refuses_to_write_and_decides_nothing() {
    let server = redis_on(free_port(), &["--maxmemory-policy", "noeviction"]);
    let client = Client::connected(&settings(server.port, "p")).await;
    let family = client.login("u1").await;
    assert_eq!(client.rotate(&family, 1).await.unwrap(), Rotation::Rotated { generation: 2 });
    let ended = client.login("u2").await;
    assert_eq!(cli(server.port, &["config", "set", "maxmemory", "1mb"]), "OK");
    let error = in_time(client.rotate(&family, 2)).await.unwrap_err();
    assert!(error.cause.contains("OOM"), "{error}");
    in_time(client.store.open(family.clone())).await.unwrap_err();
    // What reads goes on, and so does whoever asks again for what was decided before.
    assert_eq!(client.store.list("u1", start()).await.unwrap().len(), 1);
    assert_eq!(client.rotate(&family, 1).await.unwrap(), Rotation::Replay { generation: 2 });
    assert!(client.heard.nothing());
    // Logouts go on as well: they are owed to people, and free more than they take.
    let other = SessionsCut { at: start(), keep: None };
    assert!(client.end(&ended).await.unwrap());
    client.store.end_all("u3", other, policy()).await.unwrap();
    assert_eq!((client.heard.sessions().len(), client.heard.users().len()), (1, 1));
    assert_eq!(cli(server.port, &["config", "set", "maxmemory", "0"]), "OK");
    assert_eq!(client.rotate(&family, 2).await.unwrap(), Rotation::Rotated { generation: 3 });
    client.login("u4").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_that_were_flushed() {
    let server = redis_on(free_port(), &[]);
    let client = Arc::new(Client::connected(&settings(server.port, "p")).await);
    let mut tasks = JoinSet::new();
    for i in 0..8 {
        let client = client.clone();
        tasks.spawn(async move {
            let family = client.login(&format!("u{i}")).await;
            for generation in 1..100 {
                let answer = client.rotate(&family, generation).await.unwrap();
                assert_eq!(answer, Rotation::Rotated { generation: generation + 1 });
            }
        });
    }
    while !tasks.is_empty() {
        cli(server.port, &["script", "flush"]);
        while tasks.try_join_next().is_some_and(|ended| ended.map(|()| true).unwrap()) {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_another_type_or_with_another_text() {
    let server = redis_on(free_port(), &[]);
    let client = Client::connected(&settings(server.port, "p")).await;
    let family = client.login("u2").await;
    cli(server.port, &["set", "p:user:{u1}", "x"]);
    let strange = Family { user: "u1".into(), ..family.clone() };
    let error = client.rotate(&strange, 1).await.unwrap_err();
    assert!(error.cause.contains("WRONGTYPE"), "{error}");
    client.end(&strange).await.unwrap_err();
    client.store.list("u1", start()).await.unwrap_err();
    client.store.open(strange).await.unwrap_err();

    let field = format!("s:{}", family.id.simple());
    for text in ["", "1 a", "x a 1 1 1 1 y z", "-1 a 1 1 1 1 y z"] {
        cli(server.port, &["hset", "p:user:{u2}", &field, text]);
        client.rotate(&family, 1).await.unwrap_err();
        client.store.list("u2", start()).await.unwrap_err();
    }
    assert!(client.heard.nothing());

    cli(server.port, &["set", "p:revocations", "x"]);
    let other = client.login("u3").await;
    let stolen = client.login("u3").await;
    client.end(&other).await.unwrap_err();
    client.rotate(&stolen, 9).await.unwrap_err();
    cli(server.port, &["del", "p:revocations"]);
    // Whichever half was done, the end is made up for and announced.
    client.end(&other).await.unwrap();
    assert_eq!(client.rotate(&stolen, 9).await.unwrap(), Rotation::LostHistory);
    assert_eq!(client.heard.sessions().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_fails_every_call_is_not_made_anew_all_the_time() {
    let master = redis_on(free_port(), &[]);
    let replica = redis_on(free_port(), &["--replicaof", &format!("127.0.0.1 {}", master.port)]);
    let client = Arc::new(Client::open(&settings(replica.port, "p")));
    let connections = || -> u64 {
        let stats = cli(replica.port, &["info", "stats"]);
        let line = stats.lines().find_map(|line| line.strip_prefix("total_connections_received:")).unwrap();
        line.trim().parse().unwrap()
    };
    let before = connections();
    let end = Instant::now() + 3 * SECOND;
    let mut tasks = JoinSet::new();
    for _ in 0..16 {
        let client = client.clone();
        tasks.spawn(async move {
            let family = family("u1", start());
            let mut causes = vec![];
            while Instant::now() < end {
                causes.push(client.store.open(family.clone()).await.unwrap_err().cause);
                tokio::time::sleep(MS).await;
            }
            causes
        });
    }
    let causes = tasks.join_all().await.concat();
    let made = connections() - before;
    assert!(made < 20, "{made} connections in 3 s");
    assert!(causes.iter().all(|cause| cause.starts_with("READONLY")), "{:?}", causes.last());
    assert!(client.heard.nothing());
    cli(replica.port, &["replicaof", "no", "one"]);
    client.recovers(async || client.store.open(family("u1", start())).await).await;
    tokio::time::timeout(2 * SECOND, client.store.caught_up()).await.expect("caught up");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_gateways_that_start_at_once() {
    let server = redis_on(free_port(), &[]);
    let settings: RedisSettings = settings(server.port, &prefix());
    let mut tasks = JoinSet::new();
    for i in 0..20 {
        let settings = settings.clone();
        tasks.spawn(async move {
            let client = Client::connected(&settings).await;
            let family = client.login(&format!("u{i}")).await;
            assert_eq!(client.rotate(&family, 1).await.unwrap(), Rotation::Rotated { generation: 2 });
            assert!(client.end(&family).await.unwrap());
            client
        });
    }
    for client in tasks.join_all().await {
        within(SECOND, "twenty logouts", || client.heard.sessions().len() == 20).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_give_up_disturb_nobody() {
    let server = redis_on(free_port(), &[]);
    let client = Arc::new(Client::connected(&settings(server.port, "p")).await);
    let ours = || {
        let list = cli(server.port, &["client", "list", "type", "normal"]);
        list.lines().find(|line| !line.contains("cmd=client")).unwrap().split_once(' ').unwrap().0.to_owned()
    };
    let before = ours();
    let mut tasks = JoinSet::new();
    for i in 0..50 {
        let client = client.clone();
        tasks.spawn(async move {
            let family = client.login(&format!("u{i}")).await;
            let mut generation = 1;
            for round in 0..40 {
                let patience = Duration::from_micros(50 * (i + round) % 3_000);
                let _ = tokio::time::timeout(patience, client.rotate(&family, generation)).await;
                // Whether it was made or not, the next one knows, and has its own answer.
                generation += 1;
                let answer = client.rotate(&family, generation - 1).await.unwrap();
                assert!(
                    [Rotation::Rotated { generation }, Rotation::Replay { generation }].contains(&answer),
                    "{answer:?}, not {generation}"
                );
            }
        });
    }
    tasks.join_all().await;
    assert_eq!(ours(), before, "the same connection");
}

#[test]
fn callers_of_other_runtimes_are_served() {
    let server = redis_on(free_port(), &[]);
    let home = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let client = home.block_on(Client::connected(&settings(server.port, "p")));
    std::thread::scope(|threads| {
        for i in 0..4 {
            let client = &client;
            threads.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let family = client.login(&format!("u{i}")).await;
                    for generation in 1..200 {
                        let answer = client.rotate(&family, generation).await.unwrap();
                        assert_eq!(answer, Rotation::Rotated { generation: generation + 1 });
                    }
                });
            });
        }
    });
}
