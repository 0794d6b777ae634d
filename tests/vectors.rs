//! Published test vectors, run through the library's public signature check.
//!
//! RFC 7515 appendix A, RFC 7520 section 4 and RFC 8037 appendix A. What we support is accepted, and each
//! vector with one flipped bit is refused; what we do not support (ES512, `none`) is refused as such.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portcullis::config::Algorithm;
use portcullis::tokens::{Key, KeySet, Rejection, jwks, verify_signature};

/// A key as a JWK, and a compact JWS made with it.
struct Vector {
    key: &'static str,
    token: &'static str,
}

/// The key set an issuer allowed `algorithm` alone would have. A secret comes from nobody's JWKS, so it is
/// given as our own HMAC keys are.
fn key_set(vector: &Vector, algorithm: Algorithm) -> KeySet {
    let jwk: serde_json::Value = serde_json::from_str(vector.key).unwrap();
    let document = format!("{{\"keys\":[{}]}}", vector.key);
    let read = jwks::parse(document.as_bytes(), &[algorithm]).unwrap();
    if jwk["kty"] != "oct" {
        return KeySet::new(read.keys).unwrap();
    }
    assert!(read.keys.is_empty(), "a secret is not taken from a JWKS");
    let secret = URL_SAFE_NO_PAD.decode(jwk["k"].as_str().unwrap()).unwrap();
    let kid = jwk["kid"].as_str().map(str::to_owned);
    KeySet::new(vec![Key::hmac(kid, &secret).unwrap()]).unwrap()
}

/// Accepts the vector; refuses it with any one bit of payload or signature flipped, and under another key.
fn accepted(vector: &Vector, algorithm: Algorithm, payload: &[u8]) {
    let keys = key_set(vector, algorithm);
    let verified = verify_signature(vector.token, &keys).unwrap();
    assert_eq!((verified.header.algorithm, verified.key.algorithm()), (algorithm, algorithm));
    assert_eq!(verified.payload, payload);

    let [header, body, signature]: [&str; 3] =
        vector.token.split('.').collect::<Vec<_>>().try_into().unwrap();
    let flipped = |part: &str, bit: usize| {
        let mut bytes = URL_SAFE_NO_PAD.decode(part).unwrap();
        bytes[bit / 8] ^= 1 << (bit % 8);
        URL_SAFE_NO_PAD.encode(bytes)
    };
    for bit in 0..payload.len() * 8 {
        let token = format!("{header}.{}.{signature}", flipped(body, bit));
        assert_eq!(verify_signature(&token, &keys).unwrap_err(), Rejection::Signature, "payload bit {bit}");
    }
    for bit in 0..URL_SAFE_NO_PAD.decode(signature).unwrap().len() * 8 {
        let token = format!("{header}.{body}.{}", flipped(signature, bit));
        assert_eq!(verify_signature(&token, &keys).unwrap_err(), Rejection::Signature, "signature bit {bit}");
    }
    for bit in 0..URL_SAFE_NO_PAD.decode(header).unwrap().len() * 8 {
        let token = format!("{}.{body}.{signature}", flipped(header, bit));
        verify_signature(&token, &keys).unwrap_err();
    }
    for cut in 1..signature.len() {
        let token = format!("{header}.{body}.{}", &signature[..cut]);
        verify_signature(&token, &keys).unwrap_err();
    }
}

const JOE: &[u8] = b"{\"iss\":\"joe\",\r\n \"exp\":1300819380,\r\n \"http://example.com/is_root\":true}";
const FRODO: &str = "It\u{2019}s a dangerous business, Frodo, going out your door. You step onto the road, and if \
    you don't keep your feet, there\u{2019}s no knowing where you might be swept off to.";

#[test]
fn rfc_7515_a1_hs256() {
    accepted(&A1, Algorithm::Hs256, JOE);
}

#[test]
fn rfc_7515_a2_rs256() {
    accepted(&A2, Algorithm::Rs256, JOE);
}

#[test]
fn rfc_7515_a3_es256() {
    accepted(&A3, Algorithm::Es256, JOE);
}

/// ES512 is not supported: neither the key nor the token is.
#[test]
fn rfc_7515_a4_es512_is_refused() {
    let keys = key_set(&A4, Algorithm::Es256);
    assert!(keys.keys().is_empty());
    assert_eq!(verify_signature(A4.token, &keys).unwrap_err(), Rejection::UnsupportedAlgorithm);
}

#[test]
fn rfc_7515_a5_none_is_refused() {
    for keys in [KeySet::default(), key_set(&A2, Algorithm::Rs256), key_set(&A1, Algorithm::Hs256)] {
        assert_eq!(verify_signature(A5.token, &keys).unwrap_err(), Rejection::Unsecured);
    }
    assert_eq!(A5.key, "");
}

#[test]
fn rfc_7520_4_1_rs256() {
    accepted(&S4_1, Algorithm::Rs256, FRODO.as_bytes());
}

#[test]
fn rfc_7520_4_2_ps384() {
    accepted(&S4_2, Algorithm::Ps384, FRODO.as_bytes());
}

#[test]
fn rfc_7520_4_3_es512_is_refused() {
    let keys = key_set(&S4_3, Algorithm::Es384);
    assert!(keys.keys().is_empty());
    assert_eq!(verify_signature(S4_3.token, &keys).unwrap_err(), Rejection::UnsupportedAlgorithm);
}

#[test]
fn rfc_7520_4_4_hs256() {
    accepted(&S4_4, Algorithm::Hs256, FRODO.as_bytes());
}

#[test]
fn rfc_8037_a4_ed25519() {
    accepted(&ED25519, Algorithm::EdDsa, b"Example of Ed25519 signing");
}

/// RFC 8725 section 3.1: the same RSA key under another of its algorithms verifies nothing.
#[test]
fn a_key_has_one_algorithm() {
    let keys = key_set(&S4_1, Algorithm::Ps384);
    assert_eq!(verify_signature(S4_1.token, &keys).unwrap_err(), Rejection::AlgorithmMismatch);
    verify_signature(S4_2.token, &keys).unwrap();
}

/// RFC 7515 appendix A.1.
const A1: Vector = Vector {
    key: "\
    {\"kty\":\"oct\",\"k\":\"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgU\
    uTwjAzZr1Z9CAow\"}",
    token: "\
    eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA\
    6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
};

/// RFC 7515 appendix A.2.
const A2: Vector = Vector {
    key: "\
    {\"kty\":\"RSA\",\"n\":\"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4q\
    PCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf\
    63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I\
    5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ\",\"e\":\"AQAB\"\
    }",
    token: "\
    eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9\
    pc19yb290Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Q\
    c_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARN\
    PvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6I\
    eYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
};

/// RFC 7515 appendix A.3.
const A3: Vector = Vector {
    key: "\
    {\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU\",\"y\":\"\
    x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0\"}",
    token: "\
    eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9\
    pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqP\
    P3-Kg6NU1Q",
};

/// RFC 7515 appendix A.4.
const A4: Vector = Vector {
    key: "\
    {\"kty\":\"EC\",\"crv\":\"P-521\",\"x\":\"AekpBQ8ST8a8VcfVOTNl353vSrDCLLJXmPk06wTjxrrjcBpXp5EOnY\
    G_NjFZ6OvLFV1jSfS9tsz4qUxcWceqwQGk\",\"y\":\"ADSmRA43Z1DSNx_RvcLI87cdL07l6jQyyBXMoxVg_l2Th-x3S1W\
    DhjDly79ajL4Kkd0AZMaZmh9ubmf63e3kyMj2\"}",
    token: "\
    eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZA.AdwMgeerwtHoh-l192l60hp9wAHZFVJbLfD_UxMi70cwnZOYaRI1bKPWROc-mZZq\
    wqT2SI-KGDKB34XO0aw_7XdtAG8GaSwFKdCAPZgoXD2YBJZCPEX3xKpRwcdOO8KpEHwJjyqOgzDO7iKvU8vcnwNrmxYbSW9E\
    RBXukOXolLzeO_Jn",
};

/// RFC 7515 appendix A.5.
const A5: Vector = Vector {
    key: "",
    token: "\
    eyJhbGciOiJub25lIn0.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9p\
    c19yb290Ijp0cnVlfQ.",
};

/// RFC 7520 section 4.1.
const S4_1: Vector = Vector {
    key: "\
    {\"kty\":\"RSA\",\"kid\":\"bilbo.baggins@hobbiton.example\",\"use\":\"sig\",\"n\":\"n4EPtAOCc9Al\
    keQHPzHStgAbgs7bTZLwUBZdR8_KuKPEHLd4rHVTeT-O-XV2jRojdNhxJWTDvNd7nqQ0VEiZQHz_AJmSCpMaJMRBSFKrKb2w\
    qVwGU_NsYOYL-QtiWN2lbzcEe6XC0dApr5ydQLrHqkHHig3RBordaZ6Aj-oBHqFEHYpPe7Tpe-OfVfHd1E6cS6M1FZcD1NNL\
    YD5lFHpPI9bTwJlsde3uhGqC0ZCuEHg8lhzwOHrtIQbS0FVbb9k3-tVTU4fg_3L_vniUFAKwuCLqKnS2BYwdq_mzSnbLY7h_\
    qixoR7jig3__kRhuaxwUkRz5iaiQkqgc5gHdrNP5zw\",\"e\":\"AQAB\"}",
    token: "\
    eyJhbGciOiJSUzI1NiIsImtpZCI6ImJpbGJvLmJhZ2dpbnNAaG9iYml0b24uZXhhbXBsZSJ9.SXTigJlzIGEgZGFuZ2Vyb3V\
    zIGJ1c2luZXNzLCBGcm9kbywgZ29pbmcgb3V0IHlvdXIgZG9vci4gWW91IHN0ZXAgb250byB0aGUgcm9hZCwgYW5kIGlmIHl\
    vdSBkb24ndCBrZWVwIHlvdXIgZmVldCwgdGhlcmXigJlzIG5vIGtub3dpbmcgd2hlcmUgeW91IG1pZ2h0IGJlIHN3ZXB0IG9\
    mZiB0by4.MRjdkly7_-oTPTS3AXP41iQIGKa80A0ZmTuV5MEaHoxnW2e5CZ5NlKtainoFmKZopdHM1O2U4mwzJdQx996ivp8\
    3xuglII7PNDi84wnB-BDkoBwA78185hX-Es4JIwmDLJK3lfWRa-XtL0RnltuYv746iYTh_qHRD68BNt1uSNCrUCTJDt5aAE6\
    x8wW1Kt9eRo4QPocSadnHXFxnt8Is9UzpERV0ePPQdLuW3IS_de3xyIrDaLGdjluPxUAhb6L2aXic1U12podGU0KLUQSE_oI\
    -ZnmKJ3F4uOZDnd6QZWJushZ41Axf_fcIe8u9ipH84ogoree7vjbU5y18kDquDg",
};

/// RFC 7520 section 4.2.
const S4_2: Vector = Vector {
    key: "\
    {\"kty\":\"RSA\",\"kid\":\"bilbo.baggins@hobbiton.example\",\"use\":\"sig\",\"n\":\"n4EPtAOCc9Al\
    keQHPzHStgAbgs7bTZLwUBZdR8_KuKPEHLd4rHVTeT-O-XV2jRojdNhxJWTDvNd7nqQ0VEiZQHz_AJmSCpMaJMRBSFKrKb2w\
    qVwGU_NsYOYL-QtiWN2lbzcEe6XC0dApr5ydQLrHqkHHig3RBordaZ6Aj-oBHqFEHYpPe7Tpe-OfVfHd1E6cS6M1FZcD1NNL\
    YD5lFHpPI9bTwJlsde3uhGqC0ZCuEHg8lhzwOHrtIQbS0FVbb9k3-tVTU4fg_3L_vniUFAKwuCLqKnS2BYwdq_mzSnbLY7h_\
    qixoR7jig3__kRhuaxwUkRz5iaiQkqgc5gHdrNP5zw\",\"e\":\"AQAB\"}",
    token: "\
    eyJhbGciOiJQUzM4NCIsImtpZCI6ImJpbGJvLmJhZ2dpbnNAaG9iYml0b24uZXhhbXBsZSJ9.SXTigJlzIGEgZGFuZ2Vyb3V\
    zIGJ1c2luZXNzLCBGcm9kbywgZ29pbmcgb3V0IHlvdXIgZG9vci4gWW91IHN0ZXAgb250byB0aGUgcm9hZCwgYW5kIGlmIHl\
    vdSBkb24ndCBrZWVwIHlvdXIgZmVldCwgdGhlcmXigJlzIG5vIGtub3dpbmcgd2hlcmUgeW91IG1pZ2h0IGJlIHN3ZXB0IG9\
    mZiB0by4.cu22eBqkYDKgIlTpzDXGvaFfz6WGoz7fUDcfT0kkOy42miAh2qyBzk1xEsnk2IpN6-tPid6VrklHkqsGqDqHCdP\
    6O8TTB5dDDItllVo6_1OLPpcbUrhiUSMxbbXUvdvWXzg-UD8biiReQFlfz28zGWVsdiNAUf8ZnyPEgVFn442ZdNqiVJRmBqr\
    YRXe8P_ijQ7p8Vdz0TTrxUeT3lm8d9shnr2lfJT8ImUjvAA2Xez2Mlp8cBE5awDzT0qI0n6uiP1aCN_2_jLAeQTlqRHtfa64\
    QQSUmFAAjVKPbByi7xho0uTOcbH510a6GYmJUAfmWjwZ6oD4ifKo8DYM-X72Eaw",
};

/// RFC 7520 section 4.3.
const S4_3: Vector = Vector {
    key: "\
    {\"kty\":\"EC\",\"kid\":\"bilbo.baggins@hobbiton.example\",\"use\":\"sig\",\"crv\":\"P-521\",\"x\
    \":\"AHKZLLOsCOzz5cY97ewNUajB957y-C-U88c3v13nmGZx6sYl_oJXu9A5RkTKqjqvjyekWF-7ytDyRXYgCF5cj0Kt\",\
    \"y\":\"AdymlHvOiLxXkEhayXQnNCvDX4h9htZaCJN34kfmC6pV5OhQHiraVySsUdaQkAgDPrwQrJmbnX9cwlGfP-HqHZR1\
    \"}",
    token: "\
    eyJhbGciOiJFUzUxMiIsImtpZCI6ImJpbGJvLmJhZ2dpbnNAaG9iYml0b24uZXhhbXBsZSJ9.SXTigJlzIGEgZGFuZ2Vyb3V\
    zIGJ1c2luZXNzLCBGcm9kbywgZ29pbmcgb3V0IHlvdXIgZG9vci4gWW91IHN0ZXAgb250byB0aGUgcm9hZCwgYW5kIGlmIHl\
    vdSBkb24ndCBrZWVwIHlvdXIgZmVldCwgdGhlcmXigJlzIG5vIGtub3dpbmcgd2hlcmUgeW91IG1pZ2h0IGJlIHN3ZXB0IG9\
    mZiB0by4.AE_R_YZCChjn4791jSQCrdPZCNYqHXCTZH0-JZGYNlaAjP2kqaluUIIUnC9qvbu9Plon7KRTzoNEuT4Va2cmL1e\
    JAQy3mtPBu_u_sDDyYjnAMDxXPn7XrT0lw-kvAD890jl8e2puQens_IEKBpHABlsbEPX6sFY8OcGDqoRuBomu9xQ2",
};

/// RFC 7520 section 4.4.
const S4_4: Vector = Vector {
    key: "\
    {\"kty\":\"oct\",\"kid\":\"018c0ae5-4d9b-471b-bfd6-eef314bc7037\",\"use\":\"sig\",\"alg\":\"HS25\
    6\",\"k\":\"hJtXIZ2uSN5kbQfbtTNWbpdmhkV8FJG-Onbc6mxCcYg\"}",
    token: "\
    eyJhbGciOiJIUzI1NiIsImtpZCI6IjAxOGMwYWU1LTRkOWItNDcxYi1iZmQ2LWVlZjMxNGJjNzAzNyJ9.SXTigJlzIGEgZGF\
    uZ2Vyb3VzIGJ1c2luZXNzLCBGcm9kbywgZ29pbmcgb3V0IHlvdXIgZG9vci4gWW91IHN0ZXAgb250byB0aGUgcm9hZCwgYW5\
    kIGlmIHlvdSBkb24ndCBrZWVwIHlvdXIgZmVldCwgdGhlcmXigJlzIG5vIGtub3dpbmcgd2hlcmUgeW91IG1pZ2h0IGJlIHN\
    3ZXB0IG9mZiB0by4.s0h6KThzkfBBBkLspW1h84VsJZFTsPPqMDA7g1Md7p0",
};

/// RFC 8037 appendix A.4.
const ED25519: Vector = Vector {
    key: "{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\"}",
    token: "\
    eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AI\
    bQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
};
