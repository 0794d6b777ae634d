//! Users, sessions, revocations and login throttles in one SQLite file, `portcullis.db`.
//!
//! For one machine: any number of processes on it (the gateway, the command line) may open the file at once.
//! Writes go through one thread a process (`writer`), reads through a few of their own; every caller waits
//! on a channel, with a limit. What was answered is on the disk (WAL, `synchronous=FULL`); a process killed
//! at any instant loses only what it had not answered. Not for network file systems.

mod columns;
mod revocations;
mod schema;
mod sessions;
mod throttle;
mod users;
mod writer;

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::oneshot;

pub use schema::OpenError;

use self::revocations::Announcer;
use self::writer::{Call, Job, Writer};
use crate::clock::Timestamp;
use crate::queue::Queue;
use crate::store::{Result, RevocationSink, Unavailable};

/// Longest a caller waits for an answer.
const LIMIT: Duration = Duration::from_secs(5);

/// Calls that may wait for the writer, and for the readers; beyond, the store is unavailable at once.
const WAITING: usize = 1024;

const READERS: usize = 2;

type Read = Box<dyn FnOnce(&Connection) + Send>;

pub struct Embedded {
    writes: Arc<Queue<Box<dyn Job>>>,
    reads: Arc<Queue<Read>>,
    threads: Vec<JoinHandle<()>>,
    /// Of the access tokens this process makes; `None` when it makes none.
    token_lifetime: Option<Duration>,
}

impl Embedded {
    /// Opens (or makes) the database in `data_dir` and replays into `sink` the revocations still in force.
    /// From then on `sink` hears of every revocation, also of those other processes make (within about 200 ms).
    pub fn open(data_dir: &Path, sink: Arc<dyn RevocationSink>) -> Result<Arc<Self>, OpenError> {
        let (path, connection) = schema::prepare(data_dir)?;
        let refused = |error| schema::refused(&path, &error);
        let token_lifetime = Some(sink.token_lifetime()).filter(|lifetime| !lifetime.is_zero());
        if let Some(lifetime) = token_lifetime {
            revocations::note_lifetime(&connection, lifetime, Timestamp::now()).map_err(refused)?;
        }
        let announcer = Announcer::start(sink, &connection, Timestamp::now()).map_err(refused)?;
        let mut store = Self {
            writes: Arc::new(Queue::new(WAITING)),
            reads: Arc::new(Queue::new(WAITING)),
            threads: vec![],
            token_lifetime,
        };

        let writer = Writer { connection, queue: store.writes.clone(), announcer };
        store.spawn(&path, "store-writer", move || writer.run())?;
        for _ in 0..READERS {
            let connection = schema::connect(&path).map_err(refused)?;
            connection.pragma_update(None, "query_only", true).map_err(refused)?;
            let queue = store.reads.clone();
            store.spawn(&path, "store-reader", move || {
                while let Some(read) = queue.pop() {
                    read(&connection);
                }
            })?;
        }
        Ok(Arc::new(store))
    }

    fn spawn(
        &mut self,
        path: &Path,
        name: &str,
        run: impl FnOnce() + Send + 'static,
    ) -> Result<(), OpenError> {
        let thread =
            std::thread::Builder::new().name(name.to_owned()).spawn(run).map_err(|error| OpenError {
                path: path.to_owned(),
                cause: format!("no thread for it: {error}"),
                remedy: "raise the limit on processes or threads for this user",
            })?;
        self.threads.push(thread);
        Ok(())
    }

    /// Runs `work` in the writer's next transaction and answers once that is on the disk. A caller that is
    /// dropped before its turn leaves no trace.
    async fn write<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (call, wait) = Call::new(work);
        self.writes.push(Box::new(call)).map_err(|refused| unavailable(format!("writer queue {refused}")))?;
        answer(wait).await
    }

    async fn read<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (caller, wait) = oneshot::channel();
        let read: Read = Box::new(move |connection| {
            if !caller.is_closed() {
                let _ = caller.send(work(connection).map_err(unavailable));
            }
        });
        self.reads.push(read).map_err(|refused| unavailable(format!("reader queue {refused}")))?;
        answer(wait).await
    }
}

impl Drop for Embedded {
    /// Finishes what is queued and closes the file.
    fn drop(&mut self) {
        self.writes.close();
        self.reads.close();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the embedded store had panicked");
            }
        }
    }
}

async fn answer<T>(wait: oneshot::Receiver<Result<T>>) -> Result<T> {
    match tokio::time::timeout(LIMIT, wait).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Err(unavailable("its thread has ended")),
        Err(_) => Err(unavailable(format!("no answer within {LIMIT:?}"))),
    }
}

fn unavailable(cause: impl Display) -> Unavailable {
    Unavailable { store: "embedded", cause: cause.to_string() }
}

#[cfg(test)]
mod tests;
