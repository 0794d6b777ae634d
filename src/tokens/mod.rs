//! Access tokens (JWT) and refresh tokens: made, verified, revoked. Knows no HTTP.
//!
//! ```text
//! token -> CompactJws -> issuer -> KeySet -> signature -> Claims -> revocations
//!          jws           verifier  keys      jws          claims    revocations
//! ```
//!
//! * [`jws`] reads the strict compact form and checks one signature against one key set.
//! * [`keys`] is what a signature may be checked with; [`jwks`] reads such keys from a JWKS document,
//!   [`signing_keys`] keeps our own on disk and rotates them, [`issuers`] fetches those of others.
//! * [`claims`] turns a verified payload into values of the right type, or refuses it.
//! * [`verifier`] puts these together; [`cache`] remembers its results and [`revocations`] overrules both.
//! * [`mint`] signs our access tokens; [`refresh`] makes refresh tokens and device cookies, [`file_tokens`] links to files and cursors.
//!
//! Absent on purpose: encrypted tokens (JWE), the JSON serialisation, `none`, keys named by the token itself
//! (`jwk`, `jku`, `x5u`, `x5c`), token introspection, route policy.

pub mod cache;
pub mod claims;
mod fetch;
pub mod file_tokens;
pub mod issuers;
pub mod json;
pub mod jwks;
pub mod jws;
pub mod keys;
pub mod mint;
mod private_key;
pub mod refresh;
mod rejection;
pub mod revocations;
mod secret_files;
pub mod signing_keys;
#[cfg(test)]
mod test_support;
pub mod verifier;

pub use cache::{TokenCache, TokenDigest};
pub use claims::Claims;
pub use file_tokens::{FileTokens, ShareGrant, ShareMethod};
pub use issuers::Issuers;
pub use jws::{CompactJws, VerifiedJws, verify_signature};
pub use keys::{Key, KeySet};
pub use mint::{AccessSubject, AccessToken, Mint, MintError};
pub use refresh::{DeviceCookies, RefreshToken, RefreshTokens};
pub use rejection::Rejection;
pub use revocations::Revocations;
pub use secret_files::SecretFileError;
pub use signing_keys::{KeyInfo, KeyRole, KeysError, OldKeys, PUBLISH_AHEAD, SigningKeys};
pub use verifier::Verifier;
