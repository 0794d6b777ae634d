//! `users.uri`: as much of a MongoDB connection string as tells that it is one. The driver reads the rest at start.
//!
//! A complaint is made of fixed words: it never shows a part of the string.

use super::super::values::Bad;
use super::address::{decoded, is_loopback, parts, servers};

/// What a second look is worth.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MongoDbUri {
    pub credentials: bool,
    pub tls: bool,
    /// TLS, but with whoever answers.
    pub trusts_anybody: bool,
    pub loopback: bool,
}

pub(super) fn parse(text: &str) -> Result<MongoDbUri, Bad> {
    let (srv, rest) = match text.strip_prefix("mongodb+srv://") {
        Some(rest) => (true, rest),
        None => (
            false,
            text.strip_prefix("mongodb://").ok_or(Bad(
                "not the address of a MongoDB",
                "write mongodb://host or mongodb+srv://name, with user:password@ before the host where needed",
            ))?,
        ),
    };
    let parts = parts(rest)?;
    if let Some(user_info) = parts.user_info {
        let (user, password) = user_info.split_once(':').unwrap_or((user_info, ""));
        if user.is_empty() {
            return Err(Bad("a password without a user", "write user:password@ before the host"));
        }
        decoded(user)?;
        decoded(password)?;
    }
    let servers = servers(parts.hosts, 27017)?;
    if srv && (servers.len() > 1 || parts.hosts.contains(':')) {
        return Err(Bad(
            "mongodb+srv:// takes one name, without a port",
            "write the name that the servers are listed under in DNS, or mongodb:// and every host",
        ));
    }
    let mut tls = srv;
    let mut trusts_anybody = false;
    for option in parts.query.unwrap_or_default().split('&').filter(|option| !option.is_empty()) {
        let (name, value) = option
            .split_once('=')
            .ok_or(Bad("an option without its value", "write ?name=value&name=value after the database"))?;
        // Names of options are compared without regard to case (connection string specification).
        match name.to_ascii_lowercase().as_str() {
            "tls" | "ssl" => tls = value == "true",
            "tlsinsecure" | "tlsallowinvalidcertificates" | "tlsallowinvalidhostnames" => {
                trusts_anybody |= value == "true";
            }
            _ => {}
        }
    }
    Ok(MongoDbUri {
        credentials: parts.user_info.is_some(),
        tls,
        trusts_anybody,
        loopback: !srv && servers.iter().all(|(host, _)| is_loopback(host)),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_seen_of_a_good_one() {
        let seen = |text| {
            let uri = parse(text).unwrap();
            (uri.credentials, uri.tls, uri.trusts_anybody, uri.loopback)
        };
        assert_eq!(seen("mongodb://localhost"), (false, false, false, true));
        assert_eq!(seen("mongodb://a:1,[::1]:2/x?replicaSet=r"), (false, false, false, false));
        assert_eq!(seen("mongodb://u:p%40@a/?TLS=true&tlsCAFile=/a/b.pem"), (true, true, false, false));
        assert_eq!(seen("mongodb+srv://u:p@cluster0.example.net/?w=majority"), (true, true, false, false));
        assert_eq!(seen("mongodb+srv://c.example.net/?tls=false"), (false, false, false, false));
        assert_eq!(seen("mongodb://127.0.0.1?tlsInsecure=true&ssl=true"), (false, true, true, true));
        assert_eq!(seen("mongodb://CN%3Dclient@a/?authMechanism=MONGODB-X509"), (true, false, false, false));
    }

    #[test]
    fn every_complaint_is_the_one_that_helps() {
        for (text, says) in [
            ("", "not the address"),
            ("localhost:27017", "not the address"),
            ("mongo://a", "not the address"),
            ("mongodb:/a", "not the address"),
            ("mongodb://", "a host is missing"),
            ("mongodb:///db", "a host is missing"),
            ("mongodb://a,/db", "a host is missing"),
            ("mongodb://%2Ftmp%2Fmongodb.sock", "not the name of a host"),
            ("mongodb://u:p/w@a", "an `@` after"),
            ("mongodb://u:p@w@a", "more than one"),
            ("mongodb://u:p%w@a", "a `%`"),
            ("mongodb://:p@a", "without a user"),
            ("mongodb://@a", "without a user"),
            ("mongodb://a:x", "not a port"),
            ("mongodb://a b", "cannot hold"),
            ("mongodb://a/db?x", "without its value"),
            ("mongodb+srv://a,b", "one name"),
            ("mongodb+srv://a:27017", "one name"),
        ] {
            let Bad(message, help) = parse(text).unwrap_err();
            assert!(message.contains(says) && !help.is_empty(), "{text}: {message}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn arbitrary_text_is_answered(text in any::<String>(), uri in "mongodb(\\+srv)?://[a-z0-9:@/?#%,.\\[\\]=&é]{0,24}") {
            let _ = parse(&text);
            let _ = parse(&format!("mongodb://{text}"));
            let _ = parse(&uri);
        }
    }
}
