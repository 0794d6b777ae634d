//! A chunked body ends at one place, however it is cut, and what ends well reads plainly from its first line to its last.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::chunked::{Chunks, Malformed};

/// How many bytes belong to the body, and whether it ended; the stream comes in pieces of 1 to `most` bytes.
fn read(stream: &[u8], most: usize) -> Result<(usize, bool), Malformed> {
    let mut chunks = Chunks::default();
    let mut total = 0;
    for piece in stream.chunks(most) {
        let taken = chunks.take(piece)?;
        assert!(taken <= piece.len());
        total += taken;
        if taken < piece.len() {
            assert!(chunks.ended());
            break;
        }
    }
    Ok((total, chunks.ended()))
}

/// The line that `text` starts with, and what follows; a line that passed ends in CRLF and has no other control
/// character than HTAB.
fn line(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|&b| b == b'\n').expect("a line end");
    let line = text[..end].strip_suffix(b"\r").expect("a CRLF");
    assert!(!line.iter().any(|&b| b.is_ascii_control() && b != b'\t'));
    (line, &text[end + 1..])
}

fuzz_target!(|stream: &[u8]| {
    let at_once = read(stream, usize::MAX);
    for most in [1, 2, 3, 7] {
        assert_eq!(read(stream, most), at_once);
    }
    let Ok((taken, ended)) = at_once else { return };
    if !ended {
        assert_eq!(taken, stream.len());
        return;
    }
    let mut rest = &stream[..taken];
    loop {
        let (size, data) = line(rest);
        let digits = size.split(|&b| b == b';').next().expect("a first part");
        assert!(!digits.is_empty() && digits.len() <= 16 && digits.iter().all(u8::is_ascii_hexdigit));
        let digits = std::str::from_utf8(digits).expect("ASCII");
        let size = u64::from_str_radix(digits, 16).expect("a number") as usize;
        rest = data;
        if size == 0 {
            break;
        }
        assert_eq!(&data[size..size + 2], b"\r\n");
        rest = &data[size + 2..];
    }
    loop {
        let (field, after) = line(rest);
        rest = after;
        if field.is_empty() {
            break;
        }
        let colon = field.iter().position(|&b| b == b':').expect("a colon");
        assert!(colon > 0 && field[..colon].iter().all(u8::is_ascii_graphic));
    }
    assert!(rest.is_empty(), "the body ended before its end");
});
