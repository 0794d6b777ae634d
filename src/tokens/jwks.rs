//! Keys from a JWKS document (RFC 7517), for an issuer with an allow-list of algorithms.
//!
//! A key we cannot or must not use is skipped, with the reason, so that one odd key does not take the others
//! down (RFC 7517 section 5). Shared secrets are never taken from such a document: whoever publishes one
//! lets everybody sign.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::json;
use super::keys::{Key, KeyError, KeyType};
use crate::config::Algorithm;

/// Keys read from one document at most.
const MAX_KEYS: usize = 256;
const DEPTH: usize = 8;
/// Members that hold private or symmetric material (RFC 7518 section 6.2.2, 6.3.2, 6.4.1; RFC 8037 section 2).
const PRIVATE_MEMBERS: [&str; 9] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"];

/// What a document held for us.
#[derive(Debug)]
pub struct Jwks {
    pub keys: Vec<Key>,
    pub skipped: Vec<Skipped>,
}

/// A key that was left out.
#[derive(Debug)]
pub struct Skipped {
    pub kid: Option<String>,
    pub reason: &'static str,
}

/// The document as a whole is unusable; keys fetched before stay in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwksError {
    #[error("the document is not a JSON object with distinct members")]
    NotJson,
    #[error("the document has no array \"keys\"")]
    NoKeys,
    #[error("the document has more than 256 keys")]
    TooManyKeys,
    #[error("two usable keys have the same kid")]
    DuplicateKid,
}

/// Reads the keys of `document` that fit `allowed`.
///
/// # Errors
/// [`JwksError`], when nothing can be said about any key.
pub fn parse(document: &[u8], allowed: &[Algorithm]) -> Result<Jwks, JwksError> {
    let members = json::object(document, DEPTH).map_err(|_| JwksError::NotJson)?;
    let Some(Value::Array(entries)) = members.get("keys") else { return Err(JwksError::NoKeys) };
    if entries.len() > MAX_KEYS {
        return Err(JwksError::TooManyKeys);
    }
    let mut jwks = Jwks { keys: Vec::new(), skipped: Vec::new() };
    for entry in entries {
        let kid = entry.get("kid").and_then(Value::as_str).map(str::to_owned);
        let key =
            match entry.as_object().ok_or("not an object").and_then(|jwk| key(jwk, kid.clone(), allowed)) {
                Ok(key) => key,
                Err(reason) => {
                    jwks.skipped.push(Skipped { kid, reason });
                    continue;
                }
            };
        if kid.is_some() && jwks.keys.iter().any(|other| other.kid() == kid.as_deref()) {
            return Err(JwksError::DuplicateKid);
        }
        jwks.keys.push(key);
    }
    Ok(jwks)
}

fn key(jwk: &Map<String, Value>, kid: Option<String>, allowed: &[Algorithm]) -> Result<Key, &'static str> {
    if PRIVATE_MEMBERS.iter().any(|name| jwk.contains_key(*name)) {
        return Err("it holds private or secret members");
    }
    if jwk.contains_key("kid") && kid.is_none() {
        return Err("its kid is not a string");
    }
    match jwk.get("use") {
        None => {}
        Some(purpose) if purpose == "sig" => {}
        Some(_) => return Err("its use is not sig"),
    }
    match jwk.get("key_ops") {
        None => {}
        Some(Value::Array(operations)) if operations.iter().any(|operation| operation == "verify") => {}
        Some(_) => return Err("its key_ops do not include verify"),
    }
    let key_type = key_type(jwk)?;
    let algorithm = algorithm(jwk, key_type, allowed)?;
    let bytes = |name: &str| {
        let text = jwk.get(name).and_then(Value::as_str).ok_or("a member is missing")?;
        URL_SAFE_NO_PAD.decode(text).map_err(|_| "a member is not base64url")
    };
    match key_type {
        KeyType::Secret => return Err("shared secrets are not accepted"),
        KeyType::Rsa => Key::rsa(kid, algorithm, &bytes("n")?, &bytes("e")?),
        KeyType::P256 | KeyType::P384 => Key::ec(kid, algorithm, &bytes("x")?, &bytes("y")?),
        KeyType::Ed25519 => Key::ed25519(kid, &bytes("x")?),
    }
    .map_err(|error| match error {
        KeyError::RsaSize => "its modulus is not of 2048 to 8192 bits",
        KeyError::NotOnCurve => "it is not a point of its curve",
        KeyError::KidTooLong => "its kid is too long",
        _ => "it is malformed",
    })
}

fn key_type(jwk: &Map<String, Value>) -> Result<KeyType, &'static str> {
    let text = |name: &str| jwk.get(name).and_then(Value::as_str);
    match (text("kty"), text("crv")) {
        (Some("RSA"), _) => Ok(KeyType::Rsa),
        (Some("EC"), Some("P-256")) => Ok(KeyType::P256),
        (Some("EC"), Some("P-384")) => Ok(KeyType::P384),
        (Some("OKP"), Some("Ed25519")) => Ok(KeyType::Ed25519),
        (Some("oct"), _) => Err("shared secrets are not accepted"),
        _ => Err("its type or curve is not supported"),
    }
}

/// The key's own `alg` when it is allowed and fits; without one, the only allowed algorithm that fits.
fn algorithm(
    jwk: &Map<String, Value>,
    key_type: KeyType,
    allowed: &[Algorithm],
) -> Result<Algorithm, &'static str> {
    let mut fitting = allowed.iter().copied().filter(|algorithm| KeyType::of(*algorithm) == key_type);
    match jwk.get("alg") {
        Some(name) => {
            let name = name.as_str().ok_or("its alg is not a string")?;
            fitting.find(|algorithm| algorithm.name() == name).ok_or("its alg is not among the issuer's")
        }
        None => match (fitting.next(), fitting.next()) {
            (Some(algorithm), None) => Ok(algorithm),
            (None, _) => Err("no allowed algorithm fits it"),
            (Some(_), Some(_)) => Err("it has no alg, and several allowed ones fit"),
        },
    }
}

#[cfg(test)]
#[path = "jwks_tests.rs"]
mod tests;
