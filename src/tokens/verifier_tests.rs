use serde_json::json;
use uuid::Uuid;

use super::*;
use crate::config::{Algorithm, JwksSource};
use crate::store::{RevocationSink, SessionsCut};
use crate::tokens::test_support::{
    NOW, OURS, Parts, THEIRS, foreign_key, foreign_payload, issuer, jwks, parts, payload, sign,
};

fn later(seconds: u64) -> Timestamp {
    NOW.plus(Duration::from_secs(seconds))
}

/// The verdict on our own token with `change` applied to its payload.
fn own(parts: &Parts, change: impl FnOnce(&mut Value)) -> Result<Claims, Rejection> {
    let mut payload = payload();
    change(&mut payload);
    raw(parts, &payload.to_string())
}

fn raw(parts: &Parts, payload: &str) -> Result<Claims, Rejection> {
    parts.verifier.verify(&parts.forge(&parts.header().to_string(), payload.as_bytes()), NOW)
}

#[test]
fn our_tokens_are_believed_and_say_what_was_put_in() {
    for algorithm in Algorithm::OWN {
        let parts = parts(algorithm, &[]);
        let session = Uuid::now_v7();
        let token = parts.token_of(session, NOW);
        let claims = parts.verifier.verify(&token, NOW).unwrap();
        assert_eq!((claims.issuer.as_str(), claims.subject.as_str(), claims.own), (OURS, "u1", true));
        assert_eq!(claims.session, Some(session));
        let (seconds, nanos) = session.get_timestamp().unwrap().to_unix();
        assert_eq!(claims.began.0, i64::try_from(seconds * 1000 + u64::from(nanos) / 1_000_000).unwrap());
        assert_eq!(claims.expires_at, later(3600));
        assert_eq!(claims.email.as_deref(), Some("ada@example.com"));
        assert_eq!((claims.roles, claims.scopes), (vec!["admin".into()], vec!["a:read".into(), "b".into()]));
        let names: Vec<&str> = claims.all.keys().map(String::as_str).collect();
        assert_eq!(names, ["aud", "email", "exp", "iat", "iss", "jti", "roles", "scope", "sid", "sub"]);
        let header = crate::tokens::CompactJws::parse(&token).unwrap().header;
        assert_eq!((header.typ.as_deref(), header.algorithm), (Some("at+jwt"), algorithm));
    }
}

/// Checks 8 to 11: claims missing, of the wrong type or of the wrong value.
#[test]
fn claims_are_judged_strictly() {
    let parts = parts(Algorithm::EdDsa, &[]);
    own(&parts, |_| {}).unwrap();
    for (name, rejection) in [
        ("iss", Rejection::Claim("iss")),
        ("aud", Rejection::Claim("aud")),
        ("sub", Rejection::Claim("sub")),
        ("exp", Rejection::Claim("exp")),
        ("iat", Rejection::Claim("iat")),
        ("sid", Rejection::Claim("sid")),
        ("email", Rejection::Claim("email")),
        ("roles", Rejection::Claim("roles")),
    ] {
        let missing = own(&parts, |p| drop(p.as_object_mut().unwrap().remove(name)));
        assert_eq!(missing.unwrap_err(), rejection, "{name} missing");
        for wrong in [json!(null), json!({}), json!(true), json!([1]), json!([["portcullis"]])] {
            let refused = own(&parts, |p| p[name] = wrong.clone()).unwrap_err();
            assert_eq!(refused, rejection, "{name} = {wrong}");
        }
    }
    for (name, wrong, rejection) in [
        ("iss", json!("https://gateway.test/"), Rejection::UnknownIssuer),
        ("iss", json!("HTTPS://gateway.test"), Rejection::UnknownIssuer),
        ("iss", json!(""), Rejection::UnknownIssuer),
        ("iss", json!([OURS]), Rejection::Claim("iss")),
        ("aud", json!("portcullis2"), Rejection::Audience),
        ("aud", json!("Portcullis"), Rejection::Audience),
        ("aud", json!([]), Rejection::Audience),
        ("aud", json!(["x", "y"]), Rejection::Audience),
        ("aud", json!(["portcullis", 7]), Rejection::Claim("aud")),
        ("aud", json!({"portcullis": 1}), Rejection::Claim("aud")),
        ("sub", json!(""), Rejection::Claim("sub")),
        ("sub", json!("u\r\nX-User-Roles: admin"), Rejection::Claim("sub")),
        ("sub", json!(7), Rejection::Claim("sub")),
        ("sid", json!("not-a-uuid"), Rejection::Claim("sid")),
        ("email", json!(["a@b"]), Rejection::Claim("email")),
        ("roles", json!("admin"), Rejection::Claim("roles")),
        ("roles", json!(["admin", 1]), Rejection::Claim("roles")),
        ("scope", json!(7), Rejection::Claim("scope")),
        ("scope", json!(null), Rejection::Claim("scope")),
    ] {
        assert_eq!(own(&parts, |p| p[name] = wrong.clone()).unwrap_err(), rejection, "{name} = {wrong}");
    }
    own(&parts, |p| p["aud"] = json!(["x", "portcullis"])).unwrap();
}

/// CVE-2026-25537 and its kind: a time of the wrong type is not an absent one.
#[test]
fn times_are_numbers_or_the_token_is_refused() {
    let parts = parts(Algorithm::EdDsa, &[]);
    for name in ["exp", "nbf", "iat"] {
        for wrong in [
            "\"x\"",
            "\"9\"",
            "\"1800003600\"",
            "null",
            "true",
            "[]",
            "[1800003600]",
            "{}",
            "-1",
            "-0.0",
            "-1e3",
            "9007199254740992",
            "1e300",
            "18446744073709551615",
            "99999999999999999999",
        ] {
            let mut payload = payload();
            payload[name] = json!("@");
            let refused = raw(&parts, &payload.to_string().replace("\"@\"", wrong)).unwrap_err();
            assert_eq!(refused, Rejection::Claim(name), "{name} = {wrong}");
        }
        for not_json in ["1e400", "-1e400", "NaN", "Infinity", "0x10", "01", "+1", "1.", ".5"] {
            let mut payload = payload();
            payload[name] = json!("@");
            let refused = raw(&parts, &payload.to_string().replace("\"@\"", not_json)).unwrap_err();
            assert_eq!(refused, Rejection::Payload, "{name} = {not_json}");
        }
    }
}

#[test]
fn times_count_with_leeway_and_fractions() {
    let parts = parts(Algorithm::EdDsa, &[]);
    let now = NOW.seconds();
    let exp = |value: Value| own(&parts, |p| p["exp"] = value).map(|_| ());
    assert_eq!(exp(json!(now - 29)), Ok(()));
    assert_eq!(exp(json!(now - 30)), Err(Rejection::Expired), "on or after exp plus leeway");
    assert_eq!(exp(json!(now as f64 - 29.5)), Ok(()));
    assert_eq!(exp(json!(now as f64 - 30.5)), Err(Rejection::Expired));
    assert_eq!(exp(json!(0)), Err(Rejection::Expired));
    assert_eq!(exp(json!(1.8e9 + 60.0)), Ok(()));
    let nbf = |value: i64| own(&parts, |p| p["nbf"] = json!(value)).map(|_| ());
    assert_eq!((nbf(now + 30), nbf(now + 31)), (Ok(()), Err(Rejection::NotYetValid)));
    let iat = |value: i64| own(&parts, |p| p["iat"] = json!(value)).map(|_| ());
    assert_eq!((iat(now + 30), iat(now + 31)), (Ok(()), Err(Rejection::IssuedInFuture)));
}

#[test]
fn leeway_is_at_most_a_minute() {
    let parts = parts(Algorithm::EdDsa, &[]);
    let generous =
        Tokens { leeway: Duration::from_secs(3600), ..crate::tokens::test_support::tokens(Algorithm::EdDsa) };
    let verifier =
        Verifier::new(&generous, parts.mint.clone(), parts.issuers.clone(), parts.revocations.clone());
    let token = parts.token(NOW);
    assert!(verifier.verify(&token, later(3659)).is_ok());
    assert_eq!(verifier.verify(&token, later(3660)).unwrap_err(), Rejection::Expired);
}

#[test]
fn the_payload_is_one_strict_object() {
    let parts = parts(Algorithm::EdDsa, &[]);
    let good = payload().to_string();
    let inner = &good[1..good.len() - 1];
    for wrong in [
        format!("{{{inner},\"sub\":\"root\"}}"),
        format!("{{{inner},\"\\u0073ub\":\"root\"}}"),
        format!("{{{inner},\"x\":{{\"a\":1,\"a\":2}}}}"),
        format!("{{{inner},\"x\":{}{}}}", "[".repeat(64), "]".repeat(64)),
        format!("{good}{good}"),
        format!("[{good}]"),
        "null".into(),
        "text".into(),
    ] {
        assert_eq!(raw(&parts, &wrong).unwrap_err(), Rejection::Payload, "{wrong}");
    }
    let mut bytes = good.into_bytes();
    let at = bytes.windows(3).position(|w| w == b"ada").unwrap();
    bytes[at] = 0xff;
    let token = parts.forge(&parts.header().to_string(), &bytes);
    assert_eq!(parts.verifier.verify(&token, NOW).unwrap_err(), Rejection::Payload);
}

/// Check 7.
#[test]
fn our_own_tokens_must_call_themselves_access_tokens() {
    let parts = parts(Algorithm::EdDsa, &[]);
    let typed = |typ: Value| {
        let mut header = parts.header();
        header["typ"] = typ;
        parts
            .verifier
            .verify(&parts.forge(&header.to_string(), payload().to_string().as_bytes()), NOW)
            .map(|_| ())
    };
    for typ in ["at+jwt", "AT+JWT", "application/at+jwt", "Application/At+Jwt"] {
        assert_eq!(typed(json!(typ)), Ok(()), "{typ}");
    }
    for typ in ["JWT", "", "at+jwt ", "id+jwt", "rt+jwt", "application/application/at+jwt", "logout+jwt"] {
        assert_eq!(typed(json!(typ)), Err(Rejection::TokenType), "{typ}");
    }
    let mut header = parts.header();
    header.as_object_mut().unwrap().remove("typ");
    let untyped = parts.forge(&header.to_string(), payload().to_string().as_bytes());
    assert_eq!(parts.verifier.verify(&untyped, NOW).unwrap_err(), Rejection::TokenType);
}

#[test]
fn a_refresh_token_is_no_access_token() {
    let parts = parts(Algorithm::EdDsa, &[]);
    let refresh = crate::tokens::RefreshTokens::load_or_create(parts.folder.path()).unwrap();
    let token = refresh.encode("u1", Uuid::now_v7(), 1);
    assert_eq!(parts.verifier.verify(&token, NOW).unwrap_err(), Rejection::NotCompact);
}

/// Invariant 4: what was believed stops being believed.
#[test]
fn a_recheck_notices_expiry_revocation_and_removed_keys() {
    let parts = parts(Algorithm::Es256, &[]);
    let session = Uuid::now_v7();
    let claims = parts.verifier.verify(&parts.token_of(session, NOW), NOW).unwrap();
    assert_eq!(parts.verifier.recheck(&claims, later(3629)), Ok(()));
    assert_eq!(parts.verifier.recheck(&claims, later(3630)), Err(Rejection::Expired));

    parts.mint.keys().rotate_now(crate::tokens::OldKeys::Verify, NOW).unwrap();
    assert_eq!(parts.verifier.recheck(&claims, NOW), Ok(()), "a rotation removes nothing yet");
    // The operator removes the old key by hand: it was stolen.
    let path = parts.folder.path().join("keys/keys.json");
    let mut manifest: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    manifest["keys"].as_array_mut().unwrap().remove(1);
    std::fs::write(&path, manifest.to_string()).unwrap();
    parts.mint.reload_if_changed(NOW).unwrap();
    assert_eq!(parts.verifier.recheck(&claims, NOW), Err(Rejection::KeyRemoved));
    let fresh = parts.verifier.verify(&parts.token_of(session, NOW), NOW).unwrap();
    assert_eq!(parts.verifier.recheck(&fresh, NOW), Ok(()));

    parts.revocations.session("u1", session, later(3630));
    assert_eq!(parts.verifier.recheck(&fresh, NOW), Err(Rejection::Revoked));
    assert_eq!(parts.verifier.verify(&parts.token_of(session, NOW), NOW).unwrap_err(), Rejection::Revoked);
}

#[test]
fn a_users_cut_ends_earlier_sessions() {
    let parts = parts(Algorithm::Es256, &[]);
    let (old, kept) = (Uuid::now_v7(), Uuid::now_v7());
    let claims = parts.verifier.verify(&parts.token_of(old, NOW), NOW).unwrap();
    let spared = parts.verifier.verify(&parts.token_of(kept, NOW), NOW).unwrap();
    let cut = SessionsCut { at: claims.began.plus(Duration::from_secs(1)), keep: Some(kept) };
    parts.revocations.user("u1", cut, later(3630));
    assert_eq!(parts.verifier.recheck(&claims, NOW), Err(Rejection::Revoked));
    assert_eq!(parts.verifier.recheck(&spared, NOW), Ok(()));
}

/// A foreign issuer from a file, its keys loaded.
async fn with_foreign(algorithms: &[Algorithm], document: &str) -> Parts {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), document).unwrap();
    let parts = parts(Algorithm::Es256, &[issuer(JwksSource::File(file.path().into()), algorithms)]);
    parts.issuers.refresh_once().await;
    parts
}

/// Check 8: a key is good for its issuer only, and an issuer's word for its own keys only.
#[tokio::test]
async fn keys_belong_to_their_issuer() {
    let (key, jwk) = foreign_key(Algorithm::Es256, "f");
    let parts = with_foreign(&[Algorithm::Es256], &jwks(&[&jwk])).await;
    let now = Timestamp::now();
    let header = json!({"alg": "ES256", "kid": "f", "typ": "at+jwt"}).to_string();
    let at = |mut payload: Value| {
        payload["exp"] = json!(now.seconds() + 60);
        payload["iat"] = json!(now.seconds());
        payload.to_string()
    };
    let foreign = sign(&key, &header, at(foreign_payload()).as_bytes());
    let claims = parts.verifier.verify(&foreign, now).unwrap();
    assert_eq!((claims.issuer.as_str(), claims.own, claims.session), (THEIRS, false, None));
    assert_eq!(parts.verifier.recheck(&claims, now), Ok(()));
    // Their key for our name, our key for theirs.
    let as_ours = sign(&key, &header, at(payload()).as_bytes());
    assert_eq!(parts.verifier.verify(&as_ours, now).unwrap_err(), Rejection::UnknownKey);
    let as_theirs = parts.forge(&parts.header().to_string(), at(foreign_payload()).as_bytes());
    assert_eq!(parts.verifier.verify(&as_theirs, now).unwrap_err(), Rejection::UnknownKey);
    let untrusted = sign(&key, &header, at(json!({"iss": "https://evil.test"})).as_bytes());
    assert_eq!(parts.verifier.verify(&untrusted, now).unwrap_err(), Rejection::UnknownIssuer);
    // A revocation of our user u1 does not concern theirs.
    parts.revocations.user("f1", SessionsCut { at: now.plus(Duration::from_secs(9)), keep: None }, now);
    assert_eq!(parts.verifier.recheck(&claims, now), Ok(()));
}

#[tokio::test]
async fn foreign_claims_are_mapped_and_other_tokens_refused() {
    let (key, jwk) = foreign_key(Algorithm::EdDsa, "f");
    let parts = with_foreign(&[Algorithm::EdDsa], &jwks(&[&jwk])).await;
    let now = Timestamp::now();
    let verdict = |typ: Option<&str>, change: &dyn Fn(&mut Value)| {
        let mut header = json!({"alg": "EdDSA", "kid": "f"});
        if let Some(typ) = typ {
            header["typ"] = json!(typ);
        }
        let mut payload = foreign_payload();
        payload["exp"] = json!(now.seconds() + 60);
        change(&mut payload);
        parts.verifier.verify(&sign(&key, &header.to_string(), payload.to_string().as_bytes()), now)
    };
    let claims = verdict(Some("JWT"), &|p| p["scp"] = json!(["a", "b"])).unwrap();
    assert_eq!((claims.roles.as_slice(), claims.scopes.len()), (&["editor".to_owned()][..], 2));
    assert_eq!(claims.lookup("roles"), Some(&json!(["editor"])));
    assert_eq!(claims.lookup("realm_access.roles"), Some(&json!(["editor"])));
    // A mapped name means its path: what stands under the name itself, perhaps the user's own doing, does not count.
    let raised = verdict(None, &|p| {
        p["roles"] = json!(["admin"]);
        p["realm_access"] = json!({});
    })
    .unwrap();
    assert_eq!((raised.roles.len(), raised.lookup("roles")), (0, None));
    assert_eq!(
        verdict(None, &|p| p["realm_access"]["roles"] = json!({})).unwrap_err(),
        Rejection::Claim("roles")
    );
    for typ in ["at+jwt", "application/jwt", "jwt"] {
        verdict(Some(typ), &|_| {}).unwrap();
    }
    for typ in ["logout+jwt", "secevent+jwt", "dpop+jwt", "rt+jwt", "id+jwt", "JOSE", ""] {
        assert_eq!(verdict(Some(typ), &|_| {}).unwrap_err(), Rejection::TokenType, "{typ}");
    }
    for (name, value) in [
        ("at_hash", json!("x")),
        ("events", json!({})),
        ("token_use", json!("id")),
        ("typ", json!("Refresh")),
        ("typ", json!("ID")),
        ("typ", json!(7)),
    ] {
        assert_eq!(verdict(None, &|p| p[name] = value.clone()).unwrap_err(), Rejection::TokenType, "{name}");
    }
    verdict(None, &|p| p["typ"] = json!("Bearer")).unwrap();
    verdict(None, &|p| p["token_use"] = json!("access")).unwrap();
}

#[test]
fn every_rejection_has_a_word_of_its_own() {
    let parts = parts(Algorithm::Es256, &[]);
    let refused = parts.verifier.verify("", NOW).unwrap_err();
    assert_eq!((refused.reason(), refused.to_string().is_empty()), ("not_compact", false));
}
