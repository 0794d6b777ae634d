//! The way from the root to a file, one name at a time, and what the operating system's refusals mean.
//!
//! No step follows a symbolic link, and each starts from a descriptor of the folder before: whatever is renamed or
//! linked meanwhile, the way cannot leave the root.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, fstat, fsync, mkdirat, openat, statat};
use rustix::io::Errno;

use super::state::State;
use crate::files::error::FileError;
use crate::files::key::ObjectKey;

/// Where files are made before they are put in their place: below the root, so that a rename can do it.
pub const UPLOADS: &str = ".portcullis-uploads";

/// What Linux file systems allow, in bytes (NAME_MAX).
const LONGEST_NAME: usize = 255;

const TOO_LONG: &str = "A name between two slashes has more than 255 bytes, which the store cannot keep.";

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// NONBLOCK and NOCTTY: what lies there need not be a file, and opening it must neither wait nor have an effect.
const FILE: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

pub struct Root {
    folder: OwnedFd,
    path: PathBuf,
}

impl Root {
    /// The folder at `path`, which may be a symbolic link.
    pub fn open(path: &Path) -> io::Result<Self> {
        let path = std::path::absolute(path)?;
        let folder = openat(CWD, &path, FOLDER.difference(OFlags::NOFOLLOW), Mode::empty())?;
        Ok(Self { folder, path })
    }

    /// The folder that `names` lead to.
    pub fn folder(&self, names: &[&str]) -> Result<OwnedFd, Errno> {
        let Some((first, rest)) = names.split_first() else { return self.start() };
        rest.iter().try_fold(open_folder(&self.folder, first)?, |folder, name| open_folder(&folder, name))
    }

    /// The folders on the way: the root, and one for each of `names`.
    pub fn folders(&self, names: &[&str]) -> Result<Vec<OwnedFd>, Errno> {
        let mut folders = vec![self.start()?];
        for (i, name) in names.iter().enumerate() {
            folders.push(open_folder(&folders[i], name)?);
        }
        Ok(folders)
    }

    /// As [`Root::folder`], with those that are missing made; and the index of the first name that was.
    ///
    /// `ENOENT`: a folder was removed behind our back.
    pub fn make_folders(&self, names: &[&str]) -> Result<(OwnedFd, Option<usize>), Errno> {
        let mut folder = self.start()?;
        let mut made = None;
        for (i, name) in names.iter().enumerate() {
            let next = match open_folder(&folder, name) {
                Err(Errno::NOENT) => {
                    match mkdirat(&folder, *name, Mode::RWXU | Mode::RWXG | Mode::RWXO) {
                        Ok(()) | Err(Errno::EXIST) => made = made.or(Some(i)),
                        Err(e) => return Err(e),
                    }
                    open_folder(&folder, name)?
                }
                opened => opened?,
            };
            folder = next;
        }
        Ok((folder, made))
    }

    /// Makes the entries of the last of `names`, and of each that was made (from index `made` on), outlast a crash.
    pub fn sync(&self, names: &[&str], made: Option<usize>) -> Result<(), Errno> {
        let mut folder = self.start()?;
        for (i, name) in names.iter().enumerate() {
            if made.is_some_and(|made| i >= made) {
                sync_folder(&folder)?;
            }
            folder = match open_folder(&folder, name) {
                Ok(next) => next,
                // Removed since, with what was in it.
                Err(e) if is_absence(e) => return Ok(()),
                Err(e) => return Err(e),
            };
        }
        sync_folder(&folder)
    }

    /// The folder of files in the making, made if need be.
    pub fn uploads(&self) -> Result<OwnedFd, Errno> {
        match mkdirat(&self.folder, UPLOADS, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => open_folder(&self.folder, UPLOADS),
            Err(e) => Err(e),
        }
    }

    /// The same, if it is there.
    pub fn uploads_so_far(&self) -> Result<Option<OwnedFd>, Errno> {
        match open_folder(&self.folder, UPLOADS) {
            Err(Errno::NOENT) => Ok(None),
            opened => opened.map(Some),
        }
    }

    /// # Errors
    /// The root is not where it was, or cannot be reached.
    pub fn check(&self) -> Result<(), FileError> {
        let ours = fstat(&self.folder).map_err(|e| failed("looking at the root", e))?;
        let there =
            statat(CWD, &self.path, AtFlags::empty()).map_err(|e| failed("looking at the root", e))?;
        if (ours.st_dev, ours.st_ino) != (there.st_dev, there.st_ino) {
            return Err(FileError::Broken("the root was replaced by another folder".to_owned()));
        }
        // Where it is missing, the next upload makes it.
        self.uploads_so_far().map(drop).map_err(|e| failed("opening the folder of uploads", e))
    }

    fn start(&self) -> Result<OwnedFd, Errno> {
        open_folder(&self.folder, ".")
    }
}

pub fn open_folder(folder: impl AsFd, name: &str) -> Result<OwnedFd, Errno> {
    openat(folder, name, FOLDER, Mode::empty())
}

/// A regular file, and its state. `ENOENT` for everything else that may lie there.
pub fn open_file(folder: impl AsFd, name: &str) -> Result<(File, State), Errno> {
    let file = openat(folder, name, FILE, Mode::empty())?;
    let state = State::of(&fstat(&file)?).ok_or(Errno::NOENT)?;
    Ok((File::from(file), state))
}

/// What lies at `name`: nothing, a file, or (`ENOTDIR`) something that is neither.
pub fn state(folder: impl AsFd, name: &str) -> Result<Option<State>, Errno> {
    match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => State::of(&stat).map(Some).ok_or(Errno::NOTDIR),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Makes the names in `folder` outlast a crash.
pub fn sync_folder(folder: impl AsFd) -> Result<(), Errno> {
    match fsync(folder) {
        // Some file systems have no such thing for folders.
        Err(Errno::INVAL) => Ok(()),
        synced => synced,
    }
}

/// The names of `key`, of which the last is a file's.
///
/// # Errors
/// `InvalidName`; `NotFound` for what lies among the uploads.
pub fn names(key: &ObjectKey) -> Result<Vec<&str>, FileError> {
    let names = split(key.as_str())?;
    match names.first() {
        Some(first) if is_uploads(first) => Err(FileError::NotFound),
        _ => Ok(names),
    }
}

/// The names `path` consists of, each of which can be one step.
pub fn split(path: &str) -> Result<Vec<&str>, FileError> {
    let names: Vec<&str> = path.split('/').collect();
    for name in &names {
        if matches!(*name, "" | "." | "..") || name.contains('\0') {
            return Err(FileError::InvalidName("The path holds a name that no file can have."));
        }
        if name.len() > LONGEST_NAME {
            return Err(FileError::InvalidName(TOO_LONG));
        }
    }
    Ok(names)
}

/// In any case, as some file systems do not tell them apart.
pub fn is_uploads(name: &str) -> bool {
    name.eq_ignore_ascii_case(UPLOADS)
}

/// Whether `e` says that there is no such file, or something else in its place.
pub fn is_absence(e: Errno) -> bool {
    matches!(e, Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO | Errno::NODEV)
}

/// What `e` means to somebody who reads.
pub fn reading(operation: &'static str) -> impl Fn(Errno) -> FileError {
    move |e| if is_absence(e) { FileError::NotFound } else { failed(operation, e) }
}

/// What `e` means to somebody who writes.
pub fn writing(operation: &'static str) -> impl Fn(Errno) -> FileError {
    move |e| match e {
        Errno::NOTDIR | Errno::LOOP | Errno::ISDIR | Errno::EXIST | Errno::NOTEMPTY => FileError::Conflict,
        e => failed(operation, e),
    }
}

/// A failure of the store's own.
pub fn failed(operation: &str, e: Errno) -> FileError {
    let cause = format!("{operation}: {e}");
    match e {
        Errno::NOSPC | Errno::DQUOT => FileError::Full(cause),
        Errno::MFILE | Errno::NFILE => FileError::Busy { retry_after: Duration::from_secs(1), cause },
        Errno::NAMETOOLONG => FileError::InvalidName(TOO_LONG),
        _ => FileError::Broken(cause),
    }
}
