use proptest::prelude::*;

use super::*;

fn matches(hash: &str, password: impl AsRef<[u8]>) -> bool {
    PasswordHash::parse(hash).expect("a hash").matches(password.as_ref()).expect("an answer")
}

/// Made by passlib 1.7.4: `bcrypt_sha256.using(rounds=, salt=).hash(password)`.
#[test]
fn passlibs_bcrypt_sha256_hashes_verify() {
    let vectors: [(&[u8], &str); 7] = [
        (b"password", "$bcrypt-sha256$v=2,t=2b,r=4$n79VH.0Q2TMWmt3Oqt9uku$sdU2s51xApBVBMVw4RZiJY.7FC1fevu"),
        (b"", "$bcrypt-sha256$v=2,t=2b,r=4$CCCCCCCCCCCCCCCCCCCCC.$sPpiByv3zNGdWU9n.xvn2I2zMRDQ5ay"),
        (&[b'a'; 72], "$bcrypt-sha256$v=2,t=2b,r=5$......................$.8PE5HlDogOScKJTgElwYkzvaNmat7q"),
        (&[b'a'; 73], "$bcrypt-sha256$v=2,t=2b,r=4$abcdefghijklmnopqrstuu$cUHaFfOheX.UlG.wVZ3t4rC9z/87CFG"),
        (
            "pässwörd \u{1F511}".as_bytes(),
            "$bcrypt-sha256$v=2,t=2b,r=4$abcdefghijklmnopqrstuu$ilzAgiXjrYbqOICiI3T2T2z1CoeupkC",
        ),
        (&[b'x'; 1024], "$bcrypt-sha256$v=2,t=2b,r=6$OOOOOOOOOOOOOOOOOOOOOe$XlUMgu0JLJoyIDCRL1Ze5rUD/wLe4NS"),
        (
            &[0xff, 0xa3].repeat(36),
            "$bcrypt-sha256$v=2,t=2b,r=4$OOOOOOOOOOOOOOOOOOOOOe$Ca5IV/0b0c0ZofYiR4ofrDsIx/Nkgca",
        ),
    ];
    for (password, hash) in vectors {
        assert!(matches(hash, password), "{hash}");
        assert!(!matches(hash, [password, b"x"].concat()), "{hash}");
    }
}

/// Made by passlib 1.7.4 and argon2-cffi 25.1.0.
#[test]
fn imported_hashes_verify() {
    for version in ["2a", "2b", "2y"] {
        let salted = format!("${version}$04$CCCCCCCCCCCCCCCCCCCCC.");
        assert!(matches(&format!("{salted}FXJHjF.8tyWAsIeGLxC7hC/nyX4QxgC"), "password"));
        assert!(!matches(&format!("{salted}FXJHjF.8tyWAsIeGLxC7hC/nyX4QxgC"), "Password"));
        assert!(matches(&format!("{salted}Cg0ly9t/KVBCBYYDfOmZKwry9JuXClC"), ""));
        assert!(matches(&format!("{salted}bOPIHsrRTS3DxLLG5zPpQxRPqURmIXK"), "b".repeat(72)));
    }
    for hash in [
        "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$K13EBUiG7JV+9ZxztmHFTdb7J0WQsnj2V8bZaqyPptE",
        "$argon2id$v=19$m=1024,t=1,p=2$c29tZXNhbHRzb21lc2FsdA$L388fjNPCaXnwJS4CXBfUgF9Xqx6sJztdQDtcHrUL58",
    ] {
        assert!(matches(hash, "password"));
        assert!(!matches(hash, "passwore"));
    }
}

#[test]
fn nothing_is_truncated_at_72_bytes() {
    let long = "p".repeat(74);
    for length in [71, 72, 73] {
        let hash = new(&long.as_bytes()[..length], 4).unwrap();
        for other in [70, 71, 72, 73, 74] {
            assert_eq!(matches(&hash, &long[..other]), other == length, "{length} and {other}");
        }
    }
    // Plain bcrypt cannot tell these from their first 72 bytes, so they do not match at all.
    let imported = "$2b$04$CCCCCCCCCCCCCCCCCCCCC.bOPIHsrRTS3DxLLG5zPpQxRPqURmIXK";
    assert!(matches(imported, "b".repeat(72)));
    assert!(!matches(imported, "b".repeat(71)));
    assert!(!matches(imported, "b".repeat(73)));
}

#[test]
fn nul_is_a_byte_like_any_other() {
    let hash = new(b"pass\0word", 4).unwrap();
    assert!(matches(&hash, b"pass\0word"));
    for other in [&b"pass"[..], b"pass\0", b"pass\0wore", b"password", b"pass\0word\0"] {
        assert!(!matches(&hash, other), "{other:?}");
    }
    // bcrypt repeats its key with the terminating NUL: "a" and "a\0a" are the same to it.
    let a = bcrypt::hash_with_salt("password", 4, [7; 16]).unwrap().to_string();
    assert!(matches(&a, "password"));
    assert!(!matches(&a, "password\0password"));
    assert!(!matches(&a, "password\0"));
}

#[test]
fn unicode_forms_and_case_differ() {
    let hash = new("caf\u{e9}".as_bytes(), 4).unwrap();
    assert!(matches(&hash, "caf\u{e9}"));
    assert!(!matches(&hash, "cafe\u{301}"));
    assert!(!matches(&hash, "CAF\u{c9}"));
    assert!(!matches(&hash, " caf\u{e9}"));
}

#[test]
fn empty_and_long_passwords_hash_like_others() {
    for password in [vec![], vec![b'x'; 1024], vec![0; 1024], vec![b'x'; 100_000]] {
        let hash = new(&password, 4).unwrap();
        assert!(matches(&hash, &password));
        assert!(!matches(&hash, [&password[..], b"\0"].concat()));
    }
}

#[test]
fn each_hash_has_its_own_salt() {
    assert_ne!(new(b"password", 4).unwrap(), new(b"password", 4).unwrap());
}

#[test]
fn parameters_are_bounded() {
    let argon = |params: &str| {
        PasswordHash::parse(&format!(
            "$argon2id$v=19${params}$c29tZXNhbHRzb21lc2FsdA$K13EBUiG7JV+9ZxztmHFTdb7J0WQsnj2"
        ))
    };
    assert!(argon("m=262144,t=4,p=4").is_ok());
    for params in ["m=262145,t=1,p=1", "m=65536,t=17,p=1", "m=4294967295,t=4294967295,p=1", "m=1024,t=1,p=17"]
    {
        assert_eq!(argon(params).err(), Some(HashError::TooExpensive), "{params}");
    }
    for params in
        ["", "m=1024", "m=1024,t=1,p=0", "m=1024,t=0,p=1", "m=1,t=1,p=1", "t=1,m=1024,p=1", "m=+99,t=1,p=1"]
    {
        assert_eq!(argon(params).err(), Some(HashError::Damaged("argon2id")), "{params}");
    }
    for cost in [17, 31, 3, 99] {
        let hash = format!("$2b${cost:02}$CCCCCCCCCCCCCCCCCCCCC.FXJHjF.8tyWAsIeGLxC7hC/nyX4QxgC");
        assert_eq!(PasswordHash::parse(&hash).err(), Some(HashError::Cost(cost)));
        assert_eq!(new(b"", cost).err(), Some(HashError::Cost(cost)));
    }
}

#[test]
fn what_is_no_hash_of_ours_is_refused() {
    let bcrypt = "CCCCCCCCCCCCCCCCCCCCC.FXJHjF.8tyWAsIeGLxC7hC/nyX4QxgC";
    for text in [
        "",
        "$",
        "password",
        "$2x$04$CCCCCCCCCCCCCCCCCCCCC.FXJHjF.8tyWAsIeGLxC7hC/nyX4QxgC",
        "$2b$4$CCCCCCCCCCCCCCCCCCCCC.FXJHjF.8tyWAsIeGLxC7hC/nyX4QxgC",
        "$2b$04$short",
        "$2b$04$ééééééééééé",
        "$bcrypt-sha256$2b,4$n79VH.0Q2TMWmt3Oqt9uku$sdU2s51xApBVBMVw4RZiJY.7FC1fevu",
        "$bcrypt-sha256$v=1,t=2b,r=4$n79VH.0Q2TMWmt3Oqt9uku$sdU2s51xApBVBMVw4RZiJY.7FC1fevu",
        "$argon2i$v=19$m=1024,t=1,p=2$c29tZXNhbHRzb21lc2FsdA$L388fjNPCaXnwJS4CXBfUgF9Xqx6sJztdQDtcHrUL58",
        "$argon2id$v=16$m=1024,t=1,p=2$c29tZXNhbHRzb21lc2FsdA$L388fjNPCaXnwJS4CXBfUgF9Xqx6sJztdQDtcHrUL58",
        "$argon2id$v=19$m=1024,t=1,p=2$c29tZXNhbHRzb21lc2FsdA$AAAA",
        &format!("$2b$04${bcrypt}="),
        &format!("$2b$04${bcrypt}$"),
        &format!(" $2b$04${bcrypt}"),
        &format!("$2b$04${bcrypt}\n"),
    ] {
        assert!(PasswordHash::parse(text).is_err(), "{text:?}");
    }
}

#[test]
fn other_formats_and_costs_are_upgraded() {
    let ours = new(b"password", 5).unwrap();
    assert!(!needs_upgrade(&ours, 5));
    assert!(needs_upgrade(&ours, 4));
    assert!(needs_upgrade(&ours, 6));
    assert!(needs_upgrade("$2b$05$CCCCCCCCCCCCCCCCCCCCC.FXJHjF.8tyWAsIeGLxC7hC/nyX4QxgC", 5));
    assert!(needs_upgrade("nonsense", 5));
}

proptest! {
    #[test]
    fn no_text_makes_parsing_panic(text in "\\PC{0,120}") {
        let _ = PasswordHash::parse(&text);
    }

    #[test]
    fn nor_does_a_hash_that_was_tampered_with(
        which in 0..3usize, at in 0..100usize, with in any::<char>(), cut in 0..100usize
    ) {
        let hash = [
            "$bcrypt-sha256$v=2,t=2b,r=4$n79VH.0Q2TMWmt3Oqt9uku$sdU2s51xApBVBMVw4RZiJY.7FC1fevu",
            "$2b$04$CCCCCCCCCCCCCCCCCCCCC.FXJHjF.8tyWAsIeGLxC7hC/nyX4QxgC",
            "$argon2id$v=19$m=64,t=1,p=2$c29tZXNhbHRzb21lc2FsdA$L388fjNPCaXnwJS4CXBfUgF9Xqx6sJztdQDtcHrUL58",
        ][which];
        let mut text: Vec<char> = hash.chars().collect();
        let at = at % text.len();
        text[at] = with;
        let text: String = text.into_iter().take(cut.max(at + 1)).collect();
        // The bcrypt ones may now cost up to 2^16 rounds; the other is cheap whatever changed.
        if let Ok(parsed @ PasswordHash::Argon2id { .. }) = PasswordHash::parse(&text) {
            prop_assert!(parsed.matches(b"password").is_ok());
        }
    }
}
