//! The one step in which an upload becomes an object, and the removal of objects.
//!
//! Within this process both happen under a lock, so that conditions still hold when they are acted on. Other processes
//! are not locked out: two that ask for an absent object cannot both succeed, as the file system itself refuses the
//! second; `If-Match` is exact among the requests of one process only.

use std::os::fd::OwnedFd;

use http::header::HeaderValue;
use rustix::fs::{AtFlags, RenameFlags, linkat, renameat, renameat_with, unlinkat};
use rustix::io::Errno;

use super::state::State;
use super::walk::{Root, failed, is_absence, names, reading, state, sync_folder, writing};
use super::write::Upload;
use super::{Caller, Shared};
use crate::files::conditions::{Method, Outcome, evaluate};
use crate::files::error::FileError;
use crate::files::key::ObjectKey;
use crate::files::store::{Conditions, Write};

/// Attempts at putting a file in its place. Each fails only if another process removes the folder meanwhile.
const ATTEMPTS: usize = 100;

/// Where a file is to be put, and on what conditions.
pub struct Goal {
    folders: Vec<String>,
    name: String,
    conditions: Conditions,
    if_absent: bool,
}

impl Goal {
    pub fn of(key: &ObjectKey, write: &Write) -> Result<Self, FileError> {
        let names = names(key).map_err(|e| match e {
            FileError::NotFound => FileError::InvalidName("Names below this folder are the store's own."),
            e => e,
        })?;
        let mut folders: Vec<String> = names.into_iter().map(str::to_owned).collect();
        let name = folders.pop().unwrap_or_default();
        let conditions = Conditions {
            if_match: write.if_match.clone(),
            if_none_match: write.if_absent.then(|| HeaderValue::from_static("*")),
            ..Conditions::default()
        };
        Ok(Self { folders, name, conditions, if_absent: write.if_absent })
    }

    fn folders(&self) -> Vec<&str> {
        self.folders.iter().map(String::as_str).collect()
    }
}

/// Whether a file could be put in its place now.
///
/// # Errors
/// `PreconditionFailed`, `Conflict`, or what is wrong with the store.
pub fn try_conditions(root: &Root, goal: &Goal) -> Result<(), FileError> {
    let now = match root.folder(&goal.folders()) {
        Ok(folder) => state(folder, &goal.name).map_err(writing("looking at a file"))?,
        Err(Errno::NOENT) => None,
        Err(e) => return Err(writing("opening a folder")(e)),
    };
    demand(now, &goal.conditions)
}

fn demand(now: Option<State>, conditions: &Conditions) -> Result<(), FileError> {
    let etag = now.as_ref().map(State::etag_field);
    let validators = now.as_ref().zip(etag.as_ref()).map(|(now, etag)| now.validators(etag));
    match evaluate(Method::Write, validators, conditions) {
        Outcome::Proceed => Ok(()),
        Outcome::NotModified | Outcome::Failed => Err(FileError::PreconditionFailed),
    }
}

/// Puts `upload`, whose bytes are on the disk, where `goal` says; answers when that is on the disk too.
///
/// # Errors
/// As [`try_conditions`]. After a failure of the last step, the flush of the folders, the object is there.
pub fn place(shared: &Shared, goal: &Goal, upload: &mut Upload, caller: &Caller) -> Result<(), FileError> {
    let folders = goal.folders();
    let mut first_made = None;
    let mut attempts = 0..ATTEMPTS;
    let placed = loop {
        let _alone = shared.changes.lock();
        if caller.is_gone() {
            break Err(FileError::Broken("the caller stopped waiting".to_owned()));
        }
        if let Err(e) = try_conditions(&shared.root, goal) {
            break Err(e);
        }
        let moved = shared.root.make_folders(&folders).and_then(|(folder, made)| {
            first_made = first_made.into_iter().chain(made).min();
            put(upload, &folder, goal)
        });
        match moved {
            Err(Errno::NOENT) if attempts.next().is_some() => {}
            Err(Errno::EXIST) if goal.if_absent => break Err(FileError::PreconditionFailed),
            moved => break moved.map_err(writing("putting a file in its place")),
        }
    };
    if placed.is_err() && first_made.is_some() {
        let _alone = shared.changes.lock();
        if let Ok(way) = shared.root.folders(&folders) {
            remove_empty(&way, &folders);
        }
    }
    placed?;
    shared.root.sync(&folders, first_made).map_err(|e| failed("flushing a folder", e))
}

fn put(upload: &mut Upload, folder: &OwnedFd, goal: &Goal) -> Result<(), Errno> {
    if !goal.if_absent {
        renameat(upload.folder(), upload.name(), folder, &goal.name)?;
        upload.was_placed();
        return Ok(());
    }
    match renameat_with(upload.folder(), upload.name(), folder, &goal.name, RenameFlags::NOREPLACE) {
        // Not every file system can; a link does not replace either, and the upload's name goes with the upload.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            linkat(upload.folder(), upload.name(), folder, &goal.name, AtFlags::empty())
        }
        Err(e) => Err(e),
        Ok(()) => {
            upload.was_placed();
            Ok(())
        }
    }
}

/// Removes an object, and the folders above it that hold nothing more.
pub fn remove(shared: &Shared, key: &ObjectKey, if_match: Option<&HeaderValue>) -> Result<(), FileError> {
    let conditions = Conditions { if_match: if_match.cloned(), ..Conditions::default() };
    let names = match names(key) {
        Err(FileError::NotFound) => return demand(None, &conditions),
        names => names?,
    };
    let (name, folders) = names.split_last().ok_or(FileError::NotFound)?;

    let alone = shared.changes.lock();
    let mut way = match shared.root.folders(folders) {
        Ok(way) => way,
        Err(e) if is_absence(e) => return demand(None, &conditions),
        Err(e) => return Err(failed("opening a folder", e)),
    };
    let folder = &way[folders.len()];
    let now = match state(folder, name) {
        // What is no file is no object.
        Err(e) if is_absence(e) => None,
        now => now.map_err(|e| failed("looking at a file", e))?,
    };
    demand(now, &conditions)?;
    if now.is_none() {
        return Ok(());
    }
    match unlinkat(folder, *name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(e) => return Err(reading("removing a file")(e)),
    }
    let left = way.swap_remove(remove_empty(&way, folders));
    drop(alone);
    sync_folder(left).map_err(|e| failed("flushing a folder", e))
}

/// Removes those of the last of `way` that are empty; the index of the last one that stays. The first is the root.
fn remove_empty(way: &[OwnedFd], names: &[&str]) -> usize {
    let mut last = names.len();
    while last > 0 && unlinkat(&way[last - 1], names[last - 1], AtFlags::REMOVEDIR).is_ok() {
        last -= 1;
    }
    last
}
