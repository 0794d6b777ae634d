//! Field lines, and the few fields that decide where a request ends and whose it is.

use super::{BodyLength, HeadError, bad, refused};

const fn token_bytes() -> [bool; 256] {
    let mut table = [false; 256];
    let mut b = 0;
    while b < 256 {
        table[b] = matches!(b as u8,
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*'
            | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~');
        b += 1;
    }
    table
}

static TOKEN: [bool; 256] = token_bytes();

/// tchar of RFC 9110 section 5.6.2.
pub(crate) fn is_token(b: u8) -> bool {
    TOKEN[usize::from(b)]
}

/// What the fields seen so far say.
#[derive(Default)]
pub(super) struct Fields<'a> {
    pub count: usize,
    pub host: Option<&'a str>,
    pub upgrade: bool,
    pub expect_continue: bool,
    content_length: Option<u64>,
    chunked: bool,
}

impl<'a> Fields<'a> {
    /// One field line, without its CRLF and known to have no control character but HTAB.
    pub fn add(&mut self, line: &'a [u8], limit: usize) -> Result<(), HeadError> {
        self.count += 1;
        if self.count > limit {
            return Err(refused(431, "there are too many header fields"));
        }
        if matches!(line[0], b' ' | b'\t') {
            return Err(bad("a header field is folded over lines"));
        }
        let colon = line.iter().position(|&b| !is_token(b)).ok_or(bad("a header line has no colon"))?;
        match line[colon] {
            b':' if colon > 0 => {}
            b':' => return Err(bad("a header field has no name")),
            b' ' | b'\t' => return Err(bad("there is white space in or behind a header name")),
            _ => return Err(bad("a header name has a character that is not allowed")),
        }
        let value = line[colon + 1..].trim_ascii();
        match (colon, &line[..colon]) {
            (4, name) if name.eq_ignore_ascii_case(b"host") => self.add_host(value),
            (14, name) if is_alias(name, b"content-length") => self.add_content_length(name, value),
            (17, name) if is_alias(name, b"transfer-encoding") => self.add_transfer_encoding(name, value),
            (10, name) if name.eq_ignore_ascii_case(b"connection") => check_connection(value),
            (7, name) if name.eq_ignore_ascii_case(b"upgrade") => {
                self.upgrade = true;
                Ok(())
            }
            (6, name) if name.eq_ignore_ascii_case(b"expect") => {
                self.expect_continue |= value.eq_ignore_ascii_case(b"100-continue");
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn add_host(&mut self, value: &'a [u8]) -> Result<(), HeadError> {
        let value = str::from_utf8(value).map_err(|_| bad("the Host field is not ASCII"))?;
        match self.host.replace(value) {
            None => Ok(()),
            Some(_) => Err(bad("there is more than one Host field")),
        }
    }

    /// Digits only. RFC 9110 section 8.6 would let a recipient merge equal values; nobody honest sends them.
    fn add_content_length(&mut self, name: &[u8], value: &[u8]) -> Result<(), HeadError> {
        refuse_alias(name)?;
        if self.content_length.is_some() {
            return Err(bad("there is more than one Content-Length"));
        }
        // A leading zero is legal, and octal to some.
        let octal = value.len() > 1 && value[0] == b'0';
        if value.is_empty() || octal || !value.iter().all(u8::is_ascii_digit) {
            return Err(bad("the Content-Length is not a plain number"));
        }
        let number = str::from_utf8(value).ok().and_then(|v| v.parse::<i64>().ok());
        let number = number.ok_or(bad("the Content-Length is too large"))?;
        self.content_length = Some(number.unsigned_abs());
        Ok(())
    }

    fn add_transfer_encoding(&mut self, name: &[u8], value: &[u8]) -> Result<(), HeadError> {
        refuse_alias(name)?;
        if self.chunked {
            return Err(bad("there is more than one Transfer-Encoding"));
        }
        if value.eq_ignore_ascii_case(b"chunked") {
            self.chunked = true;
            return Ok(());
        }
        // RFC 9112 section 6.1: 501 for a coding not understood; section 6.3: 400 if chunked is not last.
        let mut codings = value.rsplit(|&b| b == b',').map(<[u8]>::trim_ascii);
        let chunked_last = codings.next().is_some_and(|c| c.eq_ignore_ascii_case(b"chunked"));
        let others_are_others = codings
            .all(|c| !c.is_empty() && c.iter().all(|&b| is_token(b)) && !c.eq_ignore_ascii_case(b"chunked"));
        if chunked_last && others_are_others {
            return Err(refused(501, "transfer codings other than chunked are not implemented"));
        }
        Err(bad("the Transfer-Encoding is not 'chunked'"))
    }

    /// RFC 9112 section 6.3, where it says "ought to handle as an error" read as "must".
    pub fn body_length(&self, http_11: bool) -> Result<BodyLength, HeadError> {
        match (self.content_length, self.chunked) {
            (Some(_), true) => Err(bad("there are both Content-Length and Transfer-Encoding")),
            (None, true) if !http_11 => Err(bad("there is a Transfer-Encoding in HTTP/1.0")),
            (None, true) => Ok(BodyLength::Chunked),
            (Some(bytes), false) => Ok(BodyLength::Bytes(bytes)),
            (None, false) => Ok(BodyLength::None),
        }
    }
}

/// Whether a name of the same length is `framing` to a server that reads `_` and `.` as `-`.
fn is_alias(name: &[u8], framing: &[u8]) -> bool {
    let dashed = |b: u8| if matches!(b, b'_' | b'.') { b'-' } else { b.to_ascii_lowercase() };
    name.iter().zip(framing).all(|(&a, &b)| dashed(a) == b)
}

/// A look-alike of a framing field would be one to a CGI-style backend, and none to us.
fn refuse_alias(name: &[u8]) -> Result<(), HeadError> {
    if name.iter().any(|b| matches!(b, b'_' | b'.')) {
        return Err(bad("a header name imitates Content-Length or Transfer-Encoding"));
    }
    Ok(())
}

/// Fields that Connection names are dropped by the next hop (RFC 9110 section 7.6.1): not these.
fn check_connection(value: &[u8]) -> Result<(), HeadError> {
    const KEPT: [&[u8]; 3] = [b"host", b"content-length", b"transfer-encoding"];
    let mut options = value.split(|&b| b == b',').map(<[u8]>::trim_ascii);
    if options.any(|option| KEPT.iter().any(|kept| option.eq_ignore_ascii_case(kept))) {
        return Err(bad("the Connection field names one that must not be dropped"));
    }
    Ok(())
}
