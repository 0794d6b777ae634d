//! Which new passwords are refused (NIST SP 800-63B section 5.1.1.2; no composition rules).
//!
//! Existing passwords are never checked against this: what verifies, verifies.

use std::sync::LazyLock;

use crate::store::Email;

/// More than 64 characters always fit, four bytes each.
pub const MAX_BYTES: usize = 1024;

/// Lower-cased, in byte order; `common.md` has source and licence.
static COMMON: LazyLock<Vec<&'static str>> = LazyLock::new(|| include_str!("common.txt").lines().collect());

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyProblem {
    #[error("the password must have at least {min} characters")]
    TooShort { min: usize },
    #[error("the password must have at most {MAX_BYTES} bytes")]
    TooLong,
    #[error("the password is one of the most common ones")]
    Common,
    #[error("the password must differ from the e-mail address")]
    IsAddress,
}

/// Whether `password` may become the password of `email`. `min_length` counts Unicode scalar values.
pub fn check_new(password: &str, email: &Email, min_length: usize) -> Result<(), PolicyProblem> {
    if password.len() > MAX_BYTES {
        return Err(PolicyProblem::TooLong);
    }
    if password.chars().count() < min_length {
        return Err(PolicyProblem::TooShort { min: min_length });
    }
    let lower = password.to_lowercase();
    let local = email.as_str().split('@').next().unwrap_or_default();
    if lower == email.as_str() || lower == local {
        return Err(PolicyProblem::IsAddress);
    }
    if COMMON.binary_search(&lower.as_str()).is_ok() {
        return Err(PolicyProblem::Common);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(password: &str) -> Result<(), PolicyProblem> {
        check_new(password, &Email::parse("Ann.Example@example.com").unwrap(), 8)
    }

    #[test]
    fn the_list_is_long_sorted_and_lower_cased() {
        assert!(COMMON.len() >= 10_000);
        assert!(COMMON.is_sorted());
        assert!(COMMON.iter().all(|password| *password == password.to_lowercase()));
        assert!(COMMON.iter().filter(|password| password.len() >= 8).count() > 3_000);
    }

    #[test]
    fn common_passwords_are_refused_in_any_case() {
        for password in ["password", "PassWord", "12345678", "iloveyou", "qwertyuiop", "PASSWORD1"] {
            assert_eq!(check(password), Err(PolicyProblem::Common), "{password}");
        }
        assert_eq!(check("password of mine"), Ok(()));
        let short = Email::parse("a@b").unwrap();
        assert_eq!(check_new("1234", &short, 1), Err(PolicyProblem::Common));
        assert_eq!(check_new("", &short, 0), Ok(()), "a minimum of 0 is the operator's own decision");
    }

    #[test]
    fn length_counts_characters_and_is_bounded_in_bytes() {
        assert_eq!(check("\u{1F511}\u{1F512}äöüßéx"), Ok(()));
        assert_eq!(check("\u{1F511}\u{1F512}äöüßé"), Err(PolicyProblem::TooShort { min: 8 }));
        assert_eq!(check(""), Err(PolicyProblem::TooShort { min: 8 }));
        assert_eq!(check(&"\u{1F511}".repeat(64)), Ok(()));
        assert_eq!(check(&"x".repeat(1024)), Ok(()));
        assert_eq!(check(&"x".repeat(1025)), Err(PolicyProblem::TooLong));
    }

    #[test]
    fn any_characters_in_any_mixture_will_do() {
        for password in ["        x", "ααααααααω", "jfkdlsaö\0", "{\"$ne\":1}", "\u{7}\u{8}\u{9}aaaaa"]
        {
            assert_eq!(check(password), Ok(()), "{password:?}");
        }
    }

    #[test]
    fn the_address_and_its_local_part_are_refused() {
        for password in ["ann.example@example.com", "ANN.example@Example.com", "Ann.Example"] {
            assert_eq!(check(password), Err(PolicyProblem::IsAddress), "{password}");
        }
        assert_eq!(check("ann.example and more"), Ok(()));
    }
}
