//! The methods a route answers.

/// Any method, or a set of upper-case tokens. HEAD is allowed where GET is (RFC 9110 section 9.3.2).
///
/// CONNECT and TRACE belong to no set, and neither does a method with a lower-case letter: methods are
/// case-sensitive (RFC 9110 section 9.1), but a backend that thinks otherwise would read `post` as the POST
/// that another route guards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Methods(Option<Vec<String>>);

impl Methods {
    /// What an answer to OPTIONS or a 405 names for a route that takes any method.
    const COMMON: [&str; 7] = ["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"];

    pub fn any() -> Self {
        Self(None)
    }

    /// A set as configured; the error says what to write instead.
    pub fn parse(written: &[String]) -> Result<Self, String> {
        if written.is_empty() {
            return Err(
                "an empty list would match nothing: name a method, or leave `methods` out to allow any"
                    .into(),
            );
        }
        let mut set = Vec::with_capacity(written.len());
        for method in written {
            let upper = method.to_ascii_uppercase();
            if upper == "CONNECT" || upper == "TRACE" {
                return Err(format!("{upper} is never forwarded: leave it out"));
            }
            if method == "*" {
                return Err("\"*\" is not a method: leave `methods` out to allow any".into());
            }
            if method.is_empty() || !method.bytes().all(is_token) {
                return Err(format!("{method:?} is not a method: write for instance \"GET\""));
            }
            if *method != upper {
                return Err(format!("methods are upper-case: write \"{upper}\""));
            }
            if !set.contains(&upper) {
                set.push(upper);
            }
        }
        set.sort_unstable();
        Ok(Self(Some(set)))
    }

    pub fn is_any(&self) -> bool {
        self.0.is_none()
    }

    pub fn contains(&self, method: &str) -> bool {
        match &self.0 {
            None => {
                method != "CONNECT" && method != "TRACE" && !method.bytes().any(|b| b.is_ascii_lowercase())
            }
            Some(set) => {
                let listed = |m: &str| set.iter().any(|s| s == m);
                listed(method) || (method == "HEAD" && listed("GET"))
            }
        }
    }

    /// As for an `Allow` field, sorted: HEAD included where GET is; the usual ones for any.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        let listed = self.0.as_deref().unwrap_or_default();
        let common: &[&str] = if self.is_any() { &Self::COMMON } else { &[] };
        let head = (!self.is_any() && self.contains("HEAD")).then_some("HEAD");
        let mut all: Vec<&str> =
            common.iter().copied().chain(listed.iter().map(String::as_str)).chain(head).collect();
        all.sort_unstable();
        all.dedup();
        all.into_iter()
    }

    /// Whether some method belongs to both.
    pub fn intersects(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (None, _) | (_, None) => true,
            (Some(_), Some(_)) => self.iter().any(|m| other.contains(m)),
        }
    }
}

/// tchar of RFC 9110 section 5.6.2.
fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

#[cfg(test)]
#[path = "methods_tests.rs"]
mod tests;
