//! Host names of requests and the host patterns of routes.

use std::borrow::Cow;
use std::net::Ipv6Addr;

/// Why a host is refused; [`HostError::reason`] holds no part of the request and is safe to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct HostError(&'static str);

impl HostError {
    pub fn reason(self) -> &'static str {
        self.0
    }
}

/// The host a request names: lower-case, without port and final dot.
///
/// Stricter than RFC 3986 section 3.2.2: letters, digits, `-` and `_` in labels, an IPv4 address, or an IPv6
/// address in brackets. No user information, no percent-encoding, no IPvFuture, no zone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Host<'a>(Cow<'a, str>);

impl<'a> Host<'a> {
    /// From a Host field, an `:authority` or the authority of an absolute-form target. Copies only what
    /// is not lower-case yet.
    pub fn parse(authority: &'a str) -> Result<Self, HostError> {
        if authority.starts_with('[') {
            return parse_ipv6(authority);
        }
        let (name, port) = match authority.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (authority, None),
        };
        check_port(port)?;
        let name = name.strip_suffix('.').unwrap_or(name);
        let upper = check_name(name)?;
        Ok(Self(if upper { name.to_ascii_lowercase().into() } else { name.into() }))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn into_owned(self) -> Host<'static> {
        Host(Cow::Owned(self.0.into_owned()))
    }
}

impl std::fmt::Display for Host<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

fn parse_ipv6(authority: &str) -> Result<Host<'_>, HostError> {
    let bad = HostError("the host is not an IPv6 address in brackets");
    let (address, tail) = authority[1..].split_once(']').ok_or(bad)?;
    match tail.strip_prefix(':') {
        Some(port) => check_port(Some(port))?,
        None if tail.is_empty() => {}
        None => return Err(bad),
    }
    let address: Ipv6Addr = address.parse().map_err(|_| bad)?;
    Ok(Host(format!("[{address}]").into()))
}

fn check_port(port: Option<&str>) -> Result<(), HostError> {
    let Some(port) = port else { return Ok(()) };
    // RFC 3986 allows "host:" with nothing behind the colon.
    let digits = port.bytes().all(|b| b.is_ascii_digit());
    if digits && (port.is_empty() || port.parse::<u16>().is_ok()) {
        return Ok(());
    }
    Err(HostError("the port of the host is not a number up to 65535"))
}

/// Whether there are upper-case letters in a name that is acceptable.
fn check_name(name: &str) -> Result<bool, HostError> {
    if name.is_empty() {
        return Err(HostError("the host is empty"));
    }
    if name.len() > 253 {
        return Err(HostError("the host is longer than 253 bytes"));
    }
    let mut upper = false;
    let mut label = 0;
    for b in name.bytes() {
        match b {
            b'.' if label == 0 => return Err(HostError("the host has an empty label")),
            b'.' => label = 0,
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => label += 1,
            b'A'..=b'Z' => {
                upper = true;
                label += 1;
            }
            b'@' => return Err(HostError("the host has user information")),
            _ => return Err(HostError("the host has a character that host names do not have")),
        }
        if label > 63 {
            return Err(HostError("the host has a label longer than 63 bytes"));
        }
    }
    if label == 0 {
        return Err(HostError("the host has an empty label"));
    }
    Ok(upper)
}

/// Which hosts a route answers for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    Any,
    /// Canonical, as in [`Host`].
    Exact(String),
    /// The part after `*.`; one or more labels come in front of it, so the name itself is not matched.
    Wildcard(String),
}

impl HostPattern {
    /// As configured: nothing, `api.example.com`, or `*.example.com`. The error says what to write instead.
    pub fn parse(written: Option<&str>) -> Result<Self, HostError> {
        let Some(written) = written else { return Ok(Self::Any) };
        if written == "*" {
            return Err(HostError("\"*\" is not a host: leave `host` out to answer for any"));
        }
        if written.contains("://") {
            return Err(HostError("a host is not a URL: write only the name, such as \"api.example.com\""));
        }
        let suffix = written.strip_prefix("*.");
        let name = suffix.unwrap_or(written);
        if name.contains('*') {
            return Err(HostError("a wildcard is the whole first label: write \"*.example.com\""));
        }
        if !name.is_ascii() {
            return Err(HostError(
                "a host outside ASCII never arrives: write its punycode form, \"xn--...\"",
            ));
        }
        if name.contains('/') {
            return Err(HostError("a host has no path: write only the name, such as \"api.example.com\""));
        }
        let has_port = if name.starts_with('[') { !name.ends_with(']') } else { name.contains(':') };
        if has_port {
            return Err(HostError("routes are matched whatever the port: write the host without it"));
        }
        let host = Host::parse(name)?.0.into_owned();
        match suffix {
            Some(_) if host.starts_with('[') => {
                Err(HostError("a wildcard needs a name after it: write \"*.example.com\""))
            }
            Some(_) => Ok(Self::Wildcard(host)),
            None => Ok(Self::Exact(host)),
        }
    }

    pub fn matches(&self, host: &Host<'_>) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(name) => name == host.as_str(),
            Self::Wildcard(suffix) => host
                .as_str()
                .strip_suffix(suffix.as_str())
                .is_some_and(|front| front.len() > 1 && front.ends_with('.')),
        }
    }
}

impl std::fmt::Display for HostPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Exact(name) => f.write_str(name),
            Self::Wildcard(suffix) => write!(f, "*.{suffix}"),
        }
    }
}

#[cfg(test)]
#[path = "host_tests.rs"]
mod tests;
