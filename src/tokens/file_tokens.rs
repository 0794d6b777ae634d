//! What file routes hand out: share links, and the cursors of listings. Both are sealed, so that nobody can read or make them.
//!
//! A share link is a file for whoever holds it, until it expires or the session that made it ends. Its token holds method,
//! expiry, largest size, session, user and prefix, and is bound to the store and the path: a link is good for one file.
//! Nothing about it is stored. Whether the session lives is for the caller to find out.
//!
//! A cursor holds where the store goes on, in the store's own words, which name the bucket's insides. It is bound to the
//! store, the prefix and whether folders are shown: it is good for one listing.
//!
//! The text is `base64url(kind, nonce, sealed)`, encrypted with AES-256-GCM.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::path::Path;
use uuid::Uuid;

use super::refresh::{Secret, SecretError};
use crate::clock::Timestamp;
use crate::store::{SessionId, UserId};

const LINK: u8 = 1;
const CURSOR: u8 = 2;
const TAG_BYTES: usize = 16;
/// Kind, nonce; method, expiry, largest size, session, length of the user id; tag.
const FIXED_BYTES: usize = 1 + NONCE_LEN + 1 + 8 + 8 + 16 + 1 + TAG_BYTES;
/// With the longest user id and prefix.
const MAX_LINK: usize = FIXED_BYTES + 255 + 1024;
/// With the longest place in a store: servers write a key, which has up to 1024 bytes, in base64 or with escapes.
const MAX_CURSOR: usize = 1 + NONCE_LEN + 4096 + TAG_BYTES;

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

/// Makes and reads share links and cursors.
pub struct FileTokens {
    key: RandomizedNonceKey,
}

impl FileTokens {
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
    pub fn link(&self, grant: &ShareGrant, store: &str, path: &str) -> Option<String> {
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
        self.seal(LINK, &[store, path], sealed, MAX_LINK)
    }

    /// What `token` allows with `path` in `store`, if we made it and it has not expired.
    pub fn read_link(&self, token: &str, store: &str, path: &str, now: Timestamp) -> Option<ShareGrant> {
        let body = self.open(LINK, &[store, path], token, MAX_LINK)?;
        let body = body.as_slice();
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

    /// The cursor of the listing of `prefix` in `store` that goes on at `place`; `None` when that is too long, or there is no
    /// randomness.
    pub fn cursor(&self, place: &str, store: &str, prefix: &str, folders: bool) -> Option<String> {
        self.seal(CURSOR, &[store, prefix, shape(folders)], place.as_bytes().to_vec(), MAX_CURSOR)
    }

    /// Where that listing goes on, if we made `cursor` for it.
    pub fn read_cursor(&self, cursor: &str, store: &str, prefix: &str, folders: bool) -> Option<String> {
        let place = self.open(CURSOR, &[store, prefix, shape(folders)], cursor, MAX_CURSOR)?;
        String::from_utf8(place).ok()
    }

    fn seal(&self, kind: u8, to: &[&str], mut plain: Vec<u8>, longest: usize) -> Option<String> {
        let nonce = self.key.seal_in_place_append_tag(bound(kind, to), &mut plain).ok()?;
        let bytes = [&[kind], &nonce.as_ref()[..], &plain].concat();
        (bytes.len() <= longest).then(|| URL_SAFE_NO_PAD.encode(bytes))
    }

    fn open(&self, kind: u8, to: &[&str], text: &str, longest: usize) -> Option<Vec<u8>> {
        if text.len() > longest.div_ceil(3) * 4 {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (&[read], rest) = bytes.split_first_chunk::<1>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let mut sealed = sealed.to_vec();
        let plain = self.key.open_in_place(Nonce::from(nonce), bound(kind, to), &mut sealed).ok()?.len();
        sealed.truncate(plain);
        (read == kind).then_some(sealed)
    }
}

fn shape(folders: bool) -> &'static str {
    if folders { "folders" } else { "" }
}

/// What a text is good for, with lengths, so that no two places give the same bytes.
fn bound(kind: u8, to: &[&str]) -> Aad<Vec<u8>> {
    let mut bytes = vec![kind];
    for part in to {
        bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
        bytes.extend_from_slice(part.as_bytes());
    }
    Aad::from(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn links() -> FileTokens {
        FileTokens::with(&[7; 32]).unwrap()
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
        let token = links.link(&grant(), "media", "a/b").unwrap();
        assert_eq!(links.read_link(&token, "media", "a/b", NOW), Some(grant()));
        assert_eq!(links.read_link(&token, "media", "a/b", Timestamp(1_000_000)), None);
        for (store, path) in
            [("media", "a/c"), ("other", "a/b"), ("mediaa", "/b"), ("media", ""), ("", "mediaa/b")]
        {
            assert_eq!(links.read_link(&token, store, path, NOW), None, "{store} {path}");
        }
        let stranger = FileTokens::with(&[8; 32]).unwrap();
        assert_eq!(stranger.read_link(&token, "media", "a/b", NOW), None);
        let bytes = URL_SAFE_NO_PAD.decode(&token).unwrap();
        assert!(!bytes.windows(5).any(|w| w == b"users"), "the prefix can be read");
    }

    #[test]
    fn a_cursor_is_good_for_one_listing() {
        let tokens = links();
        let cursor = tokens.cursor("place", "media", "users/u1/", true).unwrap();
        assert_eq!(tokens.read_cursor(&cursor, "media", "users/u1/", true).as_deref(), Some("place"));
        for (store, prefix, folders) in [
            ("media", "users/u1/", false),
            ("media", "users/u2/", true),
            ("other", "users/u1/", true),
            ("mediau", "sers/u1/", true),
        ] {
            assert_eq!(
                tokens.read_cursor(&cursor, store, prefix, folders),
                None,
                "{store} {prefix} {folders}"
            );
        }
        assert_eq!(tokens.read_link(&cursor, "media", "users/u1/", NOW), None);
        let link = tokens.link(&grant(), "media", "users/u1/").unwrap();
        assert_eq!(tokens.read_cursor(&link, "media", "users/u1/", false), None);
        let long = "x".repeat(4096);
        let cursor = tokens.cursor(&long, "media", "", false).unwrap();
        assert_eq!(tokens.read_cursor(&cursor, "media", "", false), Some(long));
        assert_eq!(tokens.cursor(&"x".repeat(4097), "media", "", false), None);
    }

    proptest! {
        #[test]
        fn no_other_token_is_believed(at in 0_usize..200, bit in 0_u8..6) {
            let token = links().link(&grant(), "media", "a").unwrap();
            let mut bytes = token.clone().into_bytes();
            let at = at % bytes.len();
            let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
            let digit = alphabet.iter().position(|b| *b == bytes[at]).unwrap();
            bytes[at] = alphabet[digit ^ (1 << bit)];
            let changed = String::from_utf8(bytes).unwrap();
            prop_assert_eq!(links().read_link(&changed, "media", "a", NOW), None);
        }

        #[test]
        fn any_text_is_refused(token in ".{0,120}") {
            prop_assert_eq!(links().read_link(&token, "media", "a", NOW), None);
        }
    }
}
