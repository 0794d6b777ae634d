//! Any bytes as a token: parsed or refused, never a panic; and nothing but a signature of ours is believed.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use portcullis::tokens::{CompactJws, Key, KeySet, jwks, verify_signature};

static KEYS: LazyLock<KeySet> = LazyLock::new(|| {
    let secret: Vec<u8> = (0..32).collect();
    KeySet::new(vec![Key::hmac(Some("k".into()), &secret).expect("a good key")]).expect("one key")
});

fuzz_target!(|data: &[u8]| {
    let _ = jwks::parse(data, &portcullis::config::Algorithm::ALL);
    let Ok(token) = std::str::from_utf8(data) else { return };
    if CompactJws::parse(token).is_ok() {
        // One token has one spelling: its parts encode to what they were decoded from.
        assert_eq!(token.matches('.').count(), 2);
        assert!(token.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)));
    }
    assert!(verify_signature(token, &KEYS).is_err());
});
