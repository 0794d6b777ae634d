//! Below which prefix of a store a caller's files lie: `users/{sub}/`, filled in from the claims of a verified token.
//!
//! Two callers whose claims differ never get the same prefix, and neither of two is the beginning of the other: a value
//! is escaped so that it stays within its segment, a segment holds at most one placeholder, and a prefix ends in a slash.

use serde_json::{Map, Value};

use crate::claim_path::ClaimPath;
use crate::percent;

/// What is wrong with a prefix, and what to write instead, with a colon between.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KeyPrefixError(&'static str);

/// A caller without a claim that the prefix is made of.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the claim {0} is missing, or neither text nor a whole number")]
pub struct MissingClaim(pub String);

/// A prefix with placeholders. The empty one is the whole store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyPrefix {
    text: String,
    segments: Vec<Segment>,
}

/// What stands between two slashes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Literal(String),
    Claim { before: String, name: String, path: ClaimPath, after: String },
}

impl KeyPrefix {
    /// # Errors
    /// [`KeyPrefixError`], for the operator.
    pub fn parse(text: &str) -> Result<Self, KeyPrefixError> {
        if text.is_empty() {
            return Ok(Self { text: String::new(), segments: Vec::new() });
        }
        if text.starts_with('/') {
            return Err(KeyPrefixError("a key does not begin with a slash: write \"users/{sub}/\""));
        }
        let Some(inner) = text.strip_suffix('/') else {
            return Err(KeyPrefixError(
                "a prefix ends in a slash, or `a` would be the beginning of `ab`: write \"users/{sub}/\"",
            ));
        };
        let segments = inner.split('/').map(Segment::parse).collect::<Result<_, _>>()?;
        Ok(Self { text: text.to_owned(), segments })
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether every caller has the same prefix.
    pub fn is_fixed(&self) -> bool {
        self.claims().next().is_none()
    }

    /// The claims it is made of, as written.
    pub fn claims(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Literal(_) => None,
            Segment::Claim { name, .. } => Some(name.as_str()),
        })
    }

    /// The prefix of the caller with these claims.
    ///
    /// # Errors
    /// [`MissingClaim`].
    pub fn fill(&self, claims: &Map<String, Value>) -> Result<String, MissingClaim> {
        let mut prefix = String::with_capacity(self.text.len() + 40);
        for segment in &self.segments {
            match segment {
                Segment::Literal(text) => prefix.push_str(text),
                Segment::Claim { before, name, path, after } => {
                    prefix.push_str(before);
                    push_value(&mut prefix, path.find(claims)).ok_or_else(|| MissingClaim(name.clone()))?;
                    prefix.push_str(after);
                }
            }
            prefix.push('/');
        }
        Ok(prefix)
    }

    /// Whether `prefix` could be some caller's: what a privileged caller may name.
    pub fn admits(&self, prefix: &str) -> bool {
        if self.segments.is_empty() {
            return prefix.is_empty();
        }
        let Some(inner) = prefix.strip_suffix('/') else { return false };
        let named: Vec<&str> = inner.split('/').collect();
        named.len() == self.segments.len()
            && named.iter().zip(&self.segments).all(|(named, segment)| segment.admits(named))
    }
}

impl Segment {
    fn parse(text: &str) -> Result<Self, KeyPrefixError> {
        let Some((before, rest)) = text.split_once('{') else {
            return Self::literal(text).map(|text| Self::Literal(text.to_owned()));
        };
        let Some((name, after)) = rest.split_once('}') else {
            return Err(KeyPrefixError("a placeholder that does not end: write \"users/{sub}/\""));
        };
        if after.contains('{') {
            return Err(KeyPrefixError(
                "two placeholders without a slash between, so that two callers could share a prefix: write \"{tenant}/{sub}/\"",
            ));
        }
        let path = ClaimPath::parse(name)
            .map_err(|_| KeyPrefixError("not the name of a claim in braces: write \"users/{sub}/\""))?;
        for part in [before, after].into_iter().filter(|part| !part.is_empty()) {
            Self::literal(part)?;
        }
        Ok(Self::Claim { before: before.to_owned(), name: name.to_owned(), path, after: after.to_owned() })
    }

    fn literal(text: &str) -> Result<&str, KeyPrefixError> {
        match text {
            "" => Err(KeyPrefixError("two slashes in a row: write one")),
            "." | ".." => Err(KeyPrefixError("a prefix with a dot segment: write the folder it leads to")),
            text if text.contains(['{', '}']) => {
                Err(KeyPrefixError("a brace without its other half: write \"users/{sub}/\""))
            }
            text if text.contains('\\') || text.chars().any(char::is_control) => {
                Err(KeyPrefixError("a backslash or control character: write \"users/{sub}/\""))
            }
            text => Ok(text),
        }
    }

    /// Whether `text`, without a slash, is this segment for some caller.
    fn admits(&self, text: &str) -> bool {
        match self {
            Self::Literal(own) => own == text,
            Self::Claim { before, after, .. } => {
                let value = text.strip_prefix(before.as_str()).and_then(|t| t.strip_suffix(after.as_str()));
                value.is_some_and(is_escaped)
            }
        }
    }
}

/// Appends a claim's value, escaped; nothing and `None` when there is no usable one.
fn push_value(prefix: &mut String, value: Option<&Value>) -> Option<()> {
    match value? {
        Value::String(text) if !text.is_empty() => push_escaped(prefix, text),
        Value::Number(number) if number.is_i64() || number.is_u64() => {
            push_escaped(prefix, &number.to_string());
        }
        _ => return None,
    }
    Some(())
}

/// Bytes of a value that stand for themselves. What is not among them is percent-encoded in upper case (RFC 3986 section 2.1),
/// the percent sign included, so that no two values look the same.
fn is_plain(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'~' | b'.' | b'@' | b':')
}

fn push_escaped(out: &mut String, value: &str) {
    // No value is, or makes up with what stands around it, a dot segment.
    let (first, rest) = value.as_bytes().split_at(usize::from(!value.is_empty()));
    percent::encode(out, first, |b| is_plain(b) && b != b'.');
    percent::encode(out, rest, is_plain);
}

/// Whether some value looks like `text` when it is escaped.
fn is_escaped(text: &str) -> bool {
    let Some(value) = percent::decode(text) else { return false };
    let mut again = String::with_capacity(text.len());
    push_escaped(&mut again, &value);
    !value.is_empty() && again == text
}

#[cfg(test)]
#[path = "key_prefix_tests.rs"]
mod tests;
