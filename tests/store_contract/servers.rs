//! Real servers for the suite: one of each kind for the whole test binary, gone when it ends.

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

/// A server that dies with whoever holds this, and at the latest with the test process: a shell waits for the end of
/// its input, kills it and removes its folder.
pub struct Server {
    pub port: u16,
    pub pid: u32,
    shell: Child,
    alive: Option<ChildStdin>,
}

impl Server {
    /// Runs `command` in `folder`, which is its own, and waits until it listens on `port`.
    pub fn start(port: u16, folder: &Path, command: &[&str]) -> Self {
        Self::start_and(port, folder, command, r#"rm -rf "$PWD""#)
    }

    /// The same, but what is in `folder` outlives the server.
    pub fn start_on_data(port: u16, folder: &Path, command: &[&str]) -> Self {
        Self::start_and(port, folder, command, "true")
    }

    fn start_and(port: u16, folder: &Path, command: &[&str], afterwards: &str) -> Self {
        let script = format!(r#""$@" >/dev/null & echo $!; read -r _; kill -9 $!; wait; {afterwards}"#);
        let mut shell = Command::new("sh")
            .args(["-c", &script, "sh"])
            .args(command)
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(shell.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let pid = line.trim().parse().unwrap();
        let alive = shell.stdin.take();
        let server = Self { port, pid, shell, alive };
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
        drop(self.alive.take());
        let _ = self.shell.wait();
    }
}

/// Nobody listens there, nor where a node of a cluster with this port would talk to the others. Each port is given once, and none
/// that the system gives to connections going out: many cases start servers at the same time.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    const FIRST: u32 = 12_000;
    const COUNT: u32 = 10_000;
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    loop {
        let step = std::process::id().wrapping_mul(97).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = (FIRST + step % COUNT) as u16;
        if is_free(port) && is_free(port + 10_000) {
            return port;
        }
    }
}

/// A folder that whoever runs in it removes.
fn folder() -> PathBuf {
    tempfile::Builder::new().prefix("portcullis-server-").tempdir().unwrap().keep()
}

/// A Redis of its own on `port` that keeps nothing.
pub fn redis_on(port: u16, more: &[&str]) -> Server {
    redis_with(port, &["--port", &port.to_string()], more)
}

/// The same, which is told by `listen` to listen on `port`.
pub fn redis_with(port: u16, listen: &[&str], more: &[&str]) -> Server {
    let common = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--loglevel", "warning"];
    let command = [&["redis-server"], listen, &common, &["--repl-diskless-sync-delay", "0"], more].concat();
    Server::start(port, &folder(), &command)
}

/// The Redis that all cases share.
pub fn shared_redis() -> u16 {
    static SHARED: OnceLock<Mutex<Server>> = OnceLock::new();
    SHARED.get_or_init(|| Mutex::new(redis_on(free_port(), &[]))).lock().unwrap().port
}

/// A sentinel that watches `master` under the name `sessions` and promotes a replica after a second.
pub fn sentinel_of(master: u16, more: &[&str]) -> Server {
    let (port, folder) = (free_port(), folder());
    let file = format!(
        "port {port}\nbind 127.0.0.1\nsentinel monitor sessions 127.0.0.1 {master} 1\n\
         sentinel down-after-milliseconds sessions 1000\nsentinel failover-timeout sessions 5000\n{}\n",
        more.join("\n")
    );
    std::fs::write(folder.join("sentinel.conf"), file).unwrap();
    Server::start(port, &folder, &["redis-server", "sentinel.conf", "--sentinel"])
}

const CLUSTER_NODE: [&str; 4] = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"];

/// Three masters that share the slots, without replicas.
pub fn redis_cluster() -> Vec<Server> {
    let more = [&CLUSTER_NODE[..], &["--cluster-require-full-coverage", "no"]].concat();
    let nodes: Vec<Server> = (0..3).map(|_| redis_on(free_port(), &more)).collect();
    let addresses = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port));
    let created = Command::new("redis-cli")
        .args(["--cluster", "create"])
        .args(addresses)
        .arg("--cluster-yes")
        .output()
        .unwrap();
    assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stdout));
    let end = Instant::now() + Duration::from_secs(20);
    while !nodes.iter().all(|node| cli(node.port, &["cluster", "info"]).contains("cluster_state:ok")) {
        assert!(Instant::now() < end, "the cluster does not come together");
        std::thread::sleep(Duration::from_millis(20));
    }
    nodes
}

/// The cluster that all cases share.
pub fn shared_cluster() -> Vec<u16> {
    static SHARED: OnceLock<Mutex<Vec<Server>>> = OnceLock::new();
    let nodes = SHARED.get_or_init(|| Mutex::new(redis_cluster())).lock().unwrap();
    nodes.iter().map(|node| node.port).collect()
}

/// What the server on `port` answers to a command of an operator.
pub fn cli(port: u16, command: &[&str]) -> String {
    let output = Command::new("redis-cli").args(["-p", &port.to_string()]).args(command).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}
