//! Writing and removing: whole or not at all, once or not at all.

use std::collections::{HashSet, VecDeque};
use std::fs;
use std::future::pending;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::tests::*;
use super::*;

/// Some bytes, and then silence.
struct Stalls(Option<Bytes>);

#[async_trait]
impl Content for Stalls {
    async fn next(&mut self) -> Result<Option<Bytes>, FileError> {
        match self.0.take() {
            Some(bytes) => Ok(Some(bytes)),
            None => pending().await,
        }
    }
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn what_is_written_is_there() {
    let (root, store) = store();
    let bytes: Vec<u8> = (0..2_000_003_u32).map(|n| (n % 249) as u8).collect();
    let pieces = bytes.chunks(7919).map(|piece| Ok(Bytes::copy_from_slice(piece)));
    let written =
        store.write(&key("a/b/c"), &of_length(bytes.len()), &mut Pieces(pieces.collect())).await.unwrap();
    assert!(fs::read(root.path().join("a/b/c")).unwrap() == bytes);
    let (_, meta, _) = get(&store, "a/b/c", &Read::default()).await.unwrap();
    assert_eq!(meta.etag, Some(written));

    put(&store, "a/b/c", b"again").await.unwrap();
    assert_eq!(text(&store, "a/b/c").await, "again");
    assert_eq!((files(root.path()), uploads(root.path())), (vec!["a/b/c".to_owned()], 0));

    assert_eq!(mode(&root.path().join(walk::UPLOADS)), 0o700);
    // As any other program would have made them, whatever the umask of whoever runs this.
    fs::create_dir(root.path().join("folder")).unwrap();
    fs::write(root.path().join("file"), "").unwrap();
    assert_eq!(mode(&root.path().join("a/b")), mode(&root.path().join("folder")));
    assert_eq!(mode(&root.path().join("a/b/c")), mode(&root.path().join("file")));
}

#[tokio::test]
async fn a_content_of_another_length_leaves_nothing() {
    let (root, store) = store();
    let long = vec![1; 600_000];
    for (length, pieces) in [
        (5, vec![&b"four"[..]]),
        (5, vec![]),
        (3, vec![b"four"]),
        (3, vec![b"thr", b"", b"e"]),
        (0, vec![b"x"]),
        (700_000, vec![&long]),
        (500_000, vec![&long]),
    ] {
        let written = store.write(&key("a/b"), &of_length(length), &mut Pieces::of(&pieces)).await;
        assert!(matches!(written, Err(FileError::Client(_))), "{length}");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1, "no folder was made");
        nothing_is_left(root.path()).await;
    }
    let padded = Pieces::of(&[b"", b"fo", b"", b"ur", b""]);
    let written = store.write(&key("a/b"), &of_length(4), &mut { padded }).await;
    assert!(written.is_ok());
    assert_eq!(text(&store, "a/b").await, "four");
}

#[tokio::test]
async fn a_content_that_fails_leaves_what_was_there() {
    let (root, store) = store();
    put(&store, "a", b"old").await.unwrap();
    let gone = || Err(FileError::Timeout("the client is too slow".into()));
    for size in [1, 300_000, 900_000] {
        let mut content = Pieces(VecDeque::from([Ok(Bytes::from(vec![1; size])), gone()]));
        let written = store.write(&key("a"), &of_length(1_000_000), &mut content).await;
        assert!(matches!(written, Err(FileError::Timeout(_))));
        nothing_is_left(root.path()).await;
    }
    assert_eq!(text(&store, "a").await, "old");
}

/// A thread may still be writing when its caller is gone.
async fn nothing_is_left(root: &Path) {
    for _ in 0..500 {
        if uploads(root) == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("an upload was left");
}

#[tokio::test]
async fn an_upload_is_invisible_and_leaves_nothing_when_it_is_dropped() {
    let (root, store) = store();
    for size in [0, 10, 300_000, 2_000_000] {
        let mut content = Stalls(Some(Bytes::from(vec![1; size])));
        let (target, goal) = (key("a/b"), of_length(3_000_000));
        let write = store.write(&target, &goal, &mut content);
        assert!(tokio::time::timeout(Duration::from_millis(200), write).await.is_err());
        nothing_is_left(root.path()).await;
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }

    let mut content = Stalls(Some(Bytes::from_static(b"begun")));
    let (target, goal) = (key("a/b"), of_length(10));
    let write = store.write(&target, &goal, &mut content);
    let look = async {
        while uploads(root.path()) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(is_absent(&get(&store, "a/b", &Read::default()).await));
        let all = List { prefix: String::new(), from: None, folders: false, limit: 10 };
        assert!(store.list(&all).await.unwrap().entries.is_empty());
    };
    tokio::select! {
        _ = write => panic!("it cannot end"),
        () = look => {}
    }
}

/// Two stores on one folder are as two processes: they share no lock.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_who_want_to_be_first_one_is() {
    let (root, store) = store();
    let stores = [Arc::new(store), Arc::new(Directory::open(root.path()).unwrap())];
    for round in 0..20 {
        let name = format!("r{round}/file");
        let writers: Vec<_> = (0..16)
            .map(|n: usize| {
                let (store, key) = (stores[n % 2].clone(), key(&name));
                tokio::spawn(async move {
                    let text = format!("writer {n:02}");
                    let write = Write { if_absent: true, ..of_length(text.len()) };
                    let written = store.write(&key, &write, &mut Pieces::of(&[text.as_bytes()])).await;
                    written.map(|etag| (text, etag))
                })
            })
            .collect();
        let mut winners = Vec::new();
        for writer in writers {
            match writer.await.unwrap() {
                Ok(won) => winners.push(won),
                Err(e) => assert!(matches!(e, FileError::PreconditionFailed), "{e:?}"),
            }
        }
        let [(won, etag)] = &winners[..] else { panic!("{winners:?}") };
        assert_eq!(&text(&stores[0], &name).await, won);
        assert_eq!(get(&stores[1], &name, &Read::default()).await.unwrap().1.etag.as_ref(), Some(etag));
    }
    assert_eq!(uploads(root.path()), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_who_replace_the_same_state_one_does() {
    let (_root, store) = store();
    let store = Arc::new(store);
    let mut etag = put(&store, "a", b"writer --").await.unwrap();
    for _ in 0..20 {
        let writers: Vec<_> = (0..8)
            .map(|n| {
                let (store, if_match) = (store.clone(), Some(etag.clone()));
                tokio::spawn(async move {
                    let write = Write { if_match, ..of_length(9) };
                    let text = format!("writer {n:02}");
                    store.write(&key("a"), &write, &mut Pieces::of(&[text.as_bytes()])).await
                })
            })
            .collect();
        let mut winners = Vec::new();
        for writer in writers {
            winners.extend(writer.await.unwrap().ok());
        }
        assert_eq!(winners.len(), 1);
        etag = winners.remove(0);
    }
}

#[tokio::test]
async fn conditions_of_writes_and_removals() {
    let (root, store) = store();
    let write = async |if_absent, if_match: Option<&HeaderValue>| {
        let write = Write { if_absent, if_match: if_match.cloned(), ..of_length(1) };
        store.write(&key("f/a"), &write, &mut Pieces::of(&[b"x"])).await
    };
    let failed =
        |result: Result<HeaderValue, FileError>| matches!(result, Err(FileError::PreconditionFailed));
    let (other, any) = (HeaderValue::from_static("\"other\""), HeaderValue::from_static("*"));

    assert!(failed(write(false, Some(&any)).await));
    assert!(matches!(store.delete(&key("f/a"), Some(&any)).await, Err(FileError::PreconditionFailed)));
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0, "no folder was made");
    let first = write(true, None).await.unwrap();
    assert!(failed(write(true, None).await));
    assert!(failed(write(false, Some(&other)).await));
    let second = write(false, Some(&first)).await.unwrap();
    assert_ne!(first, second);
    assert!(failed(write(false, Some(&first)).await));
    let third = write(false, Some(&any)).await.unwrap();

    assert!(matches!(store.delete(&key("f/a"), Some(&second)).await, Err(FileError::PreconditionFailed)));
    assert_eq!(text(&store, "f/a").await, "x");
    store.delete(&key("f/a"), Some(&third)).await.unwrap();
    assert!(is_absent(&get(&store, "f/a", &Read::default()).await));
}

/// Whoever cannot succeed need not send what he has.
#[tokio::test]
async fn the_impossible_is_refused_before_the_content_is_read() {
    let (_root, store) = store();
    put(&store, "a", b"").await.unwrap();
    let write = Write { if_absent: true, ..of_length(1) };
    for (name, write) in [("a", write), ("a/b", of_length(1))] {
        let mut content = Stalls(None);
        let key = key(name);
        let refused = tokio::time::timeout(Duration::from_secs(5), store.write(&key, &write, &mut content));
        assert!(refused.await.unwrap().is_err());
    }
}

#[tokio::test]
async fn files_and_folders_do_not_replace_each_other() {
    let (root, store) = store();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("file"), "theirs").unwrap();
    put(&store, "folder/file", b"text").await.unwrap();
    symlink(outside.path().join("file"), root.path().join("link")).unwrap();
    symlink(outside.path(), root.path().join("linked")).unwrap();
    mknodat(CWD, root.path().join("fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    for name in ["folder", "folder/file/x", "link", "link/x", "linked/x", "linked/file", "fifo"] {
        for if_absent in [false, true] {
            let write = Write { if_absent, ..of_length(0) };
            let written = store.write(&key(name), &write, &mut Pieces::of(&[])).await;
            assert!(matches!(written, Err(FileError::Conflict)), "{name}: {written:?}");
        }
        store.delete(&key(name), None).await.unwrap();
    }
    assert_eq!(files(root.path()), ["fifo", "folder/file", "link", "linked"]);
    assert_eq!(fs::read_to_string(outside.path().join("file")).unwrap(), "theirs");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    assert_eq!(uploads(root.path()), 0);
}

#[tokio::test]
async fn the_folder_of_uploads_is_nobodys() {
    let (root, store) = store();
    let folder = root.path().join(walk::UPLOADS);
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("x"), "begun").unwrap();
    for name in [".portcullis-uploads/x", ".Portcullis-Uploads/x", ".portcullis-uploads"] {
        assert!(matches!(put(&store, name, b"").await, Err(FileError::InvalidName(_))), "{name}");
        assert!(is_absent(&get(&store, name, &Read::default()).await));
        assert_eq!(store.size(&key(name)).await.unwrap(), None);
        store.delete(&key(name), None).await.unwrap();
    }
    put(&store, "a/.portcullis-uploads/x", b"").await.unwrap();
    for (prefix, expected) in [("", 1), (".portcullis-uploads/", 0)] {
        for folders in [false, true] {
            let list = List { prefix: prefix.into(), from: None, folders, limit: 10 };
            assert_eq!(store.list(&list).await.unwrap().entries.len(), expected);
        }
    }
    assert!(folder.join("x").exists());

    // Whoever tidies up does no harm.
    fs::remove_dir_all(&folder).unwrap();
    store.check().await.unwrap();
    put(&store, "b", b"text").await.unwrap();
    assert_eq!(text(&store, "b").await, "text");

    let outside = tempfile::tempdir().unwrap();
    fs::remove_dir_all(&folder).unwrap();
    symlink(outside.path(), &folder).unwrap();
    assert!(matches!(put(&store, "c", b"text").await, Err(FileError::Broken(_))));
    assert!(matches!(store.check().await, Err(FileError::Broken(_))));
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn what_killed_processes_left_goes_after_a_day() {
    let (root, store) = store();
    let folder = root.path().join(walk::UPLOADS);
    assert!(!folder.exists(), "opening a store makes nothing");
    put(&store, "x", b"").await.unwrap();
    for (name, hours) in [("old", 25), ("young", 23), ("new", 0)] {
        let file = fs::File::create(folder.join(name)).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(hours * 3600)).unwrap();
    }
    Directory::open(root.path()).unwrap();
    let mut left: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["new", "young"]);
}

#[tokio::test]
async fn folders_go_with_their_last_file() {
    let (root, store) = store();
    put(&store, "a/b/c/d", b"").await.unwrap();
    put(&store, "a/x", b"").await.unwrap();
    store.delete(&key("a/b/c"), None).await.unwrap();
    store.delete(&key("a/b/c/d/e"), None).await.unwrap();
    store.delete(&key("a/b/c/none"), None).await.unwrap();
    assert_eq!(files(root.path()), ["a/b/c/d", "a/x"]);
    store.delete(&key("a/b/c/d"), None).await.unwrap();
    assert!(root.path().join("a/x").exists() && !root.path().join("a/b").exists());
    store.delete(&key("a/x"), None).await.unwrap();
    assert!(!root.path().join("a").exists());
    store.delete(&key("a/x"), None).await.unwrap();
    store.check().await.unwrap();
}

/// One removes the folder that the other has just made.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_removed_folder_is_made_again() {
    let (root, store) = store();
    let stores = [Arc::new(store), Arc::new(Directory::open(root.path()).unwrap())];
    let busy = stores.map(|store| {
        (0..3).map(move |n| {
            let store = store.clone();
            tokio::spawn(async move {
                for _ in 0..100 {
                    let name = format!("a/b/c/{n}");
                    put(&store, &name, b"").await.unwrap();
                    store.delete(&key(&name), None).await.unwrap();
                }
            })
        })
    });
    for task in busy.into_iter().flatten().collect::<Vec<_>>() {
        task.await.unwrap();
    }
    assert!(files(root.path()).is_empty() && uploads(root.path()) == 0);
    assert!(!root.path().join("a").exists());
}

#[tokio::test]
async fn no_two_states_have_one_tag() {
    let (_root, store) = store();
    let mut tags = HashSet::new();
    for _ in 0..200 {
        assert!(tags.insert(put(&store, "a", b"same size").await.unwrap()));
    }
}

#[tokio::test]
async fn a_key_may_have_hundreds_of_folders() {
    let (root, store) = store();
    let deep = "a/".repeat(500) + "x";
    put(&store, &deep, b"deep").await.unwrap();
    assert_eq!(text(&store, &deep).await, "deep");
    for folders in [false, true] {
        let list = List { prefix: String::new(), from: None, folders, limit: 1 };
        let entries = store.list(&list).await.unwrap().entries;
        assert_eq!(entries[0].key(), if folders { "a/" } else { &deep });
    }
    store.delete(&key(&deep), None).await.unwrap();
    assert!(!root.path().join("a").exists());
}
