use proptest::prelude::*;

use super::*;

/// How far `bytes` reach into a body, in one piece: (taken, ended).
fn whole(bytes: &[u8]) -> Result<(usize, bool), Malformed> {
    let mut chunks = Chunks::default();
    let taken = chunks.take(bytes)?;
    Ok((taken, chunks.ended()))
}

/// The same, in the pieces that `cuts` make.
fn pieces(bytes: &[u8], cuts: &[usize]) -> Result<(usize, bool), Malformed> {
    let mut chunks = Chunks::default();
    let (mut total, mut start) = (0, 0);
    for &end in cuts.iter().chain([&bytes.len()]) {
        let taken = chunks.take(&bytes[start..end])?;
        total += taken;
        if taken < end - start {
            assert!(chunks.ended());
            break;
        }
        start = end;
    }
    Ok((total, chunks.ended()))
}

/// Where the body ends, read plainly with the whole of it at hand; `None` when it is malformed or not complete.
/// Shares nothing with the state machine.
fn naive(text: &[u8]) -> Option<usize> {
    let line = |from: usize| {
        let length = text[from..].windows(2).position(|w| w == b"\r\n")?;
        let line = &text[from..from + length];
        let clean = !line.iter().any(|&b| b.is_ascii_control() && b != b'\t');
        clean.then_some((line, from + length + 2))
    };
    let mut at = 0;
    loop {
        let (size, data) = line(at)?;
        let digits = size.split(|&b| b == b';').next()?;
        let extension = size.len() - digits.len();
        let hex = !digits.is_empty() && digits.len() <= 16 && digits.iter().all(u8::is_ascii_hexdigit);
        if !hex || extension > 257 {
            return None;
        }
        let size = i64::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()? as usize;
        if size == 0 {
            at = data;
            break;
        }
        let end = data.checked_add(size)?;
        if text.get(end..end.checked_add(2)?)? != b"\r\n" {
            return None;
        }
        at = end + 2;
    }
    let trailers = at;
    loop {
        let (field, after) = line(at)?;
        if field.is_empty() {
            return Some(after);
        }
        let colon = field.iter().position(|&b| b == b':')?;
        let name = str::from_utf8(&field[..colon]).ok()?;
        let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        if name.is_empty() || !name.chars().all(token) || after - trailers > 8192 {
            return None;
        }
        at = after;
    }
}

const BODIES: [&str; 12] = [
    "0\r\n\r\n",
    "5\r\nhello\r\n0\r\n\r\n",
    "0005\r\nhello\r\n00\r\n\r\n",
    "00000000000005\r\nhello\r\n0000000000000000\r\n\r\n",
    "A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n",
    "5;a=b\r\nhello\r\n0;z\r\n\r\n",
    "5;a=\"b;c\\\"\"; d\t=e\r\nhello\r\n0\r\n\r\n",
    "2\r\n\r\n\r\n0\r\n\r\n",
    "5\r\n0\r\n\r\n\r\n0\r\n\r\n",
    "0\r\nX: y\r\n\r\n",
    "0\r\nX:\r\nX-User-Id:\tevil\r\n\r\n",
    "1\r\n\0\r\n0\r\nContent-Length: 5\r\nTransfer-Encoding: x\r\n\r\n",
];

#[test]
fn a_body_ends_at_its_last_byte_however_it_is_cut() {
    for body in BODIES {
        let text = [body, "GET / HTTP/1.1\r\n"].concat().into_bytes();
        let expected = Ok((body.len(), true));
        assert_eq!(naive(&text), Some(body.len()), "{body:?}");
        assert_eq!(whole(&text), expected, "{body:?}");
        assert_eq!(whole(&text[..body.len() - 1]), Ok((body.len() - 1, false)), "{body:?}");
        for cut in 0..text.len() {
            assert_eq!(pieces(&text, &[cut]), expected, "{body:?} cut at {cut}");
        }
        let every: Vec<usize> = (0..text.len()).collect();
        assert_eq!(pieces(&text, &every), expected, "{body:?}");
    }
}

#[test]
fn what_two_parsers_may_read_differently_is_malformed() {
    for body in [
        "\r\nhello\r\n",
        "\n",
        ";a\r\n",
        " 5\r\n",
        "5 \r\n",
        "5\t;a\r\n",
        "+5\r\n",
        "-5\r\n",
        "0x5\r\n",
        "1_0\r\n",
        "5,5\r\n",
        "g\r\n",
        "5\n",
        "5\rh",
        "5;a\n",
        "5;a\rb",
        "5;a\0",
        "5;\x7f",
        "5\r\nhelloXX",
        "5\r\nhello\n",
        "5\r\nhello0",
        "5\r\nhello\rX",
        "00000000000000000\r\n",
        "10000000000000005\r\n",
        "8000000000000000\r\n",
        "ffffffffffffffff\r\n",
        "0\r\n\n",
        "0\n\n",
        "0\r\n\rX",
        "0\r\n X: y\r\n",
        "0\r\n\tX: y\r\n",
        "0\r\nX: y\r\n folded\r\n",
        "0\r\nX : y\r\n",
        "0\r\nX\t: y\r\n",
        "0\r\n: y\r\n",
        "0\r\nX\r\n",
        "0\r\nX: y\n",
        "0\r\nX: a\rb",
        "0\r\nX: a\0",
        "0\r\nX\0: a",
        "0\r\nX(: y\r\n",
        "0\r\nX: \x1b[31m\r\n",
        "0\r\nGET / HTTP/1.1\r\n",
    ] {
        let bytes = body.as_bytes();
        let why = whole(bytes).expect_err(body);
        assert!(bytes.iter().enumerate().all(|(cut, _)| pieces(bytes, &[cut]) == Err(why)), "{body:?}");
    }
}

#[test]
fn lengths_have_limits() {
    let extension = |n| format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(n));
    assert!(whole(extension(256).as_bytes()).is_ok());
    assert_eq!(whole(extension(257).as_bytes()), Err(Malformed("a chunk extension is too long")));
    let trailer = |n: usize| format!("0\r\nX:{}\r\n\r\n", "x".repeat(n - 4));
    assert_eq!(whole(trailer(8192).as_bytes()), Ok((3 + 8192 + 2, true)));
    assert_eq!(whole(trailer(8193).as_bytes()), Err(Malformed("the trailer section is too long")));
    let trailers = format!("0\r\n{}\r\n", "X: y\r\n".repeat(2000));
    assert_eq!(whole(trailers.as_bytes()), Err(Malformed("the trailer section is too long")));
    assert_eq!(whole(b"7fffffffffffffff\r\nx"), Ok((19, false)));
}

#[test]
fn a_malformed_body_stays_malformed() {
    let mut chunks = Chunks::default();
    let why = chunks.take(b"\r\n").unwrap_err();
    assert!(chunks.broken() && !chunks.ended());
    assert_eq!(chunks.take(b"0\r\n\r\n"), Err(why));
    assert!(chunks.broken() && !chunks.ended());
}

/// Pieces of chunked bodies in any order, so that deep states are reached and nearly right bodies are common.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(vec![
        "0\r\n\r\n",
        "0\r\n",
        "5\r\nhello\r\n",
        "5\r\nhello",
        "1\r\nx\r\n",
        "\r\n",
        "\n",
        "\r",
        "X: y\r\n",
        "X:",
        ";a=b",
        ";",
        "5",
        "0",
        "f",
        " ",
        "\0",
        "GET / HTTP/1.1\r\n\r\n",
        "0000000000000000",
        "ffffffffffffffff",
    ]);
    prop_oneof![
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat().into_bytes()),
        prop::collection::vec(any::<u8>(), 0..64),
    ]
}

/// Honest bodies: chunks of any bytes, extensions and trailers, with something behind them.
fn honest() -> impl Strategy<Value = (Vec<u8>, usize)> {
    let chunk = (prop::collection::vec(any::<u8>(), 1..300), "(;[a-z]{1,5}(=[a-z]{1,5})?)?", 0..4_usize);
    let parts =
        (prop::collection::vec(chunk, 0..5), prop::collection::vec("[A-Za-z-]{1,9}: ?[ -~]{0,9}", 0..3));
    (parts, prop::collection::vec(any::<u8>(), 0..40)).prop_map(|((chunks, trailers), behind)| {
        let mut text = Vec::new();
        for (data, extension, zeros) in chunks {
            let size = format!("{}{:x}{extension}\r\n", "0".repeat(zeros), data.len());
            text.extend([size.as_bytes(), &data, b"\r\n"].concat());
        }
        text.extend(b"0\r\n");
        trailers.iter().for_each(|t| text.extend([t.as_bytes(), b"\r\n"].concat()));
        text.extend(b"\r\n");
        let end = text.len();
        text.extend(behind);
        (text, end)
    })
}

fn cuts(length: usize, seeds: &[prop::sample::Index]) -> Vec<usize> {
    let mut cuts: Vec<usize> = seeds.iter().map(|s| s.index(length + 1)).collect();
    cuts.sort_unstable();
    cuts
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn it_ends_where_the_naive_reader_ends(text in nearly(), seeds: [prop::sample::Index; 4]) {
        let read = whole(&text);
        prop_assert_eq!(pieces(&text, &cuts(text.len(), &seeds)), read);
        let end = match read {
            Ok((taken, true)) => Some(taken),
            // Not complete yet: nothing may be left over.
            Ok((taken, false)) => { prop_assert_eq!(taken, text.len()); None }
            // Malformed: the naive reader may have found the end before the malformed part only if we had.
            Err(_) => None,
        };
        prop_assert_eq!(end, naive(&text), "{}", text.escape_ascii());
    }

    #[test]
    fn honest_bodies_pass((text, end) in honest(), seeds: [prop::sample::Index; 4]) {
        prop_assert_eq!(naive(&text), Some(end));
        prop_assert_eq!(pieces(&text, &cuts(text.len(), &seeds)), Ok((end, true)));
    }
}
