use proptest::prelude::*;

use super::*;

#[test]
fn literals_take_the_canonical_form_of_paths() {
    for (written, canonical) in [
        ("/", "/"),
        ("/api", "/api"),
        ("/api/", "/api/"),
        ("/api/{*rest}", "/api/{*rest}"),
        ("/{*rest}", "/{*rest}"),
        ("/a/{b}/c/{_d1}", "/a/{b}/c/{_d1}"),
        ("/café", "/caf%C3%A9"),
        ("/caf%c3%a9", "/caf%C3%A9"),
        ("/%61%70i/%7Euser", "/api/~user"),
        ("/a b;c", "/a%20b%3Bc"),
        ("/100%25", "/100%25"),
        ("/%7Bx%7D", "/%7Bx%7D"),
        ("/a:b@c", "/a:b@c"),
        ("/.well-known/jwks.json", "/.well-known/jwks.json"),
    ] {
        let pattern = Pattern::parse(written).unwrap();
        assert_eq!(pattern.as_str(), canonical, "{written}");
        assert_eq!(Pattern::parse(canonical).unwrap(), pattern, "{written}");
    }
}

#[test]
fn what_can_never_match_is_refused_with_a_remedy() {
    for (bad, hint) in [
        ("", "starts with '/'"),
        ("api", "write \"/api\""),
        ("//", "single '/'"),
        ("/a//b", "single '/'"),
        ("//{*rest}", "single '/'"),
        ("/a/../b", "the path it leads to"),
        ("/./b", "the path it leads to"),
        ("/%2e%2E/b", "the path it leads to"),
        ("/..;x/b", "the path it leads to"),
        ("/%252e%252e", "the path it leads to"),
        ("/;x", "never matches"),
        ("/a?b=c", "no query"),
        ("/a#b", "no fragment"),
        ("/a\\b", "write '/'"),
        ("/a%5cb", "never matches"),
        ("/a%2fb", "never matches"),
        ("/a\u{0}", "control"),
        ("/a\u{85}", "control"),
        ("/a%00", "never matches"),
        ("/a%ff", "never matches"),
        ("/100%", "%25"),
        ("/%zz", "%25"),
        ("/{", "whole segment"),
        ("/a}", "whole segment"),
        ("/{id}.json", "whole segment"),
        ("/v{n}", "whole segment"),
        ("/{}", "no usable name"),
        ("/{*}", "no usable name"),
        ("/{1a}", "no usable name"),
        ("/{a-b}", "no usable name"),
        ("/{é}", "no usable name"),
        ("/{*rest}/a", "put it last"),
        ("/{*rest}/", "put it last"),
        ("/{a}/{a}", "own name"),
        ("/{a}/{*a}", "own name"),
        ("/*", "not a wildcard"),
        ("/a/**", "not a wildcard"),
        ("/:id", "write \"{id}\""),
    ] {
        let error = Pattern::parse(bad).unwrap_err().to_string();
        assert!(error.contains(hint), "{bad:?}: {error}");
    }
}

#[test]
fn prefixes_are_whole_literal_segments() {
    let parse = |t| Pattern::parse(t).unwrap();
    assert_eq!(parse("/api/v1/{*rest}").literal_prefix(), "/api/v1");
    assert_eq!(parse("/{*rest}").literal_prefix(), "");
    assert_eq!(parse("/api").literal_prefix(), "/api");
    assert_eq!(parse("/api/").literal_prefix(), "/api/");

    let api = parse("/api/v1/{*rest}");
    for (prefix, canonical) in [("/api", "/api"), ("/api/", "/api"), ("/%61pi/v1", "/api/v1"), ("/", "")] {
        assert_eq!(api.strippable(prefix).as_deref(), Ok(canonical), "{prefix}");
    }
    for bad in ["/ap", "/api/v", "/api/v1/x", "/API", "/{x}", "api", "/api//", "/api/..", "", "//"] {
        assert!(api.strippable(bad).is_err(), "{bad}");
    }
    assert_eq!(parse("/{*rest}").strippable("/").as_deref(), Ok(""));
    assert_eq!(parse("/api").strippable("/api").as_deref(), Ok("/api"));
}

proptest! {
    #[test]
    fn a_pattern_without_parameters_matches_the_path_it_spells(text in "/[a-z0-9%é ;./~]{0,12}") {
        if let Ok(pattern) = Pattern::parse(&text) {
            let path = CleanPath::parse(pattern.as_str()).unwrap();
            prop_assert_eq!(path.as_str(), pattern.as_str());
        }
    }

    #[test]
    fn parsing_never_panics_and_is_idempotent(text in "[/{}*a%2e.;?é\\\\]{0,12}") {
        if let Ok(pattern) = Pattern::parse(&text) {
            prop_assert_eq!(Pattern::parse(pattern.as_str()).unwrap(), pattern);
        }
    }
}
