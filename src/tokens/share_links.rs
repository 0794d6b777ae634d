//! Share links: a file for whoever holds the link, until it expires or the session that made it ends.
//!
//! The token in a link is `base64url(version, nonce, sealed)`, where `sealed` holds method, expiry, largest size, session, user and
//! prefix. It is encrypted (AES-256-GCM), since a prefix and a user id are nobody's business who is handed a link, and bound
//! to the store and the path, so that a link is good for one file. Nothing about it is stored. Whether the session lives is
//! for the caller to find out.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::path::Path;
use uuid::Uuid;

use super::refresh::{Secret, SecretError};
use crate::clock::Timestamp;
use crate::store::{SessionId, UserId};

const VERSION: u8 = 1;
const TAG_BYTES: usize = 16;
/// Version, nonce; method, expiry, largest size, session, length of the user id; tag.
const FIXED_BYTES: usize = 1 + NONCE_LEN + 1 + 8 + 8 + 16 + 1 + TAG_BYTES;
/// With the longest user id and prefix.
const MAX_BYTES: usize = FIXED_BYTES + 255 + 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShareMethod {
    /// And HEAD.
    Get,
    Put,
}

/// What a link allows, and on whose behalf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShareGrant {
    pub method: ShareMethod,
    /// A whole second.
    pub expires_at: Timestamp,
    /// Largest object that may be put, in bytes.
    pub max_size: u64,
    /// The session that made it.
    pub session: SessionId,
    pub user: UserId,
    /// Below which prefix of the store the file lies.
    pub prefix: String,
}

/// Makes and reads the tokens of links.
pub struct ShareLinks {
    key: RandomizedNonceKey,
}

impl ShareLinks {
    /// From the same secret as the refresh tokens, under a key of its own.
    ///
    /// # Errors
    /// As `RefreshTokens::load_or_create`.
    pub fn load_or_create(data_dir: &Path) -> Result<Self, SecretError> {
        Self::with(&Secret::load_or_create(data_dir)?.bytes("portcullis share link 1"))
    }

    /// With a key that nobody else has and that is gone with the process: for one that serves nobody.
    ///
    /// # Errors
    /// No randomness can be had.
    pub fn ephemeral() -> Result<Self, SecretError> {
        let mut key = [0; 32];
        aws_lc_rs::rand::fill(&mut key).map_err(|_| SecretError::Random)?;
        Self::with(&key)
    }

    fn with(key: &[u8; 32]) -> Result<Self, SecretError> {
        let key = RandomizedNonceKey::new(&AES_256_GCM, key).map_err(|_| SecretError::Random)?;
        Ok(Self { key })
    }

    /// The token of a link to `path` (whole and canonical, so that no other route of the store takes it) in `store`; `None` when user or prefix are too long, or
    /// there is no randomness.
    pub fn encode(&self, grant: &ShareGrant, store: &str, path: &str) -> Option<String> {
        let mut sealed = Vec::with_capacity(FIXED_BYTES + grant.user.len() + grant.prefix.len());
        sealed.push(match grant.method {
            ShareMethod::Get => 0,
            ShareMethod::Put => 1,
        });
        sealed.extend_from_slice(&grant.expires_at.seconds().to_be_bytes());
        sealed.extend_from_slice(&grant.max_size.to_be_bytes());
        sealed.extend_from_slice(grant.session.as_bytes());
        sealed.push(u8::try_from(grant.user.len()).ok()?);
        sealed.extend_from_slice(grant.user.as_bytes());
        sealed.extend_from_slice(grant.prefix.as_bytes());
        let nonce = self.key.seal_in_place_append_tag(bound(store, path), &mut sealed).ok()?;
        let bytes = [&[VERSION], &nonce.as_ref()[..], &sealed].concat();
        (bytes.len() <= MAX_BYTES).then(|| URL_SAFE_NO_PAD.encode(bytes))
    }

    /// What `token` allows with `path` in `store`, if we made it and it has not expired.
    pub fn decode(&self, token: &str, store: &str, path: &str, now: Timestamp) -> Option<ShareGrant> {
        if token.len() > MAX_BYTES.div_ceil(3) * 4 {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (&[VERSION], rest) = bytes.split_first_chunk::<1>()? else { return None };
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let mut sealed = sealed.to_vec();
        let body: &[u8] = self.key.open_in_place(Nonce::from(nonce), bound(store, path), &mut sealed).ok()?;
        let (&[method], body) = body.split_first_chunk::<1>()?;
        let (expires, body) = body.split_first_chunk::<8>()?;
        let (max_size, body) = body.split_first_chunk::<8>()?;
        let (session, body) = body.split_first_chunk::<16>()?;
        let (&[user_len], body) = body.split_first_chunk::<1>()?;
        let (user, prefix) = body.split_at_checked(user_len.into())?;
        let grant = ShareGrant {
            method: match method {
                0 => ShareMethod::Get,
                1 => ShareMethod::Put,
                _ => return None,
            },
            expires_at: Timestamp::from_seconds(i64::from_be_bytes(*expires)),
            max_size: u64::from_be_bytes(*max_size),
            session: Uuid::from_bytes(*session),
            user: std::str::from_utf8(user).ok()?.to_owned(),
            prefix: std::str::from_utf8(prefix).ok()?.to_owned(),
        };
        (now < grant.expires_at).then_some(grant)
    }
}

/// What a token is good for, with lengths, so that no two places give the same bytes.
fn bound(store: &str, path: &str) -> Aad<Vec<u8>> {
    let mut bytes = vec![VERSION];
    for part in [store, path] {
        bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
        bytes.extend_from_slice(part.as_bytes());
    }
    Aad::from(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn links() -> ShareLinks {
        ShareLinks::with(&[7; 32]).unwrap()
    }

    fn grant() -> ShareGrant {
        ShareGrant {
            method: ShareMethod::Put,
            expires_at: Timestamp::from_seconds(1000),
            max_size: 5,
            session: Uuid::from_u128(9),
            user: "u1".into(),
            prefix: "users/u1/".into(),
        }
    }

    const NOW: Timestamp = Timestamp(999_999);

    #[test]
    fn a_link_is_good_for_one_file_until_it_expires() {
        let links = links();
        let token = links.encode(&grant(), "media", "a/b").unwrap();
        assert_eq!(links.decode(&token, "media", "a/b", NOW), Some(grant()));
        assert_eq!(links.decode(&token, "media", "a/b", Timestamp(1_000_000)), None);
        for (store, path) in
            [("media", "a/c"), ("other", "a/b"), ("mediaa", "/b"), ("media", ""), ("", "mediaa/b")]
        {
            assert_eq!(links.decode(&token, store, path, NOW), None, "{store} {path}");
        }
        let stranger = ShareLinks::with(&[8; 32]).unwrap();
        assert_eq!(stranger.decode(&token, "media", "a/b", NOW), None);
        let bytes = URL_SAFE_NO_PAD.decode(&token).unwrap();
        assert!(!bytes.windows(5).any(|w| w == b"users"), "the prefix can be read");
    }

    proptest! {
        #[test]
        fn no_other_token_is_believed(at in 0_usize..200, bit in 0_u8..6) {
            let token = links().encode(&grant(), "media", "a").unwrap();
            let mut bytes = token.clone().into_bytes();
            let at = at % bytes.len();
            let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
            let digit = alphabet.iter().position(|b| *b == bytes[at]).unwrap();
            bytes[at] = alphabet[digit ^ (1 << bit)];
            let changed = String::from_utf8(bytes).unwrap();
            prop_assert_eq!(links().decode(&changed, "media", "a", NOW), None);
        }

        #[test]
        fn any_text_is_refused(token in ".{0,120}") {
            prop_assert_eq!(links().decode(&token, "media", "a", NOW), None);
        }
    }
}
