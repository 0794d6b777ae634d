//! X-Forwarded-* (de facto) and Forwarded (RFC 7239): who may say where a request came from.
//!
//! From a peer outside `trusted_proxies` every such field is dropped, under any alias, and replaced by what we
//! saw. From a trusted peer X-Forwarded-For is appended to and the others are kept. Forwarded is
//! always dropped.

use std::net::IpAddr;

use http::HeaderMap;
use http::header::HeaderName;
use ipnet::IpNet;
use pingora_http::RequestHeader;

use crate::header_alias::{reads_as, reads_as_prefix};

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// What we know about the way a request took to us.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The address at the other end of the connection.
    pub peer: IpAddr,
    /// The client: the peer, or what trusted proxies say.
    pub client: IpAddr,
    pub trusted: bool,
    /// Whether the client spoke TLS, to us or to a trusted proxy.
    pub https: bool,
}

impl Origin {
    pub fn of(peer: IpAddr, tls: bool, headers: &HeaderMap, trusted_proxies: &[IpNet]) -> Self {
        let peer = peer.to_canonical();
        let trusts = |ip: IpAddr| trusted_proxies.iter().any(|net| net.contains(&ip));
        if trusted_proxies.is_empty() || !trusts(peer) {
            return Self { peer, client: peer, trusted: false, https: tls };
        }
        // The client is the rightmost address no trusted proxy vouches further for.
        let hops = headers.get_all("x-forwarded-for");
        let mut client = peer;
        'chain: for value in hops.iter().rev() {
            for hop in value.to_str().unwrap_or_default().rsplit(',') {
                let Some(ip) = parse_hop(hop) else { break 'chain };
                client = ip;
                if !trusts(ip) {
                    break 'chain;
                }
            }
        }
        let https = match headers.get("x-forwarded-proto") {
            Some(proto) => proto.as_bytes().eq_ignore_ascii_case(b"https"),
            None => tls,
        };
        Self { peer, client, trusted: true, https }
    }
}

fn parse_hop(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let ip = text.parse().ok().or_else(|| text.parse::<std::net::SocketAddr>().ok().map(|a| a.ip()))?;
    Some(IpAddr::to_canonical(&ip))
}

/// Fields that speak about the request's origin, in folded form.
fn speaks_of_origin(name: &str) -> bool {
    let first = name.as_bytes().first().map(u8::to_ascii_lowercase);
    match first {
        Some(b'x') => {
            reads_as_prefix(name, "x-forwarded-")
                || ["x-real-ip", "x-client-ip", "x-original-url", "x-rewrite-url", "x-original-uri"]
                    .iter()
                    .any(|n| reads_as(name, n))
        }
        Some(b'f') => reads_as(name, "forwarded"),
        _ => false,
    }
}

/// Rewrites the fields of `request` for an upstream. `host` is the Host the client used, `stripped` the path
/// prefix the route removed.
///
/// # Errors
/// When the header map is full, which fails the request.
pub fn rewrite(
    request: &mut RequestHeader,
    origin: &Origin,
    host: Option<&str>,
    stripped: Option<&str>,
) -> pingora_core::Result<()> {
    // A trusted proxy writes the canonical names; an alias can only come from a client behind it. Forwarded would
    // contradict what is appended to X-Forwarded-For, so it never passes.
    let unwanted =
        |n: &str| speaks_of_origin(n) && (!origin.trusted || n.contains(['_', '.']) || n == "forwarded");
    while let Some(name) = request.headers.keys().find(|n| unwanted(n.as_str())).cloned() {
        request.remove_header(&name);
    }
    let chain = if origin.trusted { join(&request.headers, "x-forwarded-for") } else { None };
    let chain = match chain {
        Some(chain) => format!("{chain}, {}", origin.peer),
        None => origin.peer.to_string(),
    };
    request.insert_header(FOR, chain)?;
    let keep = |r: &RequestHeader, name: &HeaderName| origin.trusted && r.headers.contains_key(name);
    if !keep(request, &PROTO) {
        request.insert_header(PROTO, if origin.https { "https" } else { "http" })?;
    }
    if let Some(host) = host.filter(|_| !keep(request, &HOST)) {
        request.insert_header(HOST, host)?;
    }
    if let Some(prefix) = stripped {
        request.insert_header(PREFIX, prefix)?;
    }
    Ok(())
}

fn join(headers: &HeaderMap, name: &str) -> Option<String> {
    let values: Vec<&str> = headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).collect();
    (!values.is_empty()).then(|| values.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(fields: &[(&'static str, &str)]) -> RequestHeader {
        let mut r = RequestHeader::build("GET", b"/", None).unwrap();
        for (n, v) in fields {
            r.append_header(*n, *v).unwrap();
        }
        r
    }

    fn nets(list: &[&str]) -> Vec<IpNet> {
        list.iter().map(|n| n.parse().unwrap()).collect()
    }

    #[test]
    fn a_stranger_is_not_believed() {
        let mut r = request(&[
            ("X-Forwarded-For", "1.2.3.4"),
            ("X_Forwarded_For", "1.2.3.4"),
            ("X-Forwarded-Uri", "/admin"),
            ("Forwarded", "for=1.2.3.4"),
            ("X-Real-IP", "1.2.3.4"),
            ("X-Original-URL", "/admin"),
            ("X-Forwarded-Proto", "https"),
            ("X-Forwarded-Prefix", "/evil"),
        ]);
        let origin = Origin::of("9.9.9.9".parse().unwrap(), false, &r.headers, &nets(&["10.0.0.0/8"]));
        assert_eq!(origin.client.to_string(), "9.9.9.9");
        assert!(!origin.https);
        rewrite(&mut r, &origin, Some("app.example"), None).unwrap();
        let mut seen: Vec<_> =
            r.headers.iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect();
        seen.sort();
        assert_eq!(
            seen,
            ["x-forwarded-for: 9.9.9.9", "x-forwarded-host: app.example", "x-forwarded-proto: http"]
        );
    }

    #[test]
    fn a_trusted_proxy_is_believed_up_to_the_first_stranger() {
        let r = request(&[("X-Forwarded-For", "6.6.6.6, 1.2.3.4, 10.0.0.7"), ("X-Forwarded-Proto", "https")]);
        let origin = Origin::of("10.0.0.1".parse().unwrap(), false, &r.headers, &nets(&["10.0.0.0/8"]));
        assert_eq!(origin.client.to_string(), "1.2.3.4");
        assert!(origin.https);
    }

    #[test]
    fn garbage_in_the_chain_stops_at_the_last_good_hop() {
        let r = request(&[("X-Forwarded-For", "1.2.3.4, nonsense, 10.0.0.7")]);
        let origin = Origin::of("10.0.0.1".parse().unwrap(), false, &r.headers, &nets(&["10.0.0.0/8"]));
        assert_eq!(origin.client.to_string(), "10.0.0.7");
    }
}
