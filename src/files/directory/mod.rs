//! Files in a local folder, which behave as objects of S3 do as far as a file system allows: a key is a path, there are
//! no empty folders, and a file appears and disappears whole.
//!
//! For one machine and file systems of its own. Other processes may use the folder at the same time (see `place` for
//! what they are kept from). Symbolic links below the root, and whatever else is no regular file, are not there.

mod list;
mod place;
mod read;
mod state;
mod walk;
mod write;

#[cfg(test)]
mod list_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod write_tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use http::header::HeaderValue;
use parking_lot::Mutex;
use rustix::io::Errno;

use self::walk::Root;
use super::error::FileError;
use super::key::ObjectKey;
use super::store::{Content, FileStore, List, Object, Page, Read, Write};
use crate::clock::Timestamp;

/// Why a folder cannot hold files.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the folder {path}: {cause}", path = path.display())]
pub struct OpenError {
    pub path: PathBuf,
    pub cause: io::Error,
}

pub struct Directory {
    shared: Arc<Shared>,
}

struct Shared {
    root: Root,
    /// Held by whoever compares the state of a file and then changes it.
    changes: Mutex<()>,
}

impl Directory {
    /// Opens the folder `root`, which must be there and may be a symbolic link, and removes from it the unfinished
    /// uploads of earlier processes. One that cannot be written to is opened too, for reading.
    ///
    /// # Errors
    /// The folder is not there, is none, or may not be read.
    pub fn open(root: &Path) -> Result<Self, OpenError> {
        let refused = |cause| OpenError { path: root.to_owned(), cause };
        let opened = Root::open(root).map_err(refused)?;
        match write::remove_forgotten(&opened, Timestamp::now()) {
            Ok(()) | Err(Errno::ROFS | Errno::ACCESS | Errno::PERM) => {}
            Err(e) => return Err(OpenError { path: root.join(walk::UPLOADS), cause: e.into() }),
        }
        Ok(Self { shared: Arc::new(Shared { root: opened, changes: Mutex::new(()) }) })
    }
}

#[async_trait]
impl FileStore for Directory {
    async fn read(&self, key: &ObjectKey, read: &Read) -> Result<Object, FileError> {
        let (shared, key, read) = (self.shared.clone(), key.clone(), read.clone());
        blocking(move |_| read::read(&shared.root, &key, &read)).await
    }

    async fn write(
        &self,
        key: &ObjectKey,
        write: &Write,
        content: &mut dyn Content,
    ) -> Result<HeaderValue, FileError> {
        write::write(&self.shared, key, write, content).await
    }

    async fn delete(&self, key: &ObjectKey, if_match: Option<&HeaderValue>) -> Result<(), FileError> {
        let (shared, key, if_match) = (self.shared.clone(), key.clone(), if_match.cloned());
        blocking(move |_| place::remove(&shared, &key, if_match.as_ref())).await
    }

    async fn list(&self, list: &List) -> Result<Page, FileError> {
        let (shared, list) = (self.shared.clone(), list.clone());
        blocking(move |caller| list::list(&shared.root, &list, caller)).await
    }

    async fn size(&self, key: &ObjectKey) -> Result<Option<u64>, FileError> {
        let (shared, key) = (self.shared.clone(), key.clone());
        blocking(move |_| read::size(&shared.root, &key)).await
    }

    async fn check(&self) -> Result<(), FileError> {
        let shared = self.shared.clone();
        blocking(move |_| shared.root.check()).await
    }
}

/// Whoever waits for a piece of work on another thread, which cannot be stopped from outside.
struct Caller(Weak<()>);

impl Caller {
    fn is_gone(&self) -> bool {
        self.0.strong_count() == 0
    }
}

/// Runs `work` on a thread that may wait for the disk. When the future is dropped the work goes on, and its outcome is
/// dropped where it ends.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce(&Caller) -> Result<T, FileError> + Send + 'static,
) -> Result<T, FileError> {
    let waiting = Arc::new(());
    let caller = Caller(Arc::downgrade(&waiting));
    match tokio::task::spawn_blocking(move || work(&caller)).await {
        Ok(done) => done,
        Err(e) => Err(FileError::Broken(format!("a call to the file system did not end: {e}"))),
    }
}
