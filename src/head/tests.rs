use proptest::prelude::*;

use super::*;

const LIMITS: HeadLimits = HeadLimits { bytes: 32 * 1024, fields: 100 };

fn facts(head: &[u8]) -> Result<HeadFacts<'_>, HeadError> {
    check(head, &LIMITS)
}

/// The status of a request with these field lines after a good Host.
fn with(fields: &[u8]) -> u16 {
    let head = [b"POST /x HTTP/1.1\r\nHost: a\r\n", fields, b"\r\n\r\n"].concat();
    facts(&head).map_or_else(|e| e.status, |_| 200)
}

#[test]
fn a_usual_head() {
    let head = b"POST /a?b HTTP/1.1\r\nHost: Example.com:80\r\nContent-Length: 42\r\nX-Empty:\r\nX-Text: caf\xc3\xa9 \"\tx\"\r\nExpect: 100-Continue\r\n\r\n";
    let expected = HeadFacts {
        method: "POST",
        target: "/a?b",
        http_11: true,
        host: Some("Example.com:80"),
        body: BodyLength::Bytes(42),
        fields: 5,
        upgrade: false,
        expect_continue: true,
    };
    assert_eq!(facts(head), Ok(expected));
    let upgrade =
        b"GET / HTTP/1.1\r\nhost: a\r\nCONNECTION: keep-alive, Upgrade\r\nupgrade: websocket\r\n\r\n";
    assert!(facts(upgrade).unwrap().upgrade);
    let chunked = b"POST / HTTP/1.1\r\nHost: a\r\ntransfer-encoding:\t Chunked \r\n\r\n";
    assert_eq!(facts(chunked).unwrap().body, BodyLength::Chunked);
    assert_eq!(facts(b"GET / HTTP/1.0\r\n\r\n").unwrap().host, None);
}

#[test]
fn request_lines() {
    for (line, status) in [
        ("GET / HTTP/1.1", 200),
        ("OPTIONS * HTTP/1.1", 200),
        ("M-SEARCH / HTTP/1.0", 200),
        ("GET http://a/x HTTP/1.1", 200),
        ("GET HTTPS://A/x HTTP/1.1", 200),
        ("", 400),
        ("GET /", 400),
        ("GET / ", 400),
        ("GET  / HTTP/1.1", 400),
        ("GET /  HTTP/1.1", 400),
        (" GET / HTTP/1.1", 400),
        ("GET / HTTP/1.1 ", 400),
        ("GET /a b HTTP/1.1", 400),
        ("GET\t/\tHTTP/1.1", 400),
        ("GET /\tHTTP/1.1", 400),
        ("GE(T / HTTP/1.1", 400),
        ("GÉT / HTTP/1.1", 400),
        ("GET /é HTTP/1.1", 400),
        ("GET / http/1.1", 400),
        ("GET / HTTP/1", 400),
        ("GET / HTTP/1.10", 400),
        ("GET / HTTP/01.1", 400),
        ("GET / HTTP/1.1x", 400),
        ("GET / ICAP/1.0", 400),
        ("GET / HTTP/1.2", 505),
        ("GET / HTTP/2.0", 505),
        ("PRI * HTTP/2.0", 505),
        ("GET / HTTP/0.9", 505),
        ("TRACE / HTTP/1.1", 405),
        ("CONNECT a:443 HTTP/1.1", 405),
        ("CONNECT / HTTP/1.0", 405),
        ("GET a:443 HTTP/1.1", 400),
        ("GET x HTTP/1.1", 400),
        ("GET ftp://a/ HTTP/1.1", 400),
        ("GET http://b/ HTTP/1.1", 400),
        ("GET http://a:80/ HTTP/1.1", 400),
        ("GET http://u@a/ HTTP/1.1", 400),
        ("GET http:///x HTTP/1.1", 400),
        ("GET http://a\\@b/ HTTP/1.1", 400),
    ] {
        let head = format!("{line}\r\nHost: a\r\n\r\n");
        let status_found = facts(head.as_bytes()).map_or_else(|e| e.status, |_| 200);
        assert_eq!(status_found, status, "{line:?}");
    }
}

#[test]
fn check_39_one_host_equal_to_the_authority() {
    for (head, status) in [
        ("GET / HTTP/1.1\r\n", 400),
        ("GET / HTTP/1.1\r\nX: y\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nhOST: b\r\n", 400),
        ("GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n", 400),
        ("GET / HTTP/1.0\r\nHost: a\r\n", 200),
        ("GET / HTTP/1.1\r\nHost:\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a, b\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a b\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: u@a\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a:b\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: é\r\n", 400),
        ("GET / HTTP/1.1\r\nHost : a\r\n", 400),
        ("GET / HTTP/1.1\r\n Host: a\r\n", 400),
        ("GET http://a/ HTTP/1.1\r\n", 400),
        ("GET http://a/ HTTP/1.1\r\nHost: b\r\n", 400),
        ("GET http://a/ HTTP/1.0\r\n", 200),
        ("GET http://A:8080/ HTTP/1.1\r\nHost: a:8080\r\n", 200),
        ("GET / HTTP/1.1\r\nHost: [::1]:80\r\n", 200),
    ] {
        let full = format!("{head}\r\n");
        assert_eq!(facts(full.as_bytes()).map_or_else(|e| e.status, |_| 200), status, "{head:?}");
    }
}

#[test]
fn checks_40_to_42_one_length_of_the_body() {
    for (fields, status) in [
        (&b"Content-Length: 5"[..], 200),
        (b"Content-Length: 0", 200),
        (b"content-length:5", 200),
        (b"Content-Length:\t5 \t", 200),
        (b"Content-Length: 9223372036854775807", 200),
        (b"Content-Length: 9223372036854775808", 400),
        (b"Content-Length: 18446744073709551621", 400),
        (b"Content-Length: 99999999999999999999999999", 400),
        (b"Content-Length: +5", 400),
        (b"Content-Length: -5", 400),
        (b"Content-Length: -0", 400),
        (b"Content-Length: 0x5", 400),
        (b"Content-Length: 05", 400),
        (b"Content-Length: 00", 400),
        (b"Content-Length: 5.0", 400),
        (b"Content-Length: 5e1", 400),
        (b"Content-Length: 1_0", 400),
        (b"Content-Length: 5 5", 400),
        (b"Content-Length: 5, 5", 400),
        (b"Content-Length: 5,", 400),
        (b"Content-Length: 5;x", 400),
        (b"Content-Length: \"5\"", 400),
        (b"Content-Length:", 400),
        (b"Content-Length: ", 400),
        (b"Content-Length: \xef\xbc\x95", 400),
        (b"Content-Length: \x0b5", 400),
        (b"Content-Length: 5\x0c", 400),
        (b"Content-Length: 5\xa0", 400),
        (b"Content-Length: 5\0", 400),
        (b"Content-Length : 5", 400),
        (b"Content-Length\t: 5", 400),
        (b"Content-Length\0: 5", 400),
        (b"Content_Length: 5", 400),
        (b"Content.Length: 5", 400),
        (b"Content-Length: 5\r\nContent-Length: 5", 400),
        (b"Content-Length: 5\r\nContent-Length: 6", 400),
        (b"Content-Length: 5\r\nContent_Length: 6", 400),
        (b"Content-Length: 5\r\nX: y\r\ncontent-length: 6", 400),
        (b"Transfer-Encoding: chunked", 200),
        (b"TRANSFER-ENCODING:CHUNKED", 200),
        (b"Content-Length: 5\r\nTransfer-Encoding: chunked", 400),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 5", 400),
        (b"Content-Length: 0\r\nTransfer-Encoding: chunked", 400),
        (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", 400),
        (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", 400),
        (b"Transfer-Encoding: chunked\r\nTransfer-encoding: x", 400),
        (b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked", 400),
        (b"Transfer-Encoding: gzip, chunked", 501),
        (b"Transfer-Encoding: gzip", 400),
        (b"Transfer-Encoding: identity", 400),
        (b"Transfer-Encoding: identity, chunked", 501),
        (b"Transfer-Encoding: chunked, gzip", 400),
        (b"Transfer-Encoding: chunked, identity", 400),
        (b"Transfer-Encoding: chunked, chunked", 400),
        (b"Transfer-Encoding: chunked,", 400),
        (b"Transfer-Encoding: ,chunked", 400),
        (b"Transfer-Encoding: ", 400),
        (b"Transfer-Encoding:", 400),
        (b"Transfer-Encoding: xchunked", 400),
        (b"Transfer-Encoding: chunked;q=1", 400),
        (b"Transfer-Encoding: chunked x", 400),
        (b"Transfer-Encoding: \"chunked\"", 400),
        (b"Transfer-Encoding: 'chunked'", 400),
        (b"Transfer-Encoding: \x0bchunked", 400),
        (b"Transfer-Encoding: \x0cchunked", 400),
        (b"Transfer-Encoding: chunked\x0b", 400),
        (b"Transfer-Encoding: chunked\0", 400),
        (b"Transfer-Encoding: \xa0chunked", 400),
        (b"Transfer-Encoding: c\xe2\x84\xaaunked", 400),
        (b"Transfer-Encoding : chunked", 400),
        (b"Transfer-Encoding\t: chunked", 400),
        (b"Transfer_Encoding: chunked", 400),
        (b"Transfer.Encoding: chunked", 400),
        (b"Transfer-Encoding\r\n : chunked", 400),
        (b"Transfer-Encoding:\r\n chunked", 400),
        (b"Transfer-Encoding: x\r\n chunked", 400),
        (b" Transfer-Encoding: chunked", 400),
        (b"X: y\n Transfer-Encoding: chunked", 400),
        (b"X: y\nTransfer-Encoding: chunked", 400),
        (b"X: y\rTransfer-Encoding: chunked", 400),
        (b"\x00Transfer-Encoding: chunked", 400),
        (b"X\rTransfer-Encoding: chunked", 400),
        (b"\xef\xbb\xbfTransfer-Encoding: chunked", 400),
        (b"Connection: close, Content-Length\r\nContent-Length: 5", 400),
        (b"Connection: transfer-encoding", 400),
        (b"Connection: HOST", 400),
        (b"Connection: keep-alive, TE", 200),
    ] {
        assert_eq!(with(fields), status, "{}", fields.escape_ascii());
    }
    let old = b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(facts(old).unwrap_err().status, 400);
}

#[test]
fn check_43_lines_and_names() {
    for (fields, status) in [
        (&b"X: y"[..], 200),
        (b"X:", 200),
        (b"X: \t ", 200),
        (b"X: a:b\tc \xff\x80", 200),
        (b"!#$%&'*+-.^_`|~0aZ: y", 200),
        (b"X : y", 400),
        (b"X\t: y", 400),
        (b"X Y: z", 400),
        (b" X: y", 400),
        (b"\tX: y", 400),
        (b"X: y\r\n z", 400),
        (b"X: y\r\n\tz", 400),
        (b"X: y\r\n :z", 400),
        (b"X", 400),
        (b": y", 400),
        (b":", 400),
        (b"(X): y", 400),
        (b"X(: y", 400),
        (b"X\xc3\xa9: y", 400),
        (b"X\x7f: y", 400),
        (b"X@: y", 400),
        (b"\"X\": y", 400),
        (b"X/Y: z", 400),
        (b"X: \0", 400),
        (b"X: \x01", 400),
        (b"X: \x1b[31m", 400),
        (b"X: \x7f", 400),
        (b"X: a\rb", 400),
        (b"X: a\r", 400),
        (b"X: a\nY: b", 400),
        (b"X: a\n", 400),
        (b"X: a\n\nY: b", 400),
        (b"X: a\r\r\nY: b", 400),
    ] {
        assert_eq!(with(fields), status, "{}", fields.escape_ascii());
    }
    for head in [
        &b"GET / HTTP/1.1\nHost: a\n\n"[..],
        b"GET / HTTP/1.1\r\nHost: a\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\n",
        b"GET / HTTP/1.1\rHost: a\r\r",
        b"GET / HTTP/1.1\n\rHost: a\n\r\n\r",
        b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n",
        b"GET / HTTP/1.1\r\nHost: a",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\n",
        b"GET / HTTP/1.1\r\n\r\nHost: a\r\n\r\n",
        b"",
        b"\r\n",
        b"\x16\x03\x01\x02\x00\x01",
    ] {
        assert_eq!(facts(head).unwrap_err().status, 400, "{}", head.escape_ascii());
    }
}

#[test]
fn limits_are_431() {
    let head = b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n";
    let at = |bytes, fields| check(head, &HeadLimits { bytes, fields }).map_or_else(|e| e.status, |_| 200);
    assert_eq!(at(head.len(), 2), 200);
    assert_eq!(at(head.len() - 1, 2), 431);
    assert_eq!(at(head.len(), 1), 431);
}

#[test]
fn the_end_is_found_however_the_bytes_arrive() {
    for (buf, end) in [
        (&b"GET / HTTP/1.1\r\nHost: a\r\n\r\nbody"[..], Some(27)),
        (b"A\n\nB", Some(3)),
        (b"A\n\r\nB", Some(4)),
        (b"A\r\n\nB", Some(4)),
        (b"A\r\nB\r\n\r", None),
        (b"A\r\nB\r\n", None),
        (b"A\n\rB", None),
        (b"", None),
    ] {
        assert_eq!(find_end(buf, 0), end, "{}", buf.escape_ascii());
        let mut seen = 0;
        let piecemeal = (1..=buf.len()).find_map(|len| {
            let found = find_end(&buf[..len], seen);
            seen = len;
            found
        });
        assert_eq!(piecemeal, end, "{}, byte by byte", buf.escape_ascii());
    }
    assert_eq!(find_end(b"ab", 99), None);
}

/// Good heads with a few bytes replaced, inserted or deleted, which is where the odd ones are.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let seeds: Vec<&'static [u8]> = vec![
        b"GET /a/b?c HTTP/1.1\r\nHost: example.com\r\nAccept: */*\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n",
        b"POST http://a/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.0\r\nCookie: a=b; c\r\nConnection: keep-alive\r\n\r\n",
    ];
    let byte = prop::sample::select(b"\r\n\t :\0\x0b,;0a-_\xff/%\"".to_vec());
    let edit = (any::<prop::sample::Index>(), 0..3u8, byte);
    (prop::sample::select(seeds), prop::collection::vec(edit, 0..4)).prop_map(|(seed, edits)| {
        let mut head = seed.to_vec();
        for (at, kind, byte) in edits {
            let at = at.index(head.len());
            match kind {
                0 => head[at] = byte,
                1 => head.insert(at, byte),
                _ => drop(head.remove(at)),
            }
        }
        head
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// What passes here is read the same way by the parser that comes next.
    #[test]
    fn whatever_passes_httparse_reads_alike(head in mutated()) {
        if let Ok(facts) = facts(&head) {
            let mut fields = [httparse::EMPTY_HEADER; 16];
            let mut request = httparse::Request::new(&mut fields);
            let parsed = request.parse(&head);
            prop_assert_eq!(parsed, Ok(httparse::Status::Complete(head.len())), "{}", head.escape_ascii());
            prop_assert_eq!(request.method, Some(facts.method));
            prop_assert_eq!(request.path, Some(facts.target));
            prop_assert_eq!(request.version, Some(u8::from(facts.http_11)));
            prop_assert_eq!(request.headers.len(), facts.fields);
            let all = |name: &str| request.headers.iter().filter(|h| h.name.eq_ignore_ascii_case(name)).count();
            prop_assert_eq!(all("host"), usize::from(facts.http_11 || all("host") == 1));
            prop_assert_eq!(all("content-length"), usize::from(matches!(facts.body, BodyLength::Bytes(_))));
            prop_assert_eq!(all("transfer-encoding"), usize::from(facts.body == BodyLength::Chunked));
            prop_assert_eq!(find_end(&head, 0), Some(head.len()));
        }
    }

    #[test]
    fn no_bytes_make_it_panic(head in prop::collection::vec(any::<u8>(), 0..96), from in 0usize..100) {
        let _ = facts(&head);
        if let Some(end) = find_end(&head, from) {
            prop_assert!(end <= head.len());
        }
    }
}
