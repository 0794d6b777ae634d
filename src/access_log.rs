//! One JSON line a request on standard output.
//!
//! Lines are collected in memory and written by a thread of their own, so that a slow reader of standard
//! output never slows a request. When it falls far behind, lines are dropped and counted.
//!
//! The query, header values and bodies are absent: they may hold secrets. Everything shown goes through a JSON
//! serialiser, so no client can end a line.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use prometheus::IntCounter;
use serde::Serialize;

use crate::fault::Fault;

/// Lines waiting to be written, in bytes; beyond it they are dropped.
const MAX_PENDING: usize = 8 * 1024 * 1024;
/// Longest time a line waits.
const FLUSH: Duration = Duration::from_millis(100);

#[derive(Serialize)]
pub struct Line<'a> {
    pub time: String,
    pub request_id: &'a str,
    pub client: IpAddr,
    pub method: &'a str,
    pub host: &'a str,
    pub path: &'a str,
    pub route: &'a str,
    pub status: u16,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub duration_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<&'a str>,
}

impl<'a> Line<'a> {
    /// The line of a request whose head, or what came of the body with it, was refused: nothing in it could be relied
    /// on.
    pub fn refused_head(request_id: &'a str, client: Option<IpAddr>, fault: &'a Fault) -> Self {
        Self {
            time: jiff::Timestamp::now().to_string(),
            request_id,
            client: client.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            method: "-",
            host: "-",
            path: "-",
            route: "-",
            status: fault.status,
            bytes_in: 0,
            bytes_out: 0,
            duration_ms: 0.0,
            user: None,
            session: None,
            upstream: None,
            code: Some(fault.code),
            cause: Some(&fault.detail),
        }
    }
}

pub struct AccessLog {
    shared: Arc<Shared>,
    writer: Mutex<Option<std::thread::JoinHandle<()>>>,
}

struct Shared {
    pending: Mutex<Vec<u8>>,
    wake: Condvar,
    stop: AtomicBool,
    dropped: IntCounter,
}

impl AccessLog {
    /// # Errors
    /// When the writer thread cannot be started.
    pub fn start(dropped: IntCounter) -> std::io::Result<Self> {
        let shared =
            Arc::new(Shared { pending: Mutex::default(), wake: Condvar::new(), stop: false.into(), dropped });
        let theirs = shared.clone();
        let writer = std::thread::Builder::new().name("access-log".into()).spawn(move || theirs.write())?;
        Ok(Self { shared, writer: Mutex::new(Some(writer)) })
    }

    pub fn log(&self, line: &Line<'_>) {
        let mut pending = self.shared.pending.lock();
        if pending.len() > MAX_PENDING {
            self.shared.dropped.inc();
            return;
        }
        let start = pending.len();
        if serde_json::to_writer(&mut *pending, line).is_err() {
            pending.truncate(start);
            return;
        }
        pending.push(b'\n');
    }

    /// Writes what is pending and stops.
    pub fn finish(&self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.wake.notify_one();
        if let Some(writer) = self.writer.lock().take() {
            let _ = writer.join();
        }
    }
}

impl Shared {
    fn write(&self) {
        let mut batch = Vec::new();
        loop {
            let stopping = self.stop.load(Ordering::Acquire);
            {
                let mut pending = self.pending.lock();
                // Always wait: lines that arrive meanwhile go out in one write.
                if !stopping {
                    self.wake.wait_for(&mut pending, FLUSH);
                }
                std::mem::swap(&mut *pending, &mut batch);
            }
            if !batch.is_empty() {
                let mut out = std::io::stdout().lock();
                // Nobody reads: there is nowhere left to say so.
                let _ = out.write_all(&batch).and_then(|()| out.flush());
                batch.clear();
            } else if stopping {
                return;
            }
        }
    }
}
