use proptest::prelude::*;

use super::*;

#[test]
fn canonical_paths_stay_as_they_are() {
    for path in [
        "/",
        "/a",
        "/a/",
        "/a/b.c/...",
        "/.well-known/x",
        "/..a/.b/a..",
        "/a~b_c-d!$&'()*+,=:@",
        "/a%20b",
        "/caf%C3%A9",
        "/a%3Bb",
        "/100%25",
        "/a%3Fb",
        "/a%23b",
        "/%7Bx%7D",
        "/a%2541",
        "/%25252541",
    ] {
        let clean = CleanPath::parse(path).unwrap();
        assert_eq!((clean.as_str(), clean.query(), clean.path_and_query()), (path, None, path));
    }
}

#[test]
fn every_spelling_has_one_form() {
    for (written, canonical) in [
        ("/%61%2Db%2e%5F%7e", "/a-b._~"),
        ("/%c3%a9", "/%C3%A9"),
        ("/a;b=c", "/a%3Bb=c"),
        ("/a%3bb", "/a%3Bb"),
        ("/%7bx%5d", "/%7Bx%5D"),
        ("/%21%24%40%3a", "/!$@:"),
        ("/a|b^c`d\"e<f>[g]{h}", "/a%7Cb%5Ec%60d%22e%3Cf%3E%5Bg%5D%7Bh%7D"),
        ("/api%2e/admin", "/api./admin"),
        ("/a%3fb", "/a%3Fb"),
        ("/a?x=/../%2e%2e//;\\", "/a?x=/../%2e%2e//;\\"),
        ("/%61?", "/a?"),
        ("/a??b", "/a??b"),
    ] {
        assert_eq!(CleanPath::parse(written).unwrap().path_and_query(), canonical, "{written}");
    }
}

#[test]
fn query_is_apart_from_the_path() {
    let clean = CleanPath::parse("/%61/b?x=%2F&y").unwrap();
    assert_eq!((clean.as_str(), clean.query()), ("/a/b", Some("x=%2F&y")));
    assert_eq!(CleanPath::parse("/?").unwrap().query(), Some(""));
    assert_eq!(CleanPath::parse("/").unwrap().query(), None);
}

#[test]
fn what_parsers_read_differently_is_refused() {
    use PathError::*;
    let cases: &[(&[u8], PathError)] = &[
        (b"", NotOrigin),
        (b"*", NotOrigin),
        (b"a", NotOrigin),
        (b"?x", NotOrigin),
        (b"http://h/", NotOrigin),
        (b"h:443", NotOrigin),
        (b"/..", DotSegment),
        (b"/.", DotSegment),
        (b"/./", DotSegment),
        (b"/public/../admin", DotSegment),
        (b"/public/..", DotSegment),
        (b"/public/..?x", DotSegment),
        (b"/public/%2e%2e/admin", DotSegment),
        (b"/public/.%2E/admin", DotSegment),
        (b"/public/%2E./admin", DotSegment),
        (b"/api/%2e%2e/x", DotSegment),
        (b"/%2e", DotSegment),
        (b"/public/..;/admin", DotSegment),
        (b"/public/..;a=b/admin", DotSegment),
        (b"/public/..%3b/admin", DotSegment),
        (b"/public/%2e%2e%3B/admin", DotSegment),
        (b"/public/.;x/admin", DotSegment),
        (b"/public/..%3Fx", DotSegment),
        (b"/public/..%23x", DotSegment),
        (b"/public/%252e%252e/admin", DotSegment),
        (b"/public/.%252e/admin", DotSegment),
        (b"/public/%25252e%25252e/admin", DotSegment),
        (b"/public/%2525252e./admin", DotSegment),
        (b"/public/..%253b/admin", DotSegment),
        (b"/a/%%32%65%%32%65/b", BadEscape),
        (b"/a/%25%32%65%25%32%65/b", DotSegment),
        (b"//", EmptySegment),
        (b"//evil.example", EmptySegment),
        (b"/a//b", EmptySegment),
        (b"/a//", EmptySegment),
        (b"/;x/admin", EmptySegment),
        (b"/a/;/b", EmptySegment),
        (b"/a/;", EmptySegment),
        (b"/a/%3b/b", EmptySegment),
        (b"/a/%253b/b", EmptySegment),
        (b"/\\evil", Backslash),
        (b"/a\\..\\b", Backslash),
        (b"/a%5c..%5Cb", Backslash),
        (b"/a%255cb", Backslash),
        (b"/a%2fb", EncodedSlash),
        (b"/a%2Fb", EncodedSlash),
        (b"/%2F", EncodedSlash),
        (b"/a%252fb", EncodedSlash),
        (b"/a%25252Fb", EncodedSlash),
        (b"/a\0", Control),
        (b"/a b", Control),
        (b"/a\tb", Control),
        (b"/a\r\nX: y", Control),
        (b"/a\x7f", Control),
        (b"/a%00", Control),
        (b"/a%0d%0aX:%20y", Control),
        (b"/a%1f", Control),
        (b"/a%7F", Control),
        (b"/a%C2%85", Control),
        (b"/a%2500", Control),
        (b"/a%250a", Control),
        (b"/a#b", Fragment),
        (b"/a?b#c", Fragment),
        (b"/a%20#b", Fragment),
        (b"/caf\xc3\xa9", NonAscii),
        (b"/\xff", NonAscii),
        (b"/%", BadEscape),
        (b"/%2", BadEscape),
        (b"/%2?e", BadEscape),
        (b"/%zz", BadEscape),
        (b"/%u002e%u002e/", BadEscape),
        (b"/% 2e", Control),
        (b"/%+2", BadEscape),
        (b"/%ff", NotUtf8),
        (b"/%c0%ae%c0%ae/admin", NotUtf8),
        (b"/%c0%af", NotUtf8),
        (b"/%e0%80%af", NotUtf8),
        (b"/%ed%a0%80", NotUtf8),
        (b"/%c3", NotUtf8),
        (b"/%25c0%25ae", NotUtf8),
        (b"/%2525252541", TooManyLayers),
        (b"/a?b c", BadQuery),
        (b"/a?\0", BadQuery),
        (b"/a?b\r\n", BadQuery),
        (b"/a?\xc3\xa9", BadQuery),
        (b"/%61?\x7f", BadQuery),
    ];
    for (target, why) in cases {
        assert_eq!(CleanPath::parse(target), Err(*why), "{}", target.escape_ascii());
    }
}

#[test]
fn deep_nesting_costs_little() {
    let target = format!("/%{}41", "25".repeat(100_000));
    assert_eq!(CleanPath::parse(target), Err(PathError::TooManyLayers));
}

#[test]
fn stripping_a_prefix_leaves_a_clean_path() {
    for (path, prefix, expected) in [
        ("/api/x?q", "/api", Some("/x?q")),
        ("/api", "/api", Some("/")),
        ("/api?q", "/api", Some("/?q")),
        ("/api/", "/api", Some("/")),
        ("/api/x", "/api/", Some("/x")),
        ("/api/x", "/", Some("/api/x")),
        ("/api/x", "", Some("/api/x")),
        ("/api./admin", "/api", None),
        ("/apix", "/api", None),
        ("/API/x", "/api", None),
        ("/x", "/api", None),
        ("/ap", "/api", None),
    ] {
        let stripped = CleanPath::parse(path).unwrap().strip_prefix(prefix);
        assert_eq!(stripped.as_ref().map(CleanPath::path_and_query), expected, "{path} - {prefix}");
        if let Some(clean) = stripped {
            assert_eq!(CleanPath::parse(clean.path_and_query()), Ok(clean));
        }
    }
}

#[test]
fn absolute_form_is_split() {
    for (target, expected) in [
        ("http://h/a?b", Some(("h", "/a?b"))),
        ("HTTPS://u@h:1/", Some(("u@h:1", "/"))),
        ("http://h", Some(("h", "/"))),
        ("http://h?x", Some(("h", "?x"))),
        ("http:///x", Some(("", "/x"))),
        ("http://h\\@e/x", Some(("h\\@e", "/x"))),
        ("http:/h/x", None),
        ("ftp://h/", None),
        ("/a://b", None),
        ("h:80", None),
    ] {
        let expected = expected.map(|(a, p)| (a.as_bytes(), p.as_bytes()));
        assert_eq!(split_absolute(target.as_bytes()), expected, "{target}");
    }
}

/// What a careless backend may do with a path: decode it again and again. Written apart from the code
/// above, on purpose without sharing anything with it.
mod oracle {
    fn unescape(text: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut i = 0;
        while i < text.len() {
            let digits = text.get(i + 1..i + 3).and_then(|d| std::str::from_utf8(d).ok());
            let byte = digits
                .filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))
                .and_then(|d| u8::from_str_radix(d, 16).ok());
            match byte {
                Some(b) if text[i] == b'%' => {
                    out.push(b);
                    i += 3;
                }
                _ => {
                    out.push(text[i]);
                    i += 1;
                }
            }
        }
        out
    }

    fn layers(path: &str) -> Vec<Vec<u8>> {
        let mut all = vec![path.as_bytes().to_vec()];
        loop {
            let next = unescape(&all[all.len() - 1]);
            if next == all[all.len() - 1] {
                return all;
            }
            all.push(next);
        }
    }

    /// The first thing wrong with a path after any number of decodings.
    pub fn flaw(path: &str) -> Option<String> {
        let layers = layers(path);
        if layers.len() > 5 {
            return Some("nesting".into());
        }
        let slashes = path.matches('/').count();
        for layer in &layers {
            let Ok(text) = String::from_utf8(layer.clone()) else { return Some("utf-8".into()) };
            if text.matches('/').count() != slashes {
                return Some("slash".into());
            }
            if text.contains('\\') || text.chars().any(char::is_control) {
                return Some(format!("character in {text:?}"));
            }
            let pieces: Vec<&str> = text.split('/').collect();
            for (i, piece) in pieces.iter().enumerate().skip(1) {
                let cut = piece.split([';', '?', '#']).next().unwrap_or_default();
                let empty =
                    piece.split(';').next() == Some("") && (i + 1 < pieces.len() || !piece.is_empty());
                if cut == "." || cut == ".." || empty {
                    return Some(format!("segment {piece:?}"));
                }
            }
        }
        None
    }

    /// Whether every `%` of the path as sent has its digits.
    pub fn well_formed(path: &str) -> bool {
        path.split('%').skip(1).all(|p| p.len() >= 2 && p.as_bytes()[..2].iter().all(u8::is_ascii_hexdigit))
    }

    pub fn decoded_once(path: &str) -> Vec<u8> {
        unescape(path.as_bytes())
    }
}

/// Pieces that meet in attacks, so that random concatenations of them are interesting.
fn path() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "/", "/", "a", "b", ".", "..", "%2e", "%2E", "%252e", "%25252e", ";", "%3b", "%253B", "%2f", "%252F",
        "%5c", "%00", "%0a", "%250d", "%25", "%2525", "2e", "41", "%41", "%7e", "%C3%A9", "%c3%a9", "%c0%ae",
        "%ff", "%20", "%3f", "%23", "|", "[", "~", "%", "%zz", "é", " ", "%C2%80",
    ]);
    prop::collection::vec(piece, 0..10).prop_map(|pieces| format!("/{}", pieces.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn accepted_exactly_when_the_oracle_finds_nothing(path in path()) {
        let fit = path.bytes().all(|b| (0x21..=0x7e).contains(&b)) && oracle::well_formed(&path);
        let expected = fit && oracle::flaw(&path).is_none();
        let parsed = CleanPath::parse(&path);
        prop_assert_eq!(parsed.is_ok(), expected, "{:?} {:?}", parsed, oracle::flaw(&path));
        if let Ok(clean) = parsed {
            prop_assert_eq!(oracle::flaw(clean.as_str()), None);
            prop_assert_eq!(oracle::decoded_once(clean.as_str()), oracle::decoded_once(&path));
        }
    }

    #[test]
    fn parsing_the_canonical_form_is_the_identity(path in path(), query in "(\\?[!-\"$-~]{0,8})?") {
        if let Ok(clean) = CleanPath::parse(format!("{path}{query}")) {
            prop_assert!(clean.path_and_query().ends_with(&query));
            prop_assert_eq!(canonical_path_len(clean.path_and_query().as_bytes()).map(|_| ()), Ok(()));
            prop_assert_eq!(CleanPath::parse(clean.path_and_query()), Ok(clean));
        }
    }

    #[test]
    fn spellings_of_one_path_become_one(path in "(/[a-z.~%;]{1,4}[a-z]){1,4}", choice in any::<u64>()) {
        let plain = path.replace('%', "%25");
        let spelled: String = plain.chars().enumerate().map(|(i, c)| {
            match c {
                'a'..='z' | '.' | '~' | ';' if !plain[..i].ends_with('%') && !plain[..i].ends_with("%2") && choice >> (i % 64) & 1 == 1 => {
                    if choice & 1 == 1 { format!("%{:02x}", c as u32) } else { format!("%{:02X}", c as u32) }
                }
                c => c.to_string(),
            }
        }).collect();
        prop_assert_eq!(CleanPath::parse(&spelled), CleanPath::parse(&plain));
    }

    #[test]
    fn no_bytes_make_it_panic(target in prop::collection::vec(any::<u8>(), 0..64)) {
        let mut rooted = vec![b'/'];
        rooted.extend_from_slice(&target);
        let _ = CleanPath::parse(&rooted);
        if let Ok(clean) = CleanPath::parse(&target) {
            prop_assert!(clean.path_and_query().bytes().all(|b| (0x21..=0x7e).contains(&b)));
        }
    }

    #[test]
    fn strip_prefix_stays_clean(path in path(), cut in 0usize..12) {
        if let Ok(clean) = CleanPath::parse(&path) {
            let end = clean.as_str().len().min(cut);
            if let Some(rest) = clean.as_str().get(..end).and_then(|prefix| clean.strip_prefix(prefix)) {
                prop_assert_eq!(CleanPath::parse(rest.path_and_query()), Ok(rest));
            }
        }
    }
}
