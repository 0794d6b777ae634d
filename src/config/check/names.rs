//! Tables that have a name, and the routes that say it.

use std::collections::BTreeMap;

use super::super::file::{self, Section, Written};
use super::super::values::{closest, listed};
use super::Check;

/// A kind of table: what it is called, and what a route writes to use one.
#[derive(Clone, Copy)]
pub(super) struct Named {
    pub kind: &'static str,
    /// What is said of one whose name cannot be its name.
    pub misnamed: &'static str,
    /// What to write where the file has none.
    pub example: &'static str,
    /// The key of a route, with `NAME` for the name.
    pub used_by: &'static str,
}

impl Check<'_> {
    /// Names are labels of metrics and words in logs.
    pub(super) fn table_name(&mut self, name: &Written<String>, what: Named) {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if name.value.is_empty() || name.value.len() > 64 || !name.value.bytes().all(word) {
            self.error(&name.span, what.misnamed).help("write letters, digits, `-` and `_`, at most 64");
        }
    }

    /// A route's `name`, which must be that of one of `tables`.
    pub(super) fn reference<T>(
        &mut self,
        name: &Written<String>,
        tables: &BTreeMap<Written<String>, T>,
        what: Named,
    ) {
        if tables.contains_key(name.value.as_str()) {
            return;
        }
        let names = || tables.keys().map(|name| name.value.as_str());
        let kind = what.kind;
        let help = match closest(&name.value, names()) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None if tables.is_empty() => format!("add {}", what.example),
            None => format!("the {kind}s of this file are {}", listed(names())),
        };
        self.error(&name.span, format!("there is no {kind} of this name")).help(help);
    }

    /// Warns of tables that no route names.
    pub(super) fn unused<T>(
        &mut self,
        tables: &BTreeMap<Written<String>, Section<T>>,
        routes: &[Section<file::Route>],
        used: impl Fn(&file::Route) -> Option<&Written<String>>,
        what: Named,
    ) {
        // A route that lost a key, or whose files have no store, may have meant any of them.
        let lost = |route: &Section<file::Route>| {
            let files =
                |files: &Section<file::Files>| files.store.is_none() || self.damaged.contains(&files.span);
            route.files.as_ref().is_some_and(files) || self.damaged.contains(&route.span)
        };
        for (name, table) in tables {
            let uses = |route: &Section<file::Route>| used(route).is_some_and(|u| u.value == name.value);
            if routes.iter().any(|route| uses(route) || lost(route)) {
                continue;
            }
            let span = if table.span.is_empty() { &name.span } else { &table.span };
            self.warning(span, format!("no route uses the {} `{}`", what.kind, name.value)).help(format!(
                "write {} in a route, or remove it",
                what.used_by.replace("NAME", &name.value)
            ));
        }
    }
}
