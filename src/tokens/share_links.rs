//! Share links: a file for whoever holds the link, until it expires or the session that made it ends.
//!
//! The token in a link is `base64url(version, method, expiry, largest size, session, user, prefix, MAC)`; the MAC covers the
//! store and the path as well, so that a link is good for one file. Nothing about it is stored. Whether the session
//! lives is for the caller to find out.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::path::Path;
use uuid::Uuid;

use super::refresh::{Secret, SecretError};
use crate::clock::Timestamp;
use crate::store::{SessionId, UserId};

const VERSION: u8 = 1;
const MAC_BYTES: usize = 32;
/// Version, method, expiry, largest size, session, length of the user id.
const FIXED_BYTES: usize = 1 + 1 + 8 + 8 + 16 + 1;
/// With the longest user id and prefix.
const MAX_BYTES: usize = FIXED_BYTES + 255 + 1024 + MAC_BYTES;

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
    key: hmac::Key,
}

impl ShareLinks {
    /// From the same secret as the refresh tokens, under a key of its own.
    ///
    /// # Errors
    /// As `RefreshTokens::load_or_create`.
    pub fn load_or_create(data_dir: &Path) -> Result<Self, SecretError> {
        Ok(Self { key: Secret::load_or_create(data_dir)?.key("portcullis share link 1") })
    }

    /// With a key that nobody else has and that is gone with the process: for one that serves nobody.
    pub fn ephemeral() -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, Uuid::new_v4().as_bytes()) }
    }

    /// The token of a link to `path` (canonical, below the route's own) in `store`; `None` when user or prefix are too long.
    pub fn encode(&self, grant: &ShareGrant, store: &str, path: &str) -> Option<String> {
        let mut bytes = Vec::with_capacity(FIXED_BYTES + grant.user.len() + grant.prefix.len() + MAC_BYTES);
        bytes.push(VERSION);
        bytes.push(match grant.method {
            ShareMethod::Get => 0,
            ShareMethod::Put => 1,
        });
        bytes.extend_from_slice(&grant.expires_at.seconds().to_be_bytes());
        bytes.extend_from_slice(&grant.max_size.to_be_bytes());
        bytes.extend_from_slice(grant.session.as_bytes());
        bytes.push(u8::try_from(grant.user.len()).ok()?);
        bytes.extend_from_slice(grant.user.as_bytes());
        bytes.extend_from_slice(grant.prefix.as_bytes());
        let mac = self.mac(&bytes, store, path);
        bytes.extend_from_slice(mac.as_ref());
        (bytes.len() <= MAX_BYTES).then(|| URL_SAFE_NO_PAD.encode(bytes))
    }

    /// What `token` allows with `path` in `store`, if we made it and it has not expired.
    pub fn decode(&self, token: &str, store: &str, path: &str, now: Timestamp) -> Option<ShareGrant> {
        if token.len() > MAX_BYTES.div_ceil(3) * 4 {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (body, mac) = bytes.split_at_checked(bytes.len().checked_sub(MAC_BYTES)?)?;
        verify_slices_are_equal(self.mac(body, store, path).as_ref(), mac).ok()?;
        let (&[VERSION, method], body) = body.split_first_chunk::<2>()? else { return None };
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

    fn mac(&self, body: &[u8], store: &str, path: &str) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.key);
        // With their lengths, so that no two calls give the same message.
        for part in [body, store.as_bytes(), path.as_bytes()] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        context.sign()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn links() -> ShareLinks {
        ShareLinks { key: hmac::Key::new(hmac::HMAC_SHA256, &[7; 32]) }
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
        let stranger = ShareLinks { key: hmac::Key::new(hmac::HMAC_SHA256, &[8; 32]) };
        assert_eq!(stranger.decode(&token, "media", "a/b", NOW), None);
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
