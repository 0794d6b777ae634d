//! `[server]`, `[server.limits]`, `[log]`.

use std::net::SocketAddr;

use ipnet::IpNet;

use super::super::file::{self, Listen, ListenTable, Section, Written};
use super::super::values::closest;
use super::super::{Limits, Listener, Log, Server, Tls};
use super::Check;

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

impl Check<'_> {
    pub(super) fn server(&mut self, written: &Section<file::Server>) -> Server {
        let listen = self.listeners(&written.listen);
        let threads = self.number(&written.threads, 0, 1024);
        let data_dir = self.path_of_file(&written.data_dir);
        if written.data_dir.value.is_empty() {
            self.error(&written.data_dir.span, "an empty path").help("write a folder, \"data\"");
        } else if data_dir.exists() && !data_dir.is_dir() {
            self.error(&written.data_dir.span, "this is a file, not a folder")
                .help("write a folder; it is made when it does not exist");
        }
        Server {
            admin: self.admin(&written.admin, &listen),
            listen,
            threads: or_cores(threads),
            trusted_proxies: written.trusted_proxies.iter().filter_map(|n| self.network(n)).collect(),
            data_dir,
            limits: self.limits(&written.limits),
            shutdown_grace: self.duration(&written.shutdown_grace, "0s", "1h"),
        }
    }

    fn limits(&mut self, written: &file::Limits) -> Limits {
        // pingora itself refuses a head above 1048575 bytes, or with more than 256 fields.
        Limits {
            header_bytes: usize::try_from(self.size(&written.header_bytes, "1KiB", "1023KiB"))
                .unwrap_or(usize::MAX),
            header_count: self.number(&written.header_count, 1, 256) as usize,
            body: self.size(&written.body, "0B", "1024GiB"),
            header_timeout: self.duration(&written.header_timeout, "100ms", "5m"),
            body_timeout: self.duration(&written.body_timeout, "100ms", "1h"),
            idle_timeout: self.duration(&written.idle_timeout, "1s", "1h"),
        }
    }

    fn listeners(&mut self, written: &Written<Vec<Written<Listen>>>) -> Vec<Listener> {
        if written.value.is_empty() {
            self.error(&written.span, "no address to listen on").help("write listen = [\"0.0.0.0:8080\"]");
        }
        let mut listeners: Vec<Listener> = Vec::new();
        for entry in &written.value {
            let Some(listener) = self.listener(entry) else { continue };
            if listeners.iter().any(|other| overlap(other.address, listener.address)) {
                self.error(&entry.span, "this address is already listened on").help("remove one of the two");
            }
            listeners.push(listener);
        }
        listeners
    }

    fn listener(&mut self, entry: &Written<Listen>) -> Option<Listener> {
        let table = match &entry.value {
            Listen::Address(text) => {
                let address = Written { value: text.clone(), span: entry.span.clone() };
                return Some(Listener { address: self.address(&address)?, tls: None, h2: false });
            }
            Listen::Table(table) => table,
        };
        let tls = self.listener_tls(table);
        let Some(address) = &table.address else {
            self.missing(&entry.span, "a listener without an address", "add address = \"0.0.0.0:8443\"");
            return None;
        };
        let address = self.address(address)?;
        Some(Listener { address, h2: table.h2.as_ref().map_or(tls.is_some(), |h2| h2.value), tls })
    }

    fn listener_tls(&mut self, table: &ListenTable) -> Option<Tls> {
        let tls = table.tls.as_ref()?;
        let (Some(cert), Some(key)) = (&tls.cert, &tls.key) else {
            self.missing(
                &tls.span,
                "TLS needs a certificate and its key",
                "write tls = { cert = \"cert.pem\", key = \"key.pem\" }",
            );
            return None;
        };
        self.tls(cert, key)
    }

    fn address(&mut self, written: &Written<String>) -> Option<SocketAddr> {
        if let Ok(address) = written.value.parse() {
            return Some(address);
        }
        let text = written.value.as_str();
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let help = match text.strip_prefix("localhost:") {
            Some(port) if digits(port) => format!("write the address itself: \"127.0.0.1:{port}\""),
            _ if text.contains("://") => "write it without a scheme: \"0.0.0.0:8080\"".to_owned(),
            _ => match text.strip_prefix(':').unwrap_or(text) {
                port if digits(port) => format!("write an address and a port: \"0.0.0.0:{port}\""),
                _ => "write an IP address and a port: \"0.0.0.0:8080\", \"[::]:8080\"".to_owned(),
            },
        };
        self.error(&written.span, "not an address to listen on").help(help);
        None
    }

    fn admin(&mut self, written: &Written<String>, listen: &[Listener]) -> Option<SocketAddr> {
        if written.value == "off" {
            return None;
        }
        let address = self.address(written)?;
        if listen.iter().any(|listener| overlap(listener.address, address)) {
            self.error(&written.span, "the admin address is one that clients connect to")
                .help("write another port, \"127.0.0.1:9901\", or \"off\"");
        } else if !address.ip().is_loopback() {
            self.warning(&written.span, "metrics can be read from outside this machine")
                .help("write \"127.0.0.1:9901\", or keep clients away from this port");
        }
        Some(address)
    }

    fn network(&mut self, written: &Written<String>) -> Option<IpNet> {
        let text = written.value.as_str();
        let network =
            text.parse::<IpNet>().or_else(|_| text.parse().map(|ip: std::net::IpAddr| IpNet::from(ip)));
        let Ok(network) = network else {
            self.error(&written.span, "not a network")
                .help("write an address or a CIDR: \"10.0.0.1\", \"10.0.0.0/8\"");
            return None;
        };
        if network.prefix_len() == 0 {
            self.warning(
                &written.span,
                "everybody's X-Forwarded-* is believed, so any client can choose its address",
            )
            .help("write the networks of your own proxies");
        }
        Some(network.trunc())
    }

    pub(super) fn log(&mut self, written: &file::Log) -> Log {
        for directive in written.level.value.split(',') {
            let (target, level) = directive.rsplit_once('=').unwrap_or(("portcullis", directive));
            let named = !target.is_empty()
                && target.bytes().all(|b| b.is_ascii_alphanumeric() || b"_:-".contains(&b));
            if !named || !LEVELS.contains(&level) {
                let help = match closest(level, LEVELS) {
                    Some(meant) if named => format!("did you mean `{meant}`?"),
                    _ => "write error, warn, info, debug or trace; for one module: \"info,portcullis=debug\""
                        .to_owned(),
                };
                self.error(&written.level.span, "not a log level").help(help);
                break;
            }
        }
        Log { access: written.access.value, level: written.level.value.clone() }
    }
}

/// Whether two sockets cannot both be bound: one port on one address, or on all of them. Port 0 is any free one.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let same_family = a.is_ipv4() == b.is_ipv4();
    let wildcard = a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port() && a.port() != 0 && (a.ip() == b.ip() || same_family && wildcard)
}

/// 0 stands for one per core.
pub(super) fn or_cores(threads: u32) -> usize {
    match threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n as usize,
    }
}
