use proptest::prelude::*;

use super::*;

type Written<'a> = (Option<&'a str>, &'a str, &'a [&'a str]);

fn entry((host, path, methods): Written<'_>) -> (HostPattern, Pattern, Methods) {
    let methods = match methods {
        [] => Methods::any(),
        some => Methods::parse(&some.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap(),
    };
    (HostPattern::parse(host).unwrap(), Pattern::parse(path).unwrap(), methods)
}

/// A table whose values are the indices of the routes.
fn build(routes: &[Written<'_>]) -> Result<Table<usize>, Vec<Conflict>> {
    Table::build(routes.iter().enumerate().map(|(i, r)| {
        let (host, path, methods) = entry(*r);
        (host, path, methods, i)
    }))
}

fn answer(table: &Table<usize>, host: &str, method: &str, path: &str) -> String {
    let path = CleanPath::parse(path).unwrap();
    match table.find(&Host::parse(host).unwrap(), &path, method) {
        Ok(found) => {
            let params: Vec<_> = found.params().map(|(n, v)| format!(" {n}={v}")).collect();
            format!("{}{}", found.value, params.concat())
        }
        Err(NoMatch::NotFound) => "404".into(),
        Err(NoMatch::MethodNotAllowed { allow }) => format!("405 {allow}"),
    }
}

#[test]
fn the_most_specific_path_wins_whatever_the_order() {
    let routes: Vec<Written<'_>> = vec![
        (None, "/", &[]),
        (None, "/{*rest}", &[]),
        (None, "/api", &[]),
        (None, "/api/{*rest}", &[]),
        (None, "/api/users/{id}", &[]),
        (None, "/api/users/me", &[]),
        (None, "/api/{kind}/{id}/edit", &[]),
        (None, "/api/users/me/", &[]),
        (None, "/files/{*key}", &[]),
        (None, "/{page}", &[]),
    ];
    let cases = [
        ("/", "0"),
        ("/x", "9 page=x"),
        ("/x/y", "1 rest=x/y"),
        ("/x/", "1 rest=x/"),
        ("/api", "2"),
        ("/api/", "3 rest="),
        ("/api/x", "3 rest=x"),
        ("/api/users/7", "4 id=7"),
        ("/api/users/me", "5"),
        ("/api/users/me/", "7"),
        ("/api/users/me/edit", "6 kind=users id=me"),
        ("/api/users/7/edit", "6 kind=users id=7"),
        ("/api/users/", "3 rest=users/"),
        ("/api/users/7/other", "3 rest=users/7/other"),
        ("/files", "8 key="),
        ("/files/", "8 key="),
        ("/files/a/b%20c/", "8 key=a/b%20c/"),
        ("/API", "9 page=API"),
    ];
    let reversed: Vec<_> = routes.iter().rev().copied().collect();
    let (forward, backward) = (build(&routes).unwrap(), build(&reversed).unwrap());
    for (path, expected) in cases {
        assert_eq!(answer(&forward, "h", "GET", path), expected, "{path}");
        let back = answer(&backward, "h", "GET", path);
        let (index, params) =
            back.split_once(' ').map_or((back.as_str(), String::new()), |(i, p)| (i, format!(" {p}")));
        let index = routes.len() - 1 - index.parse::<usize>().unwrap();
        assert_eq!(format!("{index}{params}"), expected, "{path}, reversed");
    }
}

#[test]
fn a_param_is_never_empty_and_the_root_is_not_a_param() {
    let table = build(&[(None, "/{page}", &[]), (None, "/a/{b}/c", &[])]).unwrap();
    assert_eq!(answer(&table, "h", "GET", "/"), "404");
    assert_eq!(answer(&table, "h", "GET", "/a/"), "404");
    assert_eq!(answer(&table, "h", "GET", "/a/x/c"), "1 b=x");
}

#[test]
fn hosts_exact_then_longest_wildcard_then_any_by_path() {
    let table = build(&[
        (None, "/{*rest}", &[]),
        (Some("*.example.com"), "/w", &[]),
        (Some("*.b.example.com"), "/w", &[]),
        (Some("a.b.example.com"), "/e", &[]),
        (Some("example.com"), "/e", &[]),
        (Some("[::1]"), "/e", &[]),
    ])
    .unwrap();
    assert_eq!(answer(&table, "a.b.example.com", "GET", "/e"), "3");
    assert_eq!(answer(&table, "A.B.Example.COM.:8443", "GET", "/e"), "3");
    assert_eq!(answer(&table, "a.b.example.com", "GET", "/w"), "2");
    assert_eq!(answer(&table, "x.y.b.example.com", "GET", "/w"), "2");
    assert_eq!(answer(&table, "b.example.com", "GET", "/w"), "1");
    assert_eq!(answer(&table, "example.com", "GET", "/e"), "4");
    assert_eq!(answer(&table, "example.com", "GET", "/w"), "0 rest=w");
    assert_eq!(answer(&table, "badexample.com", "GET", "/w"), "0 rest=w");
    assert_eq!(answer(&table, "[0:0::1]:80", "GET", "/e"), "5");
    assert_eq!(answer(&table, "com", "GET", "/e"), "0 rest=e");
}

#[test]
fn case_of_hosts_decides_nothing_with_more_than_a_hundred_of_them() {
    let names: Vec<String> = (0..150).map(|i| format!("tenant-{i}.example.com")).collect();
    let routes: Vec<Written<'_>> = names.iter().map(|n| (Some(n.as_str()), "/x", &[][..])).collect();
    let table = build(&routes).unwrap();
    for (i, name) in names.iter().enumerate() {
        let mixed: String = name
            .chars()
            .enumerate()
            .map(|(n, c)| if n % 2 == 0 { c.to_ascii_uppercase() } else { c })
            .collect();
        assert_eq!(answer(&table, &mixed, "GET", "/x"), i.to_string());
        assert_eq!(answer(&table, &mixed, "GET", "/X"), "404");
    }
}

#[test]
fn the_method_decides_within_a_shape_and_405_never_falls_through() {
    let table = build(&[
        (None, "/a/{id}", &["GET"]),
        (None, "/a/{other}", &["POST", "PUT"]),
        (None, "/a/{*rest}", &[]),
        (None, "/b", &["GET"]),
        (None, "/b", &[]),
        (Some("h.example"), "/{*rest}", &["DELETE"]),
    ])
    .unwrap();
    assert_eq!(answer(&table, "h", "GET", "/a/1"), "0 id=1");
    assert_eq!(answer(&table, "h", "HEAD", "/a/1"), "0 id=1");
    assert_eq!(answer(&table, "h", "PUT", "/a/1"), "1 other=1");
    assert_eq!(answer(&table, "h", "DELETE", "/a/1"), "405 GET, HEAD, POST, PUT");
    assert_eq!(answer(&table, "h", "get", "/a/1"), "405 GET, HEAD, POST, PUT");
    assert_eq!(answer(&table, "h", "GET", "/b"), "3");
    assert_eq!(answer(&table, "h", "POST", "/b"), "4");
    assert_eq!(answer(&table, "h", "post", "/b"), "405 DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT");
    assert_eq!(answer(&table, "h", "TRACE", "/b"), "405 DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT");
    assert_eq!(answer(&table, "h.example", "GET", "/b"), "405 DELETE");
}

#[test]
fn routes_that_nothing_tells_apart_are_conflicts() {
    let conflicts = build(&[
        (None, "/a/{x}", &["GET", "POST"]),
        (None, "/a/{y}", &["HEAD"]),
        (None, "/a/{z}", &["PUT"]),
        (Some("h.example"), "/a/{x}", &["GET"]),
        (None, "/%61/{x}", &[]),
        (None, "/a/{q}", &[]),
        (None, "/r/{*a}", &[]),
        (None, "/r/{*b}", &[]),
        (None, "/r", &[]),
    ])
    .unwrap_err();
    let pairs: Vec<_> = conflicts.iter().map(|c| (c.first, c.second)).collect();
    assert_eq!(pairs, [(0, 1), (4, 5), (6, 7)]);
    assert_eq!(conflicts[0].reason, "both answer HEAD /a/{x}, and nothing tells them apart");
}

fn shape(path: &str) -> String {
    let pieces = path.split('/').map(|p| match p {
        p if p.starts_with("{*") => "{*}",
        p if p.starts_with('{') => "{}",
        p => p,
    });
    pieces.collect::<Vec<_>>().join("/")
}

/// Whether a pattern matches, and how specific it is: the slow and obvious way.
fn naive(pattern: &str, path: &str) -> Option<Vec<u8>> {
    let want: Vec<&str> = pattern[1..].split('/').collect();
    let have: Vec<&str> = path[1..].split('/').collect();
    let mut rank = Vec::new();
    for (i, w) in want.iter().enumerate() {
        if w.starts_with("{*") {
            // Nothing at all left is the weakest, an empty segment or more the next.
            rank.push(1);
            return Some(rank);
        }
        let h = have.get(i)?;
        if w.starts_with('{') {
            if h.is_empty() {
                return None;
            }
            rank.push(2);
        } else if w == h {
            rank.push(3);
        } else {
            return None;
        }
    }
    rank.push(4);
    (want.len() == have.len()).then_some(rank)
}

proptest! {
    #[test]
    fn the_trie_agrees_with_trying_every_route(
        patterns in prop::collection::vec("/(a|b|\\{x\\})(/(a|b|\\{y\\})){0,2}(/|/\\{\\*r\\})?", 1..12),
        paths in prop::collection::vec("/((a|b|c)(/(a|b|c)){0,3}/?)?", 1..20),
    ) {
        let mut unique: Vec<String> = Vec::new();
        for p in patterns {
            let p = numbered(&p);
            if !unique.iter().any(|u| shape(u) == shape(&p)) {
                unique.push(p);
            }
        }
        let routes: Vec<Written<'_>> = unique.iter().map(|p| (None, p.as_str(), &[][..])).collect();
        let table = build(&routes).unwrap();
        for path in paths {
            let best = unique.iter().enumerate().filter_map(|(i, p)| Some((naive(p, &path)?, i))).max();
            let clean = CleanPath::parse(&path).unwrap();
            let found = table.find(&Host::parse("h").unwrap(), &clean, "GET").ok().map(|m| *m.value);
            prop_assert_eq!(found, best.map(|(_, i)| i), "{} in {:?}", path, unique);
        }
    }
}

/// Distinct parameter names, which the strategy does not give.
fn numbered(pattern: &str) -> String {
    let pieces = pattern.split('/').enumerate().map(|(i, p)| match p {
        p if p.starts_with("{*") => format!("{{*p{i}}}"),
        p if p.starts_with('{') => format!("{{p{i}}}"),
        p => p.to_owned(),
    });
    pieces.collect::<Vec<_>>().join("/")
}
