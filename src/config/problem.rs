//! What is wrong with a file, and how it is shown: place, the line, the text underlined, what to write instead.
//!
//! A problem shows the line as it stands in the file, never a value that came out of `${VAR}`, and masks
//! what a line says about passwords. Control characters are not passed on to the terminal.

use std::fmt;
use std::ops::Range;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Error,
    Warning,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub file: String,
    /// From 1; 0 when the problem is with the file as a whole.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// Bytes of the file.
    pub span: Range<usize>,
    pub severity: Severity,
    pub message: String,
    /// What to write instead.
    pub help: Option<String>,
    excerpt: Option<Excerpt>,
}

/// One line, ready to print, and the part of it that is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Excerpt {
    line: String,
    /// In terminal columns.
    indent: usize,
    width: usize,
}

impl Problem {
    /// A problem with the file as a whole, such as one that cannot be read.
    pub fn with_file(file: &str, message: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            line: 0,
            column: 0,
            span: 0..0,
            severity: Severity::Error,
            message: message.into(),
            help: None,
            excerpt: None,
        }
    }

    /// A problem with a line that must not be shown, because of what may stand in it.
    pub(super) fn unshown(file: &str, line: usize, message: impl Into<String>) -> Self {
        Self { line, column: 1, ..Self::with_file(file, message) }
    }

    pub(super) fn help(&mut self, help: impl Into<String>) -> &mut Self {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", printable(&self.file))?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        writeln!(f, ": {severity}: {}", printable(&self.message))?;
        let gutter = self.line.to_string().len();
        if let Some(Excerpt { line, indent, width }) = &self.excerpt {
            writeln!(f, " {} | {line}", self.line)?;
            writeln!(f, " {:gutter$} | {:indent$}{}", "", "", "^".repeat(*width))?;
        }
        if let Some(help) = &self.help {
            writeln!(f, " {:gutter$} help: {}", "", printable(help))?;
        }
        Ok(())
    }
}

/// Everything that was found, in the order of the lines; shown without a final line break.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    pub fn new(mut list: Vec<Problem>) -> Self {
        list.sort_by(|a, b| {
            (&a.file, a.line == 0, a.span.start, a.line).cmp(&(&b.file, b.line == 0, b.span.start, b.line))
        });
        list.dedup();
        Self(list)
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.0.iter()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many of them are errors, and how many warnings.
    pub fn count(&self) -> (usize, usize) {
        let errors = self.iter().filter(|p| p.severity == Severity::Error).count();
        (errors, self.0.len() - errors)
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.0 {
            writeln!(f, "{problem}")?;
        }
        let count = |n: usize, what| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        match self.count() {
            (0, 0) => Ok(()),
            (0, warnings) => f.write_str(&count(warnings, "warning")),
            (errors, 0) => f.write_str(&count(errors, "problem")),
            (errors, warnings) => write!(f, "{}, {}", count(errors, "problem"), count(warnings, "warning")),
        }
    }
}

impl std::error::Error for Problems {}

/// A file's name and text, to turn byte offsets into places.
pub(super) struct Source<'a> {
    pub name: &'a str,
    pub text: &'a str,
    /// Where each line begins.
    lines: Vec<usize>,
}

impl<'a> Source<'a> {
    pub fn new(name: &'a str, text: &'a str) -> Self {
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { name, text, lines }
    }

    pub fn problem(&self, severity: Severity, span: Range<usize>, message: impl Into<String>) -> Problem {
        let start = self.boundary(span.start);
        let end = self.boundary(span.end).max(start);
        let line_start = self.text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = self.text[start..].find('\n').map_or(self.text.len(), |at| start + at);
        let line = self.text[line_start..line_end].trim_end_matches('\r');
        let before = &self.text[line_start..start.min(line_start + line.len())];
        let meant = &self.text[line_start + before.len()..end.clamp(line_start + before.len(), line_end)];
        Problem {
            file: self.name.to_owned(),
            line: self.line(start),
            column: before.chars().count() + 1,
            span,
            severity,
            message: message.into(),
            help: None,
            excerpt: Some(Excerpt {
                line: printable(&masked(line)),
                indent: before.chars().map(columns).sum(),
                width: meant.trim_end().chars().map(columns).sum::<usize>().max(1),
            }),
        }
    }

    /// The line of a byte, from 1.
    pub fn line(&self, offset: usize) -> usize {
        self.lines.partition_point(|start| *start <= offset)
    }

    /// The start of the character at `offset`, within the text.
    fn boundary(&self, offset: usize) -> usize {
        let offset = offset.min(self.text.len());
        (0..=offset).rev().find(|at| self.text.is_char_boundary(*at)).unwrap_or(0)
    }

    /// What the file says there, quotes taken off: `${VAR}`, not its value.
    pub fn written(&self, span: &Range<usize>) -> &'a str {
        let text = self.text.get(span.clone()).unwrap_or_default();
        text.trim_matches(['"', '\''])
    }
}

const TAB: &str = "    ";

/// The text with nothing in it that moves a terminal's cursor or reverses what follows.
fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\t' => shown.push_str(TAB),
            c if c.is_control() || is_bidi(c) => shown.push('\u{fffd}'),
            c => shown.push(c),
        }
    }
    shown
}

fn is_bidi(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Terminal columns a character takes once it is `printable`: the wide blocks of Unicode annex 11, roughly.
fn columns(c: char) -> usize {
    match c {
        '\t' => TAB.len(),
        '\u{300}'..='\u{36f}' | '\u{200b}'..='\u{200d}' | '\u{fe00}'..='\u{fe0f}' => 0,
        '\u{1100}'..='\u{115f}'
        | '\u{2e80}'..='\u{a4cf}'
        | '\u{ac00}'..='\u{d7a3}'
        | '\u{f900}'..='\u{faff}'
        | '\u{fe30}'..='\u{fe6f}'
        | '\u{ff00}'..='\u{ff60}'
        | '\u{ffe0}'..='\u{ffe6}'
        | '\u{1f300}'..='\u{1faff}'
        | '\u{20000}'..='\u{3fffd}' => 2,
        _ => 1,
    }
}

/// Keys whose value is, or holds, a password.
const SECRET_KEYS: [&str; 9] = [
    "uri",
    "url",
    "api_key",
    "session_token",
    "token",
    "authorization",
    "proxy-authorization",
    "cookie",
    "x-api-key",
];

/// Whether what `key` holds must not be shown: one of the above, `password`, `redis_password`, `client_secret`,
/// `secret_access_key`.
pub(super) fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    SECRET_KEYS.contains(&key.as_str()) || key.ends_with("password") || key.contains("secret")
}

/// The line with what stands after a secret's key, and the user part of a URL, replaced by as many `*`.
/// `${VAR}` stays: it gives nothing away. Reads the line only, so that it works where TOML could not be parsed.
fn masked(line: &str) -> String {
    let mut hidden: Vec<Range<usize>> = Vec::new();
    for (equals, _) in line.match_indices('=') {
        let key = line[..equals].trim_end().trim_end_matches(['"', '\'']);
        let word = key.rsplit(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '-').next();
        if !word.is_some_and(is_secret) {
            continue;
        }
        let value = &line[equals + 1..];
        let open = equals + 1 + (value.len() - value.trim_start().len());
        // Text over several lines need not end in this one.
        let long = ["\"\"\"", "'''"].iter().any(|quotes| line[open..].starts_with(quotes));
        let Some(quote) = line[open..].chars().next().filter(|c| matches!(c, '"' | '\'') && !long) else {
            hidden.push(open..line.len());
            continue;
        };
        let inner = &line[open + 1..];
        hidden.push(open + 1..open + 1 + inner.rfind(quote).unwrap_or(inner.len()));
    }
    for (scheme, _) in line.match_indices("://") {
        let authority = scheme + 3;
        let rest = &line[authority..];
        // Further than a URL's user part can reach: a `/` or `?` may stand in a password by mistake.
        let end = rest.find(['"', '\'', ' ']).unwrap_or(rest.len());
        if let Some(at) = rest[..end].rfind('@') {
            hidden.push(authority..authority + at);
        }
    }
    let mut shown = String::with_capacity(line.len());
    for (at, c) in line.char_indices() {
        let hide = hidden.iter().any(|range| range.contains(&at) && !is_variable(&line[range.clone()]));
        shown.push(if hide { '*' } else { c });
    }
    shown
}

/// `${NAME}` and nothing else.
fn is_variable(text: &str) -> bool {
    let name = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
    name.is_some_and(|name| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, span: Range<usize>) -> String {
        Source::new("gateway.toml", text).problem(Severity::Error, span, "no").to_string()
    }

    #[test]
    fn the_underline_stands_under_its_text() {
        assert_eq!(
            shown("a = 1\nb = \"é\"\n", 10..14),
            "gateway.toml:2:5: error: no\n 2 | b = \"é\"\n   |     ^^^\n"
        );
        assert_eq!(shown("\tb = 1", 5..6), "gateway.toml:1:6: error: no\n 1 |     b = 1\n   |         ^\n");
        assert_eq!(
            shown("\"漢\" = 1", 8..9),
            "gateway.toml:1:7: error: no\n 1 | \"漢\" = 1\n   |        ^\n"
        );
    }

    #[test]
    fn spans_out_of_place_do_no_harm() {
        assert_eq!(shown("", 0..0), "gateway.toml:1:1: error: no\n 1 | \n   | ^\n");
        assert_eq!(shown("é", 1..90), "gateway.toml:1:1: error: no\n 1 | é\n   | ^\n");
        assert_eq!(shown("a\r\nb", 2..3), "gateway.toml:1:2: error: no\n 1 | a\n   |  ^\n");
    }

    #[test]
    fn control_characters_stay_out_of_the_terminal() {
        assert!(!shown("a = \"\u{1b}[31m\u{202e}\"", 0..1).contains(['\u{1b}', '\u{202e}']));
        assert!(!Problem::with_file("f\n", "m\u{1b}").to_string().contains('\u{1b}'));
    }

    #[test]
    fn passwords_are_masked() {
        assert_eq!(masked("password = \"hunter2\""), "password = \"*******\"");
        assert_eq!(masked("m = { api_key = 'ab\"c', x = 1 }"), "m = { api_key = '****', x = 1 }");
        assert_eq!(masked("set = { Authorization = \"Basic x\" }"), "set = { Authorization = \"*******\" }");
        assert_eq!(masked("password = \"hunter2"), "password = \"*******");
        assert_eq!(masked("password = \"${P}\""), "password = \"${P}\"");
        assert_eq!(masked("password = \"${P:-x}\""), "password = \"*******\"");
        assert_eq!(masked("jwks = \"https://me:pw@host/x\""), "jwks = \"https://*****@host/x\"");
        assert_eq!(masked("jwks = \"https://me:p/w?x@host/x\""), "jwks = \"https://********@host/x\"");
        assert_eq!(masked("url = \"\"\"redis://:pw\\"), "url = ***************");
        assert_eq!(masked("a/m?sentinel_password=pw\"\"\""), "a/m?sentinel_password=*****");
        assert_eq!(masked("Redis-Password = \"hunter2\""), "Redis-Password = \"*******\"");
        assert_eq!(masked("secret_access_key = 'hunter2'"), "secret_access_key = '*******'");
        assert_eq!(masked("secretAcessKey = \"hunter2\""), "secretAcessKey = \"*******\"");
        assert_eq!(masked("session_token = \"hunter2\""), "session_token = \"*******\"");
        assert_eq!(masked("𓑀= 1"), "𓑀= 1");
        assert_eq!(masked("issuer = \"https://host/x\""), "issuer = \"https://host/x\"");
    }
}
