//! Path patterns as the configuration has them: literal segments, `{name}`, and a last `{*rest}`.
//!
//! No regular expressions, no partial segments, no optional parts: a pattern says in one glance what it
//! matches, and two patterns are told apart segment by segment.

use super::CleanPath;
use crate::percent;

/// What is wrong with a pattern, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PatternError(String);

/// A path pattern, its literals in the canonical form of [`CleanPath`].
///
/// * A literal segment matches itself. It may be written as plain text (`/café`) or percent-encoded.
/// * `{name}` matches one whole segment that is not empty.
/// * `{*rest}`, last only, matches all that follows its slash, nothing included. `/api/{*rest}` also
///   matches `/api` itself, where an explicit `/api` goes first.
/// * `/api` and `/api/` are different paths.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern {
    text: String,
    segments: Vec<Segment>,
}

/// One piece between two slashes. The last literal of a pattern that ends in a slash is empty.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Segment {
    Literal(String),
    Param(String),
    Rest(String),
}

impl Pattern {
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let Some(inner) = text.strip_prefix('/') else {
            return Err(PatternError(format!("a path pattern starts with '/': write \"/{text}\"")));
        };
        let mut segments = Vec::new();
        let mut pieces = inner.split('/').peekable();
        while let Some(piece) = pieces.next() {
            let last = pieces.peek().is_none();
            let segment = parse_segment(piece, last)?;
            if let Some(name) = segment.name()
                && segments.iter().any(|s: &Segment| s.name() == Some(name))
            {
                return Err(PatternError(format!(
                    "two parameters are named \"{name}\": give each its own name"
                )));
            }
            segments.push(segment);
        }
        let text = segments.iter().map(Segment::written).collect();
        Ok(Self { text, segments })
    }

    /// The pattern with its literals in canonical form.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Names of the parameters, in order.
    pub fn params(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(Segment::name)
    }

    /// The literal segments before the first parameter: `/api` for `/api/{*rest}`, empty for `/{*rest}`.
    /// For a pattern without parameters, all of it.
    pub fn literal_prefix(&self) -> &str {
        let literals = self.segments.iter().take_while(|s| s.name().is_none());
        &self.text[..literals.map(|s| s.written().len()).sum()]
    }

    /// `prefix` in canonical form and without a final slash, if it consists of whole segments that every
    /// match of this pattern starts with; what [`CleanPath::strip_prefix`] wants. `/` strips nothing.
    pub fn strippable(&self, prefix: &str) -> Result<String, PatternError> {
        let parsed = Pattern::parse(prefix)?;
        if parsed.params().next().is_some() {
            return Err(PatternError("strip_prefix is literal text: write it without parameters".into()));
        }
        let canonical = parsed.text.strip_suffix('/').unwrap_or(&parsed.text);
        let own = self.literal_prefix();
        match own.strip_prefix(canonical) {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => Ok(canonical.to_owned()),
            _ => Err(PatternError(format!(
                "strip_prefix \"{prefix}\" is not made of the first segments of \"{self}\": write \"{}\" or a part of it that ends at a '/'",
                if own.is_empty() { "/" } else { own },
            ))),
        }
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl Segment {
    /// The name of a parameter.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Literal(_) => None,
            Self::Param(name) | Self::Rest(name) => Some(name),
        }
    }

    fn written(&self) -> String {
        match self {
            Self::Literal(text) => format!("/{text}"),
            Self::Param(name) => format!("/{{{name}}}"),
            Self::Rest(name) => format!("/{{*{name}}}"),
        }
    }
}

fn parse_segment(piece: &str, last: bool) -> Result<Segment, PatternError> {
    let braced = piece.strip_prefix('{').and_then(|p| p.strip_suffix('}'));
    let Some(inside) = braced else { return parse_literal(piece, last).map(Segment::Literal) };
    let (rest, name) = match inside.strip_prefix('*') {
        Some(name) => (true, name),
        None => (false, inside),
    };
    let mut bytes = name.bytes();
    let starts_well = bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    if !starts_well || !bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return Err(PatternError(format!(
            "\"{piece}\" has no usable name: write a letter or '_', then letters, digits or '_', as in \"{{id}}\" or \"{{*rest}}\""
        )));
    }
    match (rest, last) {
        (true, true) => Ok(Segment::Rest(name.to_owned())),
        (true, false) => Err(PatternError(format!(
            "\"{piece}\" matches everything that follows: put it last, or write \"{{{name}}}\" for one segment"
        ))),
        (false, _) => Ok(Segment::Param(name.to_owned())),
    }
}

fn parse_literal(piece: &str, last: bool) -> Result<String, PatternError> {
    if piece.is_empty() {
        return if last {
            Ok(String::new())
        } else {
            Err(PatternError("\"//\" never matches: write a single '/'".into()))
        };
    }
    let mut encoded = String::with_capacity(piece.len());
    for c in piece.chars() {
        match c {
            '{' | '}' => {
                return Err(PatternError(format!(
                    "\"{piece}\" mixes text and a parameter: a parameter is a whole segment, as in \"/{{id}}/\" (a literal brace is %7B or %7D)"
                )));
            }
            '?' => {
                return Err(PatternError(
                    "a pattern has no query: leave out '?' and what follows (a literal one is %3F)".into(),
                ));
            }
            '#' => {
                return Err(PatternError(
                    "a pattern has no fragment: leave out '#' and what follows (a literal one is %23)".into(),
                ));
            }
            '\\' => return Err(PatternError("a path with a backslash is always refused: write '/'".into())),
            c if c.is_control() => {
                return Err(PatternError(
                    "a path with a control character is always refused: leave it out".into(),
                ));
            }
            '*' if piece == "*" || piece == "**" => {
                return Err(PatternError(format!(
                    "\"{piece}\" is not a wildcard: write \"{{name}}\" for one segment, \"{{*rest}}\" for all that follow"
                )));
            }
            ':' if piece.starts_with(':') => {
                return Err(PatternError(format!(
                    "\"{piece}\" is not a parameter: write \"{{{}}}\" (a literal ':' in front is %3A)",
                    &piece[1..]
                )));
            }
            c if c.is_ascii() && c != ' ' => encoded.push(c),
            c => c.encode_utf8(&mut [0; 4]).bytes().for_each(|b| percent::escape(&mut encoded, b)),
        }
    }
    match CleanPath::parse(format!("/{encoded}")) {
        Ok(path) => Ok(path.as_str()[1..].to_owned()),
        Err(super::PathError::BadEscape) => Err(PatternError(format!(
            "\"{piece}\" has a '%' without two hexadecimal digits: write %25 for a percent sign"
        ))),
        Err(super::PathError::DotSegment) => Err(PatternError(format!(
            "\"{piece}\" never matches, requests with dot segments are refused: write the path it leads to"
        ))),
        Err(why) => Err(PatternError(format!(
            "\"{piece}\" never matches, such requests are refused ({}): leave it out",
            why.reason()
        ))),
    }
}

#[cfg(test)]
#[path = "pattern_tests.rs"]
mod tests;
