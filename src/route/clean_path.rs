//! The path of a request in the one form that is matched, logged and forwarded (invariant 1).
//!
//! Whatever two parsers could read differently is refused: dot segments, empty segments, backslashes,
//! encoded slashes, controls, broken or non-UTF-8 escapes, and layers of encoding that hide one of these.
//! What is left has one spelling. Nothing here is resolved or repaired: `/a/../b` is an error, not `/b`.

use super::octets::{Class, class_of, escaped};
use crate::percent;

/// Times a path may change by being decoded, the first included; deeper nesting is refused.
const MAX_LAYERS: usize = 4;

/// Why a request target is refused; always 400. [`PathError::reason`] is safe to show to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("the request target must be a path that starts with '/'")]
    NotOrigin,
    #[error("the path has a '.' or '..' segment")]
    DotSegment,
    #[error("the path has an empty segment")]
    EmptySegment,
    #[error("the path has a backslash")]
    Backslash,
    #[error("the path has an encoded slash")]
    EncodedSlash,
    #[error("the path has a control character or a space")]
    Control,
    #[error("the request target has a fragment")]
    Fragment,
    #[error("the path has a byte outside ASCII that is not percent-encoded")]
    NonAscii,
    #[error("the path has a '%' that two hexadecimal digits do not follow")]
    BadEscape,
    #[error("the path does not decode to UTF-8")]
    NotUtf8,
    #[error("the path is percent-encoded too many times over")]
    TooManyLayers,
    #[error("the query has a byte that is not visible ASCII")]
    BadQuery,
}

impl PathError {
    /// A stable text without any part of the request.
    pub fn reason(self) -> String {
        self.to_string()
    }
}

/// Path and query of a request, in canonical form.
///
/// Escapes of unreserved characters are decoded, everything outside unreserved and ``!$&'()*+,=:@`` is
/// encoded with upper-case digits. That includes `;`: servers such as Tomcat cut path parameters off
/// before they look at the path, so a raw `;` would let a backend see a shorter path than the one that was
/// matched, while in `%3B` it is part of the name for everybody. The query is kept as sent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CleanPath {
    text: String,
    /// End of the path in `text`; a `?` and the query follow, if there is a query.
    path_len: usize,
}

impl CleanPath {
    /// From a request target in origin-form (RFC 9112 section 3.2.1). Split absolute-form first:
    /// [`split_absolute`].
    pub fn parse(target: impl AsRef<[u8]>) -> Result<Self, PathError> {
        let target = target.as_ref();
        match canonical_path_len(target)? {
            Some(path_len) => {
                check_query(&target[path_len..])?;
                // The scan let only ASCII pass, and so did the check of the query.
                let text = str::from_utf8(target).map_err(|_| PathError::NonAscii)?.to_owned();
                Ok(Self { text, path_len })
            }
            None => Self::rewrite(target),
        }
    }

    fn rewrite(target: &[u8]) -> Result<Self, PathError> {
        let raw_len = memchr::memchr(b'?', target).unwrap_or(target.len());
        let (path, query) = target.split_at(raw_len);
        check_query(query)?;
        check_raw(path)?;
        let name = decode(path, Malformed::Refused)?.unwrap_or_else(|| path.to_vec());
        check_layer(&name)?;
        check_deeper_layers(&name)?;

        let mut text = String::with_capacity(target.len() + 16);
        for &b in &name {
            match class_of(b) {
                Class::Plain | Class::Slash => text.push(b.into()),
                _ => percent::escape(&mut text, b),
            }
        }
        let path_len = text.len();
        text.push_str(str::from_utf8(query).map_err(|_| PathError::BadQuery)?);
        Ok(Self { text, path_len })
    }

    /// The path alone: starts with `/`, never holds `?`.
    pub fn as_str(&self) -> &str {
        &self.text[..self.path_len]
    }

    /// What follows the first `?`, as sent; visible ASCII without `#`.
    pub fn query(&self) -> Option<&str> {
        self.text.get(self.path_len + 1..)
    }

    /// What goes into a request line.
    pub fn path_and_query(&self) -> &str {
        &self.text
    }

    /// Without `prefix`, a canonical path such as `/api`, if its segments are the first of this path. What
    /// is left starts with `/` and is made of whole segments of a clean path, hence clean. The query stays.
    pub fn strip_prefix(&self, prefix: &str) -> Option<Self> {
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        let rest = self.as_str().strip_prefix(prefix)?;
        if !rest.is_empty() && !rest.starts_with('/') {
            return None;
        }
        let slash = if rest.is_empty() { "/" } else { "" };
        let text = [slash, &self.text[prefix.len()..]].concat();
        Some(Self { text, path_len: slash.len() + rest.len() })
    }
}

impl std::fmt::Display for CleanPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Authority and origin-form of a target in absolute-form (RFC 9112 section 3.2.2), `None` when it is not
/// `http` or `https`. An empty path becomes `/`; a query without a path is left for [`CleanPath::parse`] to refuse.
pub fn split_absolute(target: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = memchr::memchr(b':', target)?;
    let (scheme, rest) = target.split_at(colon);
    if !scheme.eq_ignore_ascii_case(b"http") && !scheme.eq_ignore_ascii_case(b"https") {
        return None;
    }
    let rest = rest.strip_prefix(b"://")?;
    let end = rest.iter().position(|b| matches!(b, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    Some((authority, if path.is_empty() { b"/" } else { path }))
}

/// Length of the path if it is canonical, `None` if it has to be rewritten or looked at more closely.
/// This is the usual case and takes one pass.
fn canonical_path_len(target: &[u8]) -> Result<Option<usize>, PathError> {
    if target.first() != Some(&b'/') {
        return Err(PathError::NotOrigin);
    }
    let mut start = 1;
    let mut end = 1;
    while let Some(&b) = target.get(end) {
        match class_of(b) {
            Class::Plain => {}
            Class::Slash => {
                check_segment(&target[start..end], false)?;
                start = end + 1;
            }
            Class::Question => break,
            Class::Percent if is_canonical_escape(&target[end..]) => end += 2,
            _ => return Ok(None),
        }
        end += 1;
    }
    check_segment(&target[start..end], true)?;
    Ok(Some(end))
}

/// An escape that stays as it is and whose byte says nothing about the structure of the path, such as `%20`.
fn is_canonical_escape(at: &[u8]) -> bool {
    let Some(b) = escaped(&at[1..]) else { return false };
    let harmless = b == b' ' || (class_of(b) == Class::Encode && b != b';');
    harmless && !at[1..3].iter().any(u8::is_ascii_lowercase)
}

fn check_segment(segment: &[u8], last: bool) -> Result<(), PathError> {
    match segment {
        b"." | b".." => Err(PathError::DotSegment),
        b"" if !last => Err(PathError::EmptySegment),
        _ => Ok(()),
    }
}

fn check_query(query: &[u8]) -> Result<(), PathError> {
    for &b in query {
        match b {
            b'#' => return Err(PathError::Fragment),
            0x21..=0x7e => {}
            _ => return Err(PathError::BadQuery),
        }
    }
    Ok(())
}

fn check_raw(path: &[u8]) -> Result<(), PathError> {
    for &b in path {
        match class_of(b) {
            Class::Backslash => return Err(PathError::Backslash),
            Class::Fragment => return Err(PathError::Fragment),
            Class::Control => return Err(PathError::Control),
            Class::NonAscii => return Err(PathError::NonAscii),
            Class::Plain | Class::Slash | Class::Percent | Class::Question | Class::Encode => {}
        }
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq)]
enum Malformed {
    Refused,
    /// Below the first layer a `%` may be just a percent sign: `100%25`.
    Kept,
}

/// One layer of escapes removed, `None` if there is none. An escape may not bring up a slash: whether it
/// separates segments is what parsers disagree on.
fn decode(text: &[u8], malformed: Malformed) -> Result<Option<Vec<u8>>, PathError> {
    let Some(first) = memchr::memchr(b'%', text) else { return Ok(None) };
    let mut out = Vec::with_capacity(text.len());
    out.extend_from_slice(&text[..first]);
    let mut rest = &text[first..];
    while let Some((&b, tail)) = rest.split_first() {
        rest = tail;
        if b != b'%' {
            out.push(b);
            continue;
        }
        match escaped(tail) {
            Some(b'/') => return Err(PathError::EncodedSlash),
            Some(decoded) => {
                out.push(decoded);
                rest = &tail[2..];
            }
            None if malformed == Malformed::Refused => return Err(PathError::BadEscape),
            None => out.push(b),
        }
    }
    Ok((out.len() < text.len()).then_some(out))
}

/// A backend that decodes more than once must not find anything that would have been refused at first sight.
fn check_deeper_layers(name: &[u8]) -> Result<(), PathError> {
    let mut layers = 1;
    let mut next = decode(name, Malformed::Kept)?;
    while let Some(layer) = next {
        layers += 1;
        if layers > MAX_LAYERS {
            return Err(PathError::TooManyLayers);
        }
        check_layer(&layer)?;
        next = decode(&layer, Malformed::Kept)?;
    }
    Ok(())
}

/// Refuses what nobody may find in a path after decoding, however often.
fn check_layer(decoded: &[u8]) -> Result<(), PathError> {
    let text = str::from_utf8(decoded).map_err(|_| PathError::NotUtf8)?;
    if text.chars().any(char::is_control) {
        return Err(PathError::Control);
    }
    if text.contains('\\') {
        return Err(PathError::Backslash);
    }
    let mut segments = text[1..].split('/').peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        // Some servers cut path parameters off, and some re-read a decoded path: the name they see ends here.
        let parameters = segment.find(';');
        let name = &segment[..segment.find([';', '?', '#']).unwrap_or(segment.len())];
        if name == "." || name == ".." {
            return Err(PathError::DotSegment);
        }
        if parameters == Some(0) || (segment.is_empty() && !last) {
            return Err(PathError::EmptySegment);
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "clean_path_tests.rs"]
mod tests;
