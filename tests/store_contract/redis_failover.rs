//! Another server, or the same one with another past: restarts, replicas, promotions, lost writes, a cluster that moves.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use portcullis::store::settings::{RedisSettings, Topology};
use portcullis::store::{
    Admission, LoginAttempt, LoginThrottle, RefreshPolicy, Rotation, Sessions, ThrottlePolicy,
};
use uuid::Uuid;

use crate::redis::{Client, in_time, prefix, settings};
use crate::redis_faults::{Relay, WHOLE};
use crate::servers::{Server, cli, free_port, redis_cluster, redis_on, sentinel_of, shared_cluster};
use crate::support::{HOUR, MS, SECOND, family, policy, start, within};
use crate::throttle::policy as throttle_policy;

fn replica_of(master: u16, port: u16) -> Server {
    let replica = redis_on(port, &["--replicaof", &format!("127.0.0.1 {master}")]);
    let end = Instant::now() + 10 * SECOND;
    while !cli(port, &["info", "replication"]).contains("master_link_status:up") {
        assert!(Instant::now() < end, "the replica does not come up");
        std::thread::sleep(10 * MS);
    }
    replica
}

/// An entry as another gateway makes it, with a number of our choice.
fn announce(port: u16, number: &str, user: &str) {
    let (session, until) = (Uuid::new_v4().simple().to_string(), start().plus(HOUR).0.to_string());
    let entry = ["xadd", "p:revocations", number, "user", user, "session", &session, "until", &until];
    assert!(cli(port, &entry).contains('-'));
}

async fn heard_of(client: &Client, user: &str) {
    within(3 * SECOND, user, || client.heard.sessions().iter().any(|(of, _, _)| of == user)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_that_lost_everything() {
    let port = free_port();
    let server = redis_on(port, &[]);
    let client = Client::connected(&settings(port, "p")).await;
    let family = client.login("u1").await;
    // As if the clock had run an hour ahead: what comes after the restart has lower numbers.
    announce(port, &format!("{}-0", start().plus(HOUR).0), "before");
    heard_of(&client, "before").await;
    drop(server);
    let _server = redis_on(port, &[]);
    announce(port, "*", "while nobody listened");
    assert_eq!(client.recovers(async || client.rotate(&family, 1).await).await, Rotation::Unknown);
    heard_of(&client, "while nobody listened").await;
    announce(port, "*", "after");
    heard_of(&client, "after").await;
    let family = client.login("u1").await;
    assert_eq!(client.rotate(&family, 1).await.unwrap(), Rotation::Rotated { generation: 2 });
    assert_eq!(client.heard.sessions().len(), 3, "each once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_was_lost_on_the_way() {
    let server = redis_on(free_port(), &[]);
    let client = Client::connected(&settings(server.port, "p")).await;
    announce(server.port, &format!("{}-0", start().plus(HOUR).0), "before");
    heard_of(&client, "before").await;
    cli(server.port, &["flushall"]);
    tokio::time::sleep(200 * MS).await;
    announce(server.port, "*", "after");
    heard_of(&client, "after").await;
    // Ours is not lost either when its number is lower than what was heard.
    announce(server.port, &format!("{}-0", start().plus(HOUR).0), "ahead");
    heard_of(&client, "ahead").await;
    cli(server.port, &["del", "p:revocations"]);
    let family = client.login("ours").await;
    client.end(&family).await.unwrap();
    heard_of(&client, "ours").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_becomes_a_replica_while_we_are_connected() {
    let (server, other) = (redis_on(free_port(), &[]), redis_on(free_port(), &[]));
    // So that what the other has is older than what was heard here.
    announce(other.port, "*", "elsewhere");
    tokio::time::sleep(20 * MS).await;
    let client = Client::connected(&settings(server.port, "p")).await;
    announce(server.port, "*", "here");
    heard_of(&client, "here").await;
    // And its newest is newer, so that the numbers alone tell nothing.
    announce(other.port, "*", "newer");
    cli(server.port, &["replicaof", "127.0.0.1", &other.port.to_string()]);
    // Nobody calls; a gateway that only verifies tokens has to notice by itself.
    heard_of(&client, "elsewhere").await;
    let error = client.store.open(family("u1", start())).await.unwrap_err();
    assert!(error.cause.starts_with("READONLY"), "{error}");
    announce(other.port, "*", "over there");
    heard_of(&client, "over there").await;
    cli(server.port, &["replicaof", "no", "one"]);
    client.recovers(async || client.store.open(family("u1", start())).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promotion_that_lost_writes() {
    let (port, other) = (free_port(), free_port());
    let master = redis_on(port, &[]);
    let client = Client::connected(&settings(port, "p")).await;
    let (unlucky, lucky) = (client.login("u1").await, client.login("u2").await);
    client.rotate(&unlucky, 1).await.unwrap();
    let replica = replica_of(port, other);
    // From here on the replica hears nothing.
    cli(other, &["replicaof", "no", "one"]);
    assert_eq!(client.rotate(&unlucky, 2).await.unwrap(), Rotation::Rotated { generation: 3 });
    let ended = client.login("u3").await;
    client.end(&ended).await.unwrap();
    drop(master);
    // The promoted one takes over the address.
    let promoted = replica_of(other, free_port());
    drop(replica);
    cli(promoted.port, &["replicaof", "no", "one"]);
    let successor = replica_of(promoted.port, port);
    cli(successor.port, &["replicaof", "no", "one"]);

    assert_eq!(
        client.recovers(async || client.rotate(&lucky, 1).await).await,
        Rotation::Rotated { generation: 2 }
    );
    assert_eq!(client.rotate(&unlucky, 3).await.unwrap(), Rotation::LostHistory);
    assert_eq!(client.rotate(&unlucky, 2).await.unwrap(), Rotation::Dead);
    assert_eq!(client.rotate(&ended, 1).await.unwrap(), Rotation::Unknown);
    assert_eq!(client.heard.sessions().len(), 2, "the logout, and the history that was lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_promote_a_replica() {
    let master = redis_on(free_port(), &[]);
    let replica = replica_of(master.port, free_port());
    let sentinel = sentinel_of(master.port, &[]);
    let by_sentinel = RedisSettings {
        topology: Topology::Sentinel { master: "sessions".into() },
        ..settings(sentinel.port, "p")
    };
    let (client, other) = (Client::connected(&by_sentinel).await, Client::connected(&by_sentinel).await);
    let family = client.login("u1").await;
    assert_eq!(client.rotate(&family, 1).await.unwrap(), Rotation::Rotated { generation: 2 });
    // The sentinel has to know the replica, and that to have all of it.
    let end = Instant::now() + 15 * SECOND;
    while !cli(sentinel.port, &["sentinel", "replicas", "sessions"]).contains("master-link-status\nok") {
        assert!(Instant::now() < end, "the sentinel does not see the replica");
        tokio::time::sleep(50 * MS).await;
    }
    while !cli(replica.port, &["hvals", "p:user:{u1}"]).starts_with("2 a") {
        assert!(Instant::now() < end, "the replica has not heard of the rotation");
        tokio::time::sleep(20 * MS).await;
    }
    drop(master);
    client.is_down().await;
    let end = Instant::now() + 30 * SECOND;
    while !cli(replica.port, &["info", "replication"]).contains("role:master") {
        assert!(Instant::now() < end, "no promotion");
        tokio::time::sleep(20 * MS).await;
    }
    let answer = client.recovers(async || client.rotate(&family, 2).await).await;
    assert_eq!(answer, Rotation::Rotated { generation: 3 });
    assert!(client.recovers(async || other.end(&family).await).await);
    heard_of(&client, "u1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_still_loading() {
    let (port, folder) = (free_port(), tempfile::tempdir().unwrap());
    // A millisecond for each key.
    let folder = folder.path().to_str().unwrap();
    let slowly = ["--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024"];
    let files = [&["--dir", folder, "--enable-debug-command", "yes"], &slowly[..]].concat();
    let server = redis_on(port, &files);
    let client = Client::connected(&settings(port, "p")).await;
    let family = client.login("u1").await;
    assert_eq!(cli(port, &["debug", "populate", "1500"]), "OK");
    assert_eq!(cli(port, &["save"]), "OK");
    drop(server);
    client.is_down().await;
    let _server = redis_on(port, &files);
    let was_loading = AtomicBool::new(false);
    let answer = client
        .recovers(async || {
            let answer = client.rotate(&family, 1).await;
            let loading = answer.as_ref().is_err_and(|error| error.cause.contains("LOADING"));
            was_loading.fetch_or(loading, Ordering::Relaxed);
            answer
        })
        .await;
    assert_eq!(answer, Rotation::Rotated { generation: 2 }, "never Unknown");
    assert!(was_loading.into_inner());
}

fn cluster(ports: &[u16]) -> RedisSettings {
    let servers = ports.iter().map(|port| ("127.0.0.1".into(), *port)).collect();
    RedisSettings { topology: Topology::Cluster, servers, ..settings(0, "p") }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_without_one_of_its_nodes_serves_the_others() {
    let mut nodes = redis_cluster();
    let ports: Vec<u16> = nodes.iter().map(|node| node.port).collect();
    let client = Client::connected(&cluster(&ports)).await;
    let mut families = vec![];
    for i in 0..30 {
        families.push(client.login(&format!("u{i}")).await);
    }
    let key = |user: &str| {
        cli(ports[0], &["cluster", "keyslot", &format!("p:user:{{{user}}}")]).parse::<u16>().unwrap()
    };
    // The third node has the last third of the slots.
    let (lost, kept): (Vec<_>, Vec<_>) = families.iter().partition(|family| key(&family.user) > 10_922);
    nodes[2].signal(libc::SIGSTOP);
    in_time(client.rotate(lost[0], 1)).await.unwrap_err();
    let end = Instant::now() + 4 * SECOND;
    let mut generation = 1;
    while Instant::now() < end {
        for family in &kept {
            let answer = client.recovers(async || client.rotate(family, generation).await).await;
            assert!(matches!(answer, Rotation::Rotated { .. } | Rotation::Replay { .. }), "{answer:?}");
        }
        generation += 1;
        in_time(client.rotate(lost[0], 1)).await.unwrap_err();
    }
    assert!(generation > 5, "{generation}");
    nodes[2].signal(libc::SIGCONT);
    for family in &lost {
        let answer = client.recovers(async || client.rotate(family, 1).await).await;
        assert!(matches!(answer, Rotation::Rotated { .. } | Rotation::Replay { .. }), "{answer:?}");
    }
    nodes.truncate(1);
}

/// As a gateway leaves it that dies between the decision and the stream, which in a cluster lies elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_that_a_dead_gateway_owes_is_announced_by_the_next() {
    let settings = RedisSettings { prefix: prefix(), ..cluster(&shared_cluster()) };
    let client = Client::connected(&settings).await;
    let family = client.login("u1").await;
    let (key, field) = (format!("{}:user:{{u1}}", settings.prefix), format!("s:{}", family.id.simple()));
    let port = settings.servers[0].1;
    let text = cli(port, &["-c", "hget", &key, &field]);
    cli(port, &["-c", "hset", &key, &field, &text.replacen(" a ", " r ", 1)]);
    for _ in 0..3 {
        assert_eq!(client.rotate(&family, 1).await.unwrap(), Rotation::Dead);
    }
    assert_eq!(client.heard.sessions().len(), 1);
}

/// The slot of a user moves to another node: nobody notices.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_moves_from_one_node_of_a_cluster_to_another() {
    let nodes = redis_cluster();
    let ports: Vec<u16> = nodes.iter().map(|node| node.port).collect();
    let client = Client::connected(&cluster(&ports)).await;
    let family = client.login("u1").await;
    let slot = cli(ports[0], &["cluster", "keyslot", "p:user:{u1}"]);
    let (from, to): (Vec<u16>, Vec<u16>) =
        ports.iter().partition(|port| cli(**port, &["cluster", "countkeysinslot", &slot]) == "1");
    let id = |port: u16| cli(port, &["cluster", "myid"]);
    let (from, to) = (from[0], to[0]);
    assert_eq!(cli(to, &["cluster", "setslot", &slot, "importing", &id(from)]), "OK");
    assert_eq!(cli(from, &["cluster", "setslot", &slot, "migrating", &id(to)]), "OK");
    assert_eq!(client.rotate(&family, 1).await.unwrap(), Rotation::Rotated { generation: 2 });
    assert_eq!(cli(from, &["migrate", "127.0.0.1", &to.to_string(), "p:user:{u1}", "0", "1000"]), "OK");
    assert_eq!(client.rotate(&family, 2).await.unwrap(), Rotation::Rotated { generation: 3 });
    assert_eq!(client.store.list("u1", start()).await.unwrap().len(), 1);
    for port in [to, from] {
        assert_eq!(cli(port, &["cluster", "setslot", &slot, "node", &id(to)]), "OK");
    }
    assert_eq!(client.rotate(&family, 3).await.unwrap(), Rotation::Rotated { generation: 4 });
    assert!(client.end(&family).await.unwrap());
}

/// A rotation whose answer was lost is not made a second time behind our back: without grace that would be a theft.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_of_a_cluster_is_not_asked_for_again() {
    let port = free_port();
    let relay = Relay::to(port).await;
    let announced = relay.port.to_string();
    let more = ["--cluster-enabled", "yes", "--cluster-announce-port", &announced];
    let _node = redis_on(port, &more);
    assert_eq!(cli(port, &["cluster", "addslotsrange", "0", "16383"]), "OK");
    let end = Instant::now() + 10 * SECOND;
    while !cli(port, &["cluster", "info"]).contains("cluster_state:ok") {
        assert!(Instant::now() < end);
        tokio::time::sleep(20 * MS).await;
    }
    let client = Client::connected(&cluster(&[relay.port])).await;
    let strict = RefreshPolicy { grace: Duration::ZERO, ..policy() };
    let family = client.login("u1").await;
    relay.cut.store(3, Ordering::SeqCst);
    client.rotate_under(strict, &family, 1).await.unwrap_err();
    assert_eq!(relay.cut.load(Ordering::SeqCst), WHOLE);
    let answer = client.recovers(async || client.rotate(&family, 1).await).await;
    assert_eq!(answer, Rotation::Replay { generation: 2 });
}

/// The count of a failure that was made in advance on one node is taken back when the other node cannot be asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_on_a_lost_node_do_not_use_up_the_failures_of_an_address() {
    let nodes = redis_cluster();
    let ports: Vec<u16> = nodes.iter().map(|node| node.port).collect();
    let client = Client::connected(&cluster(&ports)).await;
    let policy = ThrottlePolicy { address_failures: 3, ..throttle_policy() };
    let begin = async |account: &str, address: &str, known_device: Option<&str>| {
        let attempt = LoginAttempt {
            account: account.into(),
            address: address.into(),
            known_device: known_device.map(str::to_owned),
        };
        client.store.begin(&attempt, policy, start()).await
    };
    nodes[2].signal(libc::SIGSTOP);
    let (mut lost, mut kept) = (None, None);
    for i in 0..40 {
        let account = format!("a{i}@example.com");
        match begin(&account, "", Some("device")).await {
            Ok(_) => kept = Some(account),
            Err(_) => lost = Some(account),
        }
        if lost.is_some() && kept.is_some() {
            break;
        }
    }
    let (lost, kept) = (lost.unwrap(), kept.unwrap());
    let mut address = None;
    for i in 0..40 {
        let candidate = format!("192.0.2.{i}");
        if begin(&kept, &candidate, None).await.is_ok() {
            address = Some(candidate);
            break;
        }
    }
    let address = address.unwrap();
    for _ in 0..3 {
        begin(&lost, &address, None).await.unwrap_err();
    }
    assert_eq!(begin(&kept, &address, None).await.unwrap(), Admission::Allowed);
    nodes[2].signal(libc::SIGCONT);
}
