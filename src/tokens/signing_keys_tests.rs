use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::*;
use crate::tokens::test_support::{NOW, mint, parts, tokens};
use crate::tokens::{AccessSubject, Mint, Rejection, verify_signature};

/// Seconds that a new key waits, and that an old one verifies: an hour, the leeway, and the time others have to
/// notice.
const AHEAD: u64 = 600;
const RETENTION: u64 = 3600 + 30 + 60;

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
        let first = open(folder.path(), algorithm, NOW).unwrap().list(NOW);
        assert_eq!(first.len(), 1);
        assert_eq!((first[0].algorithm, first[0].role), (algorithm, KeyRole::Signs { until: None }));
        assert_eq!(open(folder.path(), algorithm, later(99)).unwrap().list(later(99)), first);
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

fn kid_of(token: &str) -> String {
    crate::tokens::CompactJws::parse(token).unwrap().header.kid.unwrap()
}

/// Published, by kid.
fn published(mint: &Mint) -> Vec<String> {
    let jwks: serde_json::Value = serde_json::from_str(&mint.jwks_json()).unwrap();
    jwks["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

fn token_by(mint: &Mint, now: Timestamp) -> String {
    let subject =
        AccessSubject { user: "u", email: "e@x", roles: &[], scopes: &[], session: uuid::Uuid::now_v7() };
    mint.access_token(&subject, now).unwrap().token
}

fn just_before(time: Timestamp) -> Timestamp {
    time.minus(Duration::from_millis(1))
}

/// Check 16: no verifier meets a key that was not published for as long as it may keep a copy.
#[test]
fn a_key_is_published_before_it_signs_and_the_switch_needs_no_reload() {
    for algorithm in Algorithm::OWN {
        let parts = parts(algorithm, &[]);
        let old = kid_of(&parts.token(NOW));
        let (new, from) = parts.mint.keys().rotate(NOW).unwrap();
        assert_eq!(from, later(AHEAD));
        if algorithm != Algorithm::Hs256 {
            assert_eq!(published(&parts.mint), [new.clone(), old.clone()]);
        }
        for (now, signer) in
            [(NOW, &old), (just_before(from), &old), (from, &new), (later(AHEAD + 9999), &new)]
        {
            assert_eq!(kid_of(&parts.token(now)), *signer);
            parts.verifier.verify(&parts.token(now), now).unwrap();
        }
        assert!(!parts.mint.reload_if_changed(from).unwrap());
        // And a process that starts at any of these moments agrees.
        for (now, signer) in [(NOW, &old), (just_before(from), &old), (from, &new)] {
            assert_eq!(kid_of(&token_by(&mint(parts.folder.path(), algorithm, now), now)), *signer);
        }
    }
}

/// Checks 15 and 16: a rotation makes no token bad before its time, which counts from the switch.
#[test]
fn a_retired_key_verifies_until_its_tokens_are_dead() {
    for algorithm in Algorithm::OWN {
        let parts = parts(algorithm, &[]);
        let first = parts.mint.keys().list(NOW)[0].kid.clone();
        let (_, switch) = parts.mint.keys().rotate(NOW).unwrap();
        let old = parts.token(just_before(switch));
        assert_eq!(kid_of(&old), first);
        let new = parts.token(switch);
        let claims = parts.verifier.verify(&new, switch).unwrap();

        let last = switch.plus(Duration::from_secs(3600 + 29));
        parts.mint.reload_if_changed(last).unwrap();
        parts.verifier.verify(&old, last.minus(Duration::from_secs(1))).unwrap();
        let over = switch.plus(Duration::from_secs(RETENTION));
        assert!(!parts.mint.reload_if_changed(just_before(over)).unwrap());
        assert!(parts.mint.reload_if_changed(over).unwrap());
        assert_eq!(parts.mint.keys().list(over).len(), 1);
        assert_eq!(parts.verifier.verify(&old, over).unwrap_err(), Rejection::UnknownKey);
        assert_eq!(parts.verifier.recheck(&claims, last), Ok(()), "the new key stays when the old one goes");
    }
}

/// A sibling whose clock is ahead signs with the new key before we would.
#[test]
fn a_pending_key_verifies() {
    let parts = parts(Algorithm::Es256, &[]);
    let sibling = mint(parts.folder.path(), Algorithm::Es256, NOW);
    let (kid, from) = sibling.keys().rotate(NOW).unwrap();
    let token = token_by(&sibling, from);
    assert_eq!(kid_of(&token), kid);
    // Its `iat` is within the leeway of this clock, the key is still pending here, and not even read yet.
    parts.verifier.verify(&token, from.minus(Duration::from_secs(20))).unwrap();
}

#[test]
fn a_rotation_waits_for_the_one_before_it() {
    let parts = parts(Algorithm::Es256, &[]);
    let keys = parts.mint.keys();
    let (kid, from) = keys.rotate(NOW).unwrap();
    let before = fs::read(parts.folder.path().join("keys/keys.json")).unwrap();
    let message = keys.rotate(just_before(from)).unwrap_err().to_string();
    assert!(message.contains(&kid) && message.contains(&from.to_string()) && message.contains("--now"));
    assert_eq!(fs::read(parts.folder.path().join("keys/keys.json")).unwrap(), before);
    let files = fs::read_dir(parts.folder.path().join("keys")).unwrap();
    assert_eq!(files.count(), 2 + 2, "the two keys, the manifest and the lock");
    keys.rotate(from).unwrap();
}

#[test]
fn the_roles_of_keys() {
    let folder = TempDir::new().unwrap();
    let keys = open(folder.path(), Algorithm::Es256, NOW).unwrap();
    keys.rotate(NOW).unwrap();
    let roles = |now| keys.list(now).iter().map(|key| key.role).collect::<Vec<_>>();
    let (from, until) = (later(AHEAD), later(AHEAD + RETENTION));
    let before = [KeyRole::Pending { signs_from: from }, KeyRole::Signs { until: Some(from) }];
    assert_eq!(roles(just_before(from)), before);
    assert_eq!(roles(from), [KeyRole::Signs { until: None }, KeyRole::Verifies { until }]);
}

#[test]
fn at_once_means_at_once() {
    let parts = parts(Algorithm::Es256, &[]);
    let keys = parts.mint.keys();
    let old = parts.token(NOW);
    let (pending, from) = keys.rotate(NOW).unwrap();
    let kid = keys.rotate_now(OldKeys::Verify, later(5)).unwrap();
    assert_eq!(kid_of(&parts.token(later(5))), kid);
    assert_eq!(kid_of(&parts.token(from)), kid, "{pending} never signs");
    // Also where the clock is behind.
    assert_eq!(kid_of(&parts.token(NOW)), kid);
    let verifies = KeyRole::Verifies { until: later(5 + RETENTION) };
    let roles: Vec<KeyRole> = keys.list(later(5)).iter().map(|key| key.role).collect();
    assert_eq!(roles, [KeyRole::Signs { until: None }, verifies, verifies]);
    parts.verifier.verify(&old, later(5)).unwrap();
}

#[test]
fn dropped_keys_are_gone_with_their_files_and_tokens() {
    for algorithm in Algorithm::OWN {
        let parts = parts(algorithm, &[]);
        let (first, early) = (parts.token(NOW), later(10));
        parts.mint.keys().rotate_now(OldKeys::Verify, NOW).unwrap();
        let second = parts.token(NOW);
        parts.mint.keys().rotate(NOW).unwrap();
        let pending = parts.token(later(AHEAD));
        let claims = parts.verifier.verify(&second, NOW).unwrap();

        // By a command, with the gateway running.
        let command = mint(parts.folder.path(), algorithm, early);
        let kid = command.keys().rotate_now(OldKeys::Drop, early).unwrap();
        assert!(parts.mint.reload_if_changed(early).unwrap());
        assert_eq!(parts.verifier.recheck(&claims, early), Err(Rejection::KeyRemoved));
        for token in [first, second, pending] {
            assert_eq!(parts.verifier.verify(&token, early).unwrap_err(), Rejection::UnknownKey);
        }
        let token = parts.token(early);
        assert_eq!(kid_of(&token), kid);
        parts.verifier.verify(&token, early).unwrap();
        assert_eq!(parts.mint.keys().list(early).len(), 1);
        let files = fs::read_dir(parts.folder.path().join("keys")).unwrap();
        assert_eq!(files.count(), 1 + 2, "the key, the manifest and the lock");
        // Also where the clock is behind.
        assert_eq!(kid_of(&parts.token(NOW)), kid);
    }
}

#[test]
fn a_rotation_deletes_what_is_over_and_only_that() {
    let folder = TempDir::new().unwrap();
    let keys = open(folder.path(), Algorithm::Es256, NOW).unwrap();
    let count = || fs::read_dir(folder.path().join("keys")).unwrap().count() - 2;
    keys.rotate(NOW).unwrap();
    keys.rotate(later(AHEAD)).unwrap();
    assert_eq!((keys.list(later(AHEAD)).len(), count()), (3, 3));
    let over = later(AHEAD + RETENTION);
    keys.rotate(over).unwrap();
    assert_eq!((keys.list(over).len(), count()), (3, 3), "the first went, a new one came");
}

#[test]
fn a_process_notices_a_rotation_made_by_another() {
    let parts = parts(Algorithm::Es256, &[]);
    let command = mint(parts.folder.path(), Algorithm::Es256, NOW);
    assert!(!parts.mint.reload_if_changed(NOW).unwrap(), "opening the keys changes nothing");
    let (kid, _) = command.keys().rotate(NOW).unwrap();
    assert!(parts.mint.reload_if_changed(NOW).unwrap());
    assert!(!parts.mint.reload_if_changed(NOW).unwrap());
    assert_eq!(published(&parts.mint)[0], kid);
    assert_eq!(parts.mint.jwks_json(), command.jwks_json());
}

/// No false 401: a sibling's token arrives before this process looked at the folder again.
#[test]
fn a_token_of_a_sibling_that_rotated_is_believed_at_once() {
    let parts = parts(Algorithm::Es256, &[]);
    let sibling = mint(parts.folder.path(), Algorithm::Es256, NOW);
    sibling.keys().rotate_now(OldKeys::Verify, NOW).unwrap();
    parts.verifier.verify(&token_by(&sibling, NOW), NOW).unwrap();
}

#[test]
fn another_algorithm_in_the_configuration_is_a_rotation() {
    let folder = TempDir::new().unwrap();
    open(folder.path(), Algorithm::Es256, NOW).unwrap();
    let roles = |algorithm, now| {
        let keys = open(folder.path(), algorithm, now).unwrap().list(now);
        keys.into_iter().map(|key| (key.algorithm, key.role)).collect::<Vec<_>>()
    };
    let (from, next) = (later(5 + AHEAD), later(9 + AHEAD));
    let changed = [
        (Algorithm::EdDsa, KeyRole::Pending { signs_from: from }),
        (Algorithm::Es256, KeyRole::Signs { until: Some(from) }),
    ];
    assert_eq!(roles(Algorithm::EdDsa, later(5)), changed);
    assert_eq!(roles(Algorithm::EdDsa, later(6)), changed, "the next start changes nothing");
    // Changed once more before that: each key signs in its turn.
    let again = roles(Algorithm::Rs256, later(9));
    assert_eq!(again[0], (Algorithm::Rs256, KeyRole::Pending { signs_from: next }));
    assert_eq!(again[1..], changed);
    let until = Some(next);
    assert_eq!(roles(Algorithm::Rs256, from)[1], (Algorithm::EdDsa, KeyRole::Signs { until }));
    assert_eq!(roles(Algorithm::Rs256, next)[0], (Algorithm::Rs256, KeyRole::Signs { until: None }));
}

#[test]
fn retention_covers_long_lived_tokens() {
    let folder = TempDir::new().unwrap();
    let long = Tokens { access_ttl: Duration::from_secs(86_400), ..tokens(Algorithm::Es256) };
    let keys = SigningKeys::open(folder.path(), &long, NOW).unwrap();
    keys.rotate(NOW).unwrap();
    let KeyRole::Verifies { until } = keys.list(later(AHEAD))[1].role else { panic!("not retired") };
    assert!(until >= later(AHEAD + 86_400 + 30));
}

/// Written before keys were published ahead.
#[test]
fn an_old_manifest_loads() {
    let parts = parts(Algorithm::Es256, &[]);
    let old = parts.token(NOW);
    let kid = parts.mint.keys().rotate_now(OldKeys::Verify, NOW).unwrap();
    let text = fs::read_to_string(parts.folder.path().join("keys/keys.json")).unwrap();
    assert!(!text.contains("signs_from") && text.contains("retired") && text.contains("not_after"));
    // The clock went back a minute: the key that is there signs.
    for now in [NOW, NOW.minus(Duration::from_secs(60))] {
        let mint = mint(parts.folder.path(), Algorithm::Es256, now);
        assert_eq!(kid_of(&token_by(&mint, now)), kid);
        assert_eq!(mint.keys().list(now).len(), 2);
    }
    parts.verifier.verify(&old, NOW).unwrap();
}

/// An operator took the signer out of keys.json by hand: better a key too early than none.
#[test]
fn a_pending_key_alone_signs() {
    let parts = parts(Algorithm::Es256, &[]);
    let (kid, _) = parts.mint.keys().rotate(NOW).unwrap();
    let path = parts.folder.path().join("keys/keys.json");
    let mut manifest: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    manifest["keys"].as_array_mut().unwrap().remove(1);
    secret_files::write(&path, manifest.to_string().as_bytes()).unwrap();
    assert!(parts.mint.reload_if_changed(NOW).unwrap());
    assert_eq!(kid_of(&parts.token(NOW)), kid);
}

#[test]
fn processes_that_start_at_once_share_one_key() {
    let folder = TempDir::new().unwrap();
    let kids: Vec<String> = std::thread::scope(|scope| {
        let start = || open(folder.path(), Algorithm::Es256, NOW).unwrap().list(NOW).remove(0).kid;
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
        good.replace("\"created\"", "\"retired\": \"2026-01-01T00:00:00Z\", \"created\""),
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
