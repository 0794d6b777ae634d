//! What a value of `Cache-Control` allows (RFC 9111 section 5.2).

#[derive(Debug, PartialEq, Eq)]
pub(super) struct CacheControl {
    /// Says that shared caches may keep an answer that was given to one caller: `public`, `s-maxage`.
    pub shared: bool,
    /// Says that they may not: `private`, `no-store`. One of them is needed where files are not public, because
    /// `must-revalidate` too lets shared caches keep answers to requests with a token (section 3.5), and those to
    /// requests by a link carry none.
    pub kept_by_nobody_else: bool,
}

/// `None` when it is not made of directives, one at least.
pub(super) fn cache_control(text: &str) -> Option<CacheControl> {
    let mut found = CacheControl { shared: false, kept_by_nobody_else: false };
    let mut rest = text;
    loop {
        let (name, after) = token(rest.trim_start_matches(' '))?;
        let (argument, after) = match after.strip_prefix('=') {
            Some(argument) => (true, quoted(argument).or_else(|| token(argument).map(|(_, after)| after))?),
            None => (false, after),
        };
        match name.to_ascii_lowercase().as_str() {
            "public" | "s-maxage" => found.shared = true,
            "no-store" => found.kept_by_nobody_else = true,
            // With an argument it is about some fields only.
            "private" => found.kept_by_nobody_else |= !argument,
            _ => {}
        }
        match after.trim_start_matches(' ') {
            "" => return Some(found),
            more => rest = more.strip_prefix(',')?,
        }
    }
}

/// A token (RFC 9110 section 5.6.2) at the beginning, and what follows it.
fn token(text: &str) -> Option<(&str, &str)> {
    let part = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let length = text.bytes().take_while(|b| part(*b)).count();
    Some(text.split_at(length)).filter(|(token, _)| !token.is_empty())
}

/// What follows a quoted string of visible ASCII (RFC 9110 section 5.6.4).
fn quoted(text: &str) -> Option<&str> {
    let inner = text.strip_prefix('"')?;
    let mut bytes = inner.bytes().enumerate();
    while let Some((at, b)) = bytes.next() {
        match b {
            b'"' => return Some(&inner[at + 1..]),
            b'\\' => _ = bytes.next().filter(|(_, b)| matches!(b, b' '..=b'~'))?,
            b' '..=b'~' => {}
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives() {
        for (text, shared, kept_by_nobody_else) in [
            ("max-age=60", false, false),
            ("must-revalidate", false, false),
            ("private, max-age=60", false, true),
            ("Private , NO-CACHE", false, true),
            ("no-store", false, true),
            ("PUBLIC", true, false),
            ("private, s-maxage=5", true, true),
            ("private=\"set-cookie\"", false, false),
            ("x=\"public, \\\" s-maxage=1\", private", false, true),
            ("x=public", false, false),
        ] {
            let want = CacheControl { shared, kept_by_nobody_else };
            assert_eq!(cache_control(text), Some(want), "{text}");
        }
        for bad in [
            "",
            " ",
            ",",
            "private,",
            ",private",
            "private private",
            "max-age=",
            "x=\"a",
            "x=\"a\\",
            "x=\"a\"b",
            "private\r\nX: y",
            "x=\"\n\"",
            "x=\"\\\n\"",
            "privé",
            "a;b",
            "x=\"é\"",
        ] {
            assert_eq!(cache_control(bad), None, "{bad}");
        }
    }
}
