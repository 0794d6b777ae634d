//! The threads that hash: a fixed number, at the lowest priority, behind a bounded queue.
//!
//! However many people log in, the proxy's own threads are not held up, and whoever finds the queue full is
//! told when to come back. An unknown user costs the same as a known one with a hash of the configured cost;
//! imported hashes of another cost take their own time until the first login has upgraded them.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::hash::{self, HashError, PasswordHash};
use crate::queue::Queue;

/// No thread is free and the queue is full: 503.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many passwords are waiting to be hashed")]
pub struct Busy {
    /// When those waiting now will be done, an estimate in whole seconds.
    pub retry_after: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// `upgrade`: the stored hash should be replaced by a new one of this password.
    Right { upgrade: bool },
    /// Also for an unknown user, and for a stored hash that cannot be read.
    Wrong,
}

/// What bcrypt at cost 0 would take on a usual machine: where the average starts.
const MICROS_AT_COST_0: u64 = 58;

type Job = Box<dyn FnOnce() + Send>;

pub struct Hasher {
    cost: u32,
    /// Compared against when there is no hash.
    decoy: Arc<str>,
    queue: Arc<Queue<Job>>,
    threads: Vec<JoinHandle<()>>,
    /// Of one hash, in microseconds: a moving average.
    pace: Arc<AtomicU64>,
}

impl Hasher {
    /// Starts `concurrency` threads (at least one) that hash at `cost` (4 to 16); `queue` passwords may wait.
    pub fn start(cost: u32, concurrency: usize, queue: usize) -> io::Result<Self> {
        let decoy = hash::decoy(cost).map_err(io::Error::other)?;
        let mut hasher = Self {
            cost,
            decoy: decoy.into(),
            queue: Arc::new(Queue::new(queue)),
            threads: vec![],
            pace: Arc::new(AtomicU64::new(MICROS_AT_COST_0 << cost)),
        };
        for i in 0..concurrency.max(1) {
            let (queue, pace) = (hasher.queue.clone(), hasher.pace.clone());
            let thread = std::thread::Builder::new().name(format!("hasher-{i}"));
            hasher.threads.push(thread.spawn(move || work(&queue, &pace))?);
        }
        Ok(hasher)
    }

    /// Compares `password` with `hash`; with `None` (no such user) it does the same work and answers `Wrong`.
    pub async fn verify(&self, hash: Option<&str>, password: &[u8]) -> Result<Verdict, Busy> {
        let (decoy, cost) = (self.decoy.clone(), self.cost);
        let stored = hash.map(str::to_owned);
        self.run(password, move |password| {
            let parsed = stored.as_deref().and_then(|stored| PasswordHash::parse(stored).ok());
            let Some(parsed) = parsed else {
                PasswordHash::parse(&decoy)?.matches(password)?;
                return Ok(Verdict::Wrong);
            };
            if !parsed.matches(password)? {
                return Ok(Verdict::Wrong);
            }
            let upgrade = stored.is_some_and(|stored| hash::needs_upgrade(&stored, cost));
            Ok(Verdict::Right { upgrade })
        })
        .await
    }

    /// A new hash of `password`.
    pub async fn hash(&self, password: &[u8]) -> Result<String, Busy> {
        let cost = self.cost;
        self.run(password, move |password| hash::hash_now(password, cost)).await
    }

    /// Passwords that wait for a thread right now.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Runs `work` on a hashing thread, unless the caller has gone before its turn. The copy of the password
    /// is overwritten in either case.
    async fn run<T, F>(&self, password: &[u8], work: F) -> Result<T, Busy>
    where
        T: Send + 'static,
        F: FnOnce(&[u8]) -> Result<T, HashError> + Send + 'static,
    {
        let password = Zeroizing::new(password.to_vec());
        let (caller, wait) = oneshot::channel();
        let job: Job = Box::new(move || {
            if caller.is_closed() {
                return;
            }
            match work(&password) {
                Ok(done) => drop(caller.send(done)),
                // Dropping `caller` makes this `Busy`: in doubt about a password, nobody is let in or refused.
                Err(error) => tracing::error!(%error, "a password could not be hashed"),
            }
        });
        self.queue.push(job).map_err(|_| self.busy())?;
        wait.await.map_err(|_| self.busy())
    }

    fn busy(&self) -> Busy {
        let waiting = u64::try_from(self.queue.len() + 1).unwrap_or(u64::MAX);
        let threads = u64::try_from(self.threads.len().max(1)).unwrap_or(1);
        let micros = self.pace.load(Ordering::Relaxed).saturating_mul(waiting) / threads;
        Busy { retry_after: Duration::from_secs(micros.div_ceil(1_000_000).clamp(1, 60)) }
    }
}

impl Drop for Hasher {
    fn drop(&mut self) {
        self.queue.close();
        for thread in self.threads.drain(..) {
            // A thread survives its jobs' panics, so there is nothing to learn here.
            let _ = thread.join();
        }
    }
}

fn work(queue: &Queue<Job>, pace: &AtomicU64) {
    lowest_priority();
    while let Some(job) = queue.pop() {
        let begun = Instant::now();
        if catch_unwind(AssertUnwindSafe(job)).is_err() {
            tracing::error!("hashing a password panicked");
        }
        let (last, mean) = (micros(begun.elapsed()), pace.load(Ordering::Relaxed));
        // Skipped jobs say nothing about the pace.
        if last > mean / 16 {
            pace.store(mean - mean / 8 + last / 8, Ordering::Relaxed);
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX / 2)
}

/// On Linux the priority belongs to the thread, and 0 means the calling one (setpriority(2), "C library/kernel
/// differences"). Failing is harmless: the threads then compete like any other.
#[cfg(target_os = "linux")]
fn lowest_priority() {
    // SAFETY: takes and returns plain integers.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) };
}

#[cfg(not(target_os = "linux"))]
fn lowest_priority() {}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

    use super::*;

    const IMPORTED: &str = "$2b$04$CCCCCCCCCCCCCCCCCCCCC.FXJHjF.8tyWAsIeGLxC7hC/nyX4QxgC";

    #[tokio::test]
    async fn verdicts() {
        let hasher = Hasher::start(5, 2, 8).unwrap();
        let hash = hasher.hash(b"correct horse").await.unwrap();
        let verify = async |hash, password| hasher.verify(hash, password).await.unwrap();
        assert_eq!(verify(Some(&hash), b"correct horse").await, Verdict::Right { upgrade: false });
        assert_eq!(verify(Some(&hash), b"correct horsf").await, Verdict::Wrong);
        assert_eq!(verify(Some(IMPORTED), b"password").await, Verdict::Right { upgrade: true });
        assert_eq!(verify(Some(IMPORTED), b"").await, Verdict::Wrong);
        // Nothing matches the decoy, the empty password least of all.
        assert_eq!(verify(None, b"").await, Verdict::Wrong);
        assert_eq!(verify(Some("damaged"), b"").await, Verdict::Wrong);
        assert_eq!(verify(Some(""), b"").await, Verdict::Wrong);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_full_queue_is_busy_at_once_and_says_when_to_come_back() {
        let hasher = Arc::new(Hasher::start(8, 1, 3).unwrap());
        let mut tasks = JoinSet::new();
        for _ in 0..50 {
            let hasher = hasher.clone();
            tasks.spawn(async move { hasher.verify(None, b"guess").await });
        }
        let answers = tasks.join_all().await;
        let busy = answers.iter().filter_map(|answer| answer.err()).collect::<Vec<_>>();
        assert!(busy.len() > 20, "{} of 50", busy.len());
        assert!(busy.iter().all(|busy| busy.retry_after >= Duration::from_secs(1)));
        assert_eq!(hasher.verify(None, b"guess").await, Ok(Verdict::Wrong), "and then goes on");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_has_gone_is_skipped() {
        let hasher = Hasher::start(10, 1, 64).unwrap();
        for _ in 0..60 {
            let left = tokio::time::timeout(Duration::ZERO, hasher.verify(None, b"guess")).await;
            assert!(left.is_err());
        }
        let begun = Instant::now();
        let one = micros(begun.elapsed()).max(hasher.pace.load(Ordering::Relaxed));
        hasher.verify(None, b"guess").await.unwrap();
        let took = micros(begun.elapsed());
        assert!(took < one * 20, "{took} us while one hash takes {one} us: the sixty were not skipped");
    }

    #[tokio::test]
    async fn an_unknown_user_costs_as_much_as_a_known_one() {
        // So cheap that some of them run without a break, however busy the machine is.
        let hasher = Hasher::start(4, 1, 8).unwrap();
        let hash = hasher.hash(b"password").await.unwrap();
        let (mut known, mut unknown) = (vec![], vec![]);
        for _ in 0..200 {
            for (hash, times) in [(Some(hash.as_str()), &mut known), (None, &mut unknown)] {
                let begun = Instant::now();
                hasher.verify(hash, b"guess").await.unwrap();
                times.push(micros(begun.elapsed()));
            }
        }
        let fastest = |times: &[u64]| *times.iter().min().unwrap() as f64;
        let ratio = fastest(&known) / fastest(&unknown);
        assert!((0.7..1.4).contains(&ratio), "{ratio}");
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn only_the_hashing_threads_are_of_low_priority() {
        let nice = || unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
        let before = nice();
        let hasher = Hasher::start(4, 1, 8).unwrap();
        let there = hasher.run(b"", move |_| Ok(nice())).await.unwrap();
        assert_eq!((there, nice()), (19, before));
    }

    #[tokio::test]
    async fn a_panic_is_busy_and_the_thread_lives_on() {
        let hasher = Hasher::start(4, 1, 8).unwrap();
        let answer = hasher.run(b"", |_| -> Result<(), _> { panic!("on purpose") }).await;
        assert!(answer.is_err());
        assert!(hasher.hash(b"password").await.is_ok());
    }
}
