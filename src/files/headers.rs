//! The header fields of a file's response.

use http::header::{self, HeaderName, HeaderValue};

use super::store::{Found, Meta};
use crate::percent;

/// Fields that are the same for every file of a route.
pub struct RouteHeaders {
    cache_control: HeaderValue,
    /// The same address is another file for another caller.
    vary: bool,
}

static OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");
const REFERRER_POLICY: HeaderName = HeaderName::from_static("referrer-policy");

impl RouteHeaders {
    /// `cache_control` was checked with the configuration.
    pub fn new(cache_control: &str, needs_token: bool) -> Self {
        let private = HeaderValue::from_static("private, no-cache");
        Self { cache_control: HeaderValue::from_str(cache_control).unwrap_or(private), vary: needs_token }
    }

    /// For an object that was found. `download` is the name to save it under.
    pub fn of_object(
        &self,
        found: &Found,
        meta: &Meta,
        download: Option<&str>,
        by_link: bool,
    ) -> Vec<(HeaderName, HeaderValue)> {
        let mut fields = Vec::with_capacity(16);
        let mut add = |name: HeaderName, value: Option<&HeaderValue>| {
            fields.extend(value.map(|value| (name, value.clone())));
        };
        add(header::ETAG, meta.etag.as_ref());
        add(header::LAST_MODIFIED, meta.last_modified.as_ref());
        add(header::CACHE_CONTROL, Some(&self.cache_control));
        if self.vary {
            add(header::VARY, Some(&HeaderValue::from_static("Authorization")));
        }
        if by_link {
            // The link is the key: it must not travel to where the file leads.
            add(REFERRER_POLICY, Some(&HeaderValue::from_static("no-referrer")));
        }
        if *found == Found::NotModified {
            return fields;
        }
        add(header::CONTENT_TYPE, Some(content_type(meta)));
        add(header::CONTENT_ENCODING, meta.content_encoding.as_ref());
        add(header::CONTENT_LANGUAGE, meta.content_language.as_ref());
        add(header::ACCEPT_RANGES, Some(&HeaderValue::from_static("bytes")));
        // Whoever may store files here must not thereby get to run scripts with the rights of this site's pages.
        add(header::CONTENT_SECURITY_POLICY, Some(&HeaderValue::from_static("sandbox")));
        add(header::X_CONTENT_TYPE_OPTIONS, Some(&HeaderValue::from_static("nosniff")));
        add(header::CONTENT_DISPOSITION, download.and_then(disposition).as_ref());
        match found {
            Found::Part(range) => add(header::CONTENT_RANGE, Some(range)),
            // Of the whole object, so that they say nothing of a part.
            _ => {
                for (name, value) in &meta.checksums {
                    add(name.clone(), Some(value));
                }
            }
        }
        fields
    }
}

/// S3's `binary/octet-stream` is no registered type.
fn content_type(meta: &Meta) -> &HeaderValue {
    match &meta.content_type {
        Some(value) if !value.is_empty() && value != "binary/octet-stream" => value,
        _ => &OCTETS,
    }
}

/// `attachment` with a name for old readers and one in UTF-8 (RFC 6266 section 4, RFC 8187 section 3.2).
fn disposition(name: &str) -> Option<HeaderValue> {
    // A name, not a path; and nothing that would hide its end.
    let name: String = name.chars().filter(|c| !c.is_control() && !is_bidi(*c)).collect();
    let name = name.rsplit(['/', '\\']).next().unwrap_or_default().trim();
    if matches!(name, "" | "." | "..") {
        return Some(HeaderValue::from_static("attachment"));
    }
    // A percent sign in the old form is decoded by some readers.
    let safe = |c: char| c.is_ascii() && !matches!(c, '"' | '\\' | '%');
    let plain: String = name.chars().map(|c| if safe(c) { c } else { '_' }).collect();
    let mut value = format!("attachment; filename=\"{plain}\"");
    if plain != name {
        value.push_str("; filename*=UTF-8''");
        // attr-char of RFC 8187.
        percent::encode(&mut value, name.as_bytes(), |b| {
            b.is_ascii_alphanumeric() || b"!#$&+-.^_`|~".contains(&b)
        });
    }
    HeaderValue::from_str(&value).ok()
}

/// Characters that turn the direction of text, so that `exe.txt` is not what it seems.
fn is_bidi(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{61c}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_to_save_under() {
        for (name, value) in [
            ("report.pdf", "attachment; filename=\"report.pdf\""),
            ("a b.txt", "attachment; filename=\"a b.txt\""),
            ("naïve.txt", "attachment; filename=\"na_ve.txt\"; filename*=UTF-8''na%C3%AFve.txt"),
            ("a\"b\\c.txt", "attachment; filename=\"c.txt\""),
            ("a\"b.txt", "attachment; filename=\"a_b.txt\"; filename*=UTF-8''a%22b.txt"),
            ("100%.txt", "attachment; filename=\"100_.txt\"; filename*=UTF-8''100%25.txt"),
            ("../../etc/passwd", "attachment; filename=\"passwd\""),
            ("a\r\nSet-Cookie: x", "attachment; filename=\"aSet-Cookie: x\""),
            ("evil\u{202e}txt.exe", "attachment; filename=\"eviltxt.exe\""),
            ("..", "attachment"),
            ("", "attachment"),
        ] {
            assert_eq!(disposition(name).unwrap(), value, "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn any_name_gives_one_well_formed_field(name in ".{0,60}") {
            let value = disposition(&name).unwrap();
            let text = value.to_str().unwrap();
            prop_assert!(text.starts_with("attachment"));
            prop_assert!(matches!(text.matches('"').count(), 0 | 2));
        }
    }

    #[test]
    fn a_part_has_no_checksum_of_the_whole_and_304_no_type() {
        let routes = RouteHeaders::new("private", true);
        let meta = Meta {
            etag: Some(HeaderValue::from_static("\"e\"")),
            checksums: vec![(
                HeaderName::from_static("x-amz-checksum-crc32"),
                HeaderValue::from_static("AAAAAA=="),
            )],
            ..Meta::default()
        };
        let names = |found: &Found| -> Vec<String> {
            let fields = routes.of_object(found, &meta, None, false);
            fields.iter().map(|(name, _)| name.as_str().to_owned()).collect()
        };
        assert!(names(&Found::Whole).contains(&"x-amz-checksum-crc32".to_owned()));
        let part = names(&Found::Part(HeaderValue::from_static("bytes 0-0/1")));
        assert!(
            part.contains(&"content-range".to_owned()) && !part.contains(&"x-amz-checksum-crc32".to_owned())
        );
        assert_eq!(names(&Found::NotModified), ["etag", "cache-control", "vary"]);
    }
}
