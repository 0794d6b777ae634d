//! From what was written to what it means: every value read, every cross-reference followed, every problem
//! collected.
//!
//! A check that fails notes the problem and goes on with some harmless value; what it returns is thrown away
//! when there was any error. Messages never repeat a value, since it may have come out of `${VAR}`; the line
//! they are shown with says what was written.

mod address;
mod cache_control;
mod endpoints;
mod file_stores;
mod files;
mod headers;
mod identity;
mod issuers;
mod mongodb_uri;
mod names;
mod redis_url;
mod routes;
mod server;
mod stores;
mod tls;
mod upstreams;
mod urls;

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::claim_path::ClaimPath;

use super::file::{File, Later, Span, Written};
use super::problem::{Problem, Severity, Source};
use super::values::{self, Bad, closest, listed};
use super::{Algorithm, Config};

/// The configuration `file` means; good only when no error is among the problems.
pub(super) fn check(
    file: &File,
    source: &Source<'_>,
    folder: &Path,
    damaged: &[Span],
) -> (Config, Vec<Problem>) {
    let mut check = Check { source, folder, damaged, problems: Vec::new() };
    let config = check.config(file);
    (config, check.problems)
}

struct Check<'a> {
    source: &'a Source<'a>,
    /// The configuration file's own, which relative paths begin at.
    folder: &'a Path,
    damaged: &'a [Span],
    problems: Vec<Problem>,
}

impl Check<'_> {
    fn config(&mut self, file: &File) -> Config {
        let server = self.server(&file.server);
        let tokens = self.tokens(&file.tokens);
        let identity = self.identity(&file.identity);
        let endpoints = self.endpoints(&file.endpoints);
        let upstreams = self.upstreams(&file.upstreams);
        let file_stores = self.file_stores(&file.file_stores, &server.data_dir);
        let (users, sessions) = self.stores(&file.users, &file.sessions);
        Config {
            log: self.log(&file.log),
            issuers: self.issuers(&file.issuers, &tokens.issuer),
            passwords: self.passwords(&file.passwords),
            throttle: self.throttle(&file.throttle),
            mail: self.mail(&file.mail),
            routes: self.routes(&file.routes, file, &identity, &endpoints),
            server,
            tokens,
            users,
            sessions,
            identity,
            endpoints,
            upstreams,
            file_stores,
        }
    }

    fn note(&mut self, severity: Severity, span: &Span, message: impl Into<String>) -> &mut Problem {
        self.problems.push(self.source.problem(severity, span.clone(), message));
        let last = self.problems.len() - 1;
        &mut self.problems[last]
    }

    fn error(&mut self, span: &Span, message: impl Into<String>) -> &mut Problem {
        self.note(Severity::Error, span, message)
    }

    fn warning(&mut self, span: &Span, message: impl Into<String>) -> &mut Problem {
        self.note(Severity::Warning, span, message)
    }

    fn bad(&mut self, span: &Span, Bad(message, help): Bad) {
        self.error(span, message).help(help);
    }

    /// A key that `table` must have. Silent where a key of that table was already complained of.
    fn missing(&mut self, table: &Span, message: &str, help: &str) {
        if !self.damaged.contains(table) {
            self.error(table, message).help(help);
        }
    }

    fn later(&mut self, later: &Later, key: &str, help: &str) {
        self.error(&later.span, format!("`{key}` is not available in this version")).help(help);
    }

    /// A length of time from `least` to `most`, all three in the file's notation.
    fn duration(&mut self, written: &Written<String>, least: &str, most: &str) -> Duration {
        let bound = |text| values::duration(text).unwrap_or_default();
        match values::duration(&written.value) {
            Ok(value) => self.within(&written.span, value, bound(least)..=bound(most), least, most),
            Err(bad) => {
                self.bad(&written.span, bad);
                Duration::ZERO
            }
        }
    }

    /// A size from `least` to `most`, all three in the file's notation.
    fn size(&mut self, written: &Written<String>, least: &str, most: &str) -> u64 {
        let bound = |text| values::size(text).unwrap_or_default();
        match values::size(&written.value) {
            Ok(value) => self.within(&written.span, value, bound(least)..=bound(most), least, most),
            Err(bad) => {
                self.bad(&written.span, bad);
                0
            }
        }
    }

    fn number(&mut self, written: &Written<i64>, least: u32, most: u32) -> u32 {
        let range = i64::from(least)..=i64::from(most);
        let value = self.within(&written.span, written.value, range, &least.to_string(), &most.to_string());
        u32::try_from(value).unwrap_or(least)
    }

    /// `value`, or the start of `range` when it is not within.
    fn within<T: PartialOrd + Copy>(
        &mut self,
        span: &Span,
        value: T,
        range: RangeInclusive<T>,
        least: &str,
        most: &str,
    ) -> T {
        if range.contains(&value) {
            return value;
        }
        let help = if value < *range.start() {
            format!("write {least} or more")
        } else {
            format!("write {most} or less")
        };
        self.error(span, format!("outside {least} to {most}")).help(help);
        *range.start()
    }

    /// One word of `known`, or one of `later` versions.
    fn word(
        &mut self,
        key: &str,
        written: &Written<String>,
        known: &[&str],
        later: &[&str],
    ) -> Option<usize> {
        let word = written.value.as_str();
        if let Some(at) = known.iter().position(|k| *k == word) {
            return Some(at);
        }
        let all = listed(known.iter().copied());
        if let Some(name) = later.iter().find(|l| **l == word) {
            self.error(&written.span, format!("`{name}` is not available in this version"))
                .help(format!("write {all}"));
            return None;
        }
        let help = match closest(word, known.iter().copied()) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("write {all}"),
        };
        self.error(&written.span, format!("not a value of `{key}`")).help(help);
        None
    }

    fn algorithm(&mut self, written: &Written<String>, known: &[Algorithm]) -> Option<Algorithm> {
        let names: Vec<&str> = known.iter().map(|a| a.name()).collect();
        self.word("algorithm", written, &names, &[]).map(|at| known[at])
    }

    /// A dotted path into the claims, such as `realm_access.roles`.
    fn claim_path(&mut self, written: &Written<String>) -> String {
        let path = &written.value;
        let odd = |c: char| c.is_control() || c.is_whitespace();
        if path.len() > 256 || path.chars().any(odd) || ClaimPath::parse(path).is_err() {
            self.error(&written.span, "not a path to a claim")
                .help("write claim names, with dots between where they nest: \"realm_access.roles\"");
        }
        path.clone()
    }

    /// Whether the file says `${VAR}` there, so that the value must not be repeated.
    fn has_variable(&self, span: &Span) -> bool {
        self.source.written(span).contains("${")
    }

    fn path_of_file(&self, written: &Written<String>) -> PathBuf {
        self.folder.join(&written.value)
    }
}
