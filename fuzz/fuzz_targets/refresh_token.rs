//! Any bytes as a refresh token or device cookie: refused; any token of ours: read back as it was made.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use portcullis::store::SessionId;
use portcullis::tokens::{DeviceCookies, RefreshToken, RefreshTokens};

static FOLDER: LazyLock<std::path::PathBuf> =
    LazyLock::new(|| std::env::temp_dir().join(format!("portcullis-fuzz-{}", std::process::id())));
static TOKENS: LazyLock<RefreshTokens> =
    LazyLock::new(|| RefreshTokens::load_or_create(&FOLDER).expect("a temporary folder"));
static COOKIES: LazyLock<DeviceCookies> =
    LazyLock::new(|| DeviceCookies::load_or_create(&FOLDER).expect("a temporary folder"));

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    assert_eq!(TOKENS.decode(text), None);
    assert_eq!(COOKIES.verify(text, text), None);
    let Some((user, rest)) = text.split_at_checked(text.len().min(64)) else { return };
    if user.is_empty() {
        return;
    }
    let mut number = [0; 16];
    for (byte, from) in number.iter_mut().zip(rest.bytes()) {
        *byte = from;
    }
    let (family, generation) = (SessionId::from_bytes(number), u64::from(number[0]) << 56 | user.len() as u64);
    let made = TOKENS.encode(user, family, generation);
    assert_eq!(TOKENS.decode(&made), Some(RefreshToken { user: user.to_owned(), family, generation }));
});
