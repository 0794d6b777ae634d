//! `sessions.url`: one Redis, its sentinels, or a cluster.
//!
//! ```text
//! redis://[[user]:password@]host[:6379][/db]
//! redis-sentinel://[[user]:password@]host[:26379],.../master[/db][?sentinel_password=...]
//! redis-cluster://[[user]:password@]host[:6379],...
//! ```
//!
//! and the same with `rediss` for TLS. A complaint is made of fixed words: it never shows a part of the address.

use super::super::values::Bad;
use super::address::{Parts, decoded, parts, servers};
use crate::store::settings::{Secret, Topology};

#[derive(Debug, PartialEq, Eq)]
pub(super) struct RedisUrl {
    pub topology: Topology,
    pub servers: Vec<(String, u16)>,
    pub tls: bool,
    pub username: Option<String>,
    pub password: Option<Secret>,
    pub sentinel_password: Option<Secret>,
    pub database: i64,
}

pub(super) fn parse(text: &str) -> Result<RedisUrl, Bad> {
    let (scheme, rest) = text.split_once("://").unwrap_or_default();
    let (tls, kind) = match scheme.strip_prefix("rediss") {
        Some(kind) => (true, kind),
        None => (false, scheme.strip_prefix("redis").unwrap_or("-unknown")),
    };
    if !["", "-sentinel", "-cluster"].contains(&kind) {
        return Err(Bad(
            "not the address of a Redis",
            "write redis://host, redis-sentinel://host,host/master or redis-cluster://host,host; rediss with TLS",
        ));
    }
    let parts = parts(rest)?;
    let (username, password) = credentials(parts.user_info)?;
    let mut url = RedisUrl {
        topology: Topology::Single,
        servers: servers(parts.hosts, if kind == "-sentinel" { 26379 } else { 6379 })?,
        tls,
        username,
        password,
        sentinel_password: None,
        database: 0,
    };
    match kind {
        "-sentinel" => sentinel(&mut url, &parts)?,
        "-cluster" => {
            no_options(&parts)?;
            if !parts.path.is_empty() {
                return Err(Bad(
                    "a cluster has no numbered databases",
                    "end the address after the hosts; `prefix` keeps the keys of several gateways apart",
                ));
            }
            url.topology = Topology::Cluster;
        }
        _ => {
            no_options(&parts)?;
            if url.servers.len() > 1 {
                return Err(Bad(
                    "several hosts for one Redis",
                    "write redis-sentinel:// before sentinels, redis-cluster:// before nodes of a cluster",
                ));
            }
            url.database = database(parts.path)?;
        }
    }
    Ok(url)
}

fn no_options(parts: &Parts<'_>) -> Result<(), Bad> {
    match parts.query {
        None => Ok(()),
        Some(_) => Err(Bad(
            "options after a `?`",
            "end the address before it; the other keys of [sessions] are options",
        )),
    }
}

/// `/master`, `/master/db`, and what the sentinels ask for.
fn sentinel(url: &mut RedisUrl, parts: &Parts<'_>) -> Result<(), Bad> {
    let (master, number) = parts.path.split_once('/').unwrap_or((parts.path, ""));
    // What a sentinel takes for the name of a master.
    if master.is_empty() || !master.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b)) {
        return Err(Bad(
            "the name of the master is missing",
            "write it after the sentinels, letters, digits and `.-_`: redis-sentinel://host,host/mymaster",
        ));
    }
    url.topology = Topology::Sentinel { master: master.to_owned() };
    url.database = database(number)?;
    let Some(query) = parts.query else { return Ok(()) };
    match query.strip_prefix("sentinel_password=").filter(|value| !value.is_empty() && !value.contains('&')) {
        Some(value) => url.sentinel_password = Some(Secret::new(decoded(value)?)),
        None => {
            return Err(Bad(
                "not an option of a Redis address",
                "?sentinel_password=... is the only one; in it write %26 for `&`",
            ));
        }
    }
    Ok(())
}

fn database(number: &str) -> Result<i64, Bad> {
    if number.is_empty() {
        return Ok(0);
    }
    let digits = number.len() <= 9 && number.bytes().all(|b| b.is_ascii_digit());
    number
        .parse()
        .ok()
        .filter(|_| digits)
        .ok_or(Bad("not the number of a database", "write digits after the `/`, or nothing for database 0"))
}

/// A password with or without a user. A user alone would not be sent, and an empty password comes of a variable that
/// was meant to hold one.
fn credentials(user_info: Option<&str>) -> Result<(Option<String>, Option<Secret>), Bad> {
    let Some(user_info) = user_info else { return Ok((None, None)) };
    let (user, password) = user_info.split_once(':').ok_or(Bad(
        "a user without a password",
        "write user:password@, or :password@ when Redis asks for a password only",
    ))?;
    if password.is_empty() {
        return Err(Bad(
            "an empty password",
            "write it between the `:` and the `@`, or leave out everything up to the `@`",
        ));
    }
    let user = decoded(user)?;
    Ok(((!user.is_empty()).then_some(user), Some(Secret::new(decoded(password)?))))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn server(host: &str, port: u16) -> (String, u16) {
        (host.to_owned(), port)
    }

    #[test]
    fn a_single_server() {
        let url = parse("redis://cache").unwrap();
        assert_eq!((url.topology, url.tls, url.database), (Topology::Single, false, 0));
        assert_eq!((url.servers, url.username, url.password), (vec![server("cache", 6379)], None, None));
        let url = parse("rediss://ann:p%40s%2Fs:1@[::1]:7000/12").unwrap();
        assert_eq!((url.tls, url.database, url.servers), (true, 12, vec![server("::1", 7000)]));
        assert_eq!(url.username.as_deref(), Some("ann"));
        assert_eq!(url.password, Some(Secret::new("p@s/s:1")));
        let url = parse("redis://:pw@cache:6380/").unwrap();
        assert_eq!((url.username, url.password, url.database), (None, Some(Secret::new("pw")), 0));
    }

    #[test]
    fn sentinels() {
        let url = parse("rediss-sentinel://u:p@a,b:1/my.master/3?sentinel_password=q%3D+").unwrap();
        assert_eq!(url.topology, Topology::Sentinel { master: "my.master".into() });
        assert_eq!((url.tls, url.database), (true, 3));
        assert_eq!(url.servers, [server("a", 26379), server("b", 1)]);
        assert_eq!(url.sentinel_password, Some(Secret::new("q=+")));
        let url = parse("redis-sentinel://a/m").unwrap();
        assert_eq!((url.tls, url.database, url.sentinel_password), (false, 0, None));
    }

    #[test]
    fn clusters() {
        let url = parse("redis-cluster://:p@a,b:1,[::1]/").unwrap();
        assert_eq!((url.topology, url.tls), (Topology::Cluster, false));
        assert_eq!(url.servers, [server("a", 6379), server("b", 1), server("::1", 6379)]);
        assert!(parse("rediss-cluster://a").unwrap().tls);
    }

    #[test]
    fn every_complaint_is_the_one_that_helps() {
        for (text, says) in [
            ("", "not the address"),
            ("cache:6379", "not the address"),
            ("REDIS://cache", "not the address"),
            ("redis+unix:///run/redis.sock", "not the address"),
            ("unix:///run/redis.sock", "not the address"),
            ("redis-sentinels://a/m", "not the address"),
            ("redisss://a", "not the address"),
            ("redis:/cache", "not the address"),
            ("redis://", "a host is missing"),
            ("redis://:6379", "not the name of a host"),
            ("redis:///1", "a host is missing"),
            (" redis://cache", "not the address"),
            ("redis://cache ", "cannot hold"),
            ("redis://:pä@cache", "cannot hold"),
            ("redis://:p#w@cache", "`#`"),
            ("redis://:p/w@cache", "an `@` after"),
            ("redis://:p?w@cache", "an `@` after"),
            ("redis://:p@w@cache", "more than one"),
            ("redis://:p%w@cache", "a `%`"),
            ("redis://:%ff@cache", "UTF-8"),
            ("redis://pw@cache", "without a password"),
            ("redis://@cache", "without a password"),
            ("redis://:@cache", "an empty password"),
            ("redis://u:@cache", "an empty password"),
            ("redis://user:pw", "not a port"),
            ("redis://::1", "without brackets"),
            ("redis://a,b", "several hosts"),
            ("redis://a/x", "number of a database"),
            ("redis://a/-1", "number of a database"),
            ("redis://a/1/2", "number of a database"),
            ("redis://a/1?x=y", "options"),
            ("redis-sentinel://a", "the name of the master"),
            ("redis-sentinel://a/", "the name of the master"),
            ("redis-sentinel://a//1", "the name of the master"),
            ("redis-sentinel://a/m/x", "number of a database"),
            ("redis-sentinel://a/m?password=x", "not an option"),
            ("redis-sentinel://a/m?sentinel_password=", "not an option"),
            ("redis-sentinel://a/m?sentinel_password=x&y=z", "not an option"),
            ("redis-cluster://a/1", "no numbered"),
            ("redis-cluster://a?x=y", "options"),
        ] {
            let Bad(message, help) = parse(text).unwrap_err();
            assert!(message.contains(says) && !help.is_empty(), "{text}: {message}");
        }
    }

    /// Every byte that is not a letter or a digit, percent-encoded.
    fn encoded(text: &str) -> String {
        let escaped = |b: u8| match b.is_ascii_alphanumeric() {
            true => char::from(b).to_string(),
            false => format!("%{b:02X}"),
        };
        text.bytes().map(escaped).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn arbitrary_text_is_answered(text in any::<String>(), scheme in "rediss?(-sentinel|-cluster)?://") {
            let _ = parse(&text);
            let _ = parse(&format!("{scheme}{text}"));
        }

        #[test]
        fn arbitrary_addresses_are_answered(text in "rediss?(-sentinel|-cluster)?://[a-z0-9:@/?#%,.\\[\\]=&]{0,24}") {
            if let Ok(url) = parse(&text) {
                prop_assert!(!url.servers.is_empty());
                prop_assert!(url.servers.iter().all(|(host, port)| !host.is_empty() && *port > 0));
                prop_assert!(url.username.is_none() || url.password.is_some());
            }
        }

        #[test]
        fn credentials_come_back_as_they_were(user in "\\PC{0,8}", password in "\\PC{1,12}", sentinels in "\\PC{1,12}") {
            let text = format!(
                "redis-sentinel://{}:{}@a/m?sentinel_password={}",
                encoded(&user), encoded(&password), encoded(&sentinels)
            );
            let url = parse(&text).unwrap();
            prop_assert_eq!(url.username.unwrap_or_default(), user);
            prop_assert_eq!(url.password, Some(Secret::new(password)));
            prop_assert_eq!(url.sentinel_password, Some(Secret::new(sentinels)));
            prop_assert_eq!(url.servers, [server("a", 26379)]);
        }
    }
}
