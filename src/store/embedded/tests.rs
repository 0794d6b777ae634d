//! What goes wrong beneath the store: full, locked, damaged, foreign or newer files; jobs that fail.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use rusqlite::params;
use tokio::task::JoinSet;

use super::*;
use crate::store::{Email, User, Users};

fn store(folder: &tempfile::TempDir) -> Arc<Embedded> {
    Embedded::open(folder.path(), Arc::new(())).unwrap()
}

fn user(i: usize) -> User {
    User {
        id: format!("u{i}"),
        email: Email::parse(&format!("a{i}@example.com")).unwrap(),
        name: Some("x".repeat(500)),
        roles: vec![],
        scopes: vec![],
        password_hash: String::new(),
        disabled: false,
        created_at: Timestamp(0),
        sessions_cut: None,
    }
}

fn refusal(folder: &Path) -> String {
    Embedded::open(folder, Arc::new(())).err().expect("opened").to_string()
}

#[test]
fn the_files_are_for_their_owner_only() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("a/data");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    {
        let _store = Embedded::open(&folder, Arc::new(())).unwrap();
        assert_eq!(mode(&folder), 0o700);
        for file in ["portcullis.db", "portcullis.db-wal", "portcullis.db-shm"] {
            assert_eq!(mode(&folder.join(file)), 0o600, "{file}");
        }
    }
    let file = folder.join("portcullis.db");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let _store = Embedded::open(&folder, Arc::new(())).unwrap();
    assert_eq!(mode(&file), 0o600);
}

#[test]
fn any_number_of_processes_may_open_a_new_file_at_once() {
    let folder = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| drop(store(&folder)));
        }
    });
}

#[test]
fn a_file_of_the_first_schema_keeps_its_revocations() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("portcullis.db");
    let old = Connection::open(&path).unwrap();
    old.execute_batch(include_str!("schema_1.sql")).unwrap();
    old.pragma_update(None, "user_version", 1).unwrap();
    let (ended, until) = (uuid::Uuid::now_v7(), Timestamp::now().0 + 60_000);
    old.execute("INSERT INTO revocations (session, until) VALUES (?1, ?2)", (ended.as_bytes(), until))
        .unwrap();
    old.execute("INSERT INTO revocations (user, cut_at, until) VALUES ('u2', 5000, ?1)", [until]).unwrap();
    drop(old);

    let revocations = Arc::new(crate::tokens::Revocations::new());
    let _store = Embedded::open(folder.path(), revocations.clone()).unwrap();
    assert!(revocations.is_revoked(Some(ended), Timestamp(1), "whoever"));
    assert!(revocations.is_revoked(None, Timestamp(5000), "u2"));
}

#[tokio::test]
async fn after_access_ttl_was_made_shorter_older_tokens_stay_revoked() {
    use crate::store::{RefreshPolicy, Sessions};
    let folder = tempfile::tempdir().unwrap();
    let (long, short) = (Duration::from_secs(3_600), Duration::from_secs(10));
    let of = |lifetime| Arc::new(crate::tokens::Revocations::new().of_tokens(lifetime));
    drop(Embedded::open(folder.path(), of(long)).unwrap());

    let revocations = of(short);
    let store = Embedded::open(folder.path(), revocations.clone()).unwrap();
    let policy = RefreshPolicy { grace: short, idle_ttl: long, access_lifetime: short };
    let (session, now) = (uuid::Uuid::now_v7(), Timestamp::now());
    store.end("u1", session, policy, now).await.unwrap();
    revocations.sweep(now.plus(long / 2));
    assert!(revocations.is_revoked(Some(session), now, "u1"));
    revocations.sweep(now.plus(long * 2));
    assert!(!revocations.is_revoked(Some(session), now, "u1"));
}

#[test]
fn a_newer_schema_a_foreign_file_and_a_damaged_one_are_refused_with_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("portcullis.db");
    drop(store(&folder));
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    assert!(
        refusal(folder.path()).contains("version 99, this program knows versions up to 2; run the newer")
    );
    Connection::open(&path).unwrap().pragma_update(None, "user_version", -1).unwrap();
    assert!(refusal(folder.path()).contains("version -1"));

    fs::remove_file(&path).unwrap();
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE theirs (a)").unwrap();
    assert!(refusal(folder.path()).contains("some other program"));

    fs::write(&path, vec![7; 8192]).unwrap();
    assert!(refusal(folder.path()).contains("damaged"), "{}", refusal(folder.path()));

    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(refusal(folder.path()).contains("writable"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_fails_takes_back_only_its_own_changes() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder);
    let mut tasks = JoinSet::new();
    for i in 0..100 {
        let store = store.clone();
        tasks.spawn(async move {
            store
                .write(move |connection| {
                    connection.execute(
                        "INSERT INTO login_addresses VALUES (?1, 1, 1)",
                        params![format!("192.0.2.{i}")],
                    )?;
                    // Every second job fails after its first statement.
                    connection.execute(
                        "INSERT INTO login_addresses VALUES (?1, 1, ?2)",
                        params![format!("198.51.100.{i}"), (i % 2 == 0).then_some(1)],
                    )
                })
                .await
        });
    }
    let failed = tasks.join_all().await.iter().filter(|answer| answer.is_err()).count();
    let count = "SELECT count(*) FROM login_addresses";
    let kept: i64 = store.read(move |c| c.query_row(count, [], |row| row.get(0))).await.unwrap();
    assert_eq!((failed, kept), (50, 100));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_unavailable_and_over_when_there_is_room_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder);
    let limit = |pages: i64| {
        store.write(move |c| {
            c.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |row| row.get::<_, i64>(0))
        })
    };
    let pages = limit(1).await.unwrap();
    let mut created = 0;
    let refused = loop {
        match store.create(user(created)).await {
            Ok(()) => created += 1,
            Err(error) => break error.to_string(),
        }
        assert!(created < 1_000, "the limit of {pages} pages has no effect");
    };
    assert!(refused.contains("full"), "{refused}");
    limit(1_000_000).await.unwrap();
    store.create(user(created)).await.unwrap();
    assert_eq!(Users::list(&*store, None, 2_000).await.unwrap().len(), created + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_held_by_another_process_is_unavailable_and_over_when_it_is_released() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder);
    let other = Connection::open(folder.path().join("portcullis.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let refused = store.create(user(1)).await.unwrap_err().to_string();
    assert!(refused.contains("locked"), "{refused}");
    assert!(store.by_id("u1").await.unwrap().is_none(), "reading goes on");
    other.execute_batch("ROLLBACK").unwrap();
    store.create(user(1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_unavailable_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder);
    let (release, held) = std::sync::mpsc::channel::<()>();
    let (started, running) = oneshot::channel();
    let blocker = tokio::spawn({
        let store = store.clone();
        async move {
            let wait = move |_: &Connection| {
                let _ = started.send(());
                held.recv().ok();
                Ok(())
            };
            store.write(wait).await
        }
    });
    running.await.unwrap();
    let mut tasks = JoinSet::new();
    for i in 0..WAITING + 100 {
        let store = store.clone();
        tasks.spawn(async move { store.delete(&format!("u{i}")).await });
    }
    for _ in 0..100 {
        let refused = tasks.join_next().await.unwrap().unwrap().unwrap_err().to_string();
        assert!(refused.contains("queue full"), "{refused}");
    }
    drop(release);
    blocker.await.unwrap().unwrap();
    assert!(tasks.join_all().await.iter().all(|answer| matches!(answer, Ok(false))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_left_before_its_turn_leaves_no_trace() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder);
    let other = Connection::open(folder.path().join("portcullis.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let first = tokio::spawn({
        let store = store.clone();
        async move { store.create(user(1)).await }
    });
    tokio::task::yield_now().await;
    let left = tokio::time::timeout(Duration::from_millis(50), store.create(user(2))).await;
    assert!(left.is_err());
    other.execute_batch("ROLLBACK").unwrap();
    first.await.unwrap().unwrap();
    store.create(user(3)).await.unwrap();
    let ids: Vec<_> = Users::list(&*store, None, 9).await.unwrap().into_iter().map(|user| user.id).collect();
    assert_eq!(ids, ["u1", "u3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_record_is_unavailable_not_a_panic() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder);
    store.create(user(1)).await.unwrap();
    for damage in ["roles = '{'", "email = 'nobody'"] {
        let sql = format!("UPDATE users SET {damage}");
        store.write(move |connection| connection.execute(&sql, [])).await.unwrap();
        assert!(store.by_id("u1").await.is_err(), "{damage}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_damaged_while_open_is_unavailable_not_a_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("portcullis.db");
    {
        let store = store(&folder);
        for i in 0..200 {
            store.create(user(i)).await.unwrap();
        }
    }
    // What is written lies in the WAL until a checkpoint; closing makes one only when the writer closes last.
    let outside = Connection::open(&path).unwrap();
    outside.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0)).unwrap();
    drop(outside);
    let store = store(&folder);
    let length = fs::metadata(&path).unwrap().len();
    let mut bytes = fs::read(&path).unwrap();
    bytes[8192..].fill(0x5a);
    fs::write(&path, &bytes).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), length);
    let mut refused = 0;
    for i in 0..200 {
        refused += usize::from(store.by_id(&format!("u{i}")).await.is_err());
        refused += usize::from(store.delete(&format!("u{i}")).await.is_err());
    }
    assert!(refused > 0);
}
