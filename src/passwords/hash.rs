//! Hash formats: the one we make, and those we accept from elsewhere.
//!
//! New hashes are passlib's `bcrypt_sha256`, version 2:
//! `$bcrypt-sha256$v=2,t=2b,r={cost}${salt}${digest}` with digest = bcrypt(base64(HMAC-SHA-256(key = salt as
//! written, password))). bcrypt proper reads at most 72 bytes and takes NUL for the end; the HMAC in front of
//! it makes every byte of any password count.
//!
//! Imported are also plain bcrypt (`$2a$`, `$2b$`, `$2y$`) and `$argon2id$` (RFC 9106, PHC string format). A
//! password that plain bcrypt could not have seen whole, over 72 bytes or with a NUL, never matches such a
//! hash: its owner sets a new one. What the hash's maker cut off before hashing cannot be known here.
//! Parameters have upper bounds, so that an imported hash is no way to exhaust processor or memory.

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::{hmac, rand};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use bcrypt::BASE_64;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// bcrypt costs we compute; 2^16 rounds take a few seconds.
const COSTS: std::ops::RangeInclusive<u32> = 4..=16;
/// What bcrypt reads of a password.
const BCRYPT_BYTES: usize = 72;
const ARGON2_MAX_KIB: u32 = 256 * 1024;
const ARGON2_MAX_LANES: u32 = 16;
/// Passes times memory, in KiB: bounds the time.
const ARGON2_MAX_WORK: u64 = 1024 * 1024;

/// Why a stored or imported hash cannot be used. Never shows the hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    #[error("unknown hash format; known are $bcrypt-sha256$ (v=2,t=2b), $2a$, $2b$, $2y$ and $argon2id$")]
    UnknownFormat,
    #[error("damaged {0} hash")]
    Damaged(&'static str),
    #[error("bcrypt cost {0} is outside of 4 to 16")]
    Cost(u32),
    #[error("argon2id parameters beyond 256 MiB of memory, 16 lanes, or 1 GiB times passes")]
    TooExpensive,
    #[error("no random numbers to be had, or no memory")]
    Exhausted,
}

/// A parsed hash.
pub enum PasswordHash {
    BcryptSha256(Bcrypt),
    Bcrypt(Bcrypt),
    Argon2id { params: Params, salt: Vec<u8>, digest: Vec<u8> },
}

pub struct Bcrypt {
    cost: u32,
    salt: [u8; 16],
    digest: [u8; 23],
}

/// Hashes `password` at `cost` (4 to 16) with a new salt, in the format for new hashes, on this very thread:
/// for the command line. Whoever serves others uses a [`Hasher`](super::Hasher).
pub fn hash_now(password: &[u8], cost: u32) -> Result<String, HashError> {
    if !COSTS.contains(&cost) {
        return Err(HashError::Cost(cost));
    }
    let mut salt = [0; 16];
    rand::fill(&mut salt).map_err(|_| HashError::Exhausted)?;
    let digest = bcrypt_sha256(cost, salt, password);
    Ok(format!("$bcrypt-sha256$v=2,t=2b,r={cost}${}${}", BASE_64.encode(salt), BASE_64.encode(digest)))
}

/// A hash of no known password at `cost`, to compare with where there is no account. It costs nothing to make, so
/// that the gateway listens at once.
///
/// # Errors
/// [`HashError::Cost`].
pub(super) fn decoy(cost: u32) -> Result<String, HashError> {
    if !COSTS.contains(&cost) {
        return Err(HashError::Cost(cost));
    }
    let salt = BASE_64.encode(b"portcullis decoy");
    Ok(format!("$bcrypt-sha256$v=2,t=2b,r={cost}${salt}${}", BASE_64.encode([0; 23])))
}

/// Whether `hash` should be replaced by a new one at `cost`, once the password is known to be right: another
/// format, or another cost.
pub fn needs_upgrade(hash: &str, cost: u32) -> bool {
    !matches!(PasswordHash::parse(hash), Ok(PasswordHash::BcryptSha256(kept)) if kept.cost == cost)
}

impl PasswordHash {
    pub fn parse(text: &str) -> Result<Self, HashError> {
        let fields: Vec<&str> = text.split('$').collect();
        match fields[..] {
            ["", "bcrypt-sha256", params, salt, digest] => {
                let cost = params.strip_prefix("v=2,t=2b,r=").ok_or(HashError::UnknownFormat)?;
                Ok(Self::BcryptSha256(Bcrypt::parse("bcrypt-sha256", cost, salt, digest)?))
            }
            ["", "2a" | "2b" | "2y", cost, rest] => {
                let (salt, digest) = rest.split_at_checked(22).ok_or(HashError::Damaged("bcrypt"))?;
                if cost.len() != 2 {
                    return Err(HashError::Damaged("bcrypt"));
                }
                Ok(Self::Bcrypt(Bcrypt::parse("bcrypt", cost, salt, digest)?))
            }
            ["", "argon2id", "v=19", params, salt, digest] => argon2id(params, salt, digest),
            _ => Err(HashError::UnknownFormat),
        }
    }

    /// Whether `password` is the one. Takes the same time for every password of the same length.
    pub fn matches(&self, password: &[u8]) -> Result<bool, HashError> {
        match self {
            Self::BcryptSha256(kept) => {
                Ok(bcrypt_sha256(kept.cost, kept.salt, password).ct_eq(&kept.digest).into())
            }
            Self::Bcrypt(kept) => {
                let whole = password.len() <= BCRYPT_BYTES && !password.contains(&0);
                let equal: bool = raw_bcrypt(kept.cost, kept.salt, password).ct_eq(&kept.digest).into();
                Ok(whole & equal)
            }
            Self::Argon2id { params, salt, digest } => {
                let mut computed = vec![0; digest.len()];
                Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone())
                    .hash_password_into(password, salt, &mut computed)
                    .map_err(|_| HashError::Exhausted)?;
                Ok(computed.ct_eq(digest).into())
            }
        }
    }
}

impl Bcrypt {
    fn parse(format: &'static str, cost: &str, salt: &str, digest: &str) -> Result<Self, HashError> {
        let damaged = || HashError::Damaged(format);
        let cost = decimal(cost).ok_or_else(damaged)?;
        if !COSTS.contains(&cost) {
            return Err(HashError::Cost(cost));
        }
        let decode = |text: &str| BASE_64.decode(text).map_err(|_| damaged());
        Ok(Self {
            cost,
            salt: decode(salt)?.try_into().map_err(|_| damaged())?,
            digest: decode(digest)?.try_into().map_err(|_| damaged())?,
        })
    }
}

fn argon2id(params: &str, salt: &str, digest: &str) -> Result<PasswordHash, HashError> {
    let damaged = HashError::Damaged("argon2id");
    let params: Vec<&str> = params.split(',').collect();
    let [memory, passes, lanes] = params[..] else { return Err(damaged) };
    let parameter = |text: &str, name| text.strip_prefix(name).and_then(decimal).ok_or(damaged);
    let (memory, passes, lanes) =
        (parameter(memory, "m=")?, parameter(passes, "t=")?, parameter(lanes, "p=")?);
    let work = u64::from(memory) * u64::from(passes);
    if memory > ARGON2_MAX_KIB || lanes > ARGON2_MAX_LANES || work > ARGON2_MAX_WORK {
        return Err(HashError::TooExpensive);
    }
    let decode = |text: &str| STANDARD_NO_PAD.decode(text).map_err(|_| damaged);
    let (salt, digest) = (decode(salt)?, decode(digest)?);
    // Shorter digests are guessed without the password; longer ones nobody makes.
    if !(8..=64).contains(&salt.len()) || !(16..=64).contains(&digest.len()) {
        return Err(damaged);
    }
    let params = Params::new(memory, passes, lanes, Some(digest.len())).map_err(|_| damaged)?;
    Ok(PasswordHash::Argon2id { params, salt, digest })
}

/// Digits only, unlike `str::parse`, which takes a sign.
fn decimal(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn bcrypt_sha256(cost: u32, salt: [u8; 16], password: &[u8]) -> [u8; 23] {
    let key = hmac::Key::new(hmac::HMAC_SHA256, BASE_64.encode(salt).as_bytes());
    let prehash = Zeroizing::new(STANDARD.encode(hmac::sign(&key, password)));
    raw_bcrypt(cost, salt, prehash.as_bytes())
}

/// bcrypt as everybody has it: the first 72 bytes of the password with its terminating NUL.
fn raw_bcrypt(cost: u32, salt: [u8; 16], password: &[u8]) -> [u8; 23] {
    let mut terminated = Zeroizing::new([0; BCRYPT_BYTES]);
    let length = password.len().min(BCRYPT_BYTES);
    terminated[..length].copy_from_slice(&password[..length]);
    let output = bcrypt::bcrypt(cost, salt, &terminated[..(length + 1).min(BCRYPT_BYTES)]);
    // The last of its 24 bytes is not part of any bcrypt hash string.
    std::array::from_fn(|i| output[i])
}

#[cfg(test)]
#[path = "hash_tests.rs"]
mod tests;
