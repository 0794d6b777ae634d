//! Whatever is accepted as a path has one spelling, and hides nothing however often it is decoded.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::route::CleanPath;

/// One layer of escapes removed; what is not an escape stays. Shares nothing with the gateway's own decoder.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let digits =
            text.get(at + 1..at + 3).filter(|d| text[at] == b'%' && d.iter().all(u8::is_ascii_hexdigit));
        let byte =
            digits.and_then(|d| std::str::from_utf8(d).ok()).and_then(|d| u8::from_str_radix(d, 16).ok());
        out.push(byte.unwrap_or(text[at]));
        at += if byte.is_some() { 3 } else { 1 };
    }
    out
}

fn assert_harmless(path: &str) {
    let slashes = path.matches('/').count();
    let mut layer = path.as_bytes().to_vec();
    loop {
        let text = std::str::from_utf8(&layer).expect("every layer is UTF-8");
        assert!(!text.chars().any(|c| c.is_control() || c == '\\'), "{text:?}");
        assert_eq!(text.matches('/').count(), slashes, "{text:?}");
        let segments: Vec<&str> = text.split('/').skip(1).collect();
        for (i, segment) in segments.iter().enumerate() {
            let name = segment.split([';', '?', '#']).next().unwrap_or_default();
            assert!(name != "." && name != "..", "{text:?}");
            assert!(!segment.starts_with(';'), "{text:?}");
            assert!(!segment.is_empty() || i + 1 == segments.len(), "{text:?}");
        }
        let next = unescape(&layer);
        if next == layer {
            return;
        }
        layer = next;
    }
}

fuzz_target!(|target: &[u8]| {
    let Ok(clean) = CleanPath::parse(target) else { return };
    assert_eq!(CleanPath::parse(clean.path_and_query()).as_ref(), Ok(&clean));
    assert_harmless(clean.as_str());

    let end = target.iter().position(|&b| b == b'?').unwrap_or(target.len());
    assert_eq!(unescape(&target[..end]), unescape(clean.as_str().as_bytes()), "the meaning changed");
    assert_eq!(clean.query().map(str::as_bytes), target.get(end + 1..));

    for (at, _) in clean.as_str().match_indices('/') {
        let stripped = clean.strip_prefix(&clean.as_str()[..at]).expect("whole segments");
        assert_eq!(CleanPath::parse(stripped.path_and_query()), Ok(stripped));
    }
});
