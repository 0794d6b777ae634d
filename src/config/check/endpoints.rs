//! `[endpoints]`, and the paths that are the gateway's own.

use super::super::{Endpoints, file};
use super::Check;
use crate::route::{Pattern, Segment};

/// Below the prefix; `{id}` is a session's.
const BELOW_PREFIX: [&str; 10] = [
    "register",
    "login",
    "refresh",
    "logout",
    "logout-all",
    "me",
    "sessions",
    "sessions/{id}",
    "password",
    "openapi.json",
];

const JWKS: &str = "/.well-known/jwks.json";

impl Check<'_> {
    pub(super) fn endpoints(&mut self, written: &file::Endpoints) -> Endpoints {
        let prefix = written.prefix.value.as_str();
        let literal = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
        let segment = |s: &str| !s.is_empty() && s != "." && s != ".." && s.bytes().all(literal);
        let good = prefix.strip_prefix('/').is_some_and(|inner| inner.split('/').all(segment));
        if !good {
            let trimmed = prefix.trim_matches('/');
            let help = match trimmed.split('/').all(segment) && !self.has_variable(&written.prefix.span) {
                true => format!("write \"/{trimmed}\""),
                false => "write a path without a final slash: \"/auth\"".to_owned(),
            };
            self.error(&written.prefix.span, "not a path the endpoints can be found below").help(help);
        }
        for role in &written.default_roles {
            let bad = |c: char| c.is_control() || c.is_whitespace() || c == ',';
            if role.value.is_empty() || role.value.contains(bad) {
                self.error(&role.span, "not the name of a role")
                    .help("write a word without spaces and commas: \"member\"");
            }
        }
        Endpoints {
            prefix: prefix.to_owned(),
            registration: written.registration.value,
            default_roles: written.default_roles.iter().map(|role| role.value.clone()).collect(),
        }
    }
}

/// The endpoint that requests for `route` would reach instead, or that it would take requests from. A route
/// that is more general, `/auth/{*rest}` or `/{page}`, is none of these: the endpoint goes first.
pub(super) fn taken(route: &Pattern, endpoints: &Endpoints) -> Option<String> {
    let below = BELOW_PREFIX.iter().map(|name| format!("{}/{name}", endpoints.prefix));
    below.chain([JWKS.to_owned()]).find(|endpoint| {
        let pieces: Vec<&str> = endpoint[1..].split('/').collect();
        let route = route.segments();
        route.len() == pieces.len()
            && route.iter().zip(pieces).all(|(segment, piece)| match segment {
                Segment::Literal(text) => piece.starts_with('{') || text == piece,
                Segment::Param(_) => piece.starts_with('{'),
                Segment::Rest(_) => false,
            })
    })
}
