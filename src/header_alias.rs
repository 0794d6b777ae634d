//! Header names that a backend cannot tell apart.
//!
//! CGI, WSGI, PHP and many frameworks fold `-`, `_` and `.` and the case of letters together when they turn
//! field names into variables. A client's `X_User.Id` would reach such a backend as our `X-User-Id`.

/// The byte of a field name as a folding backend reads it.
pub fn fold(b: u8) -> u8 {
    match b {
        b'_' | b'.' => b'-',
        _ => b.to_ascii_lowercase(),
    }
}

/// Whether `name` reads as `canonical`, which must be in folded form already.
pub fn reads_as(name: &str, canonical: &str) -> bool {
    name.len() == canonical.len() && name.bytes().map(fold).eq(canonical.bytes())
}

/// Whether `name` reads as something that begins with `prefix`, which must be in folded form already.
pub fn reads_as_prefix(name: &str, prefix: &str) -> bool {
    name.len() >= prefix.len() && name.bytes().zip(prefix.bytes()).all(|(b, p)| fold(b) == p)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folds_case_and_separators() {
        for name in ["x-user-id", "X-User-Id", "X_USER_ID", "x.user.id", "x_user-Id"] {
            assert!(reads_as(name, "x-user-id"), "{name}");
        }
        for name in ["x-user-ids", "xx-user-id", "x-user-i", "x user id", "xuserid"] {
            assert!(!reads_as(name, "x-user-id"), "{name}");
        }
        assert!(reads_as_prefix("X_Forwarded_Uri", "x-forwarded-"));
        assert!(!reads_as_prefix("x-forward", "x-forwarded-"));
    }
}
