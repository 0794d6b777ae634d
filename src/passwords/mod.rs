//! Passwords: how they are hashed, verified as received, and which new ones are refused.
//!
//! [`hash`] knows the formats, [`Hasher`] the threads they are computed on, [`check_new`] the policy. Nothing
//! here folds case, normalises Unicode or cuts a password (invariant 7). Users and stores are unknown here.

pub mod hash;
mod hasher;
mod policy;

pub use hash::{HashError, PasswordHash, needs_upgrade};
pub use hasher::{Busy, Hasher, Verdict};
pub use policy::{MAX_BYTES, PolicyProblem, check_new};
