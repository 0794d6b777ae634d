//! A file on its way from the client: first among the uploads, then, whole and on the disk, in its place.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::HeaderValue;
use rustix::fs::{AtFlags, Dir, Mode, OFlags, fstat, fsync, openat, statat, unlinkat};
use rustix::io::Errno;
use tokio::runtime::Handle;
use uuid::Uuid;

use super::place::{self, Goal};
use super::state::{self, State};
use super::walk::{Root, failed};
use super::{Caller, Shared, blocking};
use crate::clock::Timestamp;
use crate::fault::Fault;
use crate::files::checksum::Hashers;
use crate::files::error::FileError;
use crate::files::key::ObjectKey;
use crate::files::store::{Content, Write};

/// Bytes that are written at a time, about: while they are, as many may come.
const BATCH: usize = 256 * 1024;

/// An upload nobody has added to for this long has no process any more.
const FORGOTTEN: Duration = Duration::from_secs(24 * 3600);

pub async fn write(
    shared: &Arc<Shared>,
    key: &ObjectKey,
    write: &Write,
    content: &mut dyn Content,
) -> Result<HeaderValue, FileError> {
    let goal = Arc::new(Goal::of(key, write)?);
    let mut incoming = {
        let (shared, goal, write) = (shared.clone(), goal.clone(), write.clone());
        blocking(move |_| {
            // Whoever asks for the impossible hears of it before he sends the rest.
            place::try_conditions(&shared.root, &goal)?;
            Incoming::begin(&shared.root, &write)
        })
        .await?
    };

    let mut left = write.length;
    let mut batch = fill(content, &mut left).await?;
    while left > 0 {
        (incoming, batch) = tokio::try_join!(incoming.append(batch), fill(content, &mut left))?;
    }
    while let Some(bytes) = content.next().await? {
        if !bytes.is_empty() {
            return Err(unlike_announced("The request body is longer than was announced."));
        }
    }
    let (shared, write) = (shared.clone(), write.clone());
    blocking(move |caller| incoming.finish(&batch, &shared, &goal, &write, caller)).await
}

/// The next bytes: a batch of them, or all that are `left`.
async fn fill(content: &mut dyn Content, left: &mut u64) -> Result<Vec<u8>, FileError> {
    let mut batch = Vec::new();
    while *left > 0 && batch.len() < BATCH {
        let Some(bytes) = content.next().await? else {
            return Err(unlike_announced("The request body is shorter than was announced."));
        };
        *left = left
            .checked_sub(bytes.len() as u64)
            .ok_or_else(|| unlike_announced("The request body is longer than was announced."))?;
        collect(&mut batch, &bytes, *left);
    }
    Ok(batch)
}

/// Copied, because a short piece may keep a large buffer from being freed.
fn collect(batch: &mut Vec<u8>, bytes: &Bytes, left: u64) {
    if batch.is_empty() {
        let rest = usize::try_from(left).unwrap_or(usize::MAX);
        batch.reserve(bytes.len().saturating_add(rest.min(BATCH)));
    }
    batch.extend_from_slice(bytes);
}

/// A content keeps its promise or fails by itself; this is for one that does neither.
fn unlike_announced(detail: &'static str) -> FileError {
    FileError::Client(Fault::bad_request("incomplete_body", detail).closing())
}

struct Incoming {
    upload: Upload,
    hashers: Hashers,
}

impl Incoming {
    fn begin(root: &Root, write: &Write) -> Result<Self, FileError> {
        Ok(Self { upload: Upload::begin(root)?, hashers: Hashers::new(&write.checksums) })
    }

    async fn append(mut self, batch: Vec<u8>) -> Result<Self, FileError> {
        blocking(move |_| {
            self.take(&batch)?;
            Ok(self)
        })
        .await
    }

    fn take(&mut self, batch: &[u8]) -> Result<(), FileError> {
        self.hashers.update(batch);
        let written = self.upload.file()?.write_all(batch);
        written.map_err(|e| match Errno::from_io_error(&e) {
            Some(e) => failed("writing an upload", e),
            None => FileError::Broken(format!("writing an upload: {e}")),
        })
    }

    fn finish(
        mut self,
        batch: &[u8],
        shared: &Shared,
        goal: &Goal,
        write: &Write,
        caller: &Caller,
    ) -> Result<HeaderValue, FileError> {
        self.take(batch)?;
        if !self.hashers.agree() {
            return Err(FileError::ChecksumMismatch);
        }
        let file = self.upload.file()?;
        let now = seal(file, write).map_err(|e| failed("completing an upload", e))?;
        fsync(&*file).map_err(|e| failed("completing an upload", e))?;
        place::place(shared, goal, &mut self.upload, caller)?;
        Ok(now.etag_field())
    }
}

/// Adds what is kept beside the bytes.
fn seal(file: &File, write: &Write) -> Result<State, Errno> {
    if let Some(value) = &write.content_type {
        state::keep_content_type(file, value)?;
    }
    state::stamp(file);
    let now = State::of(&fstat(file)?).ok_or(Errno::NOENT)?;
    state::keep_checksums(file, &now, &write.checksums)?;
    Ok(now)
}

/// A file among the uploads, which goes when this does unless it was put in its place.
pub struct Upload {
    folder: OwnedFd,
    name: String,
    file: Option<File>,
    placed: bool,
}

impl Upload {
    fn begin(root: &Root) -> Result<Self, FileError> {
        let folder = root.uploads().map_err(|e| failed("opening the folder of uploads", e))?;
        let name = Uuid::new_v4().to_string();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::WGRP | Mode::ROTH | Mode::WOTH;
        let file = openat(&folder, &name, flags, mode).map_err(|e| failed("making an upload", e))?;
        Ok(Self { folder, name, file: Some(File::from(file)), placed: false })
    }

    fn file(&mut self) -> Result<&mut File, FileError> {
        self.file.as_mut().ok_or_else(|| FileError::Broken("the upload is over".to_owned()))
    }

    pub fn folder(&self) -> &OwnedFd {
        &self.folder
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name is no longer among the uploads.
    pub fn was_placed(&mut self) {
        self.placed = true;
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if self.placed {
            return;
        }
        if let Err(error) = unlinkat(&self.folder, &self.name, AtFlags::empty()) {
            tracing::warn!(%error, file.name = self.name, "an upload that came to nothing cannot be removed");
        }
        // With its last descriptor a file gives its room back, and for a large one that takes a while.
        if let (Some(file), Ok(runtime)) = (self.file.take(), Handle::try_current()) {
            runtime.spawn_blocking(move || drop(file));
        }
    }
}

/// Removes what processes that were killed have left behind.
pub fn remove_forgotten(root: &Root, now: Timestamp) -> Result<(), Errno> {
    let Some(folder) = root.uploads_so_far()? else { return Ok(()) };
    let mut entries = Dir::read_from(&folder)?;
    while let Some(entry) = entries.read() {
        let entry = entry?;
        let name = entry.file_name();
        let state = statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW).ok().and_then(|stat| State::of(&stat));
        if state.is_some_and(|state| state.timestamp().plus(FORGOTTEN) < now) {
            match unlinkat(&folder, name, AtFlags::empty()) {
                // By another process that starts.
                Ok(()) | Err(Errno::NOENT) => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(())
}
