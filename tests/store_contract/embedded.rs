//! The SQLite store: its deployment for the suite, and what holds for a file only.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use portcullis::clock::Timestamp;
use portcullis::store::embedded::Embedded;
use portcullis::store::{Family, Rotation, Sessions};
use tempfile::TempDir;

use crate::support::{Deployment, Gateway, Heard, family, policy, start};

pub struct Files {
    folder: TempDir,
}

impl Files {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }
}

#[async_trait]
impl Deployment for Files {
    async fn gateway(&self) -> Gateway {
        let heard = Arc::new(Heard::default());
        let store = Embedded::open(self.folder.path(), heard.clone()).unwrap();
        Gateway { users: store.clone(), sessions: store.clone(), throttle: store, heard }
    }
}

const KILLS: u64 = 60;
const FOLDER: &str = "PORTCULLIS_TEST_ROTATE_IN";
const PREFIX: &str = "rotated ";

/// Not a test by itself: the process that the next one kills. Rotates the one family of the folder as fast
/// as it can, and says so after each answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_that_rotates_until_killed() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let store = Embedded::open(Path::new(&folder), Arc::new(())).unwrap();
    let family = Sessions::list(&*store, "u1", Timestamp::now()).await.unwrap().remove(0);
    let mut generation = family.generation;
    loop {
        match rotate(&store, &family, generation, Timestamp::now()).await {
            Rotation::Rotated { generation: next } => generation = next,
            other => panic!("generation {generation}: {other:?}"),
        }
        eprintln!("{PREFIX}{generation}");
    }
}

/// Invariant 6, "wherever the process dies": an answer that was given is never lost, at most one that was
/// not given is there, and the file opens.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answered_rotation_is_lost_to_sigkill() {
    let folder = tempfile::tempdir().unwrap();
    let family = family("u1", start());
    Embedded::open(folder.path(), Arc::new(())).unwrap().open(family.clone()).await.unwrap();
    let mut answered = 1;
    let mut killed_at_work = 0;
    for round in 0..KILLS {
        let mut child = spawn_child(folder.path());
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        // Lets it work for a while that differs each time, counted from its first answer or from its start.
        let killer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_micros(3_000 + round * 7_919 % 60_000));
            child.kill().unwrap();
            child.wait().unwrap();
        });
        let last = lines
            .map_while(Result::ok)
            .filter_map(|line| line.strip_prefix(PREFIX).and_then(|n| n.parse::<u64>().ok()))
            .last();
        killer.join().unwrap();
        killed_at_work += u64::from(last.is_some());
        let answered_now = last.unwrap_or(answered);
        assert!(answered_now >= answered);

        let store = Embedded::open(folder.path(), Arc::new(())).unwrap();
        let kept = Sessions::list(&*store, "u1", Timestamp::now()).await.unwrap().remove(0);
        assert!(
            kept.generation == answered_now || kept.generation == answered_now + 1,
            "round {round}: answered {answered_now}, kept {}",
            kept.generation
        );
        // The client repeats the last token it holds; whichever way the kill went, it gets the one successor.
        let again = rotate(&store, &family, answered_now, kept.rotated_at).await;
        let expected = if kept.generation == answered_now {
            Rotation::Rotated { generation: answered_now + 1 }
        } else {
            Rotation::Replay { generation: answered_now + 1 }
        };
        assert_eq!(again, expected);
        answered = answered_now + 1;
    }
    assert!(killed_at_work > KILLS / 4, "only {killed_at_work} of {KILLS} children came to work");
    let file = rusqlite::Connection::open(folder.path().join("portcullis.db")).unwrap();
    let sound: String = file.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(sound, "ok");
}

fn spawn_child(folder: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "embedded::child_that_rotates_until_killed", "--nocapture"])
        .env(FOLDER, folder)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

async fn rotate(store: &Embedded, family: &Family, presented: u64, now: Timestamp) -> Rotation {
    store.rotate(&family.user, family.id, presented, "192.0.2.2", policy(), now).await.unwrap()
}
