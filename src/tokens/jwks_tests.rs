use serde_json::json;

use super::*;
use crate::tokens::private_key::PrivateKey;
use crate::tokens::test_support::{foreign_key, jwks};

const ALLOWED: [Algorithm; 4] = [Algorithm::Es256, Algorithm::Rs256, Algorithm::EdDsa, Algorithm::Hs256];

/// The reason `jwk` is skipped for, beside a good key that is taken all the same.
fn skipped(jwk: &Value) -> &'static str {
    let (_, good) = foreign_key(Algorithm::EdDsa, "good");
    let read = parse(jwks(&[jwk, &good]).as_bytes(), &ALLOWED).unwrap();
    assert_eq!(read.keys.len(), 1, "{jwk}");
    assert_eq!(read.keys[0].kid(), Some("good"));
    assert_eq!(read.skipped.len(), 1);
    read.skipped[0].reason
}

fn with(jwk: &Value, name: &str, value: Value) -> Value {
    let mut jwk = jwk.clone();
    jwk[name] = value;
    jwk
}

#[test]
fn usable_keys_are_taken() {
    let keys = [Algorithm::Es256, Algorithm::Rs256, Algorithm::EdDsa].map(|a| foreign_key(a, a.name()).1);
    let [es, rs, ed] = &keys;
    let with_ops = with(&with(es, "key_ops", json!(["verify"])), "use", json!("sig"));
    let read = parse(jwks(&[&with_ops, rs, ed]).as_bytes(), &ALLOWED).unwrap();
    assert_eq!(read.keys.iter().map(Key::algorithm).collect::<Vec<_>>(), ALLOWED[..3]);
    assert!(read.skipped.is_empty());
}

#[test]
fn unusable_keys_are_skipped_one_by_one() {
    let (_, es) = foreign_key(Algorithm::Es256, "x");
    let (_, rs) = foreign_key(Algorithm::Rs256, "x");
    assert_eq!(skipped(&json!("text")), "not an object");
    assert_eq!(skipped(&with(&es, "use", json!("enc"))), "its use is not sig");
    assert_eq!(skipped(&with(&es, "use", json!(null))), "its use is not sig");
    assert_eq!(skipped(&with(&es, "key_ops", json!(["sign"]))), "its key_ops do not include verify");
    assert_eq!(skipped(&with(&es, "key_ops", json!("verify"))), "its key_ops do not include verify");
    assert_eq!(skipped(&with(&es, "kty", json!("LWE"))), "its type or curve is not supported");
    assert_eq!(skipped(&with(&es, "crv", json!("P-521"))), "its type or curve is not supported");
    assert_eq!(skipped(&with(&es, "crv", json!("secp256k1"))), "its type or curve is not supported");
    assert_eq!(skipped(&with(&es, "alg", json!("ES384"))), "its alg is not among the issuer's");
    assert_eq!(skipped(&with(&es, "alg", json!("RS256"))), "its alg is not among the issuer's");
    assert_eq!(skipped(&with(&es, "alg", json!("HS256"))), "its alg is not among the issuer's");
    assert_eq!(skipped(&with(&es, "alg", json!(7))), "its alg is not a string");
    assert_eq!(skipped(&with(&es, "kid", json!(7))), "its kid is not a string");
    assert_eq!(skipped(&with(&es, "kid", json!("k".repeat(257)))), "its kid is too long");
    assert_eq!(skipped(&with(&es, "y", es["x"].clone())), "it is not a point of its curve");
    assert_eq!(skipped(&with(&es, "y", json!("AA"))), "it is not a point of its curve");
    assert_eq!(skipped(&with(&es, "y", json!("A=="))), "a member is not base64url");
    assert_eq!(skipped(&with(&es, "y", json!(null))), "a member is missing");
    let zero = json!("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
    assert_eq!(skipped(&with(&with(&es, "x", zero.clone()), "y", zero)), "it is not a point of its curve");
    let ed = foreign_key(Algorithm::EdDsa, "x").1;
    assert_eq!(skipped(&with(&ed, "x", json!("AAAA"))), "it is malformed");
    assert_eq!(skipped(&with(&ed, "crv", json!("Ed448"))), "its type or curve is not supported");
    assert_eq!(skipped(&with(&rs, "e", json!("AQ"))), "it is malformed");
    assert_eq!(skipped(&with(&rs, "e", json!("AAEAAQ"))), "it is malformed");
    assert_eq!(skipped(&with(&rs, "n", json!(""))), "it is malformed");
    for member in PRIVATE_MEMBERS {
        assert_eq!(
            skipped(&with(&rs, member, json!("AAAA"))),
            "it holds private or secret members",
            "{member}"
        );
    }
}

#[test]
fn secrets_are_never_taken_from_a_document() {
    let k = URL_SAFE_NO_PAD.encode([7; 64]);
    assert_eq!(skipped(&json!({"kty": "oct", "k": k, "alg": "HS256"})), "it holds private or secret members");
    assert_eq!(skipped(&json!({"kty": "oct", "alg": "HS256"})), "shared secrets are not accepted");
}

/// Check 13: RFC 7518 section 3.3.
#[test]
fn rsa_below_2048_bits_is_refused() {
    let n = |bytes: usize, first: u8| {
        let mut n = vec![0xff; bytes];
        n[0] = first;
        json!(URL_SAFE_NO_PAD.encode(n))
    };
    let key = |n: Value| json!({"kty": "RSA", "kid": "small", "alg": "RS256", "e": "AQAB", "n": n});
    let size = "its modulus is not of 2048 to 8192 bits";
    assert_eq!(skipped(&key(n(128, 0xff))), size);
    assert_eq!(skipped(&key(n(256, 0x7f))), size, "2047 bits");
    assert_eq!(skipped(&key(n(1025, 0xff))), size);
    assert_eq!(skipped(&key(n(257, 0x00))), "it is malformed", "a leading zero byte is not a bit more");
    assert_eq!(parse(jwks(&[&key(n(256, 0xff))]).as_bytes(), &ALLOWED).unwrap().keys.len(), 1);
}

#[test]
fn a_key_without_alg_needs_exactly_one_allowed_algorithm() {
    let (_, mut rs) = foreign_key(Algorithm::Rs256, "x");
    rs.as_object_mut().unwrap().remove("alg");
    let document = jwks(&[&rs]);
    let read = |allowed: &[Algorithm]| parse(document.as_bytes(), allowed).unwrap();
    assert_eq!(read(&[Algorithm::Ps384, Algorithm::Es256]).keys[0].algorithm(), Algorithm::Ps384);
    assert_eq!(
        read(&[Algorithm::Rs256, Algorithm::Ps256]).skipped[0].reason,
        "it has no alg, and several allowed ones fit"
    );
    assert_eq!(read(&[Algorithm::Es256]).skipped[0].reason, "no allowed algorithm fits it");
}

#[test]
fn a_document_that_can_be_read_two_ways_is_refused() {
    let read = |text: &str| parse(text.as_bytes(), &ALLOWED).map(|_| ()).unwrap_err();
    assert_eq!(read("<html>"), JwksError::NotJson);
    assert_eq!(read(r#"{"keys":[],"keys":[]}"#), JwksError::NotJson);
    assert_eq!(read(r#"{"keys":[{"kid":"a","kid":"b"}]}"#), JwksError::NotJson);
    assert_eq!(read("{}"), JwksError::NoKeys);
    assert_eq!(read(r#"{"keys":{}}"#), JwksError::NoKeys);
    assert_eq!(read(&jwks(&vec![&json!({}); 257])), JwksError::TooManyKeys);
    let (first, second) = (foreign_key(Algorithm::Es256, "same").1, foreign_key(Algorithm::EdDsa, "same").1);
    assert_eq!(read(&jwks(&[&first, &second])), JwksError::DuplicateKid);
    // A key of the same name that is not for signatures takes nothing away.
    let encryption = with(&second, "use", json!("enc"));
    assert_eq!(parse(jwks(&[&first, &encryption]).as_bytes(), &ALLOWED).unwrap().keys.len(), 1);
}

#[test]
fn our_thumbprint_is_that_of_rfc_8037() {
    // Appendix A.3.
    let members = [("crv", "Ed25519"), ("kty", "OKP"), ("x", "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo")];
    assert_eq!(crate::tokens::keys::thumbprint(&members), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    for algorithm in [Algorithm::Es256, Algorithm::EdDsa, Algorithm::Rs256] {
        let key = PrivateKey::parse(algorithm, &PrivateKey::generate(algorithm).unwrap()).unwrap();
        assert!(key.public_members().is_sorted_by_key(|(name, _)| *name));
    }
}
