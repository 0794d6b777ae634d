//! The strict compact serialisation of a JWS (RFC 7515 section 7.1) and the check of its signature.
//!
//! Absent: every claim. A verified JWS says that a key signed these bytes, not that they are an access
//! token; that is `claims` and `verifier`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::json;
use super::keys::{Key, KeySet};
use super::rejection::Rejection;
use crate::config::Algorithm;

/// Longest token looked at. Cookies and header limits make longer ones useless anyway.
pub const MAX_TOKEN_BYTES: usize = 16 * 1024;
/// A header is flat, except for members we ignore (`jwk` with an `x5c` array in it).
const HEADER_DEPTH: usize = 4;

/// What a header says. Members that would let a token choose its own key (`jwk`, `jku`, `x5u`, `x5c`) are
/// not here, so nothing can use them (RFC 8725 section 3.10).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub algorithm: Algorithm,
    pub kid: Option<String>,
    pub typ: Option<String>,
}

/// A well-formed token whose signature nobody has checked yet.
#[derive(Debug)]
pub struct CompactJws<'t> {
    pub header: Header,
    /// Decoded, unverified: good for choosing an issuer, for nothing else.
    pub payload: Vec<u8>,
    signed: &'t str,
    signature: &'t str,
}

/// A token whose signature `key` made.
#[derive(Debug)]
pub struct VerifiedJws<'k> {
    pub header: Header,
    pub payload: Vec<u8>,
    pub key: &'k Key,
}

/// Checks that `token` is a strict compact JWS signed by a key of `keys`.
///
/// # Errors
/// The first [`Rejection`] met; of those that concern the form, the key or the signature.
pub fn verify_signature<'k>(token: &str, keys: &'k KeySet) -> Result<VerifiedJws<'k>, Rejection> {
    CompactJws::parse(token)?.verify(keys)
}

impl<'t> CompactJws<'t> {
    /// # Errors
    /// [`Rejection::TooLong`], `NotCompact`, `Encoding`, `Header`, `Critical`, `Unsecured` or
    /// `UnsupportedAlgorithm`.
    pub fn parse(token: &'t str) -> Result<Self, Rejection> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Rejection::TooLong);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(Rejection::NotCompact)?;
        let (header, payload) = signed.split_once('.').ok_or(Rejection::NotCompact)?;
        if payload.contains('.') {
            return Err(Rejection::NotCompact);
        }
        // The header is judged before an empty signature is, so that an unsecured token is called one.
        let header = Header::parse(&decode(header)?)?;
        let payload = decode(payload)?;
        decode(signature)?;
        Ok(Self { header, payload, signed, signature })
    }

    /// # Errors
    /// [`Rejection::UnknownKey`], `AlgorithmMismatch` or `Signature`.
    pub fn verify(self, keys: &KeySet) -> Result<VerifiedJws<'_>, Rejection> {
        let key = self.signing_key(keys)?;
        Ok(VerifiedJws { header: self.header, payload: self.payload, key })
    }

    /// The key of `keys` that signed this. One key, one algorithm: the key is found first, and its own
    /// algorithm must be the header's.
    pub(super) fn signing_key<'k>(&self, keys: &'k KeySet) -> Result<&'k Key, Rejection> {
        let key = keys.find(self.header.kid.as_deref(), self.header.algorithm)?;
        if !key.verify(self.signed.as_bytes(), self.signature) {
            return Err(Rejection::Signature);
        }
        Ok(key)
    }
}

impl Header {
    fn parse(bytes: &[u8]) -> Result<Self, Rejection> {
        let mut members = json::object(bytes, HEADER_DEPTH).map_err(|_| Rejection::Header)?;
        // No extension is understood, so any list of those that must be is refused, the empty one too
        // (RFC 7515 section 4.1.11); b64 without crit is malformed (RFC 7797 section 6).
        if members.contains_key("crit") || members.contains_key("b64") {
            return Err(Rejection::Critical);
        }
        let mut text = |name| match members.remove(name) {
            None => Ok(None),
            Some(serde_json::Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Rejection::Header),
        };
        let (alg, kid, typ) = (text("alg")?.ok_or(Rejection::Header)?, text("kid")?, text("typ")?);
        if alg.eq_ignore_ascii_case("none") {
            return Err(Rejection::Unsecured);
        }
        let algorithm = Algorithm::from_name(&alg).ok_or(Rejection::UnsupportedAlgorithm)?;
        Ok(Self { algorithm, kid, typ })
    }
}

/// Canonical base64url: no padding, no white space, unused bits zero, at least one byte.
fn decode(part: &str) -> Result<Vec<u8>, Rejection> {
    if part.is_empty() {
        return Err(Rejection::NotCompact);
    }
    URL_SAFE_NO_PAD.decode(part).map_err(|_| Rejection::Encoding)
}

#[cfg(test)]
#[path = "jws_tests.rs"]
mod tests;
