//! From text to the serde mirror, collecting what is wrong on the way: every syntax error, every unset
//! variable, every unknown key and wrong type.
//!
//! serde stops at the first thing it does not understand. So what it stopped at is noted, taken out of the
//! tree, and the tree is read again, until nothing is left to complain of.

use std::borrow::Cow;

use serde::Deserialize;
use toml::de::{DeArray, DeTable, DeValue, Deserializer, Error};

use super::file::{File, Span, is_later};
use super::problem::{Problem, Severity, Source, is_secret};
use super::values::{closest, listed};

/// After so many problems the rest of a file is not read: it is not a configuration file at all.
const MOST_PROBLEMS: usize = 100;

pub(super) struct Read {
    pub file: File,
    /// Tables that lost a key, because it was unknown or of the wrong type: what is missing there may be that.
    pub damaged: Vec<Span>,
    /// Whether `file` is all that the text says.
    pub whole: bool,
    pub problems: Vec<Problem>,
}

pub(super) fn read(source: &Source<'_>, env: &dyn Fn(&str) -> Option<String>) -> Read {
    let (mut tree, errors) = DeTable::parse_recoverable(source.text);
    let mut problems = syntax(source, &errors);
    let misread: Vec<usize> = problems.iter().map(|p| p.line).collect();
    each_string(tree.get_mut(), &mut |text, span| match expand(text, &span, source, env) {
        Ok(expanded) => *text = expanded.into(),
        Err((place, message, help)) => {
            let mut problem = source.problem(Severity::Error, place, message);
            problem.help(help);
            problems.push(problem);
        }
    });
    let mut damaged = Vec::new();
    for _ in 0..MOST_PROBLEMS {
        let error = match File::deserialize(Deserializer::from(tree.clone())) {
            Ok(file) => return Read { file, damaged, whole: misread.is_empty(), problems },
            Err(error) => error,
        };
        let span = error.span().unwrap_or_default();
        let Some(removed) = remove_from_table(tree.get_mut(), &span, &(0..0), "") else {
            problems.push(source.problem(Severity::Error, span, "this cannot be read"));
            break;
        };
        let problem = explain(source, &error, &removed, span);
        if !follows(source, &problem, &misread) {
            problems.push(problem);
        }
        damaged.push(removed.table);
    }
    problems.push(Problem::with_file(source.name, "too many problems; the rest of the file was not read"));
    Read { file: File::default(), damaged, whole: false, problems }
}

/// The first error of every line: those after it come from reading on in the wrong place.
fn syntax(source: &Source<'_>, errors: &[Error]) -> Vec<Problem> {
    let mut problems: Vec<Problem> = Vec::new();
    for error in errors.iter().take(MOST_PROBLEMS) {
        let problem = source.problem(Severity::Error, error.span().unwrap_or_default(), error.message());
        match problems.iter_mut().find(|other| other.line == problem.line) {
            Some(other) if other.column > problem.column => *other = problem,
            Some(_) => {}
            None => problems.push(problem),
        }
    }
    problems
}

/// Whether `problem` may come of a syntax error on one of the lines `misread`: one between it and the table
/// header above it, which may have put its key into the wrong table.
fn follows(source: &Source<'_>, problem: &Problem, misread: &[usize]) -> bool {
    let above = source.text.lines().take(problem.line).collect::<Vec<_>>();
    let header = above.iter().rposition(|line| line.trim_start().starts_with('[')).map_or(0, |at| at + 1);
    misread.iter().any(|line| (header..=problem.line).contains(line))
}

/// What was taken out of the tree.
struct Removed {
    /// The key, or the one whose array held it.
    key: String,
    entry: bool,
    kind: &'static str,
    /// Where the table it stood in begins, and its dotted name, empty for the top of the file.
    table: Span,
    table_name: String,
}

fn remove_from_table(table: &mut DeTable<'_>, span: &Span, begins: &Span, name: &str) -> Option<Removed> {
    let hit = table.iter().find(|(key, value)| key.span() == *span || value.span() == *span);
    if let Some((key, value)) = hit {
        let (key, kind) = (key.get_ref().to_string(), value.get_ref().type_str());
        table.remove(key.as_str());
        return Some(Removed { key, entry: false, kind, table: begins.clone(), table_name: name.to_owned() });
    }
    for (key, value) in table.iter_mut() {
        let inner_name =
            if name.is_empty() { key.get_ref().to_string() } else { format!("{name}.{}", key.get_ref()) };
        let inner_begins = value.span();
        let removed = match value.get_mut() {
            DeValue::Table(inner) => remove_from_table(inner, span, &inner_begins, &inner_name),
            DeValue::Array(items) => remove_from_array(items, span, begins, name, key.get_ref(), &inner_name),
            _ => None,
        };
        if removed.is_some() {
            return removed;
        }
    }
    None
}

fn remove_from_array(
    items: &mut DeArray<'_>,
    span: &Span,
    begins: &Span,
    name: &str,
    key: &str,
    inner_name: &str,
) -> Option<Removed> {
    if let Some(hit) = items.iter().position(|item| item.span() == *span) {
        let kind = items[hit].get_ref().type_str();
        let kept = items.iter().enumerate().filter(|(at, _)| *at != hit).map(|(_, item)| item.clone());
        let mut rest = DeArray::new();
        kept.for_each(|item| rest.push(item));
        *items = rest;
        return Some(Removed {
            key: key.to_owned(),
            entry: true,
            kind,
            table: begins.clone(),
            table_name: name.to_owned(),
        });
    }
    items.iter_mut().find_map(|item| {
        let item_begins = item.span();
        match item.get_mut() {
            DeValue::Table(inner) => remove_from_table(inner, span, &item_begins, inner_name),
            DeValue::Array(inner) => remove_from_array(inner, span, begins, name, key, inner_name),
            _ => None,
        }
    })
}

/// serde's message in the words of somebody who writes a file. It may quote a value, so it is never passed on.
fn explain(source: &Source<'_>, error: &Error, removed: &Removed, span: Span) -> Problem {
    let written = if is_secret(&removed.key) { "..." } else { source.written(&span) };
    let problem = |message: String| source.problem(Severity::Error, span.clone(), message);
    if let Some((_, known)) =
        error.message().rsplit_once("`, expected ").filter(|_| is_about(error, "unknown field"))
    {
        let known = known.split('`').skip(1).step_by(2);
        let known: Vec<&str> = known.filter(|key| !is_later(&removed.table_name, key)).collect();
        let place = match removed.table_name.as_str() {
            "" => "at the top of the file".to_owned(),
            name => format!("in `{name}`"),
        };
        let mut problem = problem(format!("unknown key `{}` {place}", removed.key));
        match closest(&removed.key, known.iter().copied()) {
            Some(meant) => problem.help(format!("did you mean `{meant}`?")),
            None => problem.help(format!("the keys known here are {}", listed(known))),
        };
        return problem;
    }
    let Some((_, expected)) =
        error.message().rsplit_once(", expected ").filter(|_| is_about(error, "invalid "))
    else {
        let mut problem = problem(format!("the value of `{}` cannot be read", removed.key));
        problem.help("write a smaller one, of the kind docs/configuration.md names");
        return problem;
    };
    let (expected, help) = match (expected, removed.kind) {
        ("a string", "integer" | "float" | "boolean" | "datetime") => {
            ("a string", format!("write it in quotes: \"{written}\""))
        }
        ("i64", "string") => ("a whole number", "write it without quotes".to_owned()),
        ("i64", _) => ("a whole number", "write digits only".to_owned()),
        ("a boolean", _) => ("true or false", "write true or false, without quotes".to_owned()),
        ("a sequence", "table") => ("an array", format!("write [[{}]], in double brackets", removed.key)),
        ("a sequence", "string") => ("an array", format!("write it in brackets: [\"{written}\"]")),
        ("a sequence", _) => ("an array", "write [ ... ]".to_owned()),
        ("a table" | "a map", "array") => {
            ("a table", format!("write [{}] in single brackets, or {{ key = value }}", removed.key))
        }
        ("a table" | "a map", _) => ("a table", "write { key = value }".to_owned()),
        ("an address or a table", _) => ("an address or a table", "write \"0.0.0.0:8080\"".to_owned()),
        ("a string or an array of strings", _) => {
            ("a string or an array of strings", format!("write it in quotes: \"{written}\""))
        }
        (other, _) => (other, "see docs/configuration.md".to_owned()),
    };
    let which = if removed.entry { "an entry of " } else { "" };
    let found = with_article(removed.kind);
    let mut problem = problem(format!("{which}`{}` must be {expected}, found {found}", removed.key));
    problem.help(help);
    problem
}

fn is_about(error: &Error, what: &str) -> bool {
    error.message().starts_with(what)
}

fn with_article(kind: &str) -> String {
    let article = if kind.starts_with(['a', 'i']) { "an" } else { "a" };
    format!("{article} {kind}")
}

fn each_string(table: &mut DeTable<'_>, f: &mut dyn FnMut(&mut Cow<'_, str>, Span)) {
    fn visit(value: &mut DeValue<'_>, span: Span, f: &mut dyn FnMut(&mut Cow<'_, str>, Span)) {
        match value {
            DeValue::String(text) => f(text, span),
            DeValue::Table(inner) => each_string(inner, f),
            DeValue::Array(items) => {
                for item in items.iter_mut() {
                    let span = item.span();
                    visit(item.get_mut(), span, f);
                }
            }
            _ => {}
        }
    }
    for (_, value) in table.iter_mut() {
        let span = value.span();
        visit(value.get_mut(), span, f);
    }
}

/// A variable that cannot be filled in: where, what is wrong, what to write.
type Unfilled = (Span, String, String);

/// Puts the values of `${VAR}` and `${VAR:-default}` into `text`; `$${` stands for `${` itself. As in a shell,
/// the default also stands in for an empty variable.
fn expand(
    text: &str,
    span: &Span,
    source: &Source<'_>,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<String, Unfilled> {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find("${") {
        let (before, from) = rest.split_at(dollar);
        if let Some(literal) = before.strip_suffix('$') {
            expanded.push_str(literal);
            expanded.push_str("${");
            rest = &from[2..];
            continue;
        }
        expanded.push_str(before);
        let Some((inner, after)) = from[2..].split_once('}') else {
            let help = "write ${VAR} or ${VAR:-default}; $${ stands for the characters themselves";
            return Err((place(source, span, "${"), "`${` without its `}`".to_owned(), help.to_owned()));
        };
        let (name, default) = match inner.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inner, None),
        };
        let place = || place(source, span, &format!("${{{inner}}}"));
        if !is_name(name) {
            let help = "a name holds letters, digits and `_`: ${VAR} or ${VAR:-default}";
            return Err((place(), "not the name of a variable".to_owned(), help.to_owned()));
        }
        match (env(name), default) {
            (Some(value), default) if !value.is_empty() || default.is_none() => expanded.push_str(&value),
            (_, Some(default)) => expanded.push_str(default),
            _ => {
                let help = format!("set it, here or in .env, or write ${{{name}:-default}}");
                return Err((place(), format!("the variable `{name}` is not set"), help));
            }
        }
        rest = after;
    }
    expanded.push_str(rest);
    Ok(expanded)
}

/// Whether a variable can have this name.
pub(super) fn is_name(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.bytes().all(word) && text.bytes().next().is_some_and(|b| !b.is_ascii_digit())
}

/// Where within `span` the file says `part`, or all of it where an escape hides that.
fn place(source: &Source<'_>, span: &Span, part: &str) -> Span {
    let found = source.text.get(span.clone()).and_then(|text| text.find(part));
    found.map_or(span.clone(), |at| span.start + at..span.start + at + part.len())
}
