//! What the addresses of stores have in common: `[user:password@]host[:port],.../path?options`, RFC 3986 with
//! several hosts.
//!
//! Any of them may hold a password. So what is wrong is said in fixed words, never with a part of the text.

use std::net::{IpAddr, Ipv6Addr};

use super::super::values::Bad;

/// An address after its scheme, cut up and not yet decoded.
pub(super) struct Parts<'a> {
    /// Before the `@`.
    pub user_info: Option<&'a str>,
    pub hosts: &'a str,
    /// What follows the first `/`, empty when there is none.
    pub path: &'a str,
    /// What follows the first `?`.
    pub query: Option<&'a str>,
}

/// Cuts up `text`, an address without its `scheme://`.
pub(super) fn parts(text: &str) -> Result<Parts<'_>, Bad> {
    if !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Bad(
            "a character that an address cannot hold",
            "write it percent-encoded, %20 for a space, and nothing before or after the address",
        ));
    }
    if text.contains('#') {
        return Err(Bad("a `#` in an address", "in a password write %23 for it"));
    }
    let (authority, rest) = text.split_at(text.find(['/', '?']).unwrap_or(text.len()));
    // A `/` or `?` in a password ends the authority early: what should be a host is then a part of the password.
    if rest.contains('@') {
        return Err(Bad(
            "an `@` after the hosts",
            "in a user or a password write %2F for `/`, %3F for `?` and %40 for `@`",
        ));
    }
    let (user_info, hosts) = match authority.rsplit_once('@') {
        Some((user_info, hosts)) => (Some(user_info), hosts),
        None => (None, authority),
    };
    if user_info.is_some_and(|user_info| user_info.contains('@')) {
        return Err(Bad("more than one `@` before the hosts", "in a user or a password write %40 for `@`"));
    }
    let (path, query) = match rest.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (rest, None),
    };
    Ok(Parts { user_info, hosts, path: path.strip_prefix('/').unwrap_or(path), query })
}

/// Hosts with their ports, separated by commas; `default_port` where none is written. IPv6 addresses lose their brackets.
pub(super) fn servers(hosts: &str, default_port: u16) -> Result<Vec<(String, u16)>, Bad> {
    hosts.split(',').map(|host| server(host, default_port)).collect()
}

fn server(text: &str, default_port: u16) -> Result<(String, u16), Bad> {
    const NOT_A_HOST: Bad = Bad(
        "not the name of a host",
        "write a host name or an IP address, with the user and password, if any, before an `@`: \"user:password@host\"",
    );
    if text.is_empty() {
        return Err(Bad("a host is missing", "write host or host:port, and commas only between hosts"));
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(bracketed) => {
            let (ip, port) = bracketed.split_once(']').ok_or(NOT_A_HOST)?;
            let ip: Ipv6Addr = ip
                .parse()
                .map_err(|_| Bad("not an IPv6 address between the brackets", "write one such as [::1]"))?;
            (ip.to_string(), port)
        }
        None => {
            let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            if port.matches(':').count() > 1 {
                return Err(Bad("an IPv6 address without brackets", "write it in brackets: [::1]"));
            }
            if !is_host(host) {
                return Err(NOT_A_HOST);
            }
            (host.to_owned(), port)
        }
    };
    match port {
        "" => Ok((host, default_port)),
        port => match port.strip_prefix(':').filter(|port| port.bytes().all(|b| b.is_ascii_digit())) {
            Some(port) => match port.parse() {
                Ok(port) if port > 0 => Ok((host, port)),
                _ => Err(Bad("not a port", "a port is 1 to 65535, or is left out with its colon")),
            },
            None => Err(Bad(
                "not a port",
                "write digits after the colon; a user and password stand before an `@`: \"user:password@host\"",
            )),
        },
    }
}

fn is_host(text: &str) -> bool {
    let letter = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let name = text.strip_suffix('.').unwrap_or(text);
    text.len() <= 253 && name.split('.').all(|label| !label.is_empty() && label.bytes().all(letter))
}

pub(super) fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// `text` with every `%` and its two hexadecimal digits replaced by the byte they stand for.
pub(super) fn decoded(text: &str) -> Result<String, Bad> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let digit = |at: usize| after.get(at).and_then(|b| char::from(*b).to_digit(16));
        let (Some(high), Some(low)) = (digit(0), digit(1)) else {
            return Err(Bad("a `%` without two hexadecimal digits", "in a password write %25 for `%`"));
        };
        bytes.extend(u8::try_from(high * 16 + low));
        rest = &after[2..];
    }
    String::from_utf8(bytes)
        .map_err(|_| Bad("percent-encoded bytes that are not UTF-8", "encode the UTF-8 form: %C3%A9 for `é`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_and_their_ports() {
        let good = [
            ("a", vec![("a", 7)]),
            ("a:1,b_2.c-d.:65535", vec![("a", 1), ("b_2.c-d.", 65535)]),
            ("127.0.0.1:80", vec![("127.0.0.1", 80)]),
            ("[::1],[2001:DB8::1]:9", vec![("::1", 7), ("2001:db8::1", 9)]),
        ];
        for (text, want) in good {
            let want: Vec<_> = want.into_iter().map(|(host, port)| (host.to_owned(), port)).collect();
            assert_eq!(servers(text, 7), Ok(want), "{text}");
        }
        for bad in [
            "",
            ",",
            "a,",
            ",a",
            ":1",
            "a:",
            "a:0",
            "a:65536",
            "a:+1",
            "a:x",
            "a:1:2",
            "::1",
            "[::1",
            "[::1]x",
            "[::1]:",
            "[a]",
            "[fe80::1%eth0]",
            "a b",
            "a..b",
            ".a",
            "a/b",
            "ä",
            "a%41",
        ] {
            assert!(servers(bad, 7).is_err(), "{bad}");
        }
        assert!(servers(&"a".repeat(254), 7).is_err());
    }

    #[test]
    fn percent_encoding() {
        assert_eq!(decoded("a%40%2f+%C3%A9").as_deref(), Ok("a@/+é"));
        for bad in ["%", "%4", "a%4", "%4g", "%+1", "%%", "%ff", "é%"] {
            assert!(decoded(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn loopback() {
        assert!(["localhost", "LOCALHOST", "127.0.0.1", "127.9.9.9", "::1"].into_iter().all(is_loopback));
        assert!(["redis", "10.0.0.1", "::", "localhost.example.com"].into_iter().all(|h| !is_loopback(h)));
    }
}
