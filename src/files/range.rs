//! `Range` (RFC 9110 section 14.2): one range of bytes.
//!
//! A field that is malformed, in another unit, or asks for several ranges is ignored, as section 14.2 allows, so that
//! the whole object is the answer: S3 serves one range as well, and thousands of small ones cannot be asked for.

/// One range, as it was asked for. `last` may lie beyond the object's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteRange {
    /// `first-` or `first-last`, both inclusive.
    From { first: u64, last: Option<u64> },
    /// `-n`: the last `n` bytes, which are more than none.
    Last(u64),
}

impl ByteRange {
    /// The single range `field` asks for; `None` when it is to be ignored.
    pub fn parse(field: &str) -> Option<Self> {
        let (unit, range) = field.split_once('=')?;
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return None;
        }
        let (first, last) = range.trim().split_once('-')?;
        match (first, last) {
            ("", suffix) => number(suffix).filter(|n| *n > 0).map(Self::Last),
            (first, "") => Some(Self::From { first: number(first)?, last: None }),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                (first <= last).then_some(Self::From { first, last: Some(last) })
            }
        }
    }

    /// First and last byte of an object of `size` bytes, both inclusive; `None`: not satisfiable.
    pub fn within(self, size: u64) -> Option<(u64, u64)> {
        let end = size.checked_sub(1)?;
        match self {
            Self::From { first, last } => (first <= end).then(|| (first, last.unwrap_or(end).min(end))),
            Self::Last(n) => Some((size.saturating_sub(n), end)),
        }
    }
}

/// As a `Range` field has it.
impl std::fmt::Display for ByteRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::From { first, last: Some(last) } => write!(f, "bytes={first}-{last}"),
            Self::From { first, last: None } => write!(f, "bytes={first}-"),
            Self::Last(n) => write!(f, "bytes=-{n}"),
        }
    }
}

/// Digits only. One too large to count is as far away as can be counted (CVE-2017-7529 began with an overflow).
fn number(digits: &str) -> Option<u64> {
    let all_digits = !digits.is_empty() && digits.len() <= 64 && digits.bytes().all(|b| b.is_ascii_digit());
    // Below 2^63, as storage servers count with a sign.
    all_digits.then(|| digits.parse().unwrap_or(u64::MAX).min(i64::MAX as u64))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_range_is_understood() {
        let from = |first, last| Some(ByteRange::From { first, last });
        assert_eq!(ByteRange::parse("bytes=0-0"), from(0, Some(0)));
        assert_eq!(ByteRange::parse("Bytes= 5-"), from(5, None));
        assert_eq!(ByteRange::parse("bytes=-5"), Some(ByteRange::Last(5)));
        let far = i64::MAX as u64;
        assert_eq!(ByteRange::parse("bytes=0-99999999999999999999999"), from(0, Some(far)));
        assert_eq!(ByteRange::parse("bytes=-18446744073709551616"), Some(ByteRange::Last(far)));
    }

    #[test]
    fn everything_else_is_ignored() {
        for field in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=-0",
            "bytes=5-4",
            "bytes=a-b",
            "bytes=0-1,3-4",
            "bytes=0-,-1",
            "items=0-1",
            "bytes=+1-2",
            "bytes=1--2",
            "bytes 0-1",
            "bytes=0x1-2",
            "bytes=1 -2",
        ] {
            assert_eq!(ByteRange::parse(field), None, "{field}");
        }
        let many = format!("bytes={}", (0..300).map(|n| format!("{n}-{n}")).collect::<Vec<_>>().join(","));
        assert_eq!(ByteRange::parse(&many), None);
    }

    #[test]
    fn ranges_of_a_size() {
        let within = |field, size| ByteRange::parse(field).unwrap().within(size);
        assert_eq!(within("bytes=0-9", 5), Some((0, 4)));
        assert_eq!(within("bytes=4-", 5), Some((4, 4)));
        assert_eq!(within("bytes=5-", 5), None);
        assert_eq!(within("bytes=-9", 5), Some((0, 4)));
        assert_eq!(within("bytes=-2", 5), Some((3, 4)));
        assert_eq!(within("bytes=0-", 0), None);
        assert_eq!(within("bytes=-1", 0), None);
    }

    proptest! {
        #[test]
        fn never_outside_the_object(field in "bytes=[0-9]{0,22}-[0-9]{0,22}", size in any::<u64>()) {
            if let Some(range) = ByteRange::parse(&field) {
                prop_assert_eq!(ByteRange::parse(&range.to_string()), Some(range));
                if let Some((first, last)) = range.within(size) {
                    prop_assert!(first <= last && last < size);
                }
            }
        }
        #[test]
        fn any_text_is_a_range_or_ignored(field in ".{0,40}") {
            let _ = ByteRange::parse(&field);
        }
    }
}
