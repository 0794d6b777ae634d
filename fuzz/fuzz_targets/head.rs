//! An accepted head has one reading: the naive one below agrees on every field that frames or routes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::head::{BodyLength, HeadLimits, check, find_end};

fuzz_target!(|head: &[u8]| {
    for from in 0..head.len().min(8) {
        if let Some(end) = find_end(head, from) {
            assert!(end <= head.len() && head[end - 1] == b'\n');
        }
    }
    let Ok(facts) = check(head, &HeadLimits { bytes: 4096, fields: 32 }) else { return };
    assert_eq!(find_end(head, 0), Some(head.len()));
    assert!(head.ends_with(b"\r\n\r\n"));

    let latin: String = head.iter().map(|&b| char::from(b)).collect();
    assert_eq!(latin.matches('\n').count(), latin.matches("\r\n").count());
    assert_eq!(latin.matches('\r').count(), latin.matches("\r\n").count());
    assert!(!latin.chars().any(|c| c.is_ascii_control() && !"\r\n\t".contains(c)));

    let mut lines = latin.trim_end_matches("\r\n").split("\r\n");
    let version = if facts.http_11 { "HTTP/1.1" } else { "HTTP/1.0" };
    assert_eq!(lines.next(), Some(format!("{} {} {version}", facts.method, facts.target).as_str()));

    let fields: Vec<(String, &str)> = lines
        .map(|line| line.split_once(':').expect("a colon"))
        .map(|(name, value)| {
            (name.to_ascii_lowercase().replace(['_', '.'], "-"), value.trim_matches([' ', '\t']))
        })
        .collect();
    assert_eq!(fields.len(), facts.fields);
    let all = |name: &str| fields.iter().filter(|(n, _)| n == name).map(|(_, v)| *v).collect::<Vec<_>>();

    match facts.body {
        BodyLength::None => assert!(all("content-length").is_empty() && all("transfer-encoding").is_empty()),
        BodyLength::Bytes(n) => {
            assert_eq!(all("content-length"), [n.to_string()]);
            assert!(all("transfer-encoding").is_empty());
        }
        BodyLength::Chunked => {
            assert!(facts.http_11 && all("content-length").is_empty());
            assert_eq!(all("transfer-encoding").len(), 1);
            assert!(all("transfer-encoding")[0].eq_ignore_ascii_case("chunked"));
        }
    }
    let hosts: Vec<&str> = fields.iter().filter(|(n, _)| n == "host").map(|(_, v)| *v).collect();
    assert!(hosts.len() == 1 || (hosts.is_empty() && !facts.http_11));
    if let (Some(host), Some(sent)) = (facts.host, hosts.first()) {
        assert!(host.eq_ignore_ascii_case(sent));
    }
});
