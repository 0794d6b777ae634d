//! Private keys of our own: generated, read from their file form, signing.
//!
//! Asymmetric keys are PKCS#8 in PEM (what openssl reads and writes), HMAC secrets are raw bytes.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
    RsaPublicKeyComponents,
};
use aws_lc_rs::{hmac, rand};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

use super::keys::{Key, KeyError, thumbprint};
use crate::config::Algorithm;

const PEM_BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const PEM_END: &str = "-----END PRIVATE KEY-----";

#[derive(Debug, thiserror::Error)]
pub enum PrivateKeyError {
    #[error("not a PKCS#8 private key in PEM form for {0}")]
    Malformed(&'static str),
    #[error("{0} is not an algorithm we sign with")]
    CannotSign(&'static str),
    #[error(transparent)]
    Unfit(#[from] KeyError),
    #[error("the cryptographic library failed")]
    Library,
}

impl From<aws_lc_rs::error::Unspecified> for PrivateKeyError {
    fn from(_: aws_lc_rs::error::Unspecified) -> Self {
        Self::Library
    }
}

pub enum PrivateKey {
    Es256(EcdsaKeyPair),
    EdDsa(Ed25519KeyPair),
    Rs256(RsaKeyPair),
    Hs256 { signing: Box<hmac::Key>, secret: Zeroizing<Vec<u8>> },
}

impl PrivateKey {
    /// A new key, as the bytes of its file.
    pub fn generate(algorithm: Algorithm) -> Result<Zeroizing<Vec<u8>>, PrivateKeyError> {
        let pkcs8 = match algorithm {
            Algorithm::Es256 => {
                EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?.to_pkcs8v1()?.as_ref().to_vec()
            }
            Algorithm::EdDsa => Ed25519KeyPair::generate()?.to_pkcs8v1()?.as_ref().to_vec(),
            Algorithm::Rs256 => {
                let der: Pkcs8V1Der = RsaKeyPair::generate(KeySize::Rsa2048)?.as_der()?;
                der.as_ref().to_vec()
            }
            Algorithm::Hs256 => {
                let mut secret = Zeroizing::new(vec![0; 32]);
                rand::fill(&mut secret)?;
                return Ok(secret);
            }
            other => return Err(PrivateKeyError::CannotSign(other.name())),
        };
        Ok(pem(&Zeroizing::new(pkcs8)))
    }

    /// Reads the bytes of a key file.
    pub fn parse(algorithm: Algorithm, file: &[u8]) -> Result<Self, PrivateKeyError> {
        let malformed = || PrivateKeyError::Malformed(algorithm.name());
        match algorithm {
            Algorithm::Hs256 => {
                let secret = Zeroizing::new(file.to_vec());
                Ok(Self::Hs256 { signing: Box::new(hmac::Key::new(hmac::HMAC_SHA256, &secret)), secret })
            }
            Algorithm::Es256 => {
                let der = unpem(file).ok_or_else(malformed)?;
                EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der)
                    .map(Self::Es256)
                    .map_err(|_| malformed())
            }
            Algorithm::EdDsa => {
                let der = unpem(file).ok_or_else(malformed)?;
                Ed25519KeyPair::from_pkcs8(&der).map(Self::EdDsa).map_err(|_| malformed())
            }
            Algorithm::Rs256 => {
                let der = unpem(file).ok_or_else(malformed)?;
                RsaKeyPair::from_pkcs8(&der).map(Self::Rs256).map_err(|_| malformed())
            }
            other => Err(PrivateKeyError::CannotSign(other.name())),
        }
    }

    /// The public members of its JWK in lexicographic order (RFC 7638 section 3.2); none for a secret.
    pub fn public_members(&self) -> Vec<(&'static str, String)> {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match self {
            Self::Es256(pair) => {
                let (x, y) = coordinates(pair);
                vec![("crv", "P-256".into()), ("kty", "EC".into()), ("x", text(x)), ("y", text(y))]
            }
            Self::EdDsa(pair) => {
                vec![
                    ("crv", "Ed25519".into()),
                    ("kty", "OKP".into()),
                    ("x", text(pair.public_key().as_ref())),
                ]
            }
            Self::Rs256(pair) => {
                let RsaPublicKeyComponents { n, e } =
                    RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
                vec![("e", text(&e)), ("kty", "RSA".into()), ("n", text(&n))]
            }
            Self::Hs256 { .. } => Vec::new(),
        }
    }

    /// Its RFC 7638 thumbprint; `None` for a secret, whose hash is not to be published.
    pub fn thumbprint(&self) -> Option<String> {
        let members = self.public_members();
        let members: Vec<(&str, &str)> =
            members.iter().map(|(name, value)| (*name, value.as_str())).collect();
        (!members.is_empty()).then(|| thumbprint(&members))
    }

    /// The key its signatures are verified with.
    ///
    /// # Errors
    /// [`KeyError`] for a key too weak for its algorithm.
    pub fn verifying(&self, kid: String) -> Result<Key, KeyError> {
        match self {
            Self::Es256(pair) => {
                let (x, y) = coordinates(pair);
                Key::ec(Some(kid), Algorithm::Es256, x, y)
            }
            Self::EdDsa(pair) => Key::ed25519(Some(kid), pair.public_key().as_ref()),
            Self::Rs256(pair) => {
                let RsaPublicKeyComponents { n, e } =
                    RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
                Key::rsa(Some(kid), Algorithm::Rs256, &n, &e)
            }
            Self::Hs256 { secret, .. } => Key::hmac(Some(kid), secret),
        }
    }

    /// The signature over `message` in the form of RFC 7518 section 3 and RFC 8037 section 3.1.
    ///
    /// # Errors
    /// [`PrivateKeyError::Library`], when no randomness can be had.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, PrivateKeyError> {
        let random = SystemRandom::new();
        Ok(match self {
            Self::Es256(pair) => pair.sign(&random, message)?.as_ref().to_vec(),
            Self::EdDsa(pair) => pair.sign(message).as_ref().to_vec(),
            Self::Rs256(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature)?;
                signature
            }
            Self::Hs256 { signing, .. } => hmac::sign(signing, message).as_ref().to_vec(),
        })
    }
}

/// The halves of the uncompressed point: a byte 4, then x and y of 32 bytes each (SEC 1 section 2.3.3).
fn coordinates(pair: &EcdsaKeyPair) -> (&[u8], &[u8]) {
    let point = pair.public_key().as_ref();
    point.get(1..).unwrap_or_default().split_at_checked(32).unwrap_or_default()
}

/// PEM armour with lines of 64 characters (RFC 7468).
fn pem(der: &[u8]) -> Zeroizing<Vec<u8>> {
    let body = Zeroizing::new(STANDARD.encode(der));
    let mut text = Zeroizing::new(format!("{PEM_BEGIN}\n").into_bytes());
    for line in body.as_bytes().chunks(64) {
        text.extend_from_slice(line);
        text.push(b'\n');
    }
    text.extend_from_slice(format!("{PEM_END}\n").as_bytes());
    text
}

fn unpem(file: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let text = std::str::from_utf8(file).ok()?.trim();
    let body = text.strip_prefix(PEM_BEGIN)?.strip_suffix(PEM_END)?;
    let body: Zeroizing<String> = Zeroizing::new(body.split_ascii_whitespace().collect());
    STANDARD.decode(body.as_bytes()).ok().map(Zeroizing::new)
}
