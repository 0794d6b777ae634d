//! The head of an HTTP/1 request, checked byte by byte before anything else parses it.
//!
//! Request smuggling lives on heads that two parsers read differently. Here such a head is an error: one
//! spelling of every line, one length of every body (RFC 9112, read at its strictest). Pure functions on
//! bytes; reading from the connection, answering and closing it are the caller's. Nothing is decoded,
//! repaired or kept, paths are the business of `route::CleanPath`, and HTTP/2 has no such head.

use memchr::memchr;

use crate::route::{Host, split_absolute};

mod fields;

use fields::Fields;
pub(crate) use fields::is_token;

/// What a head may amount to.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// Request line, fields and the empty line together, in bytes.
    pub bytes: usize,
    /// Number of fields.
    pub fields: usize,
}

/// Why a head is refused. After any of these the connection must be closed: where the next request would
/// start is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{status}: {reason}")]
pub struct HeadError {
    /// 400, 405, 431, 501 or 505.
    pub status: u16,
    /// A stable text without any part of the request.
    pub reason: &'static str,
}

const fn refused(status: u16, reason: &'static str) -> HeadError {
    HeadError { status, reason }
}

const fn bad(reason: &'static str) -> HeadError {
    refused(400, reason)
}

/// What a checked head says about its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadFacts<'a> {
    pub method: &'a str,
    /// As sent: origin-form, absolute-form, or `*` with OPTIONS.
    pub target: &'a str,
    /// HTTP/1.1; otherwise HTTP/1.0.
    pub http_11: bool,
    /// The Host field as sent, or the authority of a target in absolute-form; always there in HTTP/1.1.
    pub host: Option<&'a str>,
    pub body: BodyLength,
    /// Number of fields.
    pub fields: usize,
    /// There is an Upgrade field.
    pub upgrade: bool,
    /// The client waits for `100 Continue` before it sends the body (RFC 9110 section 10.1.1).
    pub expect_continue: bool,
}

/// How long the body is (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// Neither Content-Length nor Transfer-Encoding: no body.
    None,
    /// Bytes, from Content-Length; may be 0.
    Bytes(u64),
    Chunked,
}

/// Where the head ends, behind its empty line, if `buf` has all of it. `from` is the part of `buf` searched
/// before, so that a head that arrives byte by byte is not read again and again.
///
/// Lines that end in a bare LF count: [`check`] then refuses the head at once, instead of leaving the client to
/// a deadline.
pub fn find_end(buf: &[u8], from: usize) -> Option<usize> {
    let start = from.saturating_sub(3).min(buf.len());
    memchr::memchr_iter(b'\n', &buf[start..]).find_map(|at| {
        let next = start + at + 1;
        match buf.get(next..)? {
            [b'\n', ..] => Some(next + 1),
            [b'\r', b'\n', ..] => Some(next + 2),
            _ => None,
        }
    })
}

/// Checks one whole head, as [`find_end`] delimits it.
pub fn check<'a>(head: &'a [u8], limits: &HeadLimits) -> Result<HeadFacts<'a>, HeadError> {
    if head.len() > limits.bytes {
        return Err(refused(431, "the request head is too large"));
    }
    let (line, mut rest) = split_line(head)?;
    let RequestLine { method, target, http_11 } = request_line(line)?;
    let mut fields = Fields::default();
    loop {
        let (line, after) = split_line(rest)?;
        rest = after;
        if line.is_empty() {
            break;
        }
        fields.add(line, limits.fields)?;
    }
    if !rest.is_empty() {
        return Err(bad("there are bytes behind the end of the request head"));
    }
    let body = fields.body_length(http_11)?;
    let host = host(target, fields.host, http_11)?;
    Ok(HeadFacts {
        method,
        target,
        http_11,
        host,
        body,
        fields: fields.count,
        upgrade: fields.upgrade,
        expect_continue: fields.expect_continue,
    })
}

/// A line without its CRLF, and what follows. Only CRLF ends a line (RFC 9112 section 2.2 lets recipients take
/// a bare LF; proxies that do disagree with backends that do not).
fn split_line(text: &[u8]) -> Result<(&[u8], &[u8]), HeadError> {
    let end = memchr(b'\n', text).ok_or(bad("the request head is not complete"))?;
    let line = text[..end].strip_suffix(b"\r").ok_or(bad("a line ends in a bare LF"))?;
    // Without an early exit, so that it is done many bytes at a time.
    let control = line.iter().fold(false, |found, &b| found | ((b < b' ') & (b != b'\t')) | (b == 0x7f));
    if control {
        let cr = line.contains(&b'\r');
        return Err(bad(if cr { "there is a bare CR" } else { "there is a control character" }));
    }
    Ok((line, &text[end + 1..]))
}

struct RequestLine<'a> {
    method: &'a str,
    target: &'a str,
    http_11: bool,
}

/// `method SP target SP HTTP-version` (RFC 9112 section 3), with single spaces.
fn request_line(line: &[u8]) -> Result<RequestLine<'_>, HeadError> {
    let malformed = bad("the request line is not 'METHOD target HTTP/1.1'");
    let (method, rest) = split_at_space(line).ok_or(malformed)?;
    let (target, version) = split_at_space(rest).ok_or(malformed)?;
    if method.is_empty() || target.is_empty() || !method.iter().all(|&b| is_token(b)) {
        return Err(malformed);
    }
    let http_11 = match version {
        b"HTTP/1.1" => true,
        b"HTTP/1.0" => false,
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => {
            return Err(refused(505, "the HTTP version is not 1.0 or 1.1"));
        }
        _ => return Err(malformed),
    };
    if matches!(method, b"CONNECT" | b"TRACE") {
        return Err(refused(405, "CONNECT and TRACE are not allowed"));
    }
    let text = |bytes| str::from_utf8(bytes).map_err(|_| malformed);
    if !target.iter().all(u8::is_ascii_graphic) {
        return Err(bad("the request target has a byte that is not visible ASCII"));
    }
    // A fragment is not part of a request (RFC 9112 section 3.2); the others are no URI characters (RFC 3986
    // section 2) and pingora's parser drops or refuses them without a word.
    if target.iter().any(|b| matches!(b, b'#' | b'<' | b'>' | b'`')) {
        return Err(bad("the request target has one of '#', '<', '>' or '`': percent-encode it"));
    }
    Ok(RequestLine { method: text(method)?, target: text(target)?, http_11 })
}

fn split_at_space(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = memchr(b' ', text)?;
    Some((&text[..space], &text[space + 1..]))
}

/// One host for the request, wherever it is named (RFC 9112 section 3.2).
fn host<'a>(target: &'a str, field: Option<&'a str>, http_11: bool) -> Result<Option<&'a str>, HeadError> {
    if field.is_none() && http_11 {
        return Err(bad("there is no Host field"));
    }
    if let Some(field) = field {
        Host::parse(field).map_err(|why| bad(why.reason()))?;
    }
    if target.starts_with('/') {
        return Ok(field);
    }
    if target == "*" {
        // The method is not looked at here: `*` is no path, so no route can match it.
        return Ok(field);
    }
    let form = bad("the request target is neither a path nor an http URL");
    let (authority, _) = split_absolute(target.as_bytes()).ok_or(form)?;
    let authority = str::from_utf8(authority).map_err(|_| form)?;
    Host::parse(authority).map_err(|why| bad(why.reason()))?;
    if field.is_some_and(|field| !field.eq_ignore_ascii_case(authority)) {
        return Err(bad("the Host field differs from the request target"));
    }
    Ok(Some(authority))
}

#[cfg(test)]
mod tests;
