//! The one thread that writes.
//!
//! It takes whatever waits, runs it in one transaction, commits once, announces new revocations and only then
//! answers every caller: the cost of a disk flush is shared (group commit), and no answer precedes its record.
//! Each job has a savepoint, so that one that fails takes back only its own changes.

use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::revocations::Announcer;
use super::unavailable;
use crate::queue::{Popped, Queue};
use crate::store::Result;

/// Jobs that share one transaction, at most.
const BATCH: usize = 256;

/// How often an idle writer looks for revocations that another process has written.
const POLL: Duration = Duration::from_millis(200);

pub trait Job: Send {
    /// Within the open transaction. `Err` says that the transaction is no more, for this job or any other.
    fn run(&mut self, connection: &Connection) -> rusqlite::Result<()>;
    /// Tells the caller, once it is known whether the transaction was committed (or why not).
    fn answer(self: Box<Self>, committed: Result<(), &str>);
}

/// A caller's piece of work, and where he waits.
pub struct Call<T, F> {
    work: Option<F>,
    done: Option<rusqlite::Result<T>>,
    caller: oneshot::Sender<Result<T>>,
}

impl<T, F> Call<T, F> {
    pub fn new(work: F) -> (Self, oneshot::Receiver<Result<T>>) {
        let (caller, wait) = oneshot::channel();
        (Self { work: Some(work), done: None, caller }, wait)
    }
}

impl<T, F> Job for Call<T, F>
where
    T: Send,
    F: FnOnce(&Connection) -> rusqlite::Result<T> + Send,
{
    fn run(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        // A caller that no longer waits was told that nothing is known; nothing is the best to do then.
        let Some(work) = self.work.take().filter(|_| !self.caller.is_closed()) else {
            return Ok(());
        };
        connection.execute_batch("SAVEPOINT job")?;
        let done = work(connection);
        match &done {
            Ok(_) => connection.execute_batch("RELEASE job")?,
            // Some errors (disk full, input/output) end the whole transaction.
            Err(_) if connection.is_autocommit() => return done.map(drop),
            Err(_) => connection.execute_batch("ROLLBACK TO job; RELEASE job")?,
        }
        self.done = Some(done);
        Ok(())
    }

    fn answer(self: Box<Self>, committed: Result<(), &str>) {
        let answer = match (committed, self.done) {
            (Ok(()), Some(done)) => done.map_err(unavailable),
            (Ok(()), None) => Err(unavailable("the caller stopped waiting")),
            (Err(cause), _) => Err(unavailable(cause)),
        };
        // A caller that went away meanwhile needs no answer.
        let _ = self.caller.send(answer);
    }
}

pub struct Writer {
    pub connection: Connection,
    pub queue: Arc<Queue<Box<dyn Job>>>,
    pub announcer: Announcer,
}

impl Writer {
    /// Until the queue is closed and empty.
    pub fn run(mut self) {
        let mut deaf = false;
        loop {
            match self.queue.pop_within(POLL) {
                Popped::Item(job) => self.batch(job),
                Popped::Closed => return,
                Popped::Idle => {
                    let heard = self.announcer.announce(&self.connection);
                    if let (Err(error), false) = (&heard, deaf) {
                        tracing::error!(%error, "revocations by other processes cannot be read");
                    }
                    deaf = heard.is_err();
                }
            }
        }
    }

    fn batch(&mut self, first: Box<dyn Job>) {
        let mut jobs = vec![first];
        jobs.extend(self.queue.drain(BATCH - 1));
        let committed = self.transact(&mut jobs).map_err(|error| error.to_string());
        for job in jobs {
            job.answer(committed.as_ref().copied().map_err(String::as_str));
        }
    }

    /// One transaction over all of `jobs`, and the word passed on. On `Err` none of it happened, or it is in
    /// doubt whether it did: every caller is told so, and may repeat himself.
    fn transact(&mut self, jobs: &mut [Box<dyn Job>]) -> rusqlite::Result<()> {
        self.connection.execute_batch("BEGIN IMMEDIATE")?;
        let done = jobs.iter_mut().try_for_each(|job| job.run(&self.connection));
        let committed = done.and_then(|()| self.connection.execute_batch("COMMIT"));
        if committed.is_err() && !self.connection.is_autocommit() {
            self.connection.execute_batch("ROLLBACK")?;
        }
        committed?;
        self.announcer.announce(&self.connection)
    }
}
