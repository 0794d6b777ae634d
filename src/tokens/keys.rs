//! Keys a signature may be checked with, and immutable sets of them.
//!
//! A key has exactly one algorithm, fixed when it is made (RFC 8725 section 3.1), and is only made when it is
//! strong enough for it (RFC 7518 sections 3.2 and 3.3). Private keys are in `signing_keys`.

use std::collections::HashMap;

use aws_lc_rs::digest;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256,
    RsaPublicKeyComponents,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::DecodingKey;

use super::rejection::Rejection;
use crate::clock::Timestamp;
use crate::config::Algorithm;

/// Longest `kid` taken; it is only ever compared, never used as a path or a query.
pub const MAX_KID_BYTES: usize = 256;

/// Why key material is not made into a [`Key`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("an HMAC key must be at least as long as its hash, 32 bytes, and not blank")]
    HmacTooSmall,
    #[error("an RSA key must have 2048 to 8192 bits")]
    RsaSize,
    #[error("the RSA key is malformed")]
    RsaMalformed,
    #[error("the coordinates are not a point of the curve")]
    NotOnCurve,
    #[error("an Ed25519 public key has 32 bytes")]
    Ed25519Size,
    #[error("the algorithm does not fit the key type")]
    WrongType,
    #[error("the kid is longer than 256 bytes")]
    KidTooLong,
    #[error("two keys have the same kid")]
    DuplicateKid,
}

/// SHA-256 over algorithm and public (or secret) material: two keys are the same key when this is equal,
/// whatever they are called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

/// One key for one algorithm.
pub struct Key {
    kid: Option<String>,
    algorithm: Algorithm,
    decoding: DecodingKey,
    fingerprint: Fingerprint,
    not_after: Option<Timestamp>,
}

impl Key {
    /// A shared secret. Only for tokens of our own: whoever can verify with it can sign with it.
    ///
    /// # Errors
    /// [`KeyError::HmacTooSmall`] below 32 bytes (RFC 7518 section 3.2) or when all bytes are equal.
    pub fn hmac(kid: Option<String>, secret: &[u8]) -> Result<Self, KeyError> {
        if secret.len() < 32 || secret.iter().all(|byte| *byte == secret[0]) {
            return Err(KeyError::HmacTooSmall);
        }
        Self::new(kid, Algorithm::Hs256, DecodingKey::from_secret(secret), &[secret])
    }

    /// An RSA public key, big-endian without leading zeros, for one of RS256 to RS512 and PS256 to PS512.
    ///
    /// # Errors
    /// [`KeyError::WrongType`], [`KeyError::RsaSize`] (RFC 7518 section 3.3) or [`KeyError::RsaMalformed`].
    pub fn rsa(kid: Option<String>, algorithm: Algorithm, n: &[u8], e: &[u8]) -> Result<Self, KeyError> {
        if KeyType::of(algorithm) != KeyType::Rsa {
            return Err(KeyError::WrongType);
        }
        let (Some(first), Some(last)) = (n.first(), n.last()) else { return Err(KeyError::RsaMalformed) };
        let bits = n.len() * 8 - first.leading_zeros() as usize;
        if *first == 0 || last % 2 == 0 || e.last().is_none_or(|byte| byte % 2 == 0) || e == [1] {
            return Err(KeyError::RsaMalformed);
        }
        if !(2048..=8192).contains(&bits) {
            return Err(KeyError::RsaSize);
        }
        RsaPublicKeyComponents { n, e }
            .to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256)
            .map_err(|_| KeyError::RsaMalformed)?;
        Self::new(kid, algorithm, DecodingKey::from_rsa_raw_components(n, e), &[n, e])
    }

    /// An elliptic-curve public key, P-256 for ES256 and P-384 for ES384; the coordinates in full length
    /// (RFC 7518 section 6.2.1.2).
    ///
    /// # Errors
    /// [`KeyError::WrongType`] or [`KeyError::NotOnCurve`].
    pub fn ec(kid: Option<String>, algorithm: Algorithm, x: &[u8], y: &[u8]) -> Result<Self, KeyError> {
        let (curve, size) = match algorithm {
            Algorithm::Es256 => (&ECDSA_P256_SHA256_FIXED, 32),
            Algorithm::Es384 => (&ECDSA_P384_SHA384_FIXED, 48),
            _ => return Err(KeyError::WrongType),
        };
        if x.len() != size || y.len() != size {
            return Err(KeyError::NotOnCurve);
        }
        let point = [&[4], x, y].concat();
        ParsedPublicKey::new(curve, &point).map_err(|_| KeyError::NotOnCurve)?;
        Self::new(kid, algorithm, DecodingKey::from_ec_der(&point), &[&point])
    }

    /// An Ed25519 public key for EdDSA (RFC 8037).
    ///
    /// # Errors
    /// [`KeyError::Ed25519Size`].
    pub fn ed25519(kid: Option<String>, x: &[u8]) -> Result<Self, KeyError> {
        if x.len() != 32 || ParsedPublicKey::new(&ED25519, x).is_err() {
            return Err(KeyError::Ed25519Size);
        }
        Self::new(kid, Algorithm::EdDsa, DecodingKey::from_ed_der(x), &[x])
    }

    fn new(
        kid: Option<String>,
        algorithm: Algorithm,
        decoding: DecodingKey,
        material: &[&[u8]],
    ) -> Result<Self, KeyError> {
        if kid.as_ref().is_some_and(|kid| kid.len() > MAX_KID_BYTES) {
            return Err(KeyError::KidTooLong);
        }
        let fingerprint = Fingerprint::of(algorithm, material);
        Ok(Self { kid, algorithm, decoding, fingerprint, not_after: None })
    }

    /// The same key, to be dropped at `not_after`.
    #[must_use]
    pub fn until(mut self, not_after: Option<Timestamp>) -> Self {
        self.not_after = not_after;
        self
    }

    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// When this key stops being good; `None`: not known.
    pub fn not_after(&self) -> Option<Timestamp> {
        self.not_after
    }

    /// Whether `signature` (base64url) is this key's over `signed`.
    pub(super) fn verify(&self, signed: &[u8], signature: &str) -> bool {
        jsonwebtoken::crypto::verify(signature, signed, &self.decoding, library_name(self.algorithm))
            .unwrap_or(false)
    }
}

/// Keys are equal when they verify the same signatures.
impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key")
            .field("kid", &self.kid)
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

impl Fingerprint {
    /// Of no key.
    pub(super) const NONE: Self = Self([0; 32]);

    fn of(algorithm: Algorithm, material: &[&[u8]]) -> Self {
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(algorithm.name().as_bytes());
        for part in material {
            // The length in front keeps (n, e) pairs with shifted boundaries apart.
            hash.update(&(part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let mut bytes = [0; 32];
        bytes.copy_from_slice(hash.finish().as_ref());
        Self(bytes)
    }
}

/// The `kty` (and curve) an algorithm needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyType {
    Secret,
    Rsa,
    P256,
    P384,
    Ed25519,
}

impl KeyType {
    pub fn of(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Hs256 => Self::Secret,
            Algorithm::Rs256
            | Algorithm::Rs384
            | Algorithm::Rs512
            | Algorithm::Ps256
            | Algorithm::Ps384
            | Algorithm::Ps512 => Self::Rsa,
            Algorithm::Es256 => Self::P256,
            Algorithm::Es384 => Self::P384,
            Algorithm::EdDsa => Self::Ed25519,
        }
    }
}

fn library_name(algorithm: Algorithm) -> jsonwebtoken::Algorithm {
    match algorithm {
        Algorithm::Hs256 => jsonwebtoken::Algorithm::HS256,
        Algorithm::Rs256 => jsonwebtoken::Algorithm::RS256,
        Algorithm::Rs384 => jsonwebtoken::Algorithm::RS384,
        Algorithm::Rs512 => jsonwebtoken::Algorithm::RS512,
        Algorithm::Ps256 => jsonwebtoken::Algorithm::PS256,
        Algorithm::Ps384 => jsonwebtoken::Algorithm::PS384,
        Algorithm::Ps512 => jsonwebtoken::Algorithm::PS512,
        Algorithm::Es256 => jsonwebtoken::Algorithm::ES256,
        Algorithm::Es384 => jsonwebtoken::Algorithm::ES384,
        Algorithm::EdDsa => jsonwebtoken::Algorithm::EdDSA,
    }
}

/// The keys of one issuer at one moment.
#[derive(Debug, Default)]
pub struct KeySet {
    keys: Vec<Key>,
    by_kid: HashMap<String, usize>,
    epoch: u64,
}

impl KeySet {
    /// # Errors
    /// [`KeyError::DuplicateKid`]: which of the two a token means could not be said.
    pub fn new(keys: Vec<Key>) -> Result<Self, KeyError> {
        let mut by_kid = HashMap::with_capacity(keys.len());
        for (index, key) in keys.iter().enumerate() {
            let Some(kid) = &key.kid else { continue };
            if by_kid.insert(kid.clone(), index).is_some() {
                return Err(KeyError::DuplicateKid);
            }
        }
        Ok(Self { keys, by_kid, epoch: 0 })
    }

    /// This set as the successor of `previous`: the epoch goes up when a key is gone, and only then.
    #[must_use]
    pub fn following(mut self, previous: &KeySet) -> Self {
        let removed = previous.keys.iter().any(|key| !self.contains(key.fingerprint));
        self.epoch = previous.epoch + u64::from(removed);
        self
    }

    /// Counts removals of keys. A result of verification is good while this stands still.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    pub fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// Whether both sets hold the same keys under the same names.
    pub(super) fn same_keys(&self, other: &KeySet) -> bool {
        let held = |key: &Key| self.keys.iter().any(|k| k == key && k.kid == key.kid);
        self.keys.len() == other.keys.len() && other.keys.iter().all(held)
    }

    pub fn contains(&self, key: Fingerprint) -> bool {
        self.keys.iter().any(|k| k.fingerprint == key)
    }

    /// The one key for a header: by exact `kid`, or, when the token has none, the only key of its algorithm.
    pub(super) fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<&Key, Rejection> {
        let Some(kid) = kid else {
            let mut fitting = self.keys.iter().filter(|key| key.algorithm == algorithm);
            return match (fitting.next(), fitting.next()) {
                (Some(key), None) => Ok(key),
                _ => Err(Rejection::UnknownKey),
            };
        };
        let key = self.by_kid.get(kid).map(|index| &self.keys[*index]).ok_or(Rejection::UnknownKey)?;
        if key.algorithm != algorithm {
            return Err(Rejection::AlgorithmMismatch);
        }
        Ok(key)
    }
}

/// RFC 7638 thumbprint (SHA-256, base64url) of a JWK's required members, given in lexicographic order.
pub(super) fn thumbprint(members: &[(&str, &str)]) -> String {
    let body: Vec<String> = members.iter().map(|(name, value)| format!("\"{name}\":\"{value}\"")).collect();
    let json = format!("{{{}}}", body.join(","));
    URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, json.as_bytes()))
}
