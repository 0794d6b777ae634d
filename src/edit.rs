//! Edits to the requests that go upstream and the responses that come back.
//!
//! Identity headers are `auth::headers`'s, X-Forwarded-* `upstream::forwarded`'s; the rest is here.

use http::header::{self, HeaderName, HeaderValue};
use pingora_core::Result as PingoraResult;
use pingora_http::{RequestHeader, ResponseHeader};

use crate::config::Limits;
use crate::fault::Fault;
use crate::header_alias::reads_as;
use crate::reply::{REQUEST_ID, Reply};
use crate::route::{CleanPath, Methods};
use crate::target::Edits;

/// What HTTP/1 heads were held against before they were parsed, for requests that came another way (HTTP/2).
///
/// # Errors
/// 431 for too many fields; 400 where the framing has two readings (RFC 9112 section 6.3, RFC 9113 section 8.2.2).
pub fn check_framing(request: &RequestHeader, limits: &Limits) -> Result<(), Fault> {
    let headers = &request.headers;
    if headers.len() > limits.header_count {
        let detail = format!("The request has more than {} header fields.", limits.header_count);
        return Err(Fault::new(431, "too_many_headers", detail));
    }
    let lengths = headers.get_all(header::CONTENT_LENGTH).iter().count();
    let coded = headers.contains_key(header::TRANSFER_ENCODING);
    if lengths > 1 || (lengths == 1 && coded) || (coded && request.version == http::Version::HTTP_2) {
        return Err(
            Fault::bad_request("malformed_request", "The length of the request body is ambiguous.").closing()
        );
    }
    Ok(())
}

/// The one authority the request names, as written (RFC 9110 section 7.2, RFC 9113 section 8.3.1).
///
/// # Errors
/// 400 when there is none, or two that differ.
pub fn authority(request: &RequestHeader) -> Result<&str, Fault> {
    let refuse = |detail: &'static str| Err(Fault::bad_request("invalid_host", detail));
    let mut hosts = request.headers.get_all(header::HOST).iter();
    let host = match hosts.next().map(HeaderValue::to_str) {
        Some(Ok(host)) => Some(host),
        Some(Err(_)) => return refuse("The Host header is not a host name."),
        None => None,
    };
    if hosts.next().is_some() {
        return refuse("The request has more than one Host header.");
    }
    match (host, request.uri.authority().map(http::uri::Authority::as_str)) {
        (Some(host), Some(authority)) if host != authority => {
            refuse("The Host header differs from the request's authority.")
        }
        (_, Some(one)) | (Some(one), None) => Ok(one),
        (None, None) => refuse("The request has no Host header."),
    }
}

/// Path and query of the request target, in origin-form (RFC 9112 section 3.2.1) whatever form it was sent in.
pub fn origin_form(request: &RequestHeader) -> &[u8] {
    let raw = request.raw_path();
    match request.uri.path_and_query() {
        Some(path) if !raw.starts_with(b"/") && request.uri.scheme().is_some() => path.as_str().as_bytes(),
        _ if raw.starts_with(b"/") || raw == b"*" => raw,
        _ => absolute_path(raw),
    }
}

/// The part of an absolute-form target from its path on.
fn absolute_path(raw: &[u8]) -> &[u8] {
    let Some(scheme_end) = memchr::memmem::find(raw, b"://") else { return raw };
    let rest = &raw[scheme_end + 3..];
    match rest.iter().position(|b| matches!(b, b'/' | b'?' | b'#')) {
        Some(at) if rest[at] == b'/' => &rest[at..],
        // `http://host?query` and `http://host` name the root; a bare query cannot be kept without copying.
        Some(_) => b"",
        None => b"/",
    }
}

/// An Upgrade field counts only when Connection names it (RFC 9110 section 7.8). pingora would tunnel without.
pub fn unasked_upgrade(request: &mut RequestHeader) {
    if !request.headers.contains_key(header::UPGRADE) {
        return;
    }
    let options = request.headers.get_all(header::CONNECTION).iter().filter_map(|v| v.to_str().ok());
    let asked = options.flat_map(|v| v.split(',')).any(|o| o.trim().eq_ignore_ascii_case("upgrade"));
    if !asked {
        request.remove_header(&header::UPGRADE);
    }
}

/// What was matched is what is forwarded: the canonical path, less the prefix the route strips (invariant 1).
pub fn target(request: &mut RequestHeader, path: &CleanPath, strip: Option<&str>) -> PingoraResult<()> {
    let stripped = strip.and_then(|prefix| path.strip_prefix(prefix));
    let path = stripped.as_ref().unwrap_or(path);
    let wanted = path.path_and_query();
    if request.raw_path() != wanted.as_bytes() {
        request.set_raw_path(wanted.as_bytes())?;
    }
    Ok(())
}

/// Bearer tokens stay here unless the upstream is configured to get them. Other schemes are the backend's own.
pub fn credentials(request: &mut RequestHeader, forward_token: bool) {
    let is_bearer =
        |v: &HeaderValue| v.as_bytes().get(..6).is_some_and(|s| s.eq_ignore_ascii_case(b"bearer"));
    if !forward_token && request.headers.get_all(header::AUTHORIZATION).iter().any(is_bearer) {
        request.remove_header(&header::AUTHORIZATION);
    }
}

/// On a route that restricts methods, no header may have the backend act on another one.
pub fn method_override(request: &mut RequestHeader, methods: &Methods) {
    if methods.is_any() {
        return;
    }
    let overrides = ["x-http-method-override", "x-http-method", "x-method-override"];
    let is_override = |name: &HeaderName| overrides.iter().any(|o| reads_as(name.as_str(), o));
    while let Some(name) = request.headers.keys().find(|n| is_override(n)).cloned() {
        request.remove_header(&name);
    }
}

pub fn request_headers(request: &mut RequestHeader, edits: &Edits) -> PingoraResult<()> {
    while let Some(name) = request.headers.keys().find(|n| edits.concern(n.as_str())).cloned() {
        request.remove_header(&name);
    }
    for (name, value) in &edits.set {
        request.insert_header(name.clone(), value.clone())?;
    }
    Ok(())
}

pub fn request_id(request: &mut RequestHeader, id: &str) -> PingoraResult<()> {
    while let Some(alias) = request.headers.keys().find(|n| reads_as(n.as_str(), "x-request-id")).cloned() {
        request.remove_header(&alias);
    }
    request.insert_header(REQUEST_ID, id)
}

/// Removes hop-by-hop fields of an upstream's response (RFC 9110 section 7.6.1). Framing fields stay: pingora
/// reads the body by them and writes its own.
pub fn response_hop_by_hop(response: &mut ResponseHeader) {
    if response.status == http::StatusCode::SWITCHING_PROTOCOLS {
        return;
    }
    while let Some(name) = nominated(response) {
        response.remove_header(&name);
    }
    // Nor is there a body to frame (RFC 9112 section 6.1, RFC 9110 section 8.6).
    if response.status == http::StatusCode::NO_CONTENT {
        response.remove_header(&header::TRANSFER_ENCODING);
        response.remove_header(&header::CONTENT_LENGTH);
    }
    // One look at each name; most responses have none of these.
    while let Some(name) = response.headers.keys().find(|n| is_hop_by_hop(n)).cloned() {
        response.remove_header(&name);
    }
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "te"
            | "trailer"
            | "upgrade"
    )
}

/// A field present in `response` that its Connection header names, framing fields excepted.
fn nominated(response: &ResponseHeader) -> Option<HeaderName> {
    if !response.headers.contains_key(header::CONNECTION) {
        return None;
    }
    let values = response.headers.get_all(header::CONNECTION).iter();
    let tokens = values.filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(','));
    let mut names = tokens.filter_map(|t| HeaderName::try_from(t.trim()).ok());
    let framing = [header::CONNECTION, header::CONTENT_LENGTH, header::TRANSFER_ENCODING];
    names.find(|n| !framing.contains(n) && response.headers.contains_key(n))
}

pub fn response_headers(response: &mut ResponseHeader, edits: &Edits) -> PingoraResult<()> {
    for name in &edits.remove {
        response.remove_header(name);
    }
    for (name, value) in &edits.set {
        response.insert_header(name.clone(), value.clone())?;
    }
    Ok(())
}

/// The same edits on a response of our own.
pub fn reply_headers(reply: &mut Reply, edits: &Edits) {
    reply
        .headers
        .retain(|(name, _)| !edits.remove.contains(name) && edits.set.iter().all(|(set, _)| set != name));
    reply.headers.extend(edits.set.iter().cloned());
}
