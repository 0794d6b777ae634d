//! Calls of the driver that nobody waits for any longer are still carried to their end.
//!
//! The driver queues those who want a connection, and moves that queue on with each reply. Who leaves in the middle
//! stays in it: while a server hangs and callers give up by the hundred, the queue would grow, and after the
//! server's return each new caller stand behind all of them. Therefore each call is a task of its own, in the runtime
//! the store was opened in, and there are no more of them at a time than connections: whoever waits for his turn
//! waits here, where leaving is free. The driver's monitors end what hangs (`heartbeat` in `connect`).

use std::sync::Arc;
use std::time::Duration;

use mongodb::error::Error;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

#[derive(Clone)]
pub struct Calls {
    runtime: Handle,
    /// One for each connection the driver may have to a server.
    turns: Arc<Semaphore>,
}

pub enum Failure {
    Driver(Error),
    /// Not answered in time; it may still be done.
    Late(Duration),
    /// The runtime the store was opened in is gone.
    Ended,
}

impl Calls {
    /// Calls run in the runtime that this is called in.
    pub fn new(at_once: usize) -> Self {
        Self { runtime: Handle::current(), turns: Arc::new(Semaphore::new(at_once)) }
    }

    /// Waits no longer than `limit` for `work`, its turn included.
    pub async fn run<T, F>(&self, limit: Duration, work: F) -> Result<T, Failure>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let whole = async {
            let turn = self.turns.clone().acquire_owned().await.map_err(|_| Failure::Ended)?;
            let task = self.runtime.spawn(async move {
                let done = work.await;
                drop(turn);
                done
            });
            task.await.map_err(|_| Failure::Ended)?.map_err(Failure::Driver)
        };
        tokio::time::timeout(limit, whole).await.unwrap_or(Err(Failure::Late(limit)))
    }
}
