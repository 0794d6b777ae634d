//! Refresh tokens and device cookies: opaque to the client, nothing about them stored.
//!
//! A refresh token is `base64url(version, family, generation, user, MAC)`. The MAC is deterministic, so the
//! successor of a token can be made again when its first copy was lost on the way. It is never taken for an
//! access token: it has no dots. What a good MAC is worth is for the session store to decide.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::{hmac, rand};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::secret_files::{self, SecretFileError};
use crate::store::{SessionId, UserId};

/// A secret has exactly as many bytes as the hash (RFC 2104 section 3).
const SECRET_BYTES: usize = 32;
const FILE: &str = "refresh.key";
const VERSION: u8 = 1;
const MAC_BYTES: usize = 32;
const MAX_USER_BYTES: usize = 64;
/// Version, family, generation.
const FIXED_BYTES: usize = 1 + 16 + 8;

#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error(transparent)]
    File(#[from] SecretFileError),
    #[error("{}: must hold exactly 32 random bytes; restore it from a backup, or delete it: a new one is made at the next start, and everybody logs in again", .0.display())]
    Unfit(std::path::PathBuf),
    #[error("no randomness can be had")]
    Random,
}

/// What a refresh token with a good MAC says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefreshToken {
    pub user: UserId,
    pub family: SessionId,
    pub generation: u64,
}

/// Makes and reads refresh tokens under one server secret.
pub struct RefreshTokens {
    key: hmac::Key,
    /// Whether the secret is known to be the one that tokens of this deployment are made with.
    confirmed: AtomicBool,
}

impl RefreshTokens {
    /// Reads `{data_dir}/keys/refresh.key`, making it at the first start.
    ///
    /// # Errors
    /// [`SecretError`], with the remedy: a file open to others, blank or of the wrong size.
    pub fn load_or_create(data_dir: &Path) -> Result<Self, SecretError> {
        let key = Secret::load_or_create(data_dir)?.key("portcullis refresh token 1");
        Ok(Self { key, confirmed: AtomicBool::new(false) })
    }

    /// The token of `generation` of `family`; the same one every time.
    ///
    /// `user` has at most 64 bytes, as [`UserId`] says; a longer one gives a token that is not accepted.
    pub fn encode(&self, user: &str, family: SessionId, generation: u64) -> String {
        let mut bytes = Vec::with_capacity(FIXED_BYTES + user.len() + MAC_BYTES);
        bytes.push(VERSION);
        bytes.extend_from_slice(family.as_bytes());
        bytes.extend_from_slice(&generation.to_be_bytes());
        bytes.extend_from_slice(user.as_bytes());
        let mac = hmac::sign(&self.key, &bytes);
        bytes.extend_from_slice(mac.as_ref());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Notes that the secret is the right one, so that a token it did not make is a forgery.
    pub fn confirm(&self) {
        self.confirmed.store(true, Ordering::Release);
    }

    pub fn is_confirmed(&self) -> bool {
        self.confirmed.load(Ordering::Acquire)
    }

    /// Tells secrets apart without giving anything of them away: 16 hexadecimal digits.
    pub fn fingerprint(&self) -> String {
        let tag = hmac::sign(&self.key, b"portcullis fingerprint 1");
        tag.as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// What `token` says, if we made it. Anything else is `None`: there is one encoding of each token.
    pub fn decode(&self, token: &str) -> Option<RefreshToken> {
        // Four characters for three bytes, so that no more is decoded than could be right.
        if token.len() > (FIXED_BYTES + MAX_USER_BYTES + MAC_BYTES).div_ceil(3) * 4 {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (body, mac) = bytes.split_at_checked(bytes.len().checked_sub(MAC_BYTES)?)?;
        verify_slices_are_equal(hmac::sign(&self.key, body).as_ref(), mac).ok()?;
        let (&[VERSION], body) = body.split_first_chunk::<1>()? else { return None };
        let (family, body) = body.split_first_chunk::<16>()?;
        let (generation, user) = body.split_first_chunk::<8>()?;
        if user.is_empty() || user.len() > MAX_USER_BYTES {
            return None;
        }
        Some(RefreshToken {
            user: std::str::from_utf8(user).ok()?.to_owned(),
            family: Uuid::from_bytes(*family),
            generation: u64::from_be_bytes(*generation),
        })
    }
}

/// Marks a browser that has logged in to an account before (OWASP: device cookies), so that a stranger's
/// failures do not lock it out. Names no account: it is good for the one it was made for, and only there.
pub struct DeviceCookies {
    key: hmac::Key,
}

impl DeviceCookies {
    /// From the same secret as the refresh tokens, under a key of their own.
    ///
    /// # Errors
    /// As [`RefreshTokens::load_or_create`].
    pub fn load_or_create(data_dir: &Path) -> Result<Self, SecretError> {
        Ok(Self { key: Secret::load_or_create(data_dir)?.key("portcullis device cookie 1") })
    }

    /// A cookie for `account` (its normalised address): `nonce`, which identifies the device, a dot, the MAC.
    /// `nonce` is random, at most 64 letters and digits; with another one the cookie is not accepted.
    pub fn encode(&self, account: &str, nonce: &str) -> String {
        format!("{nonce}.{}", URL_SAFE_NO_PAD.encode(self.mac(account, nonce)))
    }

    /// The nonce of `cookie`, if the cookie was made for `account`.
    pub fn verify(&self, account: &str, cookie: &str) -> Option<String> {
        let (nonce, mac) = cookie.split_once('.')?;
        let well_formed = (1..=64).contains(&nonce.len()) && nonce.bytes().all(|b| b.is_ascii_alphanumeric());
        if !well_formed || mac.len() > MAC_BYTES.div_ceil(3) * 4 {
            return None;
        }
        let mac = URL_SAFE_NO_PAD.decode(mac).ok()?;
        verify_slices_are_equal(self.mac(account, nonce).as_ref(), &mac).ok()?;
        Some(nonce.to_owned())
    }

    fn mac(&self, account: &str, nonce: &str) -> hmac::Tag {
        // No nonce holds a dot, so no two pairs give the same message.
        hmac::sign(&self.key, format!("{nonce}.{account}").as_bytes())
    }
}

/// The server secret, from which a key is derived for each use.
pub(super) struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    pub(super) fn load_or_create(data_dir: &Path) -> Result<Self, SecretError> {
        let folder = data_dir.join("keys");
        secret_files::folder(&folder)?;
        let path = folder.join(FILE);
        let content = match secret_files::read(&path)? {
            Some(content) => content,
            None => {
                let mut fresh = Zeroizing::new(vec![0; SECRET_BYTES]);
                rand::fill(&mut fresh).map_err(|_| SecretError::Random)?;
                // Of two processes that start at once, both use the file that got there first.
                secret_files::create(&path, &fresh)?;
                secret_files::read(&path)?.ok_or_else(|| SecretError::Unfit(path.clone()))?
            }
        };
        if content.len() != SECRET_BYTES || content.iter().all(|byte| *byte == content[0]) {
            return Err(SecretError::Unfit(path));
        }
        Ok(Self(content))
    }

    /// A key for one purpose; from it, neither the secret nor another purpose's key can be found.
    fn key(&self, purpose: &str) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &*self.bytes(purpose))
    }

    /// As `key`, for another algorithm.
    pub(super) fn bytes(&self, purpose: &str) -> Zeroizing<[u8; SECRET_BYTES]> {
        let root = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        let mut bytes = Zeroizing::new([0; SECRET_BYTES]);
        bytes.copy_from_slice(hmac::sign(&root, purpose.as_bytes()).as_ref());
        bytes
    }
}

#[cfg(test)]
#[path = "refresh_tests.rs"]
mod tests;
