//! Where in a payload a claim is found: `realm_access.roles`.

use serde_json::{Map, Value};

/// Names of nested members, outermost first. Written with dots between them; a dot inside a name is written
/// `\.`, or the name is put in double quotes: `"https://example.com/roles"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimPath(Vec<String>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimPathError {
    #[error("a name in the path is empty")]
    EmptyName,
    #[error("a quoted name is not closed, or something other than a dot follows it")]
    Quote,
    #[error("a backslash must be followed by a dot, a quote or a backslash")]
    Escape,
}

impl ClaimPath {
    /// The path to the member `name` of the payload itself.
    pub fn member(name: &str) -> Self {
        Self(vec![name.to_owned()])
    }

    /// # Errors
    /// [`ClaimPathError`].
    pub fn parse(text: &str) -> Result<Self, ClaimPathError> {
        let mut names = Vec::new();
        let mut rest = text.chars().peekable();
        loop {
            let quoted = rest.next_if_eq(&'"').is_some();
            let mut name = String::new();
            let more = loop {
                match rest.next() {
                    None if quoted => return Err(ClaimPathError::Quote),
                    None => break false,
                    Some('"') if quoted => match rest.next() {
                        None => break false,
                        Some('.') => break true,
                        Some(_) => return Err(ClaimPathError::Quote),
                    },
                    Some('.') if !quoted => break true,
                    Some('\\') => match rest.next() {
                        Some(escaped @ ('.' | '"' | '\\')) => name.push(escaped),
                        _ => return Err(ClaimPathError::Escape),
                    },
                    Some(other) => name.push(other),
                }
            };
            if name.is_empty() {
                return Err(ClaimPathError::EmptyName);
            }
            names.push(name);
            if !more {
                return Ok(Self(names));
            }
        }
    }

    /// The value this path leads to.
    pub fn find<'v>(&self, claims: &'v Map<String, Value>) -> Option<&'v Value> {
        let (first, rest) = self.0.split_first()?;
        rest.iter().try_fold(claims.get(first)?, |value, name| value.as_object()?.get(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Result<Vec<String>, ClaimPathError> {
        ClaimPath::parse(text).map(|path| path.0)
    }

    #[test]
    fn dots_escapes_and_quotes() {
        assert_eq!(names("roles").unwrap(), ["roles"]);
        assert_eq!(names("realm_access.roles").unwrap(), ["realm_access", "roles"]);
        assert_eq!(names(r"https://x\.com/roles.a").unwrap(), ["https://x.com/roles", "a"]);
        assert_eq!(names(r#""https://x.com/roles".a"#).unwrap(), ["https://x.com/roles", "a"]);
        assert_eq!(names(r#"a."b\"c""#).unwrap(), ["a", "b\"c"]);
        for wrong in ["", ".", "a.", ".a", "a..b", r#""a"#, r#""a"b"#, r"a\b", r#""""#] {
            assert!(names(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn finds_nested_values_only_through_objects() {
        let claims = serde_json::json!({"a": {"b": [1]}, "c": "x"});
        let find = |text| ClaimPath::parse(text).unwrap().find(claims.as_object().unwrap()).cloned();
        assert_eq!(find("a.b"), Some(serde_json::json!([1])));
        assert_eq!(find("a.b.0"), None);
        assert_eq!(find("c.x"), None);
        assert_eq!(find("d"), None);
    }
}
