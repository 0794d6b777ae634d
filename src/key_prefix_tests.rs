use proptest::prelude::*;
use serde_json::json;

use super::*;

fn fill(template: &str, claims: &Value) -> Result<String, MissingClaim> {
    KeyPrefix::parse(template).unwrap().fill(claims.as_object().unwrap())
}

#[test]
fn claims_fill_the_placeholders() {
    let claims = json!({"sub": "u1", "tenant": "acme", "n": 7, "realm": {"id": "r"}});
    assert_eq!(fill("users/{sub}/", &claims).unwrap(), "users/u1/");
    assert_eq!(fill("{tenant}/of-{realm.id}.d/{n}/", &claims).unwrap(), "acme/of-r.d/7/");
    assert_eq!(fill("", &claims).unwrap(), "");
    assert_eq!(fill("all/", &claims).unwrap(), "all/");
}

#[test]
fn a_caller_without_the_claim_has_no_prefix() {
    for claims in [
        json!({}),
        json!({"a": ""}),
        json!({"a": null}),
        json!({"a": ["x"]}),
        json!({"a": true}),
        json!({"a": 1.5}),
    ] {
        assert_eq!(fill("x/{a}/", &claims), Err(MissingClaim("a".into())), "{claims}");
    }
}

#[test]
fn what_cannot_be_a_prefix() {
    for wrong in [
        "/", "/a/", "a", "a/b", "a//b/", "./", "a/../", "{a/", "a}/", "{a}{b}/", "{a}-{b}/", "{}/", "{a}}/",
        "a\\b/", "a\nb/", "{a..b}/",
    ] {
        assert!(KeyPrefix::parse(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn values_stay_within_their_segment() {
    for (value, escaped) in [
        ("..", "%2E./"),
        (".", "%2E/"),
        ("../b", "%2E.%2Fb/"),
        ("a/b", "a%2Fb/"),
        ("a%2Fb", "a%252Fb/"),
        ("auth0|12", "auth0%7C12/"),
        ("ann@example.com", "ann@example.com/"),
        ("é", "%C3%A9/"),
        ("a\\b", "a%5Cb/"),
    ] {
        assert_eq!(fill("{a}/", &json!({"a": value})).unwrap(), escaped);
        assert!(KeyPrefix::parse("{a}/").unwrap().admits(escaped), "{escaped}");
    }
}

#[test]
fn a_named_prefix_has_the_form_of_somebodys() {
    let prefix = KeyPrefix::parse("users/u-{sub}/").unwrap();
    for good in ["users/u-a/", "users/u-a%2Fb/"] {
        assert!(prefix.admits(good), "{good}");
    }
    for bad in [
        "",
        "/",
        "users/",
        "users/u-/",
        "users/u-a",
        "users/u-a/b/",
        "other/u-a/",
        "users/a/",
        "users/u-a%2fb/",
        "users/u-a%41/",
        "users/u-%/",
        "users/u-../",
        "users/u-%FF/",
        "users/u-é/",
        "../users/u-a/",
    ] {
        assert!(!prefix.admits(bad), "{bad}");
    }
    assert!(KeyPrefix::parse("").unwrap().admits(""));
    assert!(!KeyPrefix::parse("").unwrap().admits("a/"));
}

proptest! {
    #[test]
    fn different_callers_have_different_prefixes(a in ".{1,12}", b in ".{1,12}", c in ".{1,12}", d in ".{1,12}") {
        let one = fill("t/{x}/u{y}/", &json!({"x": a, "y": b})).unwrap();
        let other = fill("t/{x}/u{y}/", &json!({"x": c, "y": d})).unwrap();
        prop_assert_eq!((a, b) == (c, d), one == other);
        // Nor is one within the other.
        prop_assert!(one == other || !(one.starts_with(&other) || other.starts_with(&one)));
        prop_assert_eq!(one.split('/').count(), 4);
        prop_assert!(one.split('/').all(|s| s != "." && s != ".."));
        let template = KeyPrefix::parse("t/{x}/u{y}/").unwrap();
        prop_assert!(template.admits(&one));
    }

    #[test]
    fn any_text_is_a_prefix_or_an_error(text in ".{0,30}") {
        if let Ok(prefix) = KeyPrefix::parse(&text) {
            prop_assert_eq!(prefix.as_str(), text);
        }
    }
}
