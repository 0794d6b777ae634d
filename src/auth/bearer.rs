//! The access token a request carries (RFC 6750 section 2). Only the Authorization header counts.

use http::HeaderMap;
use http::header::AUTHORIZATION;

use crate::fault::{Challenge, Fault};

/// What the request says about its caller.
#[derive(Debug, PartialEq, Eq)]
pub enum Credentials<'a> {
    /// No Authorization header, or one of a scheme that is not ours (Basic, Digest ...): anonymous.
    None,
    Bearer(&'a str),
}

/// Reads the credentials of a request.
///
/// # Errors
/// 400 for more than one token or one in the query (RFC 6750 section 2, RFC 9700 section 4.3.2); 401 for a
/// Bearer header that holds no token.
pub fn credentials<'a>(headers: &'a HeaderMap, query: Option<&str>) -> Result<Credentials<'a>, Fault> {
    if query.is_some_and(names_access_token) {
        return Err(invalid("An access token belongs in the Authorization header, not in the query."));
    }
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(Credentials::None) };
    if values.next().is_some() {
        return Err(invalid("The request has more than one Authorization header."));
    }
    let value = value.as_bytes();
    let (scheme, rest) = match value.iter().position(|&b| b == b' ') {
        Some(at) => (&value[..at], &value[at + 1..]),
        None => (value, &value[..0]),
    };
    if !scheme.eq_ignore_ascii_case(b"bearer") {
        // "Bearer\ttoken" and the like are a malformed Bearer header, not somebody else's scheme.
        if value.get(..6).is_some_and(|s| s.eq_ignore_ascii_case(b"bearer")) {
            return Err(malformed());
        }
        return Ok(Credentials::None);
    }
    // RFC 7235 section 2.1 allows several spaces between scheme and token.
    let token = rest.trim_ascii_start();
    // Without an early exit, so that it is done many bytes at a time: this runs over every token. What is visible
    // but no token68 (RFC 9110 section 11.2) is no compact JWS either and is refused by its parser.
    let visible = token.iter().fold(true, |all, b| all & b.is_ascii_graphic());
    if token.is_empty() || !visible {
        return Err(malformed());
    }
    std::str::from_utf8(token).map(Credentials::Bearer).map_err(|_| malformed())
}

/// Whether a query parameter is called `access_token`, however it is encoded.
fn names_access_token(query: &str) -> bool {
    // Every spelling contains at least the length of the plain name, so most queries end here.
    if query.len() < "access_token".len() {
        return false;
    }
    query.split(['&', ';']).any(|pair| {
        let name = pair.split('=').next().unwrap_or(pair);
        decoded_equals(name, b"access_token")
    })
}

fn decoded_equals(text: &str, expected: &[u8]) -> bool {
    let bytes = text.as_bytes();
    let (mut at, mut matched) = (0, 0);
    while at < bytes.len() {
        let (byte, used) = match (bytes[at], bytes.get(at + 1), bytes.get(at + 2)) {
            (b'%', Some(&h), Some(&l)) => match (hex(h), hex(l)) {
                (Some(h), Some(l)) => (h << 4 | l, 3),
                _ => (b'%', 1),
            },
            (byte, ..) => (byte, 1),
        };
        if expected.get(matched) != Some(&byte) {
            return false;
        }
        matched += 1;
        at += used;
    }
    matched == expected.len()
}

fn hex(b: u8) -> Option<u8> {
    char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok())
}

fn invalid(detail: &'static str) -> Fault {
    Fault { challenge: Some(Challenge::InvalidRequest), ..Fault::bad_request("invalid_request", detail) }
}

fn malformed() -> Fault {
    Fault::unauthenticated(Challenge::InvalidToken, "malformed Authorization header")
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn with(values: &[&[u8]]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for v in values {
            map.append(AUTHORIZATION, HeaderValue::from_bytes(v).unwrap());
        }
        map
    }

    fn status(values: &[&[u8]], query: Option<&str>) -> u16 {
        credentials(&with(values), query).map_or_else(|f| f.status, |_| 200)
    }

    #[test]
    fn finds_the_token() {
        for text in ["Bearer abc.def.ghi", "bearer abc.def.ghi", "BEARER   abc.def.ghi"] {
            assert_eq!(
                credentials(&with(&[text.as_bytes()]), Some("page=2")).unwrap(),
                Credentials::Bearer("abc.def.ghi")
            );
        }
    }

    #[test]
    fn other_schemes_are_not_ours() {
        for text in ["Basic dXNlcjpwYXNz", "Digest x", "Bear abc", "Token abc"] {
            assert_eq!(credentials(&with(&[text.as_bytes()]), None).unwrap(), Credentials::None);
        }
        assert_eq!(credentials(&HeaderMap::new(), None).unwrap(), Credentials::None);
    }

    #[test]
    fn malformed_bearer_is_401_never_anonymous() {
        for text in [&b"Bearer"[..], b"Bearer ", b"Bearer\tabc", b"Bearer a b", b"Bearer a\xffb", b"BearerX"]
        {
            assert_eq!(status(&[text], None), 401, "{text:?}");
        }
    }

    #[test]
    fn check_18_two_token_locations_are_400() {
        assert_eq!(status(&[b"Bearer a", b"Bearer b"], None), 400);
        assert_eq!(status(&[b"Bearer a", b"Basic b"], None), 400);
        assert_eq!(status(&[b"Bearer a"], Some("access_token=b")), 400);
    }

    #[test]
    fn check_19_token_in_the_query_is_400() {
        for q in [
            "access_token=x",
            "a=1&access_token=x",
            "access%5Ftoken=x",
            "a=1;access_token",
            "%61ccess_token=x",
        ] {
            assert_eq!(status(&[], Some(q)), 400, "{q}");
        }
        for q in ["token=x", "my_access_token=x", "access_token2=x", "q=access_token"] {
            assert_eq!(status(&[], Some(q)), 200, "{q}");
        }
    }

    proptest! {
        #[test]
        fn never_panics_and_never_invents(value in proptest::collection::vec(any::<u8>(), 0..80), query in ".{0,40}") {
            let mut map = HeaderMap::new();
            if let Ok(v) = HeaderValue::from_bytes(&value) {
                map.append(AUTHORIZATION, v);
            }
            if let Ok(Credentials::Bearer(t)) = credentials(&map, Some(&query)) {
                prop_assert!(!t.is_empty() && t.bytes().all(|b| b.is_ascii_graphic()));
                prop_assert!(value[..6].eq_ignore_ascii_case(b"bearer"));
            }
        }
    }
}
