//! Load on a gateway's own endpoints: each connection is a client that logs in or refreshes as fast as it is answered.
//!
//!     auth_load ADDRESS refresh|login CONNECTIONS SECONDS
//!
//! Prints one JSON object: answers by status, answers a second, and latencies in microseconds. Accounts are registered first (not
//! measured). Refreshing follows the protocol: the next request carries the token of the last answer.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

const PASSWORD: &str = "correct horse battery staple";

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, what, connections, seconds] = arguments.as_slice() else {
        return Err("auth_load ADDRESS refresh|login CONNECTIONS SECONDS".into());
    };
    let refreshing = what == "refresh";
    let (connections, seconds): (usize, u64) = (connections.parse()?, seconds.parse()?);
    let mut clients = Vec::new();
    for n in 0..connections {
        clients.push(Client::register(address, n)?);
    }
    eprintln!("registered");
    let start = Instant::now();
    let end = start + Duration::from_secs(seconds);
    let threads: Vec<_> = clients
        .into_iter()
        .map(|mut client| std::thread::spawn(move || client.work(refreshing, end).map_err(|e| e.to_string())))
        .collect();
    let mut statuses = BTreeMap::new();
    let mut latencies = Vec::new();
    for thread in threads {
        for (status, latency) in thread.join().map_err(|_| "a client panicked")?? {
            *statuses.entry(status).or_insert(0_u64) += 1;
            latencies.push(latency.as_micros() as u64);
        }
    }
    let elapsed = start.elapsed().as_secs_f64();
    latencies.sort_unstable();
    let percentile =
        |p: usize| latencies.get((latencies.len() * p / 1000).min(latencies.len().saturating_sub(1)));
    println!(
        "{}",
        serde_json::json!({
            "statuses": statuses, "per_second": latencies.len() as f64 / elapsed,
            "p50": percentile(500), "p99": percentile(990), "p999": percentile(999),
        })
    );
    Ok(())
}

struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
    email: String,
    refresh_token: String,
}

impl Client {
    fn register(address: &str, n: usize) -> Result<Self, Failure> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let email = format!("load-{n}-{}@example.com", std::process::id());
        let mut client = Self { stream, buffer: Vec::new(), email, refresh_token: String::new() };
        let body = format!(r#"{{"email":"{}","password":"{PASSWORD}"}}"#, client.email);
        let (status, answer) = client.post("/auth/register", &body)?;
        if status != 201 {
            return Err(format!("register: {status} {answer}").into());
        }
        client.keep(&answer)?;
        Ok(client)
    }

    fn work(&mut self, refreshing: bool, end: Instant) -> Result<Vec<(u16, Duration)>, Failure> {
        let mut done = Vec::new();
        while Instant::now() < end {
            let (path, body) = match refreshing {
                true => ("/auth/refresh", format!(r#"{{"refresh_token":"{}"}}"#, self.refresh_token)),
                false => ("/auth/login", format!(r#"{{"email":"{}","password":"{PASSWORD}"}}"#, self.email)),
            };
            let start = Instant::now();
            let (status, answer) = self.post(path, &body)?;
            done.push((status, start.elapsed()));
            if status == 200 && refreshing {
                self.keep(&answer)?;
            }
        }
        Ok(done)
    }

    fn keep(&mut self, answer: &str) -> Result<(), Failure> {
        let at =
            answer.find(r#""refresh_token":""#).ok_or("no refresh token")? + r#""refresh_token":""#.len();
        let length = answer[at..].find('"').ok_or("no refresh token")?;
        self.refresh_token = answer[at..at + length].to_owned();
        Ok(())
    }

    fn post(&mut self, path: &str, body: &str) -> Result<(u16, String), Failure> {
        let length = body.len();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: load\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        self.stream.write_all(request.as_bytes())?;
        self.buffer.clear();
        loop {
            if let Some(answer) = self.answer()? {
                return Ok(answer);
            }
            let mut chunk = [0; 8192];
            let read = self.stream.read(&mut chunk)?;
            if read == 0 {
                return Err("the gateway closed the connection".into());
            }
            self.buffer.extend_from_slice(&chunk[..read]);
        }
    }

    /// Status and body, when all of it is there.
    fn answer(&self) -> Result<Option<(u16, String)>, Failure> {
        let Some(head_end) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") else { return Ok(None) };
        let head = std::str::from_utf8(&self.buffer[..head_end])?;
        let status = head.split(' ').nth(1).ok_or("no status")?.parse()?;
        let length: usize = head
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .map_or(Ok(0), |(_, value)| value.trim().parse())?;
        match self.buffer.get(head_end + 4..head_end + 4 + length) {
            Some(body) => Ok(Some((status, String::from_utf8(body.to_vec())?))),
            None => Ok(None),
        }
    }
}
