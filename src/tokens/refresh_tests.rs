use std::fs;
use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

fn tokens() -> (TempDir, RefreshTokens) {
    let folder = TempDir::new().unwrap();
    let tokens = RefreshTokens::load_or_create(folder.path()).unwrap();
    (folder, tokens)
}

#[test]
fn the_secret_survives_a_restart_and_is_closed_to_others() {
    let (folder, tokens) = tokens();
    let token = tokens.encode("u1", Uuid::now_v7(), 7);
    let again = RefreshTokens::load_or_create(folder.path()).unwrap();
    assert_eq!(again.decode(&token).unwrap().generation, 7);
    let path = folder.path().join("keys/refresh.key");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(folder.path().join("keys")).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::read_dir(folder.path().join("keys")).unwrap().count(), 1, "no temporary file is left");
}

#[test]
fn a_secret_that_is_not_one_stops_the_start() {
    let (folder, _) = tokens();
    let path = folder.path().join("keys/refresh.key");
    let refused = || RefreshTokens::load_or_create(folder.path()).err().unwrap().to_string();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(refused().contains("chmod 600"), "{}", refused());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    for wrong in [&b""[..], &[1; 31], &[0; 32], &[9; 32], &[1, 2, 3].repeat(11)] {
        fs::write(&path, wrong).unwrap();
        assert!(refused().contains("exactly 32 random bytes"), "{wrong:?}");
    }
    fs::set_permissions(folder.path().join("keys"), fs::Permissions::from_mode(0o755)).unwrap();
    assert!(refused().contains("chmod 700"), "{}", refused());
}

#[test]
fn processes_that_start_at_once_share_one_secret() {
    let folder = TempDir::new().unwrap();
    let family = Uuid::now_v7();
    let made: Vec<String> = std::thread::scope(|scope| {
        let start = || RefreshTokens::load_or_create(folder.path()).unwrap().encode("u", family, 1);
        let threads: Vec<_> = (0..16).map(|_| scope.spawn(start)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(made.iter().all(|token| *token == made[0]));
}

#[test]
fn another_servers_token_is_refused() {
    let ((_a, ours), (_b, theirs)) = (tokens(), tokens());
    assert_eq!(ours.decode(&theirs.encode("u1", Uuid::now_v7(), 1)), None);
}

#[test]
fn a_good_mac_over_a_wrong_form_is_refused() {
    let (_folder, tokens) = tokens();
    let family = Uuid::now_v7();
    assert_eq!(tokens.decode(&tokens.encode("", family, 1)), None, "no user");
    assert_eq!(tokens.decode(&tokens.encode(&"u".repeat(65), family, 1)), None, "a user too long");
    let sealed = |body: &[u8]| {
        let mac = hmac::sign(&tokens.key, body);
        tokens.decode(&URL_SAFE_NO_PAD.encode([body, mac.as_ref()].concat()))
    };
    let body = [&[VERSION][..], family.as_bytes(), &1u64.to_be_bytes(), b"u"].concat();
    assert!(sealed(&body).is_some());
    let mut other_version = body.clone();
    other_version[0] = 2;
    assert_eq!(sealed(&other_version), None);
    assert_eq!(sealed(&body[..20]), None);
    assert_eq!(sealed(b""), None);
    assert_eq!(sealed(&[&body[..], b"\xff"].concat()), None, "a user that is not UTF-8");
}

#[test]
fn device_cookies_are_bound_to_an_account() {
    let folder = TempDir::new().unwrap();
    let cookies = DeviceCookies::load_or_create(folder.path()).unwrap();
    let cookie = cookies.encode("ada@example.com", "n0nce");
    assert_eq!(cookies.verify("ada@example.com", &cookie).as_deref(), Some("n0nce"));
    for account in ["", "bob@example.com", "ada@example.co", "Ada@example.com"] {
        assert_eq!(cookies.verify(account, &cookie), None, "{account}");
    }
    for (index, _) in cookie.char_indices() {
        let mut changed = cookie.clone().into_bytes();
        changed[index] ^= 1;
        assert_eq!(cookies.verify("ada@example.com", &String::from_utf8(changed).unwrap()), None, "{index}");
    }
    for wrong in
        ["", ".", "n0nce", "n0nce.", &format!("{cookie}="), &format!(" {cookie}"), &format!("{cookie}.x")]
    {
        assert_eq!(cookies.verify("ada@example.com", wrong), None, "{wrong}");
    }
    assert_eq!(cookies.verify("a", &cookies.encode("a", "with.dot")), None);
    assert_eq!(cookies.verify("a", &cookies.encode("a", "")), None);
}

#[test]
fn a_cookie_and_a_refresh_token_have_different_keys() {
    let folder = TempDir::new().unwrap();
    let cookies = DeviceCookies::load_or_create(folder.path()).unwrap();
    let tokens = RefreshTokens::load_or_create(folder.path()).unwrap();
    assert_ne!(hmac::sign(&cookies.key, b"x").as_ref(), hmac::sign(&tokens.key, b"x").as_ref());
}

proptest! {
    #[test]
    fn round_trip(user in "[!-~]{1,64}", family in any::<u128>(), generation in any::<u64>()) {
        let (_folder, tokens) = tokens();
        let family = Uuid::from_u128(family);
        let token = tokens.encode(&user, family, generation);
        prop_assert_eq!(&token, &tokens.encode(&user, family, generation), "the successor can be made again");
        prop_assert!(!token.contains('.'), "never an access token");
        prop_assert_eq!(tokens.decode(&token), Some(RefreshToken { user, family, generation }));
    }

    #[test]
    fn any_flipped_bit_is_refused(user in "[!-~]{1,64}", generation in any::<u64>(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let (_folder, tokens) = tokens();
        let token = tokens.encode(&user, Uuid::now_v7(), generation);
        let mut bytes = URL_SAFE_NO_PAD.decode(&token).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert_eq!(tokens.decode(&URL_SAFE_NO_PAD.encode(bytes)), None);
    }

    #[test]
    fn any_other_spelling_is_refused(user in "[!-~]{1,64}", at in any::<prop::sample::Index>(), other in "\\PC") {
        let (_folder, tokens) = tokens();
        let token = tokens.encode(&user, Uuid::now_v7(), 1);
        let at = at.index(token.len());
        let inserted = format!("{}{other}{}", &token[..at], &token[at..]);
        let replaced = format!("{}{other}{}", &token[..at], &token[at + 1..]);
        prop_assert_eq!(tokens.decode(&inserted), None);
        prop_assert!(replaced == token || tokens.decode(&replaced).is_none());
        prop_assert_eq!(tokens.decode(&token[..at]), None);
    }

    #[test]
    fn any_other_string_is_refused(text in "\\PC{0,300}|[A-Za-z0-9_-]{0,300}") {
        let (_folder, tokens) = tokens();
        prop_assert_eq!(tokens.decode(&text), None);
    }
}
