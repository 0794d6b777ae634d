//! What Redis is asked to do and to hold: figures for docs/scaling.md. Not tests: run with `--ignored --nocapture`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis::store::{Family, Rotation, Sessions, SessionsCut};
use tokio::task::JoinSet;

use crate::redis::{Client, settings};
use crate::servers::{cli, free_port, redis_on};
use crate::support::{family, policy, start};

const DEVICE: &str = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) \
                      Chrome/126.0.0.0 Safari/537.36 Edg/126";

fn per_call(port: u16) -> String {
    let stats = cli(port, &["info", "commandstats"]);
    let line = stats.lines().find(|line| line.starts_with("cmdstat_evalsha:")).unwrap_or_default();
    line.trim().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "figures"]
async fn rotations_a_second() {
    let server = redis_on(free_port(), &[]);
    let client = Arc::new(Client::connected(&settings(server.port, "p")).await);
    for callers in [1, 32, 256] {
        let each = 20_000 / callers;
        let mut families = vec![];
        for i in 0..callers {
            families.push(Arc::new(client.login(&format!("u{callers}-{i}")).await));
        }
        cli(server.port, &["config", "resetstat"]);
        let begin = Instant::now();
        let mut tasks = JoinSet::new();
        for family in families {
            let client = client.clone();
            tasks.spawn(async move {
                let mut times = vec![];
                for generation in 1..=each {
                    let begin = Instant::now();
                    let answer = client.rotate(&family, generation).await.unwrap();
                    times.push(begin.elapsed());
                    assert_eq!(answer, Rotation::Rotated { generation: generation + 1 });
                }
                times
            });
        }
        let mut times = tasks.join_all().await.concat();
        let took = begin.elapsed();
        times.sort();
        let [p50, p99] = [50, 99].map(|percent| times[times.len() * percent / 100]);
        println!(
            "{callers} callers: {:.0} rotations a second, p50 {p50:?}, p99 {p99:?}; {}",
            times.len() as f64 / took.as_secs_f64(),
            per_call(server.port)
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "figures"]
async fn bytes() {
    let server = redis_on(free_port(), &[]);
    let client = Client::connected(&settings(server.port, "portcullis")).await;
    let user = "01928c3e-7b1a-7c3d-9e4f-1a2b3c4d5e6f";
    for sessions in 1..=10 {
        let family = Family { device: DEVICE.into(), ..family(user, start()) };
        client.store.open(family).await.unwrap();
        let key = format!("portcullis:user:{{{user}}}");
        let usage = cli(server.port, &["memory", "usage", &key, "samples", "0"]);
        println!("{sessions} sessions, User-Agent of {} characters: {usage} bytes", DEVICE.len());
    }
    let used = || -> f64 {
        let memory = cli(server.port, &["info", "memory"]);
        memory.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap().trim().parse().unwrap()
    };
    let before = used();
    for i in 0..5_000 {
        let family = Family { device: DEVICE.into(), ..family(&format!("{user}{i}"), start()) };
        client.store.open(family).await.unwrap();
    }
    println!("a user with one session, everything included: {:.0} bytes", (used() - before) / 5_000.0);

    cli(server.port, &["config", "resetstat"]);
    for i in 0..5_000 {
        client.end(&family(&format!("{user}{i}"), start())).await.unwrap();
    }
    let stream = cli(server.port, &["memory", "usage", "portcullis:revocations", "samples", "0"]);
    println!(
        "a revocation in the stream: {:.0} bytes; {}",
        stream.parse::<f64>().unwrap() / 5_000.0,
        per_call(server.port)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "figures"]
async fn many_sessions_of_one_user() {
    let server = redis_on(free_port(), &[]);
    let client = Client::connected(&settings(server.port, "p")).await;
    let mut opened = 0;
    for step in [1, 10, 32, 100, 1_000, 10_000] {
        while opened < step {
            client.store.open(Family { device: DEVICE.into(), ..family("u1", start()) }).await.unwrap();
            opened += 1;
        }
        let last = client.login("u1").await;
        let times = [
            ("open", timed(client.login("u1")).await),
            ("rotate", timed(client.rotate(&last, 1)).await),
            ("list", timed(client.store.list("u1", start())).await),
            ("end", timed(client.end(&last)).await),
        ];
        println!("{step} sessions: {times:?}");
        opened += 1;
    }
    let cut = SessionsCut { at: start(), keep: None };
    println!("end_all {:?}", timed(client.store.end_all("u1", cut, policy())).await);
    println!("end_all again {:?}", timed(client.store.end_all("u1", cut, policy())).await);
}

async fn timed<T>(work: impl Future<Output = T>) -> Duration {
    let begin = Instant::now();
    work.await;
    begin.elapsed()
}
