//! Reading, and what is not to be read. The helpers are those of all tests here.

use std::collections::VecDeque;
use std::fs;
use std::future::Future;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::io::Errno;
use tempfile::TempDir;

use super::*;
use crate::fault::Fault;
use crate::files::checksum::Checksum;
use crate::files::range::ByteRange;
use crate::files::store::{Body, Conditions, Found, Meta};

/// Pieces of a content, one after the other.
pub struct Pieces(pub VecDeque<Result<Bytes, FileError>>);

impl Pieces {
    pub fn of(pieces: &[&[u8]]) -> Self {
        Self(pieces.iter().map(|piece| Ok(Bytes::copy_from_slice(piece))).collect())
    }
}

#[async_trait]
impl Content for Pieces {
    async fn next(&mut self) -> Result<Option<Bytes>, FileError> {
        self.0.pop_front().transpose()
    }
}

pub fn store() -> (TempDir, Directory) {
    let root = tempfile::tempdir().unwrap();
    let store = Directory::open(root.path()).unwrap();
    (root, store)
}

pub fn key(text: &str) -> ObjectKey {
    ObjectKey::below("", text).unwrap()
}

pub fn of_length(length: usize) -> Write {
    Write {
        length: length as u64,
        content_type: None,
        checksums: Vec::new(),
        if_absent: false,
        if_match: None,
    }
}

pub async fn put(store: &Directory, name: &str, bytes: &[u8]) -> Result<HeaderValue, FileError> {
    store.write(&key(name), &of_length(bytes.len()), &mut Pieces::of(&[bytes])).await
}

pub async fn rest(body: &mut dyn Body) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    while let Some(piece) = body.next().await? {
        bytes.extend_from_slice(piece);
    }
    Ok(bytes)
}

pub async fn get(store: &Directory, name: &str, read: &Read) -> Result<(Found, Meta, Vec<u8>), FileError> {
    let mut object = store.read(&key(name), read).await?;
    let bytes = rest(&mut *object.body).await.unwrap();
    Ok((object.found, object.meta, bytes))
}

pub async fn text(store: &Directory, name: &str) -> String {
    String::from_utf8(get(store, name, &Read::default()).await.unwrap().2).unwrap()
}

pub fn is_absent(found: &Result<(Found, Meta, Vec<u8>), FileError>) -> bool {
    matches!(found, Err(FileError::NotFound))
}

/// Everything below `root` that is no folder, except among the uploads.
pub fn files(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            if entry.file_name() == walk::UPLOADS {
                continue;
            } else if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else {
                found.push(entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

pub fn uploads(root: &Path) -> usize {
    fs::read_dir(root.join(walk::UPLOADS)).map_or(0, Iterator::count)
}

fn range(field: &str) -> Read {
    Read { range: ByteRange::parse(field), ..Read::default() }
}

#[tokio::test]
async fn a_file_is_read_whole_in_part_and_not_at_all() {
    let (_root, store) = store();
    let bytes: Vec<u8> = (0..200_001_u32).map(|n| (n % 251) as u8).collect();
    let etag = put(&store, "a/b.html", &bytes).await.unwrap();

    let (found, meta, body) = get(&store, "a/b.html", &Read::default()).await.unwrap();
    assert_eq!((found, meta.length), (Found::Whole, Some(200_001)));
    assert!(body == bytes);
    assert_eq!(meta.etag.as_ref(), Some(&etag));
    assert!(etag.to_str().unwrap().starts_with("\"30d41-"), "{etag:?}");
    assert_eq!(meta.content_type.unwrap(), "text/html");
    assert!(meta.last_modified.unwrap().to_str().unwrap().ends_with(" GMT"));

    for (field, from, to) in [
        ("bytes=0-0", 0, 1),
        ("bytes=200000-", 200_000, 200_001),
        ("bytes=-1", 200_000, 200_001),
        ("bytes=65535-65536", 65_535, 65_537),
        ("bytes=100-999999999", 100, 200_001),
        ("bytes=-999999999", 0, 200_001),
        ("bytes=65536-131071", 65_536, 131_072),
    ] {
        let (found, meta, body) = get(&store, "a/b.html", &range(field)).await.unwrap();
        let expected = format!("bytes {from}-{}/200001", to - 1);
        assert_eq!(found, Found::Part(HeaderValue::from_str(&expected).unwrap()));
        assert_eq!(meta.length, Some((to - from) as u64));
        assert!(body == bytes[from..to], "{field}");
    }
    let beyond = get(&store, "a/b.html", &range("bytes=200001-")).await;
    assert!(matches!(beyond, Err(FileError::RangeNotSatisfiable { size: Some(200_001) })));

    let head = Read { head: true, ..Read::default() };
    let (found, meta, body) = get(&store, "a/b.html", &head).await.unwrap();
    assert_eq!((found, meta.length, body.len()), (Found::Whole, Some(200_001), 0));
    assert_eq!(store.size(&key("a/b.html")).await.unwrap(), Some(200_001));
}

#[tokio::test]
async fn an_empty_file_has_no_bytes_and_no_range() {
    let (_root, store) = store();
    put(&store, "empty", b"").await.unwrap();
    let (found, meta, body) = get(&store, "empty", &Read::default()).await.unwrap();
    assert_eq!((found, meta.length, body.len()), (Found::Whole, Some(0), 0));
    let part = get(&store, "empty", &range("bytes=0-")).await;
    assert!(matches!(part, Err(FileError::RangeNotSatisfiable { size: Some(0) })));
}

/// SECURITY.md, S3 prefix escape: what is no file below the root is not there, and nothing waits for it.
#[tokio::test]
async fn only_regular_files_below_the_root_are_read() {
    let (root, store) = store();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "secret").unwrap();
    fs::create_dir(root.path().join("folder")).unwrap();
    fs::write(root.path().join("folder/file"), "fine").unwrap();
    let at = |name: &str| root.path().join(name);
    symlink(outside.path().join("secret"), at("link")).unwrap();
    symlink(outside.path(), at("linked")).unwrap();
    symlink("folder", at("inner")).unwrap();
    symlink("folder/file", at("file")).unwrap();
    symlink("/", at("top")).unwrap();
    mknodat(CWD, at("fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    let _listener = UnixListener::bind(at("socket")).unwrap();

    for name in [
        "link",
        "linked/secret",
        "inner/file",
        "file",
        "top/etc/passwd",
        "fifo",
        "socket",
        "folder",
        "folder/file/x",
        "fifo/x",
        "link/x",
        "none",
        "none/x",
    ] {
        let whole = Read::default();
        let read = tokio::time::timeout(Duration::from_secs(5), get(&store, name, &whole));
        assert!(is_absent(&read.await.expect("answers at once")), "{name}");
        assert_eq!(store.size(&key(name)).await.unwrap(), None, "{name}");
    }
    assert_eq!(text(&store, "folder/file").await, "fine");
}

#[tokio::test]
async fn the_root_may_be_a_link() {
    let (root, store) = store();
    put(&store, "a", b"text").await.unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    symlink(root.path(), elsewhere.path().join("link")).unwrap();
    let linked = Directory::open(&elsewhere.path().join("link")).unwrap();
    assert_eq!(text(&linked, "a").await, "text");
    linked.check().await.unwrap();
}

#[test]
fn a_root_that_is_no_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    for (name, cause) in [("none", "No such file"), ("file", "Not a directory")] {
        let refused = Directory::open(&folder.path().join(name)).err().unwrap().to_string();
        assert!(refused.contains(name) && refused.contains(cause), "{refused}");
    }
}

/// A prefix comes from the configuration and the caller's identity, and is checked there; here it is again.
#[tokio::test]
async fn no_name_is_a_step_upwards() {
    let (root, store) = store();
    fs::write(root.path().join("x"), "").unwrap();
    for prefix in ["../", "a/../", "./", "/", "a//", "\0/", "a\0b/"] {
        let key = ObjectKey::below(prefix, "x").unwrap();
        let invalid = |e: Option<FileError>| matches!(e, Some(FileError::InvalidName(_)));
        assert!(invalid(store.read(&key, &Read::default()).await.err()), "{prefix:?}");
        assert!(invalid(store.write(&key, &of_length(0), &mut Pieces::of(&[])).await.err()));
        assert!(invalid(store.delete(&key, None).await.err()));
        assert!(invalid(store.size(&key).await.err()));
    }
    assert_eq!(files(root.path()), ["x"]);
}

#[tokio::test]
async fn names_may_be_as_long_as_the_file_system_allows() {
    let (_root, store) = store();
    let (fits, too_long) = ("é".repeat(127), "é".repeat(128));
    put(&store, &format!("{fits}/{fits}"), b"").await.unwrap();
    for name in [too_long.clone(), format!("{too_long}/a"), format!("a/{too_long}")] {
        let Err(FileError::InvalidName(detail)) = put(&store, &name, b"").await else { panic!("{name}") };
        assert!(detail.contains("255 bytes"));
    }
}

#[tokio::test]
async fn a_type_is_kept_or_guessed() {
    let (root, store) = store();
    let typed = Write { content_type: Some(HeaderValue::from_static("a/b; c=\"d\"")), ..of_length(0) };
    let type_of =
        async |name: &str| get(&store, name, &Read::default()).await.unwrap().1.content_type.unwrap();
    for name in ["x.png", "x"] {
        store.write(&key(name), &typed, &mut Pieces::of(&[])).await.unwrap();
        assert_eq!(type_of(name).await, "a/b; c=\"d\"");
        put(&store, name, b"").await.unwrap();
    }
    assert_eq!(type_of("x.png").await, "image/png");
    assert_eq!(type_of("x").await, "application/octet-stream");
    fs::write(root.path().join("y.JSON"), "").unwrap();
    assert_eq!(type_of("y.JSON").await, "application/json");
}

#[tokio::test]
async fn checksums_stay_while_the_content_does() {
    let (root, store) = store();
    let (md5, crc) = (("content-md5", "kAFQmDzST7DWlj99KOF/cg=="), ("x-amz-checksum-crc32", "NSRBwg=="));
    let sha = ("x-amz-checksum-sha256", "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=");
    let headers = [md5, crc, sha]
        .map(|(name, value)| (name.parse::<http::HeaderName>().unwrap(), HeaderValue::from_static(value)));
    let announced = Checksum::announced(&headers.into_iter().collect()).unwrap();
    let write = Write { checksums: announced, ..of_length(3) };
    store.write(&key("a"), &write, &mut Pieces::of(&[b"ab", b"c"])).await.unwrap();

    let checksums = async |read: &Read| get(&store, "a", read).await.unwrap().1.checksums;
    let kept: Vec<_> = checksums(&Read::default())
        .await
        .into_iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect();
    assert_eq!(kept, [crc, sha].map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert!(checksums(&range("bytes=0-1")).await.is_empty());

    fs::write(root.path().join("a"), "xyz").unwrap();
    assert!(checksums(&Read::default()).await.is_empty());

    let wrong = store.write(&key("a"), &write, &mut Pieces::of(&[b"abd"])).await;
    assert!(matches!(wrong, Err(FileError::ChecksumMismatch)));
    assert_eq!((text(&store, "a").await.as_str(), uploads(root.path())), ("xyz", 0));
}

#[tokio::test]
async fn conditions_come_before_ranges_and_behind_absence() {
    let (_root, store) = store();
    let etag = put(&store, "a", b"text").await.unwrap();
    let other = HeaderValue::from_static("\"other\"");
    let read = |range, if_match: Option<&HeaderValue>, if_none_match: Option<&HeaderValue>| Read {
        head: false,
        range: ByteRange::parse(range),
        conditions: Conditions {
            if_match: if_match.cloned(),
            if_none_match: if_none_match.cloned(),
            ..Conditions::default()
        },
    };
    let (found, meta, body) = get(&store, "a", &read("bytes=9-", None, Some(&etag))).await.unwrap();
    assert_eq!((found, meta.length, body.len()), (Found::NotModified, None, 0));
    assert_eq!(meta.etag.as_ref(), Some(&etag));
    assert!(meta.last_modified.is_some() && meta.content_type.is_none());

    let failed = get(&store, "a", &read("bytes=9-", Some(&other), None)).await;
    assert!(matches!(failed, Err(FileError::PreconditionFailed)));
    assert!(get(&store, "a", &read("", Some(&etag), Some(&other))).await.is_ok());
    assert!(is_absent(&get(&store, "b", &read("", Some(&other), None)).await));

    let date = meta.last_modified;
    let since = Conditions { if_modified_since: date.clone(), ..Conditions::default() };
    let unchanged = get(&store, "a", &Read { conditions: since, ..Read::default() }).await.unwrap();
    assert_eq!(unchanged.0, Found::NotModified);
    let unless = Conditions { if_unmodified_since: date, ..Conditions::default() };
    assert!(get(&store, "a", &Read { conditions: unless, ..Read::default() }).await.is_ok());
}

#[tokio::test]
async fn a_file_that_shrinks_or_grows_while_it_is_read() {
    let (root, store) = store();
    let bytes = vec![7; 1_000_000];
    put(&store, "a", &bytes).await.unwrap();
    let file = fs::File::options().write(true).open(root.path().join("a")).unwrap();

    let mut object = store.read(&key("a"), &Read::default()).await.unwrap();
    file.set_len(2_000_000).unwrap();
    assert!(rest(&mut *object.body).await.unwrap() == bytes);

    let mut object = store.read(&key("a"), &Read::default()).await.unwrap();
    file.set_len(500_000).unwrap();
    let cause = rest(&mut *object.body).await.unwrap_err();
    assert!(cause.contains("shorter"), "{cause}");
    assert!(object.body.next().await.is_err(), "and it stays an error");
}

#[tokio::test]
async fn a_file_that_is_replaced_or_removed_is_read_to_its_end() {
    let (_root, store) = store();
    let bytes = vec![7; 300_000];
    put(&store, "a", &bytes).await.unwrap();
    let mut object = store.read(&key("a"), &Read::default()).await.unwrap();
    put(&store, "a", &[8; 300_000]).await.unwrap();
    assert!(rest(&mut *object.body).await.unwrap() == bytes);

    let mut object = store.read(&key("a"), &Read::default()).await.unwrap();
    store.delete(&key("a"), None).await.unwrap();
    assert_eq!(rest(&mut *object.body).await.unwrap().len(), 300_000);
}

/// A body that is asked, let go and asked again has lost nothing.
#[tokio::test]
async fn no_chunk_is_lost_with_a_dropped_future() {
    let (_root, store) = store();
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 253) as u8).collect();
    put(&store, "a", &bytes).await.unwrap();
    let mut body = store.read(&key("a"), &Read::default()).await.unwrap().body;
    let mut got = Vec::new();
    loop {
        // Each future is polled once, and dropped whatever it says.
        match pin!(body.next()).as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => tokio::task::yield_now().await,
            Poll::Ready(piece) => match piece.unwrap() {
                Some(piece) => got.extend_from_slice(piece),
                None => break,
            },
        }
    }
    assert!(got == bytes);
}

#[tokio::test]
async fn a_root_that_is_gone_or_replaced_is_noticed() {
    let parent = tempfile::tempdir().unwrap();
    let root = parent.path().join("root");
    fs::create_dir(&root).unwrap();
    let store = Directory::open(&root).unwrap();
    store.check().await.unwrap();
    fs::rename(&root, parent.path().join("away")).unwrap();
    assert!(matches!(store.check().await, Err(FileError::Broken(_))));
    fs::create_dir(&root).unwrap();
    assert!(matches!(store.check().await, Err(FileError::Broken(_))));
}

#[test]
fn what_the_operating_system_refuses() {
    let outcome = |e| walk::failed("writing", e).outcome();
    for (e, expected) in [
        (Errno::NOSPC, "full"),
        (Errno::DQUOT, "full"),
        (Errno::MFILE, "busy"),
        (Errno::NFILE, "busy"),
        (Errno::ACCESS, "broken"),
        (Errno::PERM, "broken"),
        (Errno::ROFS, "broken"),
        (Errno::IO, "broken"),
        (Errno::NAMETOOLONG, "refused"),
    ] {
        assert_eq!(outcome(e), expected, "{e}");
    }
    for e in [Errno::NOENT, Errno::NOTDIR, Errno::LOOP, Errno::NXIO] {
        assert!(matches!(walk::reading("opening")(e), FileError::NotFound));
    }
    for e in [Errno::NOTDIR, Errno::LOOP, Errno::ISDIR] {
        assert!(matches!(walk::writing("opening")(e), FileError::Conflict));
    }
    let full = Fault::from(walk::failed("writing an upload", Errno::NOSPC));
    assert_eq!((full.status, full.code), (507, "file_store_full"));
    assert!(full.cause.unwrap().starts_with("writing an upload: No space left"));
}
