//! URLs that are written in the configuration.

/// What matters of an absolute http(s) URL.
pub(super) struct Url {
    pub https: bool,
    pub loopback: bool,
}

/// `None` unless `text` is an absolute http(s) URL with a host, without credentials, fragment and white space.
pub(super) fn absolute(text: &str) -> Option<Url> {
    if text.contains('#') || !text.bytes().all(|b| b.is_ascii_graphic()) || text.contains('\\') {
        return None;
    }
    let uri: http::Uri = text.parse().ok()?;
    let https = match uri.scheme_str()? {
        "https" => true,
        "http" => false,
        _ => return None,
    };
    let authority = uri.authority()?.as_str();
    let host = uri.host().filter(|host| !host.is_empty())?;
    if authority.contains('@') || authority.ends_with(':') {
        return None;
    }
    let ip = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    let loopback = host.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.is_loopback());
    Some(Url { https, loopback })
}

#[cfg(test)]
mod tests {
    use super::absolute;

    #[test]
    fn absolute_urls() {
        assert!(absolute("https://a.example/x?y=1").is_some_and(|u| u.https && !u.loopback));
        assert!(absolute("http://127.0.0.1:80/x").is_some_and(|u| !u.https && u.loopback));
        assert!(absolute("http://[::1]/x").is_some_and(|u| u.loopback));
        for bad in [
            "",
            "a",
            "/a",
            "//a/b",
            "ftp://a/",
            "https://",
            "https://u:p@a/",
            "https://a/ b",
            "https://a/#f",
            "https:/\\a",
        ] {
            assert!(absolute(bad).is_none(), "{bad}");
        }
    }
}
