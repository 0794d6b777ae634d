use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::*;
use crate::tokens::test_support::{NOW, mint, parts, tokens};
use crate::tokens::{Rejection, verify_signature};

fn open(folder: &Path, algorithm: Algorithm, now: Timestamp) -> Result<SigningKeys, KeysError> {
    SigningKeys::open(folder, &tokens(algorithm), now)
}

fn refusal(folder: &Path) -> String {
    open(folder, Algorithm::Es256, NOW).err().expect("must not start").to_string()
}

fn key_file(folder: &Path) -> PathBuf {
    let mut files = fs::read_dir(folder.join("keys")).unwrap().map(|entry| entry.unwrap().path());
    files.find(|path| path.file_name().unwrap().to_str().unwrap().starts_with("key-")).unwrap()
}

fn later(seconds: u64) -> Timestamp {
    NOW.plus(Duration::from_secs(seconds))
}

#[test]
fn the_first_start_makes_a_key_that_stays() {
    for algorithm in Algorithm::OWN {
        let folder = TempDir::new().unwrap();
        let first = open(folder.path(), algorithm, NOW).unwrap().list();
        assert_eq!(first.len(), 1);
        assert_eq!((first[0].algorithm, first[0].retired), (algorithm, None));
        assert_eq!(open(folder.path(), algorithm, later(99)).unwrap().list(), first);
        for entry in fs::read_dir(folder.path().join("keys")).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.path());
            assert!(!entry.file_name().to_str().unwrap().ends_with(".tmp"));
        }
        assert_eq!(fs::metadata(folder.path().join("keys")).unwrap().permissions().mode() & 0o777, 0o700);
    }
}

/// Check 15: no private member, no secret.
#[test]
fn the_jwks_holds_public_members_only() {
    for (algorithm, members) in [
        (Algorithm::Es256, &["alg", "crv", "kid", "kty", "use", "x", "y"][..]),
        (Algorithm::EdDsa, &["alg", "crv", "kid", "kty", "use", "x"]),
        (Algorithm::Rs256, &["alg", "e", "kid", "kty", "n", "use"]),
    ] {
        let parts = parts(algorithm, &[]);
        let jwks: serde_json::Value = serde_json::from_str(&parts.mint.jwks_json()).unwrap();
        let keys = jwks["keys"].as_array().unwrap();
        assert_eq!(keys.len(), 1);
        let names: Vec<&str> = keys[0].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(names, members);
        // And it is a document that a verifier of ours would take.
        let read = crate::tokens::jwks::parse(parts.mint.jwks_json().as_bytes(), &[algorithm]).unwrap();
        let set = KeySet::new(read.keys).unwrap();
        verify_signature(&parts.token(NOW), &set).unwrap();
    }
    assert_eq!(parts(Algorithm::Hs256, &[]).mint.jwks_json(), r#"{"keys":[]}"#);
}

/// Checks 15 and 16: a rotation makes no token bad before its time.
#[test]
fn a_rotated_key_verifies_until_its_tokens_are_dead() {
    for algorithm in Algorithm::OWN {
        let parts = parts(algorithm, &[]);
        let old = parts.token(NOW);
        let kid = parts.mint.keys().rotate(NOW).unwrap();
        let new = parts.token(NOW);
        assert_ne!(kid_of(&old), kid);
        assert_eq!(kid_of(&new), kid);
        assert_eq!(parts.mint.keys().list()[0].kid, kid, "the signer comes first");
        parts.verifier.verify(&old, NOW).unwrap();
        let claims = parts.verifier.verify(&new, NOW).unwrap();

        let last = later(3600 + 29);
        parts.mint.reload_if_changed(last).unwrap();
        parts.verifier.verify(&old, last).unwrap();
        // An hour, the leeway, and the time others have to notice; after that the old key is gone.
        let over = later(3600 + 30 + 60);
        assert!(parts.mint.reload_if_changed(over).unwrap());
        assert_eq!(parts.mint.keys().list().len(), 1);
        assert_eq!(parts.verifier.verify(&old, over).unwrap_err(), Rejection::UnknownKey);
        assert_eq!(parts.verifier.recheck(&claims, last), Ok(()), "the new key stays when the old one goes");
    }
}

fn kid_of(token: &str) -> String {
    crate::tokens::CompactJws::parse(token).unwrap().header.kid.unwrap()
}

#[test]
fn a_rotation_deletes_what_is_over_and_only_that() {
    let folder = TempDir::new().unwrap();
    let keys = open(folder.path(), Algorithm::Es256, NOW).unwrap();
    let count = || fs::read_dir(folder.path().join("keys")).unwrap().count() - 2;
    keys.rotate(NOW).unwrap();
    keys.rotate(later(10)).unwrap();
    assert_eq!((keys.list().len(), count()), (3, 3));
    keys.rotate(later(3695)).unwrap();
    assert_eq!((keys.list().len(), count()), (3, 3), "the first went, a new one came");
}

#[test]
fn a_process_notices_a_rotation_made_by_another() {
    let parts = parts(Algorithm::Es256, &[]);
    let command = mint(parts.folder.path(), Algorithm::Es256, NOW);
    assert!(!parts.mint.reload_if_changed(NOW).unwrap(), "opening the keys changes nothing");
    let kid = command.keys().rotate(NOW).unwrap();
    assert!(parts.mint.reload_if_changed(NOW).unwrap());
    assert!(!parts.mint.reload_if_changed(NOW).unwrap());
    assert_eq!(parts.mint.keys().list()[0].kid, kid);
    assert_eq!(parts.mint.jwks_json(), command.jwks_json());
}

/// No false 401: a sibling's token arrives before this process looked at the folder again.
#[test]
fn a_token_of_a_sibling_that_rotated_is_believed_at_once() {
    let parts = parts(Algorithm::Es256, &[]);
    let sibling = mint(parts.folder.path(), Algorithm::Es256, NOW);
    sibling.keys().rotate(NOW).unwrap();
    let (roles, session) = (["a".to_owned()], uuid::Uuid::now_v7());
    let subject =
        crate::tokens::AccessSubject { user: "u", email: "e@x", roles: &roles, scopes: &[], session };
    let token = sibling.access_token(&subject, NOW).unwrap().token;
    parts.verifier.verify(&token, NOW).unwrap();
}

#[test]
fn another_algorithm_in_the_configuration_is_a_rotation() {
    let folder = TempDir::new().unwrap();
    let before = open(folder.path(), Algorithm::Es256, NOW).unwrap().list();
    let after = open(folder.path(), Algorithm::EdDsa, later(5)).unwrap().list();
    assert_eq!(after[0].algorithm, Algorithm::EdDsa);
    assert_eq!((&after[1].kid, after[1].retired), (&before[0].kid, Some(later(5))));
    assert_eq!(after[1].not_after, Some(later(5 + 3690)));
}

#[test]
fn retention_covers_long_lived_tokens() {
    let folder = TempDir::new().unwrap();
    let long = Tokens { access_ttl: Duration::from_secs(86_400), ..tokens(Algorithm::Es256) };
    let keys = SigningKeys::open(folder.path(), &long, NOW).unwrap();
    keys.rotate(NOW).unwrap();
    assert!(keys.list()[1].not_after.unwrap() >= later(86_400 + 30));
}

#[test]
fn processes_that_start_at_once_share_one_key() {
    let folder = TempDir::new().unwrap();
    let kids: Vec<String> = std::thread::scope(|scope| {
        let start = || open(folder.path(), Algorithm::Es256, NOW).unwrap().list().remove(0).kid;
        let threads: Vec<_> = (0..16).map(|_| scope.spawn(start)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(kids.iter().all(|kid| *kid == kids[0]), "{kids:?}");
}

#[test]
fn files_open_to_others_stop_the_start() {
    let folder = TempDir::new().unwrap();
    open(folder.path(), Algorithm::Es256, NOW).unwrap();
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let keys = folder.path().join("keys");
    for path in [key_file(folder.path()), keys.join("keys.json")] {
        for open_to_others in [0o640, 0o604, 0o620, 0o601, 0o666] {
            mode(&path, open_to_others);
            assert!(refusal(folder.path()).contains("chmod 600"), "{open_to_others:o}");
        }
        mode(&path, 0o600);
    }
    mode(&keys, 0o750);
    assert!(refusal(folder.path()).contains("chmod 700"));
}

/// Check 13: blank, too small and foreign keys stop the start, with a remedy and without their content.
#[test]
fn unfit_keys_stop_the_start() {
    let folder = TempDir::new().unwrap();
    open(folder.path(), Algorithm::Es256, NOW).unwrap();
    let path = key_file(folder.path());
    let good = fs::read(&path).unwrap();
    let other = PrivateKey::generate(Algorithm::Es256).unwrap();
    let ed = PrivateKey::generate(Algorithm::EdDsa).unwrap();
    for wrong in [&b""[..], b"-----BEGIN PRIVATE KEY-----", &good[..good.len() - 30], &other, &ed] {
        fs::write(&path, wrong).unwrap();
        let message = refusal(folder.path());
        assert!(message.contains("backup") && message.contains("key-"), "{message}");
        assert!(!message.contains("BEGIN"), "{message}");
    }
    fs::remove_file(&path).unwrap();
    assert!(refusal(folder.path()).contains("missing"));

    let folder = TempDir::new().unwrap();
    let start = || open(folder.path(), Algorithm::Hs256, NOW).err().map(|error| error.to_string());
    assert_eq!(start(), None);
    let path = key_file(folder.path());
    for wrong in [&b""[..], b"secret", &[7; 64], &[1, 2].repeat(15)] {
        fs::write(&path, wrong).unwrap();
        assert!(start().unwrap().contains("at least as long as its hash"));
    }
    fs::write(&path, [1, 2].repeat(16)).unwrap();
    assert_eq!(start(), None);
}

#[test]
fn an_rsa_key_of_1024_bits_stops_the_start() {
    // openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:1024, made for this test alone.
    let small = include_bytes!("testdata/rsa1024.pem");
    let folder = TempDir::new().unwrap();
    open(folder.path(), Algorithm::Rs256, NOW).unwrap();
    fs::write(key_file(folder.path()), small).unwrap();
    assert!(open(folder.path(), Algorithm::Rs256, NOW).is_err());
}

#[test]
fn a_manifest_that_cannot_be_trusted_stops_the_start() {
    let folder = TempDir::new().unwrap();
    open(folder.path(), Algorithm::Es256, NOW).unwrap();
    let path = folder.path().join("keys/keys.json");
    let good = fs::read_to_string(&path).unwrap();
    let entry =
        |kid: &str| format!(r#"{{"kid":"{kid}","algorithm":"ES256","created":"2026-01-01T00:00:00Z"}}"#);
    for wrong in [
        String::new(),
        "{}".into(),
        good.replace("ES256", "none"),
        good.replace("created", "made"),
        format!(r#"{{"keys":[{}]}}"#, entry("../../etc/passwd")),
        format!(r#"{{"keys":[{}]}}"#, entry("")),
        format!(r#"{{"keys":[{},{}]}}"#, entry("a"), entry("b")),
    ] {
        fs::write(&path, wrong).unwrap();
        assert!(refusal(folder.path()).contains("keys.json"));
    }
}

/// A running gateway keeps its keys when the folder is damaged, and recovers with it.
#[test]
fn a_bad_reload_keeps_the_keys_in_force() {
    let parts = parts(Algorithm::Es256, &[]);
    let token = parts.token(NOW);
    let path = parts.folder.path().join("keys/keys.json");
    let good = fs::read(&path).unwrap();
    fs::write(&path, "{").unwrap();
    assert!(parts.mint.reload_if_changed(NOW).is_err());
    assert!(parts.mint.reload_if_changed(NOW).is_err(), "it tries again");
    parts.verifier.verify(&token, NOW).unwrap();
    secret_files::write(&path, &good).unwrap();
    assert!(parts.mint.reload_if_changed(NOW).unwrap());
}
