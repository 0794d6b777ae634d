//! Listings against a naive one: all keys, sorted, then cut.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

use proptest::prelude::*;
use tempfile::TempDir;

use super::list::list;
use super::*;
use crate::files::store::Entry;

const BEHIND: char = '\u{10FFFF}';

/// Files, empty folders and links as asked for, as far as they do not stand in each other's way; the keys of the files.
fn tree(keys: &[String], empty: &[String]) -> (TempDir, BTreeSet<String>) {
    let root = tempfile::tempdir().unwrap();
    let mut made = BTreeSet::new();
    for key in keys {
        let path = root.path().join(key);
        let parent = path.parent().unwrap();
        if fs::create_dir_all(parent).is_ok() && !path.exists() && fs::write(&path, key).is_ok() {
            made.insert(key.clone());
        }
    }
    for name in empty {
        let _ = fs::create_dir_all(root.path().join(name));
        let _ = symlink("/", root.path().join(name).join("link"));
        let _ = fs::write(root.path().join(name).join(OsStr::from_bytes(b"\xff")), "");
    }
    (root, made)
}

fn page(root: &Root, prefix: &str, from: Option<&str>, folders: bool, limit: usize) -> Page {
    let waiting = Arc::new(());
    let asked = List { prefix: prefix.to_owned(), from: from.map(str::to_owned), folders, limit };
    list(root, &asked, &Caller(Arc::downgrade(&waiting))).unwrap()
}

fn keys(page: &Page) -> Vec<&str> {
    page.entries.iter().map(Entry::key).collect()
}

/// All entries there are.
fn naive<'a>(keys: &'a BTreeSet<String>, prefix: &str, after: Option<&str>, folders: bool) -> Vec<&'a str> {
    let behind = |key: &str| match after {
        None => true,
        Some(after) => match after.strip_suffix(BEHIND) {
            Some(folder) if folders && (folder.is_empty() || folder.ends_with('/')) => {
                key > after && !key.starts_with(folder)
            }
            _ => key > after,
        },
    };
    let mut entries: Vec<&str> = Vec::new();
    for key in keys.iter().filter(|key| key.starts_with(prefix) && behind(key)) {
        let entry = match key[prefix.len()..].find('/') {
            Some(slash) if folders => &key[..=prefix.len() + slash],
            _ => key,
        };
        if entries.last() != Some(&entry) {
            entries.push(entry);
        }
    }
    entries
}

/// Few letters, some of which sort before the slash and some behind it, and one behind everything.
const NAME: &str = "[-.!0aé\u{10FFFF}]{1,2}";

fn path() -> impl Strategy<Value = String> {
    let name = NAME.prop_filter("a step", |name| name != "." && name != "..");
    proptest::collection::vec(name, 1..4).prop_map(|names| names.join("/"))
}

fn paths(most: usize) -> impl Strategy<Value = Vec<String>> {
    proptest::collection::vec(path(), 0..most)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn pages_are_the_whole_in_order(files in paths(25), empty in paths(5), at in path()) {
        let (folder, made) = tree(&files, &empty);
        let root = Root::open(folder.path()).unwrap();
        for prefix in ["".to_owned(), format!("{at}/"), format!("{}/", at.split('/').next().unwrap())] {
            for folders in [false, true] {
                let expected = naive(&made, &prefix, None, folders);
                for limit in 1..=expected.len() + 1 {
                    let (mut seen, mut from) = (Vec::new(), None::<String>);
                    loop {
                        let page = page(&root, &prefix, from.as_deref(), folders, limit);
                        prop_assert!(page.entries.len() <= limit);
                        seen.extend(page.entries.iter().map(|entry| entry.key().to_owned()));
                        prop_assert_eq!(page.next.is_some(), seen.len() < expected.len());
                        from = page.next;
                        if from.is_none() {
                            break;
                        }
                    }
                    prop_assert_eq!(&seen, &expected);
                }
            }
        }
    }

    #[test]
    fn a_listing_goes_on_from_anywhere(
        files in paths(25),
        at in path(),
        after in path(),
        tail in prop_oneof![Just(""), Just("/"), Just("/\u{10FFFF}"), Just("/x"), Just("\u{10FFFF}")],
    ) {
        let (folder, made) = tree(&files, &[]);
        let root = Root::open(folder.path()).unwrap();
        let after = format!("{after}{tail}");
        let inside = format!("{at}/{after}");
        for (prefix, after) in
            [("", &after), (&*format!("{at}/"), &inside), (&*format!("{at}/"), &after), ("", &inside)]
        {
            for folders in [false, true] {
                // Only a listing with folders goes on behind one.
                let from = if folders { after.clone() } else { format!("{after}\0") };
                let found = page(&root, prefix, Some(&from), folders, 1000);
                prop_assert_eq!(keys(&found), naive(&made, prefix, Some(after), folders), "{} {}", prefix, after);
                prop_assert!(found.next.is_none());
            }
        }
    }
}

#[test]
fn a_folder_stands_where_its_keys_do() {
    let (folder, _) =
        tree(&["a0", "a-b", "a/x", "a.txt", "a/-"].map(String::from), &["b".into(), "a/e/e".into()]);
    let root = Root::open(folder.path()).unwrap();
    assert_eq!(keys(&page(&root, "", None, false, 10)), ["a-b", "a.txt", "a/-", "a/x", "a0"]);
    assert_eq!(keys(&page(&root, "", None, true, 10)), ["a-b", "a.txt", "a/", "a0"]);
    assert_eq!(keys(&page(&root, "", Some("a/\u{10FFFF}"), true, 10)), ["a0"]);
    assert_eq!(keys(&page(&root, "", Some("a/-"), true, 10)), ["a/", "a0"]);
    assert_eq!(keys(&page(&root, "a/", None, true, 10)), ["a/-", "a/x"]);
    for prefix in ["none/", "a0/", "b/", "../", "a//", "/", "a", "a/e/"] {
        let page = page(&root, prefix, None, false, 10);
        assert!(page.entries.is_empty() && page.next.is_none(), "{prefix}");
    }
}

#[tokio::test]
async fn an_entry_says_what_a_read_says() {
    let (_root, store) = super::tests::store();
    let etag = super::tests::put(&store, "a/b", b"text").await.unwrap();
    let asked = List { prefix: "a/".into(), from: None, folders: true, limit: 1 };
    let page = store.list(&asked).await.unwrap();
    let [Entry::Object { key, size, etag: listed, modified }] = &page.entries[..] else { panic!("{page:?}") };
    assert_eq!((key.as_str(), *size, listed.as_str()), ("a/b", 4, etag.to_str().unwrap()));
    assert!(Timestamp::now().0 - modified.0 < 60_000);
}

#[test]
fn what_no_key_can_say_is_not_listed() {
    let (folder, _) = tree(&["a/b".to_owned(), "c\\d".to_owned(), "e\u{7}/f".to_owned()], &[]);
    for name in [&b"\xff"[..], b"a/\xfe"] {
        fs::write(folder.path().join(OsStr::from_bytes(name)), "").unwrap();
    }
    fs::create_dir(folder.path().join(OsStr::from_bytes(b"g\xff"))).unwrap();
    fs::write(folder.path().join(OsStr::from_bytes(b"g\xff/h")), "").unwrap();
    symlink("a", folder.path().join("linked")).unwrap();
    let root = Root::open(folder.path()).unwrap();
    assert_eq!(keys(&page(&root, "", None, false, 10)), ["a/b"]);
    assert_eq!(keys(&page(&root, "", None, true, 10)), ["a/"]);
}

/// The search for a file ends somewhere; the folder is shown then.
#[test]
fn a_folder_of_empty_folders_is_shown_when_the_search_is_too_long() {
    let folder = tempfile::tempdir().unwrap();
    for n in 0..1200 {
        fs::create_dir_all(folder.path().join(format!("many/{n}"))).unwrap();
    }
    fs::create_dir_all(folder.path().join("few/1")).unwrap();
    let root = Root::open(folder.path()).unwrap();
    assert_eq!(keys(&page(&root, "", None, true, 10)), ["many/"]);
    assert!(keys(&page(&root, "", None, false, 10)).is_empty());
}

#[test]
fn nobody_lists_for_nobody() {
    let (folder, _) = tree(&["a".to_owned()], &[]);
    let root = Root::open(folder.path()).unwrap();
    let asked = List { prefix: String::new(), from: None, folders: false, limit: 1 };
    assert!(list(&root, &asked, &Caller(Weak::new())).is_err());
}
