//! Real servers for the suite: one of each kind for the whole test binary, gone when it ends.

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

/// A server that dies with whoever holds this, and at the latest with the test process: a shell waits for the end of
/// its input and then kills it.
pub struct Server {
    pub port: u16,
    child: Child,
    _alive: ChildStdin,
    pub pid: u32,
}

impl Server {
    /// Runs `command`, which listens on `port`.
    pub fn start(port: u16, command: &[&str]) -> Self {
        Self::start_with(port, command, "")
    }

    /// The same; the folder `data` is removed once the test process has ended.
    pub fn start_with(port: u16, command: &[&str], data: &str) -> Self {
        let script =
            r#""$@" >/dev/null & echo $!; read -r _; kill -9 $!; wait; [ -z "$DATA" ] || rm -rf "$DATA""#;
        let mut child = Command::new("sh")
            .args(["-c", script, "sh"])
            .args(command)
            .env("DATA", data)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let pid = line.trim().parse().unwrap();
        let alive = child.stdin.take().unwrap();
        let server = Self { port, child, _alive: alive, pid };
        let end = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < end, "{} does not listen on port {port}", command[0]);
            std::thread::sleep(Duration::from_millis(5));
        }
        server
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: plain system call on a process of ours.
        unsafe { libc::kill(self.pid as i32, signal) };
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.signal(libc::SIGKILL);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A Redis of its own on `port`, without files.
pub fn redis_on(port: u16, more: &[&str]) -> Server {
    let port_text = port.to_string();
    let mut command =
        vec!["redis-server", "--port", &port_text, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
    command.extend(["--dir", "/tmp", "--loglevel", "warning"]);
    command.extend(more);
    Server::start(port, &command)
}

/// The Redis that all cases share.
pub fn shared_redis() -> u16 {
    static SHARED: OnceLock<Mutex<Server>> = OnceLock::new();
    SHARED.get_or_init(|| Mutex::new(redis_on(free_port(), &[]))).lock().unwrap().port
}
