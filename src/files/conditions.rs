//! Preconditions (RFC 9110 section 13): whether a request is carried out, given the state its object is in.

use std::time::{SystemTime, UNIX_EPOCH};

use http::header::HeaderValue;

use super::store::Conditions;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// GET and HEAD.
    Read,
    /// Whatever changes the object.
    Write,
}

/// What tells one state of an object from another (RFC 9110 section 8.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validators<'a> {
    /// With its quotes, and `W/` if it is weak.
    pub etag: &'a [u8],
    /// Whole seconds since 1970.
    pub modified: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Proceed,
    /// 304: the client has this state already. For reads only.
    NotModified,
    /// 412.
    Failed,
}

/// Evaluates `conditions` in the order of RFC 9110 section 13.2.2. `current` is `None` where there is no object.
///
/// A date that cannot be read is no condition (sections 13.1.3 and 13.1.4); a malformed list of tags matches nothing.
pub fn evaluate(method: Method, current: Option<Validators<'_>>, conditions: &Conditions) -> Outcome {
    let modified = current.and_then(|now| now.modified);
    let modified_after = |field: &Option<HeaderValue>| {
        let date = field.as_ref().and_then(seconds);
        Some(modified? > date?)
    };

    if let Some(field) = &conditions.if_match {
        if !matches(field, current, Comparison::Strong) {
            return Outcome::Failed;
        }
    } else if modified_after(&conditions.if_unmodified_since) == Some(true) {
        return Outcome::Failed;
    }

    if let Some(field) = &conditions.if_none_match {
        return match (matches(field, current, Comparison::Weak), method) {
            (false, _) => Outcome::Proceed,
            (true, Method::Read) => Outcome::NotModified,
            (true, Method::Write) => Outcome::Failed,
        };
    }
    match method {
        Method::Read if modified_after(&conditions.if_modified_since) == Some(false) => Outcome::NotModified,
        _ => Outcome::Proceed,
    }
}

/// Whether a list of tags, or `*`, stands for the object with this one: for what a store cannot compare itself.
pub fn names(field: &HeaderValue, etag: &HeaderValue, comparison: Comparison) -> bool {
    matches(field, Some(Validators { etag: etag.as_bytes(), modified: None }), comparison)
}

/// A date in the form that every server reads; `None` for what is none, and hence no condition.
pub fn plain_date(field: &HeaderValue) -> Option<HeaderValue> {
    http_date(seconds(field)?)
}

/// RFC 9110 section 8.8.3.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    Strong,
    Weak,
}

/// Whether `field`, which is `*` or a list of tags, stands for the current state.
fn matches(field: &HeaderValue, current: Option<Validators<'_>>, comparison: Comparison) -> bool {
    let Some(current) = current else { return false };
    let field = field.as_bytes().trim_ascii();
    if field == b"*" {
        return true;
    }
    let (ours, weak) = opaque(current.etag);
    // To its end, even after a match: what is malformed behind it makes the whole list so.
    let mut found = false;
    let mut rest = field;
    while !rest.is_empty() {
        let Some((tag, tail)) = first(rest) else { return false };
        let (theirs, theirs_weak) = opaque(tag);
        found |=
            !tag.is_empty() && theirs == ours && (comparison == Comparison::Weak || !(weak || theirs_weak));
        rest = tail;
    }
    found
}

/// A tag without `W/`, and whether it had that.
fn opaque(tag: &[u8]) -> (&[u8], bool) {
    match tag.strip_prefix(b"W/") {
        Some(opaque) => (opaque, true),
        None => (tag, false),
    }
}

/// The first element of a list (RFC 9110 sections 5.6.1 and 8.8.3), which may be empty, and what follows its comma.
fn first(list: &[u8]) -> Option<(&[u8], &[u8])> {
    let list = list.trim_ascii_start();
    if let [b',', rest @ ..] = list {
        return Some((&[], rest));
    }
    let inner = opaque(list).0.strip_prefix(b"\"")?;
    let end = inner.iter().position(|b| *b == b'"')?;
    if !inner[..end].iter().all(|b| matches!(b, 0x21..=0x7e | 0x80..)) {
        return None;
    }
    let (tag, rest) = list.split_at(list.len() - inner.len() + end + 1);
    match rest.trim_ascii_start() {
        [] => Some((tag, &[])),
        [b',', rest @ ..] => Some((tag, rest)),
        _ => None,
    }
}

/// An HTTP date in any of its three forms (RFC 9110 section 5.6.7), in seconds since 1970.
fn seconds(field: &HeaderValue) -> Option<i64> {
    let time = httpdate::parse_http_date(field.to_str().ok()?.trim()).ok()?;
    i64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_secs()).ok()
}

/// As `Last-Modified` has it. `None` for what an HTTP date cannot say: before 1970, after 9999.
pub fn http_date(seconds: i64) -> Option<HeaderValue> {
    const YEAR_10000: u64 = 253_402_300_800;
    let seconds = u64::try_from(seconds).ok().filter(|s| *s < YEAR_10000)?;
    let time: SystemTime = UNIX_EPOCH + std::time::Duration::from_secs(seconds);
    HeaderValue::try_from(httpdate::fmt_http_date(time)).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Method::{Read, Write};
    use super::Outcome::{Failed, NotModified, Proceed};
    use super::*;

    /// Sun, 06 Nov 1994 08:49:37 GMT, the example of RFC 9110.
    const AT: i64 = 784_111_777;
    const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const SAME: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const AFTER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

    const NOW: Option<Validators<'_>> = Some(Validators { etag: b"\"a,b\"", modified: Some(AT) });

    /// Fields by their initials: `m`, `n` tags; `u`, `s` dates.
    fn given(fields: &[(char, &str)]) -> Conditions {
        let of = |initial| {
            let field = fields.iter().find(|(name, _)| *name == initial);
            field.map(|(_, value)| HeaderValue::from_bytes(value.as_bytes()).unwrap())
        };
        Conditions {
            if_match: of('m'),
            if_none_match: of('n'),
            if_unmodified_since: of('u'),
            if_modified_since: of('s'),
        }
    }

    fn outcome(method: Method, fields: &[(char, &str)]) -> Outcome {
        evaluate(method, NOW, &given(fields))
    }

    #[test]
    fn the_order_of_section_13_2_2() {
        let (ours, other) = ("\"a,b\"", "\"x\"");
        for (fields, read, write) in [
            (vec![], Proceed, Proceed),
            // Step 1.
            (vec![('m', ours)], Proceed, Proceed),
            (vec![('m', other)], Failed, Failed),
            (vec![('m', ours), ('u', BEFORE)], Proceed, Proceed),
            (vec![('m', other), ('n', ours)], Failed, Failed),
            // Step 2.
            (vec![('u', BEFORE)], Failed, Failed),
            (vec![('u', SAME)], Proceed, Proceed),
            (vec![('u', AFTER)], Proceed, Proceed),
            (vec![('u', BEFORE), ('n', ours)], Failed, Failed),
            // Step 3.
            (vec![('n', ours)], NotModified, Failed),
            (vec![('n', other)], Proceed, Proceed),
            (vec![('m', ours), ('n', ours)], NotModified, Failed),
            (vec![('u', AFTER), ('n', ours)], NotModified, Failed),
            (vec![('n', other), ('s', AFTER)], Proceed, Proceed),
            // Step 4.
            (vec![('s', BEFORE)], Proceed, Proceed),
            (vec![('s', SAME)], NotModified, Proceed),
            (vec![('s', AFTER)], NotModified, Proceed),
            (vec![('m', ours), ('s', SAME)], NotModified, Proceed),
            (vec![('u', SAME), ('s', SAME)], NotModified, Proceed),
        ] {
            assert_eq!(outcome(Read, &fields), read, "read {fields:?}");
            assert_eq!(outcome(Write, &fields), write, "write {fields:?}");
        }
    }

    #[test]
    fn an_absent_object_matches_nothing() {
        for (fields, expected) in [
            (vec![], Proceed),
            (vec![('m', "*")], Failed),
            (vec![('m', "\"a,b\"")], Failed),
            (vec![('n', "*")], Proceed),
            (vec![('n', "\"a,b\"")], Proceed),
            (vec![('u', BEFORE)], Proceed),
            (vec![('s', AFTER)], Proceed),
        ] {
            for method in [Read, Write] {
                assert_eq!(evaluate(method, None, &given(&fields)), expected, "{fields:?}");
            }
        }
    }

    #[test]
    fn lists_of_tags() {
        for (list, strong, weak) in [
            ("*", true, true),
            (" * ", true, true),
            ("\"a,b\"", true, true),
            ("\"x\", \"a,b\"", true, true),
            ("\"a,b\",\"x\"", true, true),
            (",, \"a,b\" ,,", true, true),
            ("W/\"a,b\"", false, true),
            ("\"x\", W/\"a,b\"", false, true),
            ("\"é\", \"a,b\"", true, true),
            ("\"A,B\"", false, false),
            ("w/\"a,b\"", false, false),
            ("\"\"", false, false),
            ("", false, false),
            (",", false, false),
            // Malformed, wherever the fault is.
            ("a,b", false, false),
            ("\"a,b", false, false),
            ("\"a,b\" \"x\"", false, false),
            ("\"a,b\", x", false, false),
            ("\"a,b\", *", false, false),
            ("*, \"a,b\"", false, false),
            ("\"a,b\", \"x y\"", false, false),
            ("W/W/\"a,b\"", false, false),
            ("W /\"a,b\"", false, false),
        ] {
            assert_eq!(outcome(Read, &[('m', list)]) == Proceed, strong, "If-Match: {list}");
            assert_eq!(outcome(Read, &[('n', list)]) == NotModified, weak, "If-None-Match: {list}");
        }
    }

    #[test]
    fn a_weak_tag_of_ours_never_matches_strongly() {
        let now = Some(Validators { etag: b"W/\"a\"", modified: None });
        for tag in ["\"a\"", "W/\"a\""] {
            assert_eq!(evaluate(Read, now, &given(&[('m', tag)])), Failed, "{tag}");
            assert_eq!(evaluate(Read, now, &given(&[('n', tag)])), NotModified, "{tag}");
        }
    }

    #[test]
    fn dates_in_three_forms_and_none() {
        for date in [SAME, "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"] {
            assert_eq!(seconds(&HeaderValue::from_str(date).unwrap()), Some(AT), "{date}");
        }
        for date in ["", "yesterday", "0", "Sun, 06 Nov 1994 08:49:36 CET", "Sun, 31 Feb 1994 08:49:36 GMT"] {
            assert_eq!(outcome(Read, &[('u', date)]), Proceed, "{date}");
            assert_eq!(outcome(Read, &[('s', date)]), Proceed, "{date}");
        }
        let undated = Some(Validators { etag: b"\"a\"", modified: None });
        assert_eq!(evaluate(Read, undated, &given(&[('u', BEFORE)])), Proceed);
        assert_eq!(evaluate(Read, undated, &given(&[('s', AFTER)])), Proceed);
    }

    #[test]
    fn dates_are_written_in_the_preferred_form() {
        assert_eq!(http_date(AT).unwrap(), SAME);
        assert_eq!(http_date(0).unwrap(), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert!(http_date(253_402_300_799).is_some());
        for seconds in [-1, 253_402_300_800, i64::MIN, i64::MAX] {
            assert_eq!(http_date(seconds), None);
        }
    }

    fn field() -> impl Strategy<Value = Option<HeaderValue>> {
        let bytes = proptest::collection::vec(any::<u8>(), 0..40);
        let near = "(W/|\"|,|\\*| |a|é|Sun|, |06 Nov 1994 08:49:37|9| GMT|-94){0,12}";
        let text = prop_oneof![bytes, near.prop_map(String::into_bytes)];
        text.prop_map(|text| HeaderValue::from_bytes(&text).ok())
    }

    proptest! {
        #[test]
        fn whatever_is_sent_has_an_outcome(
            (if_match, if_none_match) in (field(), field()),
            (if_modified_since, if_unmodified_since) in (field(), field()),
            modified in any::<Option<i64>>(),
        ) {
            let conditions = Conditions { if_match, if_none_match, if_modified_since, if_unmodified_since };
            for current in [None, Some(Validators { etag: b"\"a\"", modified })] {
                evaluate(Read, current, &conditions);
                prop_assert_ne!(evaluate(Write, current, &conditions), NotModified);
            }
        }

        #[test]
        fn a_tag_is_found_wherever_it_stands(
            tags in proptest::collection::vec("(W/)?\"[!#-~é]{0,4}\"", 1..6),
            separator in " {0,2},[ ,]{0,3}",
            at in any::<proptest::sample::Index>(),
        ) {
            let list = tags.join(&separator);
            let current = Some(Validators { etag: at.get(&tags).as_bytes(), modified: None });
            let field = given(&[('n', &list)]);
            prop_assert_eq!(evaluate(Read, current, &field), NotModified);
            prop_assert_eq!(evaluate(Read, current, &given(&[('n', &format!("{list}\""))])), Proceed);
        }

        #[test]
        fn dates_read_as_they_were_written(at in 0..253_402_300_800_i64) {
            prop_assert_eq!(http_date(at).as_ref().and_then(seconds), Some(at));
        }
    }
}
