//! Listings, in the order of the bytes of whole keys.
//!
//! A folder counts with its slash, so that it stands where its keys stand: `a-b`, `a/x`, `a0`.

use std::os::fd::OwnedFd;
use std::vec;

use rustix::fs::{AtFlags, Dir, FileType, statat};
use rustix::io::Errno;

use super::Caller;
use super::state::State;
use super::walk::{Root, failed, is_absence, is_uploads, open_folder, split, state};
use crate::files::error::FileError;
use crate::files::key::{MAX_KEY_BYTES, is_clean};
use crate::files::store::{Entry, List, Page};

/// Behind a folder's prefix: all of the folder lies before.
const BEHIND: &str = "\u{10FFFF}";

/// Folders that are opened in the search for one file, at most; a folder in which the search ends early is shown.
const SEARCHED: usize = 1000;

pub fn list(root: &Root, list: &List, caller: &Caller) -> Result<Page, FileError> {
    let after = match Span::of(&list.prefix, list.from.as_deref()) {
        Span::Nothing => return Ok(Page::default()),
        Span::All => None,
        Span::After(rest) => Some(rest),
    };
    let Some(folder) = start(root, &list.prefix)? else { return Ok(Page::default()) };
    let listing = Listing { root, caller };
    // One more than is shown tells whether there is more.
    let wanted = list.limit.saturating_add(1);
    let mut entries = if list.folders {
        listing.one_level(&folder, &list.prefix, after, wanted)?
    } else {
        listing.objects(folder, &list.prefix, after, wanted)?
    };
    let more = entries.len() > list.limit;
    entries.truncate(list.limit);
    let next = entries.last().filter(|_| more).map(|last| match last {
        // Nothing lies between a name and the same name with a NUL, which means no folder.
        Entry::Object { key, .. } => format!("{key}\0"),
        Entry::Folder { prefix } => [prefix, BEHIND].concat(),
    });
    Ok(Page { entries, next })
}

/// The folder whose listing is asked for; `None` where there is none.
fn start(root: &Root, prefix: &str) -> Result<Option<OwnedFd>, FileError> {
    let Some(names) = names(prefix) else { return Ok(None) };
    match root.folder(&names) {
        Err(e) if is_absence(e) => Ok(None),
        opened => opened.map(Some).map_err(|e| failed("opening a folder", e)),
    }
}

/// The names `prefix` consists of; `None` where no key has such a prefix.
fn names(prefix: &str) -> Option<Vec<&str>> {
    if prefix.is_empty() {
        return Some(Vec::new());
    }
    let names = split(prefix.strip_suffix('/')?).ok()?;
    (!is_uploads(names[0])).then_some(names)
}

/// A folder below the one that is listed: `None` if it went away, or is not for us to read (`lost+found`).
fn unless_closed(opened: Result<OwnedFd, Errno>) -> Result<Option<OwnedFd>, FileError> {
    match opened {
        Err(e) if is_absence(e) || matches!(e, Errno::ACCESS | Errno::PERM) => Ok(None),
        opened => opened.map(Some).map_err(|e| failed("opening a folder", e)),
    }
}

/// What of a folder lies behind the key a listing goes on from.
enum Span<'a> {
    Nothing,
    All,
    /// What is behind this, which is relative to the folder.
    After(&'a str),
}

impl<'a> Span<'a> {
    /// Of `folder`, which has its slash, or is the root and empty.
    fn of(folder: &str, after: Option<&'a str>) -> Self {
        let Some(after) = after else { return Self::All };
        match after.strip_prefix(folder) {
            Some("") => Self::All,
            Some(BEHIND) => Self::Nothing,
            Some(rest) => Self::After(rest),
            None if folder > after => Self::All,
            None => Self::Nothing,
        }
    }
}

struct Listing<'a> {
    root: &'a Root,
    caller: &'a Caller,
}

impl Listing<'_> {
    /// The files in `folder`, and the folders in it that hold a file.
    fn one_level(
        &self,
        folder: &OwnedFd,
        prefix: &str,
        after: Option<&str>,
        wanted: usize,
    ) -> Result<Vec<Entry>, FileError> {
        let mut entries = Vec::new();
        for name in self.names(folder, prefix, after)? {
            if entries.len() == wanted {
                break;
            }
            let key = [prefix, &name].concat();
            if !is_folder(&name) {
                entries.extend(object(folder, &name, key)?);
                continue;
            }
            let Some(inner) = enter(folder, &name)? else { continue };
            let shown = match Span::of(&name, after) {
                Span::Nothing => false,
                Span::All => self.holds_a_file(inner, &key)?,
                Span::After(rest) => !self.objects(inner, &key, Some(rest), 1)?.is_empty(),
            };
            if shown {
                entries.push(Entry::Folder { prefix: key });
            }
        }
        Ok(entries)
    }

    /// The files in `folder` and below, as many as are `wanted`.
    ///
    /// Holds one folder open at a time: keys may have hundreds of slashes, and a process has few descriptors.
    fn objects(
        &self,
        folder: OwnedFd,
        prefix: &str,
        after: Option<&str>,
        wanted: usize,
    ) -> Result<Vec<Entry>, FileError> {
        let mut entries = Vec::new();
        let mut levels = vec![self.level(folder, prefix.to_owned(), after)?];
        while let Some(level) = levels.last_mut().filter(|_| entries.len() < wanted) {
            let Some(name) = level.names.next() else {
                levels.pop();
                continue;
            };
            if level.folder.is_none() {
                level.folder = self.open(&level.prefix)?;
            }
            // Removed meanwhile, with what was in it.
            let Some(folder) = &level.folder else {
                levels.pop();
                continue;
            };
            let key = [&level.prefix, name.as_str()].concat();
            if !is_folder(&name) {
                entries.extend(object(folder, &name, key)?);
            } else if let Some(inner) = enter(folder, &name)? {
                level.folder = None;
                let after = match Span::of(&name, level.after.as_deref()) {
                    Span::After(rest) => Some(rest.to_owned()),
                    Span::All | Span::Nothing => None,
                };
                levels.push(self.level(inner, key, after.as_deref())?);
            }
        }
        Ok(entries)
    }

    fn level(&self, folder: OwnedFd, prefix: String, after: Option<&str>) -> Result<Level, FileError> {
        let names = self.names(&folder, &prefix, after)?.into_iter();
        Ok(Level { prefix, folder: Some(folder), names, after: after.map(str::to_owned) })
    }

    /// In order, what of `folder` lies behind `after`: names of files, and of folders with a slash.
    fn names(&self, folder: &OwnedFd, prefix: &str, after: Option<&str>) -> Result<Vec<String>, FileError> {
        let mut names = Vec::new();
        self.each_name(folder, prefix, |name| {
            let behind = match after {
                Some(_) if is_folder(&name) => !matches!(Span::of(&name, after), Span::Nothing),
                Some(after) => name.as_str() > after,
                None => true,
            };
            if behind {
                names.push(name);
            }
            true
        })?;
        names.sort_unstable();
        Ok(names)
    }

    /// Whether there is a file in `folder` or below; sooner than in order.
    fn holds_a_file(&self, folder: OwnedFd, prefix: &str) -> Result<bool, FileError> {
        let (mut folder, mut prefix) = (Some(folder), prefix.to_owned());
        let mut others = Vec::new();
        for _ in 0..SEARCHED {
            let mut found = false;
            if let Some(folder) = &folder {
                self.each_name(folder, &prefix, |name| {
                    found = !is_folder(&name);
                    if !found {
                        others.push([&prefix, name.as_str()].concat());
                    }
                    !found
                })?;
            }
            match others.pop() {
                _ if found => return Ok(true),
                None => return Ok(false),
                Some(next) => prefix = next,
            }
            folder = self.open(&prefix)?;
        }
        Ok(true)
    }

    fn open(&self, prefix: &str) -> Result<Option<OwnedFd>, FileError> {
        names(prefix).map_or(Ok(None), |names| unless_closed(self.root.folder(&names)))
    }

    /// Shows `visit` whatever can be part of a key, in no order, until it returns false.
    fn each_name(
        &self,
        folder: &OwnedFd,
        prefix: &str,
        mut visit: impl FnMut(String) -> bool,
    ) -> Result<(), FileError> {
        if self.caller.is_gone() {
            return Err(FileError::Broken("the caller stopped waiting".to_owned()));
        }
        let mut entries = Dir::read_from(folder).map_err(|e| failed("reading a folder", e))?;
        while let Some(entry) = entries.read() {
            let entry = entry.map_err(|e| failed("reading a folder", e))?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            let hidden = prefix.is_empty() && is_uploads(name);
            // What no key can say is not there.
            if hidden || !is_clean(name) || prefix.len() + name.len() > MAX_KEY_BYTES {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => kind(folder, name),
                kind => kind,
            };
            let go_on = match kind {
                FileType::RegularFile => visit(name.to_owned()),
                FileType::Directory => visit([name, "/"].concat()),
                _ => true,
            };
            if !go_on {
                break;
            }
        }
        Ok(())
    }
}

/// A folder on the way down.
struct Level {
    prefix: String,
    /// Closed while what lies below is listed.
    folder: Option<OwnedFd>,
    names: vec::IntoIter<String>,
    /// Relative to the folder.
    after: Option<String>,
}

fn is_folder(name: &str) -> bool {
    name.ends_with('/')
}

fn kind(folder: &OwnedFd, name: &str) -> FileType {
    statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
        .map_or(FileType::Unknown, |stat| FileType::from_raw_mode(stat.st_mode))
}

/// `None` if the file went away meanwhile.
fn object(folder: &OwnedFd, name: &str, key: String) -> Result<Option<Entry>, FileError> {
    let found = match state(folder, name) {
        Err(e) if is_absence(e) => None,
        found => found.map_err(|e| failed("looking at a file", e))?,
    };
    Ok(found.map(|state: State| Entry::Object {
        key,
        size: state.size,
        modified: state.timestamp(),
        etag: state.etag(),
    }))
}

/// The folder `name`, which has its slash.
fn enter(folder: &OwnedFd, name: &str) -> Result<Option<OwnedFd>, FileError> {
    unless_closed(open_folder(folder, name.trim_end_matches('/')))
}
