//! The name of an object: below a prefix, and nowhere else.

use crate::percent::decode;

/// S3's limit, in bytes of UTF-8.
pub const MAX_KEY_BYTES: usize = 1024;

/// A whole key of which it is known that it lies below the prefix it was made with.
///
/// Made of the rest of a clean path, which holds no empty, dot or hidden segments in any encoding, so that appending
/// is all there is to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ObjectKey {
    text: String,
    prefix_len: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("the path names no file")]
    Empty,
    #[error("the name of a file does not end in a slash")]
    Folder,
    #[error(
        "the name of the file is too long: it and what stands before it in the store have more than 1024 bytes"
    )]
    TooLong,
    #[error("the name of the file is not a path of whole segments")]
    Unclean,
}

impl ObjectKey {
    /// `rest` is part of a `CleanPath`, still percent-encoded.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn below(prefix: &str, rest: &str) -> Result<Self, KeyError> {
        let name = decode(rest).ok_or(KeyError::Unclean)?;
        if name.is_empty() {
            return Err(KeyError::Empty);
        }
        if name.ends_with('/') {
            return Err(KeyError::Folder);
        }
        // A clean path has none of these; a key must not depend on that alone.
        if !is_clean(&name) {
            return Err(KeyError::Unclean);
        }
        let text = [prefix, &name].concat();
        if text.len() > MAX_KEY_BYTES {
            return Err(KeyError::TooLong);
        }
        Ok(Self { text, prefix_len: prefix.len() })
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn prefix(&self) -> &str {
        &self.text[..self.prefix_len]
    }

    /// Without the prefix.
    pub fn name(&self) -> &str {
        &self.text[self.prefix_len..]
    }

    /// The last segment.
    pub fn file_name(&self) -> &str {
        self.name().rsplit('/').next().unwrap_or_default()
    }
}

/// The folder `rest` of a clean path leads to: empty, or ending in a slash.
///
/// # Errors
/// [`KeyError::Unclean`] when it is neither, `TooLong`.
pub fn folder(rest: &str) -> Result<String, KeyError> {
    let name = decode(rest).ok_or(KeyError::Unclean)?;
    let inner = match name.strip_suffix('/') {
        None if name.is_empty() => return Ok(name),
        None => return Err(KeyError::Unclean),
        Some(inner) => inner,
    };
    match is_clean(inner) {
        true if name.len() > MAX_KEY_BYTES => Err(KeyError::TooLong),
        true => Ok(name),
        false => Err(KeyError::Unclean),
    }
}

/// Whole segments, none of them empty or a dot segment, and nothing that moves a cursor or ends a C string.
pub fn is_clean(name: &str) -> bool {
    name.split('/').all(|segment| !matches!(segment, "" | "." | ".."))
        && !name.contains('\\')
        && !name.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::route::CleanPath;

    #[test]
    fn a_key_is_its_prefix_and_the_decoded_rest() {
        let key = ObjectKey::below("users/u1/", "a%20b/c%2Bd%25+%C3%A9").unwrap();
        assert_eq!(key.as_str(), "users/u1/a b/c+d%+é");
        assert_eq!((key.prefix(), key.name(), key.file_name()), ("users/u1/", "a b/c+d%+é", "c+d%+é"));
    }

    #[test]
    fn what_is_no_key() {
        for (rest, error) in [
            ("", KeyError::Empty),
            ("a/", KeyError::Folder),
            ("a/../b", KeyError::Unclean),
            ("%2e%2e/b", KeyError::Unclean),
            ("a//b", KeyError::Unclean),
            ("a%5Cb", KeyError::Unclean),
            ("a%00", KeyError::Unclean),
            ("a%", KeyError::Unclean),
            ("a%FF", KeyError::Unclean),
        ] {
            assert_eq!(ObjectKey::below("p/", rest), Err(error), "{rest}");
        }
        assert!(ObjectKey::below("p/", &"a".repeat(1022)).is_ok());
        assert_eq!(ObjectKey::below("p/", &"a".repeat(1023)), Err(KeyError::TooLong));
    }

    #[test]
    fn folders() {
        assert_eq!(folder("").unwrap(), "");
        assert_eq!(folder("a%20b/c/").unwrap(), "a b/c/");
        for bad in ["a", "a/b", "../", "a//", "/"] {
            assert_eq!(folder(bad), Err(KeyError::Unclean), "{bad}");
        }
    }

    proptest! {
        /// Whatever gets through the clean path stays below the prefix.
        #[test]
        fn no_path_leaves_its_prefix(path in "(/|\\.|%2e|%2E|%2f|%5c|%25|%00|[a-zA-Z0-9%;?# ]|é){0,24}") {
            let target = format!("/files/{path}");
            if let Ok(clean) = CleanPath::parse(&target)
                && let Some(rest) = clean.as_str().strip_prefix("/files/")
                && let Ok(key) = ObjectKey::below("users/a/", rest)
            {
                prop_assert!(key.as_str().starts_with("users/a/"));
                prop_assert!(key.as_str().split('/').all(|s| !s.is_empty() && s != "." && s != ".."));
            }
        }
    }
}
