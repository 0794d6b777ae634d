//! Percent-encoding (RFC 3986 section 2.1), strictly: a percent sign begins an escape, or the text is malformed.
//!
//! Paths of requests are decoded by `route::CleanPath`, which has more to say about those.

/// Appends `bytes`, those that are not `plain` as escapes with upper-case digits.
pub fn encode(out: &mut String, bytes: &[u8], plain: impl Fn(u8) -> bool) {
    for &b in bytes {
        if plain(b) {
            out.push(char::from(b));
        } else {
            escape(out, b);
        }
    }
}

/// Appends `b` as an escape.
pub fn escape(out: &mut String, b: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.push('%');
    out.push(char::from(DIGITS[usize::from(b >> 4)]));
    out.push(char::from(DIGITS[usize::from(b & 15)]));
}

/// Decoded once; `None` for what is malformed, or not UTF-8 when it is decoded.
pub fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&b, tail)) = rest.split_first() {
        rest = tail;
        if b != b'%' {
            bytes.push(b);
            continue;
        }
        let digit = |at: usize| tail.get(at).and_then(|b| char::from(*b).to_digit(16));
        bytes.push(u8::try_from(digit(0)? * 16 + digit(1)?).ok()?);
        rest = &tail[2..];
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn malformed_text_is_refused() {
        for text in ["%", "%4", "%4g", "a%", "%FF", "%+1"] {
            assert_eq!(decode(text), None, "{text}");
        }
        assert_eq!(decode("a%20%c3%A9+").as_deref(), Some("a é+"));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(text in ".{0,40}") {
            let mut encoded = String::new();
            encode(&mut encoded, text.as_bytes(), |b| b.is_ascii_alphanumeric());
            prop_assert!(encoded.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'%'));
            prop_assert_eq!(decode(&encoded), Some(text));
        }
    }
}
