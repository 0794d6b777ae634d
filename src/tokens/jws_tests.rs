use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::tokens::test_support::{Parts, parts, payload, sign};

fn b64(text: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

fn refused(parts: &Parts, token: &str) -> Rejection {
    verify_signature(token, &parts.mint.keys().current().set).map(|_| ()).unwrap_err()
}

/// Checks 1 to 6 and 14: everything but the one strict form with one of our keys is refused, for its own reason.
#[test]
fn attack_tokens_are_refused() {
    let parts = parts(Algorithm::Rs256, &[]);
    let good = parts.token(crate::tokens::test_support::NOW);
    let [header, body, signature]: [&str; 3] = good.split('.').collect::<Vec<_>>().try_into().unwrap();
    verify_signature(&good, &parts.mint.keys().current().set).unwrap();
    let kid = parts.header()["kid"].as_str().unwrap().to_owned();
    let signed_header = |header: String| parts.forge(&header, payload().to_string().as_bytes());
    let unsigned =
        |alg: &str| format!("{}.{body}.{signature}", b64(json!({"alg": alg, "kid": kid}).to_string()));

    for alg in ["none", "None", "nOnE", "NONE"] {
        assert_eq!(refused(&parts, &unsigned(alg)), Rejection::Unsecured, "{alg}");
        let stripped = format!("{}.{body}.", b64(json!({"alg": alg}).to_string()));
        assert_eq!(refused(&parts, &stripped), Rejection::Unsecured, "{alg}");
    }
    for alg in ["", "rs256", "RS256 ", "ES512", "HS384", "RS1", "none ", "ES256K", "dir"] {
        assert_eq!(refused(&parts, &unsigned(alg)), Rejection::UnsupportedAlgorithm, "{alg}");
    }
    // Algorithm confusion (CVE-2016-10555): our public key, in every form it travels in, as an HMAC secret.
    let jwks: serde_json::Value = serde_json::from_str(&parts.mint.jwks_json()).unwrap();
    let n = jwks["keys"][0]["n"].as_str().unwrap();
    for secret in
        [n.as_bytes().to_vec(), URL_SAFE_NO_PAD.decode(n).unwrap(), jwks["keys"][0].to_string().into_bytes()]
    {
        let secret = crate::tokens::private_key::PrivateKey::parse(Algorithm::Hs256, &secret).unwrap();
        let header = json!({"alg": "HS256", "typ": "at+jwt", "kid": kid}).to_string();
        let forged = sign(&secret, &header, payload().to_string().as_bytes());
        assert_eq!(refused(&parts, &forged), Rejection::AlgorithmMismatch);
        let without_kid = sign(&secret, r#"{"alg":"HS256"}"#, payload().to_string().as_bytes());
        assert_eq!(refused(&parts, &without_kid), Rejection::UnknownKey);
    }
    for alg in ["RS384", "PS256", "ES256", "EdDSA"] {
        assert_eq!(refused(&parts, &unsigned(alg)), Rejection::AlgorithmMismatch, "{alg}");
    }
    // An embedded key (CVE-2018-0114), or the address of one, is never used.
    let (attacker, mut jwk) = crate::tokens::test_support::foreign_key(Algorithm::Rs256, "evil");
    jwk["x5c"] = json!(["MIIB"]);
    for member in ["jwk", "jku", "x5u", "x5c"] {
        let value = if member == "jwk" { jwk.clone() } else { json!("https://evil.test/jwks.json") };
        for kid in [json!("evil"), json!(kid)] {
            let header = json!({"alg": "RS256", "typ": "at+jwt", "kid": kid, member: value}).to_string();
            let forged = sign(&attacker, &header, payload().to_string().as_bytes());
            assert!(
                matches!(refused(&parts, &forged), Rejection::UnknownKey | Rejection::Signature),
                "{member}"
            );
        }
    }
    // A blank key.
    let blank = crate::tokens::private_key::PrivateKey::parse(Algorithm::Hs256, b"").unwrap();
    let forged = sign(&blank, &json!({"alg": "HS256", "kid": ""}).to_string(), b"{}");
    assert_eq!(refused(&parts, &forged), Rejection::UnknownKey);
    // kids that mean something to a file system, a database or a shell mean nothing here.
    for kid in ["../../dev/null", "' OR 1=1 --", "$(id)", "\u{0}", "a\r\nb", &"k".repeat(8000)] {
        let forged = signed_header(json!({"alg": "RS256", "kid": kid}).to_string());
        assert_eq!(refused(&parts, &forged), Rejection::UnknownKey);
    }
    for (extension, value) in [
        ("crit", json!(["exp"])),
        ("crit", json!([])),
        ("crit", json!(null)),
        ("b64", json!(true)),
        ("b64", json!(false)),
    ] {
        let header = json!({"alg": "RS256", "kid": kid, extension: value, "exp": 1}).to_string();
        assert_eq!(refused(&parts, &signed_header(header)), Rejection::Critical, "{extension}");
    }
    for header in [
        r#"{"alg":"RS256","alg":"RS256"}"#.to_owned(),
        format!(r#"{{"alg":"RS256","kid":"{kid}","kid":"{kid}"}}"#),
        format!(r#"{{"\u0061lg":"none","alg":"RS256","kid":"{kid}"}}"#),
        r#"{"kid":"a"}"#.into(),
        r#"{"alg":null}"#.into(),
        r#"{"alg":["RS256"]}"#.into(),
        r#"{"alg":"RS256","kid":7}"#.into(),
        r#"{"alg":"RS256","kid":null}"#.into(),
        r#"{"alg":"RS256","typ":["at+jwt"]}"#.into(),
        r#"["alg","RS256"]"#.into(),
        r#""RS256""#.into(),
        "{\"alg\":\"RS256\"} x".into(),
        "{".into(),
        format!(r#"{{"alg":"RS256","x":{}1{}}}"#, "[".repeat(64), "]".repeat(64)),
    ] {
        assert_eq!(refused(&parts, &signed_header(header.clone())), Rejection::Header, "{header}");
    }
    assert_eq!(
        refused(&parts, &format!("{}.{body}.{signature}", b64(b"{\"alg\":\"\xff\"}"))),
        Rejection::Header
    );

    // The form: nothing but three parts of canonical base64url.
    for token in [
        String::new(),
        ".".into(),
        "..".into(),
        header.to_owned(),
        format!("{header}.{body}"),
        format!("{header}.{body}."),
        format!("{header}..{signature}"),
        format!("{good}."),
        format!("{good}.x"),
        format!("{header}.{body}.{signature}.x.y"),
        json!({"protected": header, "payload": body, "signature": signature}).to_string(),
    ] {
        assert_eq!(refused(&parts, &token), Rejection::NotCompact, "{token}");
    }
    for token in [
        format!("{good}="),
        format!("{good}=="),
        format!("{header}=.{body}.{signature}"),
        format!(" {good}"),
        format!("{good} "),
        format!("{good}\n"),
        format!("{header}. {body}.{signature}"),
        format!("{header}.{body}\t.{signature}"),
        format!("{header}.{body}.{signature}+"),
        format!("{header}.{body}.{signature}/"),
        format!("{header}.{body}.{signature}%"),
        format!("{header}.{body}.é"),
        format!(".{body}.{signature}"),
    ] {
        assert!(matches!(refused(&parts, &token), Rejection::Encoding | Rejection::NotCompact), "{token}");
    }
    let long = format!("{header}.{body}.{}", "A".repeat(MAX_TOKEN_BYTES));
    assert_eq!(refused(&parts, &long), Rejection::TooLong);
    let million = "A".repeat(1_000_000);
    assert_eq!(refused(&parts, &million), Rejection::TooLong);
}

/// The unused bits of the last character are zero: one token has one spelling.
#[test]
fn trailing_bits_are_canonical() {
    let parts = parts(Algorithm::Es256, &[]);
    let good = parts.token(crate::tokens::test_support::NOW);
    // 64 bytes of signature: the last character carries two bits, so 15 others decode alike elsewhere.
    let (start, last) = good.split_at(good.len() - 1);
    assert!(["A", "Q", "g", "w"].contains(&last));
    for other in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_".chars() {
        let spelling = format!("{start}{other}");
        assert_eq!(verify_signature(&spelling, &parts.mint.keys().current().set).is_ok(), spelling == good);
    }
}

#[test]
fn a_token_without_kid_needs_the_only_key_of_its_algorithm() {
    let parts = parts(Algorithm::Es256, &[]);
    let token = parts.forge(r#"{"alg":"ES256"}"#, b"{}");
    let verified =
        |token: &str| verify_signature(token, &parts.mint.keys().current().set).map(|jws| jws.payload);
    assert_eq!(verified(&token).unwrap(), b"{}");
    parts.mint.keys().rotate(crate::tokens::test_support::NOW).unwrap();
    assert_eq!(verified(&token).unwrap_err(), Rejection::UnknownKey);
}

#[test]
fn every_flipped_bit_is_noticed() {
    for algorithm in Algorithm::OWN {
        let parts = parts(algorithm, &[]);
        let good = parts.token(crate::tokens::test_support::NOW);
        for position in (0..good.len()).step_by(7) {
            let mut bytes = good.clone().into_bytes();
            bytes[position] ^= 1;
            let Ok(token) = String::from_utf8(bytes) else { continue };
            refused(&parts, &token);
        }
    }
}

proptest! {
    #[test]
    fn any_text_is_refused_without_a_panic(token in "\\PC{0,200}|[A-Za-z0-9_.=-]{0,400}|([A-Za-z0-9_-]{1,80}\\.){2}[A-Za-z0-9_-]{1,80}") {
        prop_assert!(CompactJws::parse(&token).is_err());
    }

    #[test]
    fn any_header_is_parsed_or_refused(header in proptest::collection::vec(any::<u8>(), 0..200), tail in "\\PC{0,20}") {
        let _ = CompactJws::parse(&format!("{}.e30.AA", b64(&header)));
        let json = format!(r#"{{"alg":"ES256","kid":{tail}}}"#);
        let _ = CompactJws::parse(&format!("{}.e30.AA", b64(json)));
    }
}
