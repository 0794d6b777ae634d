//! Files that hold secrets: readable by their owner only, written whole or not at all.
//!
//! A file appears under its name complete and synced, or does not appear; two processes that start at once
//! end up with the same one.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// Longest secret file read; an RSA key of 8192 bits in PEM has about 6 KiB.
const MAX_BYTES: u64 = 64 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    #[error("{}: others than its owner may access it (mode {mode:03o}); run: chmod {} {}", path.display(), if *folder { "700" } else { "600" }, path.display())]
    TooOpen { path: PathBuf, mode: u32, folder: bool },
    #[error("{}: larger than 64 KiB, so not a key", path.display())]
    TooLarge { path: PathBuf },
    #[error("{}: {cause}", path.display())]
    Io { path: PathBuf, cause: io::Error },
}

fn io(path: &Path) -> impl FnOnce(io::Error) -> SecretFileError {
    let path = path.to_owned();
    move |cause| SecretFileError::Io { path, cause }
}

/// Creates `folder` (and what is above it) with mode 0700, or checks that an existing one is closed to others.
pub fn folder(folder: &Path) -> Result<(), SecretFileError> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io(folder))?;
    let mode = fs::metadata(folder).map_err(io(folder))?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(SecretFileError::TooOpen { path: folder.to_owned(), mode, folder: true });
    }
    Ok(())
}

/// The content of `path`; `None` when there is no such file.
pub fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, SecretFileError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(io(path)(cause)),
    };
    // The open file is asked, not the path, so that what was checked is what is read.
    let mode = file.metadata().map_err(io(path))?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(SecretFileError::TooOpen { path: path.to_owned(), mode, folder: false });
    }
    let mut content = Zeroizing::new(Vec::new());
    file.take(MAX_BYTES + 1).read_to_end(&mut content).map_err(io(path))?;
    if content.len() as u64 > MAX_BYTES {
        return Err(SecretFileError::TooLarge { path: path.to_owned() });
    }
    Ok(Some(content))
}

/// Puts `content` at `path`, replacing what was there.
pub fn write(path: &Path, content: &[u8]) -> Result<(), SecretFileError> {
    let temporary = Temporary::beside(path, content)?;
    fs::rename(&temporary.path, path).map_err(io(path))?;
    sync_folder_of(path)
}

/// Puts `content` at `path` unless there is a file already; whether it was put there.
pub fn create(path: &Path, content: &[u8]) -> Result<bool, SecretFileError> {
    let temporary = Temporary::beside(path, content)?;
    // A hard link fails when the name exists, and the file behind it is complete: no reader sees half a key.
    match fs::hard_link(&temporary.path, path) {
        Ok(()) => sync_folder_of(path).map(|()| true),
        Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(cause) => Err(io(path)(cause)),
    }
}

/// Waits until this process alone may change `folder`; the lock ends with the returned file (or the process).
pub fn lock(folder: &Path) -> Result<File, SecretFileError> {
    let path = folder.join(".lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(io(&path))?;
    file.lock().map_err(io(&path))?;
    Ok(file)
}

fn sync_folder_of(path: &Path) -> Result<(), SecretFileError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(io(folder))
}

/// A complete, synced file with mode 0600 that goes away unless it is renamed.
struct Temporary {
    path: PathBuf,
}

impl Temporary {
    fn beside(path: &Path, content: &[u8]) -> Result<Self, SecretFileError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = path.with_file_name(format!(".{name}.{}.tmp", uuid::Uuid::new_v4().simple()));
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(io(&temporary))?;
        let temporary = Self { path: temporary };
        file.write_all(content).and_then(|()| file.sync_all()).map_err(io(&temporary.path))?;
        Ok(temporary)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After a rename there is nothing left to remove.
        let _ = fs::remove_file(&self.path);
    }
}
