//! Fields of requests for files: a range lies within its object, and a precondition is met by what it names.
#![no_main]

use http::HeaderValue;
use libfuzzer_sys::fuzz_target;
use portcullis::files::conditions::{Method, Outcome, Validators, evaluate, http_date};
use portcullis::files::range::ByteRange;
use portcullis::files::store::Conditions;

const ETAG: &[u8] = b"\"5-a,b\"";
/// Sun, 06 Nov 1994 08:49:37 GMT.
const MODIFIED: i64 = 784_111_777;

fuzz_target!(|input: &[u8]| {
    let Some((size, bytes)) = input.split_first_chunk() else { return };
    let size = u64::from_le_bytes(*size);
    let mut lines = bytes.split(|b| *b == b'\n');

    let range = lines.next().and_then(|line| ByteRange::parse(std::str::from_utf8(line).ok()?));
    if let Some(range) = range {
        assert_eq!(ByteRange::parse(&range.to_string()), Some(range));
        match range.within(size) {
            Some((first, last)) => assert!(first <= last && last < size),
            None => assert!(size == 0 || matches!(range, ByteRange::From { first, .. } if first >= size)),
        }
    }

    let mut field = || lines.next().and_then(|line| HeaderValue::from_bytes(line).ok());
    let conditions = Conditions {
        if_match: field(),
        if_none_match: field(),
        if_modified_since: field(),
        if_unmodified_since: field(),
    };
    let names = |field: &Option<HeaderValue>| {
        let field = field.as_ref().map_or(&b""[..], |field| field.as_bytes());
        field.contains(&b'*') || field.windows(ETAG.len()).any(|part| part == ETAG)
    };
    let now = Some(Validators { etag: ETAG, modified: Some(MODIFIED) });
    let (read, write) = (evaluate(Method::Read, now, &conditions), evaluate(Method::Write, now, &conditions));
    assert_ne!(write, Outcome::NotModified);
    // If-None-Match that stands in the way is 304 for a read.
    let in_the_way = read == Outcome::NotModified && conditions.if_none_match.is_some();
    assert_eq!(write == Outcome::Failed, read == Outcome::Failed || in_the_way);
    if conditions.if_match.is_some() && read != Outcome::Failed {
        assert!(names(&conditions.if_match));
    }
    if conditions.if_none_match.is_some() && read == Outcome::NotModified {
        assert!(names(&conditions.if_none_match));
    }
    let absent = evaluate(Method::Read, None, &conditions);
    assert_eq!(absent == Outcome::Failed, conditions.if_match.is_some());
    assert_ne!(absent, Outcome::NotModified);

    let seconds = size.cast_signed();
    if let Some(date) = http_date(seconds) {
        let since = |date| Conditions { if_modified_since: Some(date), ..Conditions::default() };
        let at = |modified| Some(Validators { etag: ETAG, modified: Some(modified) });
        assert_eq!(evaluate(Method::Read, at(seconds), &since(date.clone())), Outcome::NotModified);
        assert_eq!(evaluate(Method::Read, at(seconds + 1), &since(date)), Outcome::Proceed);
    }
});
