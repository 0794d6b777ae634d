//! The connection to Redis: one, shared by all callers, kept up by a task of its own.
//!
//! A caller never waits longer than the time limit, and while Redis is known to be gone he does not wait at
//! all. The task reconnects with a growing pause between attempts, at most a second, and asks the sentinels anew each time.
//! Nothing is sent twice unless the server said that it did nothing: what became of a call whose answer is missing is
//! for the caller's client to find out by trying again, which every decision allows. A library that repeated a rotation behind our back
//! would, after another tab's, present a token of two generations ago.

use std::sync::Arc;
use std::time::Duration;

use redis::{ErrorKind, RedisError, RedisResult, ServerErrorKind};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::connection::{Connection, Source};
use crate::store::settings::{RedisSettings, Topology};
use crate::store::{Result, Unavailable};

/// Pauses between attempts to connect.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Settings that no connection could ever be made with.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the Redis in [sessions]: {0}")]
pub struct OpenError(String);

pub struct Link {
    state: watch::Receiver<State>,
    broken: watch::Sender<Broken>,
    limit: Duration,
    topology: Topology,
}

#[derive(Clone)]
enum State {
    Connecting,
    Up { number: u64, connection: Connection },
    Down { cause: Arc<str> },
}

/// The last connection that failed a caller, and how.
struct Broken {
    number: u64,
    cause: Arc<str>,
}

impl Link {
    /// Connects in the background, on the runtime this is called in, and keeps connected until dropped.
    pub fn open(settings: &RedisSettings) -> Result<Self, OpenError> {
        let source = Source::new(settings).map_err(|e| OpenError(explain(&e)))?;
        let (publish, state) = watch::channel(State::Connecting);
        let (broken, reports) = watch::channel(Broken { number: 0, cause: "".into() });
        tokio::spawn(keep_up(source, publish, reports));
        Ok(Self { state, broken, limit: settings.timeout, topology: settings.topology.clone() })
    }

    pub fn is_cluster(&self) -> bool {
        self.topology == Topology::Cluster
    }

    /// Longest a caller waits.
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// Makes one call, within the time limit.
    pub async fn call<T>(&self, work: impl AsyncFnOnce(Connection) -> RedisResult<T>) -> Result<T> {
        self.call_numbered(work).await.map(|(_, answer)| answer)
    }

    /// As [`Self::call`], with the number of the connection that answered; a new connection has a new one.
    pub async fn call_numbered<T>(
        &self,
        work: impl AsyncFnOnce(Connection) -> RedisResult<T>,
    ) -> Result<(u64, T)> {
        let end = Instant::now() + self.limit;
        let (number, connection) = self.connection(end).await?;
        match timeout_at(end, work(connection)).await {
            Ok(Ok(answer)) => Ok((number, answer)),
            Ok(Err(error)) => {
                let cause = explain(&error);
                if is_broken(&error, &self.topology) {
                    self.report(number, &cause);
                }
                Err(unavailable(cause))
            }
            // It may be slow, or it may have gone without a word: a new connection tells.
            Err(_) => {
                let cause = format!("no answer within {:?}", self.limit);
                self.report(number, &cause);
                Err(unavailable(cause))
            }
        }
    }

    /// Asks for another connection than this one.
    pub fn report(&self, number: u64, cause: &str) {
        self.broken.send_if_modified(|broken| {
            let news = number > broken.number;
            if news {
                *broken = Broken { number, cause: cause.into() };
            }
            news
        });
    }

    async fn connection(&self, end: Instant) -> Result<(u64, Connection)> {
        let mut state = self.state.clone();
        loop {
            match &*state.borrow_and_update() {
                State::Up { number, connection } => return Ok((*number, connection.clone())),
                State::Down { cause } => return Err(unavailable(cause)),
                State::Connecting => {}
            }
            match timeout_at(end, state.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(unavailable("the gateway is stopping")),
                Err(_) => return Err(unavailable(format!("no connection within {:?}", self.limit))),
            }
        }
    }
}

async fn keep_up(mut source: Source, state: watch::Sender<State>, mut reports: watch::Receiver<Broken>) {
    let mut pause = FIRST_PAUSE;
    // One node of a cluster that is gone is no reason to turn away the users of the others: the old connection serves
    // until there is a new one.
    let stays = matches!(source, Source::Cluster(_));
    for number in 1.. {
        let connection = loop {
            let attempt = timeout(source.patience(), source.connect()).await;
            let cause = match attempt {
                Ok(Ok(connection)) => break connection,
                Ok(Err(error)) => explain(&error),
                Err(_) => format!("no connection within {:?}", source.patience()),
            };
            if state.is_closed() {
                return;
            }
            if number == 1 || !stays {
                let _ = state.send(State::Down { cause: cause.into() });
            }
            rest(&mut pause).await;
        };
        let since = Instant::now();
        if state.send(State::Up { number, connection }).is_err() {
            return;
        }
        let Ok(cause) = reports.wait_for(|broken| broken.number == number).await.map(|b| b.cause.clone())
        else {
            return;
        };
        let lasted = since.elapsed() > LONGEST_PAUSE;
        if !stays {
            let _ = state.send(if lasted { State::Connecting } else { State::Down { cause } });
        }
        if lasted {
            pause = FIRST_PAUSE;
        } else {
            // It lets us in and then fails: to come back faster would help nobody.
            rest(&mut pause).await;
        }
    }
}

/// Anything from half to the whole of the pause, so that a fleet does not come back in step; the next one is longer.
async fn rest(pause: &mut Duration) {
    sleep(pause.mul_f64(0.5 + f64::from(jitter()) / 512.0)).await;
    *pause = (*pause * 2).min(LONGEST_PAUSE);
}

fn jitter() -> u8 {
    uuid::Uuid::new_v4().as_bytes()[0]
}

/// Whether another connection might do better.
fn is_broken(error: &RedisError, topology: &Topology) -> bool {
    error.is_io_error()
        || error.is_connection_dropped()
        || error.is_timeout()
        || error.is_unrecoverable_error()
        // What was the master is a replica now.
        || error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly)
        // It is cut off from its replicas: the sentinels may have another by now.
        || (matches!(topology, Topology::Sentinel { .. }) && error.code() == Some("NOREPLICAS"))
}

/// `error` in one line, without what was sent: to a command that is unknown to it, Redis answers with all of it.
fn explain(error: &RedisError) -> String {
    match (error.kind(), error.code()) {
        (ErrorKind::Server(_) | ErrorKind::Extension, Some(code)) => {
            let detail = error.detail().unwrap_or_default();
            let detail = detail.split_once(", with args").map_or(detail, |(before, _)| before);
            format!("{code} {detail}")
        }
        // What cannot be read is described in several lines.
        _ => error.to_string().lines().next().unwrap_or_default().to_owned(),
    }
}

pub fn unavailable(cause: impl std::fmt::Display) -> Unavailable {
    Unavailable { store: "redis", cause: cause.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(text: &str) -> RedisError {
        redis::parse_redis_value(text.as_bytes()).unwrap().extract_error().unwrap_err()
    }

    #[test]
    fn a_connection_is_given_up_when_another_may_do_better() {
        let sentinel = Topology::Sentinel { master: "m".into() };
        for topology in [&Topology::Single, &sentinel, &Topology::Cluster] {
            assert!(is_broken(&answered("-READONLY x\r\n"), topology));
            assert!(is_broken(&std::io::Error::from(std::io::ErrorKind::BrokenPipe).into(), topology));
            for refusal in ["OOM x", "MISCONF x", "NOAUTH x", "WRONGTYPE x", "LOADING x", "ERR x"] {
                assert!(!is_broken(&answered(&format!("-{refusal}\r\n")), topology), "{refusal}");
            }
        }
        assert!(is_broken(&answered("-NOREPLICAS x\r\n"), &sentinel));
        assert!(!is_broken(&answered("-NOREPLICAS x\r\n"), &Topology::Single), "there is no other");
    }

    #[test]
    fn a_cause_does_not_repeat_what_was_sent() {
        let unknown = "-ERR unknown command 'EVALSHA', with args beginning with: 'x' '1' 'p:login-address:{192.0.2.1}' \r\n";
        assert_eq!(explain(&answered(unknown)), "ERR unknown command 'EVALSHA'");
        let full = "-OOM command not allowed when used memory > 'maxmemory'.\r\n";
        assert_eq!(explain(&answered(full)), "OOM command not allowed when used memory > 'maxmemory'.");
        assert_eq!(explain(&answered("-READONLY You can't write\r\n")), "READONLY You can't write");
    }
}
