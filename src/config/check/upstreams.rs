//! `[upstreams.NAME]`.

use std::collections::BTreeMap;

use super::super::file::{self, Section, Written};
use super::super::{Timeouts, Upstream};
use super::Check;
use super::names::Named;

pub(super) const UPSTREAM: Named = Named {
    kind: "upstream",
    misnamed: "not a name for an upstream",
    example: "[upstreams.name] with servers = [\"127.0.0.1:3000\"]",
    used_by: "upstream = \"NAME\"",
};

impl Check<'_> {
    pub(super) fn upstreams(
        &mut self,
        written: &BTreeMap<Written<String>, Section<file::Upstream>>,
    ) -> BTreeMap<String, Upstream> {
        written.iter().map(|(name, table)| (name.value.clone(), self.upstream(name, table))).collect()
    }

    fn upstream(&mut self, name: &Written<String>, table: &Section<file::Upstream>) -> Upstream {
        self.table_name(name, UPSTREAM);
        if let Some(health) = &table.health {
            self.later(health, "health", "servers are not checked in this version; remove it");
        }
        self.word("balance", &table.balance, &["round_robin"], &["least_conn", "hash"]);
        Upstream {
            servers: self.servers(table),
            timeouts: self.timeouts(&table.timeouts),
            forward_token: table.forward_token.value,
        }
    }

    pub(super) fn timeouts(&mut self, written: &file::Timeouts) -> Timeouts {
        Timeouts {
            connect: self.duration(&written.connect, "10ms", "5m"),
            read: self.duration(&written.read, "10ms", "24h"),
            write: self.duration(&written.write, "10ms", "24h"),
            idle: self.duration(&written.idle, "1s", "24h"),
        }
    }

    fn servers(&mut self, table: &Section<file::Upstream>) -> Vec<String> {
        let Some(written) = &table.servers else {
            self.missing(&table.span, "an upstream without servers", "add servers = [\"127.0.0.1:3000\"]");
            return Vec::new();
        };
        if written.value.is_empty() && !self.damaged.contains(&table.span) {
            self.error(&written.span, "an upstream without servers")
                .help("write servers = [\"127.0.0.1:3000\"]");
        }
        let mut servers: Vec<String> = Vec::new();
        for server in &written.value {
            if !is_server(&server.value) {
                let help = self.server_help(server);
                self.error(&server.span, "not the address of a server").help(help);
            } else if servers.contains(&server.value) {
                self.warning(&server.span, "this server is already there, so it gets more than its turn")
                    .help("remove it");
            }
            servers.push(server.value.clone());
        }
        servers
    }

    fn server_help(&self, server: &Written<String>) -> String {
        const FORM: &str = "write host:port: \"127.0.0.1:3000\", \"api.internal:80\", \"[::1]:3000\"";
        if self.has_variable(&server.span) {
            return FORM.to_owned();
        }
        let text = server.value.as_str();
        let (port, bare) = match text.split_once("://") {
            Some(("https", rest)) => ("443", rest),
            Some((_, rest)) => ("80", rest),
            None => ("80", text),
        };
        let bare = bare.split('/').next().unwrap_or_default();
        let meant = [bare.to_owned(), format!("{bare}:{port}")].into_iter().find(|guess| is_server(guess));
        match meant {
            Some(meant) if text.contains("://") => format!("write it without a scheme and path: \"{meant}\""),
            Some(meant) => format!("write host:port: \"{meant}\""),
            None => FORM.to_owned(),
        }
    }
}

/// `host:port`, the host a name, an IPv4 address, or an IPv6 address in brackets.
fn is_server(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let port_good =
        port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0);
    if let Some(inner) = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')) {
        return port_good && inner.parse::<std::net::Ipv6Addr>().is_ok();
    }
    let numeric = host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let label = |l: &str| {
        let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        (1..=63).contains(&l.len()) && l.bytes().all(inner) && !l.starts_with('-') && !l.ends_with('-')
    };
    let named = host.len() <= 253 && host.strip_suffix('.').unwrap_or(host).split('.').all(label);
    port_good && if numeric { host.parse::<std::net::Ipv4Addr>().is_ok() } else { named }
}

#[cfg(test)]
mod tests {
    use super::is_server;

    #[test]
    fn servers() {
        for good in
            ["127.0.0.1:80", "a:1", "api.internal:8080", "api.internal.:80", "[::1]:3000", "my_app:80"]
        {
            assert!(is_server(good), "{good}");
        }
        for bad in [
            "", ":", "a", "a:", ":80", "a:0", "a:65536", "a:+80", "::1:80", "[a]:80", "1.2.3:80", "a b:80",
            "a..b:80", "u@a:80",
        ] {
            assert!(!is_server(bad), "{bad}");
        }
    }
}
