//! The database file: where it is, who may read it, which tables it has.
//!
//! Times are milliseconds since 1970, session ids 16 bytes, lists of strings JSON. No table refers to
//! another: users may live elsewhere while sessions live here.

use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, TransactionBehavior};

/// How long a connection waits for another process that holds the lock it needs. Below the time a caller is
/// willing to wait, so that he hears the true cause.
const BUSY_TIMEOUT: Duration = Duration::from_secs(3);

/// One script a version, oldest first; never edited once released, only added to.
const MIGRATIONS: [&str; 2] = [include_str!("schema_1.sql"), include_str!("schema_2.sql")];

/// Why the embedded store could not be opened, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("cannot open {path}: {cause}; {remedy}", path = path.display())]
pub struct OpenError {
    pub path: PathBuf,
    pub cause: String,
    pub remedy: &'static str,
}

/// Makes the folder (0700) and the file (0600) where they are missing, and brings the tables up to date.
/// Any number of processes may do this at once.
pub fn prepare(data_dir: &Path) -> Result<(PathBuf, Connection), OpenError> {
    let path = data_dir.join("portcullis.db");
    make_file(data_dir, &path).map_err(|error| OpenError {
        path: path.clone(),
        cause: error.to_string(),
        remedy: "make the folder of `server.data_dir` writable for this user",
    })?;
    let refused = |error| refused(&path, &error);
    let mut connection = connect(&path).map_err(refused)?;
    enter_wal(&connection).map_err(refused)?;
    migrate(&path, &mut connection)?;
    Ok((path, connection))
}

/// A connection as every thread of ours uses it.
pub fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // What was deleted (password hashes, mostly) is overwritten, and a damaged file's schema cannot run code.
    connection.pragma_update(None, "secure_delete", true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    Ok(connection)
}

fn make_file(data_dir: &Path, path: &Path) -> io::Result<()> {
    if !data_dir.is_dir() {
        DirBuilder::new().recursive(true).mode(0o700).create(data_dir)?;
    }
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    // SQLite gives its -wal and -shm files the mode of the database file.
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(())
}

/// Switching a new file to WAL takes an exclusive lock, which SQLite does not always wait for.
fn enter_wal(connection: &Connection) -> rusqlite::Result<()> {
    let end = Instant::now() + BUSY_TIMEOUT;
    loop {
        match connection.pragma_update(None, "journal_mode", "WAL") {
            Err(error) if is_busy(&error) && Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(10));
            }
            done => return done,
        }
    }
}

fn migrate(path: &Path, connection: &mut Connection) -> Result<(), OpenError> {
    let refused = |error| refused(path, &error);
    // The version is read under the write lock: a second process finds the work done.
    let transaction =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(refused)?;
    let version: i64 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(refused)?;
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    let Some(missing) = usize::try_from(version).ok().and_then(|version| MIGRATIONS.get(version..)) else {
        return Err(OpenError {
            path: path.to_owned(),
            cause: format!("its schema has version {version}, this program knows versions up to {known}"),
            remedy: "run the newer portcullis that wrote it, or restore the backup from before the upgrade",
        });
    };
    let foreign: bool = transaction
        .query_row("SELECT EXISTS (SELECT 1 FROM sqlite_schema)", [], |row| row.get(0))
        .map_err(refused)?;
    if version == 0 && foreign {
        return Err(OpenError {
            path: path.to_owned(),
            cause: "it is a database of some other program".into(),
            remedy: "choose another `server.data_dir`",
        });
    }
    for script in missing {
        transaction.execute_batch(script).map_err(refused)?;
    }
    transaction.pragma_update(None, "user_version", known).map_err(refused)?;
    transaction.commit().map_err(refused)
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

pub(super) fn refused(path: &Path, error: &rusqlite::Error) -> OpenError {
    let remedy = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "another process holds it locked: end that process, or try again"
        }
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            "the file is damaged: restore a backup, or move it away to start empty"
        }
        Some(ErrorCode::DiskFull) => "free some space on that disk",
        _ => "see that the folder of `server.data_dir` is on a local, writable disk",
    };
    OpenError { path: path.to_owned(), cause: error.to_string(), remedy }
}
