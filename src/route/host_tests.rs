use std::borrow::Cow;

use proptest::prelude::*;

use super::*;

#[test]
fn one_spelling_for_every_host() {
    let cases = [
        ("example.com", "example.com"),
        ("EXAMPLE.com:8080", "example.com"),
        ("example.com.", "example.com"),
        ("Example.com.:443", "example.com"),
        ("example.com:", "example.com"),
        ("my_host", "my_host"),
        ("127.0.0.1:80", "127.0.0.1"),
        ("[::1]", "[::1]"),
        ("[0:0:0::0001]:65535", "[::1]"),
        ("[FE80::A]", "[fe80::a]"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
    ];
    for (written, canonical) in cases {
        assert_eq!(
            Host::parse(written).map(|h| h.as_str().to_owned()),
            Ok(canonical.to_owned()),
            "{written}"
        );
    }
}

#[test]
fn what_is_not_a_host_is_refused() {
    for bad in [
        "",
        ".",
        "..",
        ":80",
        "a..b",
        ".a",
        "a.b..",
        "user@a",
        "user:pw@a",
        "a:80@b",
        "a/b",
        "a\\b",
        "a?b",
        "a#b",
        "a b",
        " a",
        "a ",
        "a\tb",
        "a\0",
        "a\r\nb",
        "a,b",
        "a%2eb",
        "bücher.example",
        "a:65536",
        "a:+80",
        "a:-1",
        "a:8o",
        "a:80:80",
        "::1",
        "[::1",
        "::1]",
        "[::1]x",
        "[::1]:x",
        "[::1%25eth0]",
        "[v1.x]",
        "[]",
        "[1.2.3.4]",
        "*.a",
        "a;b",
        "a|b",
        "a`b",
        "${jndi}",
        "a\u{ff0e}b",
    ] {
        assert!(Host::parse(bad).is_err(), "{bad:?}");
    }
    assert!(Host::parse(&"a".repeat(63)).is_ok());
    assert!(Host::parse(&"a".repeat(64)).is_err());
    assert!(Host::parse(&"a.".repeat(126)).is_ok());
    assert!(Host::parse(&format!("{}aaa", "a.".repeat(126))).is_err());
}

#[test]
fn the_usual_host_is_not_copied() {
    assert!(matches!(Host::parse("api.example.com:8443").unwrap().0, Cow::Borrowed("api.example.com")));
}

#[test]
fn patterns() {
    let parse = |t| HostPattern::parse(Some(t));
    assert_eq!(HostPattern::parse(None), Ok(HostPattern::Any));
    assert_eq!(parse("API.example.com."), Ok(HostPattern::Exact("api.example.com".into())));
    assert_eq!(parse("*.Example.com"), Ok(HostPattern::Wildcard("example.com".into())));
    assert_eq!(parse("[0::1]"), Ok(HostPattern::Exact("[::1]".into())));
    for (bad, hint) in [
        ("*", "leave `host` out"),
        ("https://example.com", "not a URL"),
        ("a.*.com", "whole first label"),
        ("*a.com", "whole first label"),
        ("**.a.com", "whole first label"),
        ("bücher.example", "punycode"),
        ("example.com/x", "no path"),
        ("example.com:80", "without it"),
        ("[::1]:80", "without it"),
        ("*.[::1]", "needs a name"),
        ("", "empty"),
        ("*.", "empty"),
    ] {
        let error = parse(bad).unwrap_err();
        assert!(error.reason().contains(hint), "{bad}: {error}");
    }
}

#[test]
fn a_wildcard_is_one_or_more_labels_and_not_the_apex() {
    let wildcard = HostPattern::parse(Some("*.example.com")).unwrap();
    for (host, expected) in [
        ("a.example.com", true),
        ("a.b.Example.com:1", true),
        ("example.com", false),
        ("badexample.com", false),
        ("example.com.evil.org", false),
    ] {
        assert_eq!(wildcard.matches(&Host::parse(host).unwrap()), expected, "{host}");
    }
}

proptest! {
    #[test]
    fn parsing_twice_changes_nothing(text in "[a-zA-Z0-9._:@\\[\\]-]{0,24}") {
        if let Ok(host) = Host::parse(&text) {
            let again = Host::parse(host.as_str()).unwrap();
            prop_assert_eq!(again.as_str(), host.as_str());
            prop_assert!(!host.as_str().ends_with('.') && !host.as_str().bytes().any(|b| b.is_ascii_uppercase()));
        }
    }
}
