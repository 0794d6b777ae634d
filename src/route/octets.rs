//! The bytes of a path: which stand for themselves in canonical form, and percent-encoding of the others.

/// How a raw byte of a request target's path is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Class {
    /// Stands for itself: unreserved (RFC 3986 section 2.3) or one of ``!$&'()*+,=:@``.
    Plain,
    Slash,
    Percent,
    Question,
    /// Visible ASCII that the canonical form percent-encodes: ``;"<>[]^`{|}``.
    Encode,
    Backslash,
    Fragment,
    /// NUL, other controls and the space.
    Control,
    NonAscii,
}

const fn class(b: u8) -> Class {
    match b {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => Class::Plain,
        b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'=' | b':' | b'@' => Class::Plain,
        b'/' => Class::Slash,
        b'%' => Class::Percent,
        b'?' => Class::Question,
        b'\\' => Class::Backslash,
        b'#' => Class::Fragment,
        0..=b' ' | 0x7f => Class::Control,
        0x80..=0xff => Class::NonAscii,
        _ => Class::Encode,
    }
}

const fn table() -> [Class; 256] {
    let mut t = [Class::Plain; 256];
    let mut b = 0;
    while b < 256 {
        t[b] = class(b as u8);
        b += 1;
    }
    t
}

pub(super) static CLASS: [Class; 256] = table();

pub(super) fn class_of(b: u8) -> Class {
    CLASS[usize::from(b)]
}

/// The byte of an escape whose two digits follow its `%`.
pub(super) fn escaped(digits: &[u8]) -> Option<u8> {
    let [high, low, ..] = digits else { return None };
    Some(hex(*high)? << 4 | hex(*low)?)
}

fn hex(b: u8) -> Option<u8> {
    match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'A'..=b'F' => Some(b - b'A' + 10),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    }
}
