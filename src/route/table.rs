//! From host, path and method to one route, at a cost that does not grow with the number of routes.
//!
//! A trie of path segments for each host, with a hash map at every node. The hashes are keyed at random, so
//! nobody can pick names that collide. Built once, never changed: a new configuration is a new table.

use std::collections::HashMap;

use super::{CleanPath, Host, HostPattern, Methods, Pattern, Segment};

/// All routes, each with a value of the caller's.
///
/// Which one answers does not depend on their order:
///
/// 1. Hosts are asked in turn, the exact one, then wildcards from the longest to the shortest, then the
///    routes without a host. The first that has a route for the path decides.
/// 2. Among its routes the most specific wins, read from left to right: a literal segment goes before
///    `{name}`, and that before `{*rest}`. The end of a path goes before a `{*rest}` that would match nothing.
/// 3. Among routes of the same shape (parameter names do not matter) the method decides, listed methods
///    before any method. If none takes it the answer is 405, even if a broader route would take it:
///    otherwise that route's weaker rules could be had for the price of an unusual method.
#[derive(Debug)]
pub struct Table<T> {
    entries: Vec<Entry<T>>,
    nodes: Vec<Node>,
    exact: HashMap<String, NodeId>,
    wildcard: HashMap<String, NodeId>,
    /// Bytes of the longest key in `wildcard`; longer suffixes of a host need no look-up.
    longest_wildcard: usize,
    any: Option<NodeId>,
}

/// Two routes no request can tell apart: indices into what the table was built from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    pub first: usize,
    pub second: usize,
    pub reason: String,
}

/// The route that answers, and the text its parameters stand for.
#[derive(Debug)]
pub struct Match<'a, T> {
    pub value: &'a T,
    pub pattern: &'a Pattern,
    path: &'a str,
}

/// Why no route answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoMatch<'a> {
    /// 404.
    NotFound,
    /// 405, with the value of its `Allow` field (RFC 9110 section 10.2.1).
    MethodNotAllowed { allow: &'a str },
}

type NodeId = usize;
type EntryId = usize;

#[derive(Debug)]
struct Entry<T> {
    pattern: Pattern,
    methods: Methods,
    value: T,
}

#[derive(Debug, Default)]
struct Node {
    literals: HashMap<String, NodeId>,
    param: Option<NodeId>,
    /// Routes that end here.
    end: Leaf,
    /// Routes with a `{*rest}` from here on.
    rest: Leaf,
}

/// The routes of one host and shape.
#[derive(Debug, Default)]
struct Leaf {
    /// Those that list their methods, then the one for any method.
    routes: Vec<EntryId>,
    allow: String,
}

impl<T> Table<T> {
    pub fn build(
        routes: impl IntoIterator<Item = (HostPattern, Pattern, Methods, T)>,
    ) -> Result<Self, Vec<Conflict>> {
        let mut table = Self {
            entries: Vec::new(),
            nodes: Vec::new(),
            exact: HashMap::new(),
            wildcard: HashMap::new(),
            longest_wildcard: 0,
            any: None,
        };
        let mut conflicts = Vec::new();
        for (host, pattern, methods, value) in routes {
            let mut node = table.root(&host);
            let mut to_rest = false;
            for segment in pattern.segments() {
                match segment {
                    Segment::Literal(text) => node = table.literal(node, text),
                    Segment::Param(_) => node = table.param(node),
                    Segment::Rest(_) => to_rest = true,
                }
            }
            let leaf = if to_rest { &table.nodes[node].rest } else { &table.nodes[node].end };
            let id = table.entries.len();
            for &other in &leaf.routes {
                let earlier = &table.entries[other];
                if let Some(reason) = conflict(&host, &earlier.pattern, &earlier.methods, &methods) {
                    conflicts.push(Conflict { first: other, second: id, reason });
                }
            }
            table.entries.push(Entry { pattern, methods, value });
            let leaf = if to_rest { &mut table.nodes[node].rest } else { &mut table.nodes[node].end };
            leaf.routes.push(id);
        }
        if !conflicts.is_empty() {
            return Err(conflicts);
        }
        for node in &mut table.nodes {
            node.end.finish(&table.entries);
            node.rest.finish(&table.entries);
        }
        Ok(table)
    }

    /// The route for a request. Allocates nothing.
    pub fn find<'a>(
        &'a self,
        host: &Host<'_>,
        path: &'a CleanPath,
        method: &str,
    ) -> Result<Match<'a, T>, NoMatch<'a>> {
        let path = path.as_str();
        let leaf = self.roots(host.as_str()).find_map(|root| self.search(root, path.get(1..)));
        let leaf = leaf.ok_or(NoMatch::NotFound)?;
        let entry = leaf.routes.iter().map(|&id| &self.entries[id]).find(|e| e.methods.contains(method));
        let entry = entry.ok_or(NoMatch::MethodNotAllowed { allow: &leaf.allow })?;
        Ok(Match { value: &entry.value, pattern: &entry.pattern, path })
    }

    /// Every value, in the order the table was built from.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().map(|e| &e.value)
    }

    fn roots<'t>(&'t self, host: &'t str) -> impl Iterator<Item = NodeId> + 't {
        let suffixes = memchr::memchr_iter(b'.', host.as_bytes()).map(|dot| &host[dot + 1..]);
        let wildcards = suffixes
            .skip_while(|suffix| suffix.len() > self.longest_wildcard)
            .filter_map(|suffix| self.wildcard.get(suffix).copied());
        self.exact.get(host).copied().into_iter().chain(wildcards).chain(self.any)
    }

    /// The most specific leaf for what is left of a path: the text after a slash, `None` at its end. Every node
    /// is visited at most once, and none deeper than the longest pattern.
    fn search<'a>(&'a self, node: NodeId, left: Option<&str>) -> Option<&'a Leaf> {
        let node = &self.nodes[node];
        let Some(left) = left else {
            return node.end.found().or_else(|| node.rest.found());
        };
        let (segment, after) = match memchr::memchr(b'/', left.as_bytes()) {
            Some(slash) => (&left[..slash], Some(&left[slash + 1..])),
            None => (left, None),
        };
        let literal = node.literals.get(segment).copied();
        let param = node.param.filter(|_| !segment.is_empty());
        literal
            .and_then(|child| self.search(child, after))
            .or_else(|| param.and_then(|child| self.search(child, after)))
            .or_else(|| node.rest.found())
    }

    fn root(&mut self, host: &HostPattern) -> NodeId {
        let new = self.nodes.len();
        let root = match host {
            HostPattern::Any => *self.any.get_or_insert(new),
            HostPattern::Exact(name) => *self.exact.entry(name.clone()).or_insert(new),
            HostPattern::Wildcard(suffix) => {
                self.longest_wildcard = self.longest_wildcard.max(suffix.len());
                *self.wildcard.entry(suffix.clone()).or_insert(new)
            }
        };
        self.ensure(root)
    }

    fn literal(&mut self, node: NodeId, text: &str) -> NodeId {
        let new = self.nodes.len();
        let child = *self.nodes[node].literals.entry(text.to_owned()).or_insert(new);
        self.ensure(child)
    }

    fn param(&mut self, node: NodeId) -> NodeId {
        let new = self.nodes.len();
        let child = *self.nodes[node].param.get_or_insert(new);
        self.ensure(child)
    }

    fn ensure(&mut self, node: NodeId) -> NodeId {
        if node == self.nodes.len() {
            self.nodes.push(Node::default());
        }
        node
    }
}

impl Leaf {
    fn found(&self) -> Option<&Self> {
        (!self.routes.is_empty()).then_some(self)
    }

    fn finish<T>(&mut self, entries: &[Entry<T>]) {
        self.routes.sort_by_key(|&id| entries[id].methods.is_any());
        let mut allow: Vec<&str> = self.routes.iter().flat_map(|&id| entries[id].methods.iter()).collect();
        allow.sort_unstable();
        allow.dedup();
        self.allow = allow.join(", ");
    }
}

/// A listed method beside any method is no conflict: the list goes first.
fn conflict(host: &HostPattern, path: &Pattern, earlier: &Methods, later: &Methods) -> Option<String> {
    let both = match (earlier.is_any(), later.is_any()) {
        (true, true) => "any method".to_owned(),
        (false, false) => earlier.iter().find(|m| later.contains(m))?.to_owned(),
        _ => return None,
    };
    let host = match host {
        HostPattern::Any => String::new(),
        named => format!(" on host {named}"),
    };
    Some(format!("both answer {both} {path}{host}, and nothing tells them apart"))
}

impl<'a, T> Match<'a, T> {
    /// Parameters by name, in order of the path, in canonical percent-encoded form. A `{*rest}` that matched
    /// nothing is empty.
    pub fn params(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a, T> {
        let mut left = self.path.get(1..).unwrap_or_default();
        self.pattern.segments().iter().filter_map(move |segment| {
            if let Segment::Rest(name) = segment {
                return Some((name.as_str(), left));
            }
            let (text, after) = left.split_once('/').unwrap_or((left, ""));
            left = after;
            segment.name().map(|name| (name, text))
        })
    }

    pub fn param(&self, name: &str) -> Option<&'a str> {
        self.params().find(|(n, _)| *n == name).map(|(_, text)| text)
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
