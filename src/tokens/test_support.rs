//! What several test modules here need: a configuration, a gateway's token parts, forged tokens.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tempfile::TempDir;
use uuid::Uuid;

use super::private_key::PrivateKey;
use super::{AccessSubject, Issuers, Mint, Revocations, SigningKeys, Verifier};
use crate::clock::Timestamp;
use crate::config::{Algorithm, Issuer, JwksSource, Tokens};

pub const NOW: Timestamp = Timestamp(1_800_000_000_000);
pub const OURS: &str = "https://gateway.test";
pub const THEIRS: &str = "https://login.test";

pub fn tokens(algorithm: Algorithm) -> Tokens {
    Tokens {
        issuer: OURS.into(),
        audience: "portcullis".into(),
        algorithm,
        access_ttl: Duration::from_secs(3600),
        refresh_ttl: Duration::from_secs(86_400),
        refresh_idle_ttl: Duration::from_secs(86_400),
        refresh_grace: Duration::from_secs(10),
        leeway: Duration::from_secs(30),
        cache_bytes: 1 << 20,
    }
}

pub fn issuer(jwks: JwksSource, algorithms: &[Algorithm]) -> Issuer {
    Issuer {
        issuer: THEIRS.into(),
        jwks,
        audience: vec!["api".into()],
        algorithms: algorithms.to_vec(),
        claims: BTreeMap::from([("roles".into(), "realm_access.roles".into())]),
        max_stale: Duration::from_secs(3600),
        refresh_interval: Duration::from_secs(600),
    }
}

/// Everything that verifies, on a folder that goes away with it.
pub struct Parts {
    pub folder: TempDir,
    pub mint: Arc<Mint>,
    pub verifier: Verifier,
    pub revocations: Arc<Revocations>,
    pub issuers: Arc<Issuers>,
}

pub fn parts(algorithm: Algorithm, issuers: &[Issuer]) -> Parts {
    let folder = TempDir::new().unwrap();
    let mint = Arc::new(mint(folder.path(), algorithm, NOW));
    let revocations = Arc::new(Revocations::new());
    let issuers = Arc::new(Issuers::new(issuers).unwrap());
    let verifier = Verifier::new(&tokens(algorithm), mint.clone(), issuers.clone(), revocations.clone());
    Parts { folder, mint, verifier, revocations, issuers }
}

pub fn mint(folder: &Path, algorithm: Algorithm, now: Timestamp) -> Mint {
    let tokens = tokens(algorithm);
    Mint::new(SigningKeys::open(folder, &tokens, now).unwrap(), &tokens)
}

impl Parts {
    pub fn token(&self, now: Timestamp) -> String {
        self.token_of(Uuid::now_v7(), now)
    }

    pub fn token_of(&self, session: Uuid, now: Timestamp) -> String {
        let (roles, scopes) = (["admin".to_owned()], ["a:read".to_owned(), "b".to_owned()]);
        let subject =
            AccessSubject { user: "u1", email: "ada@example.com", roles: &roles, scopes: &scopes, session };
        self.mint.access_token(&subject, now).unwrap().token
    }

    /// A token signed by our own key, whatever header and payload say.
    pub fn forge(&self, header: &str, payload: &[u8]) -> String {
        sign(self.mint.keys().current().signer(NOW).private(), header, payload)
    }

    /// The header of our own tokens.
    pub fn header(&self) -> Value {
        let info = &self.mint.keys().list(NOW)[0];
        json!({ "typ": "at+jwt", "alg": info.algorithm.name(), "kid": info.kid })
    }
}

/// The payload of one of our own tokens at `NOW`.
pub fn payload() -> Value {
    json!({
        "iss": OURS, "sub": "u1", "aud": "portcullis", "exp": NOW.seconds() + 3600, "iat": NOW.seconds(),
        "jti": "j", "sid": Uuid::now_v7().to_string(), "email": "ada@example.com", "roles": ["admin"],
        "scope": "a b",
    })
}

/// The payload of a foreign access token at `NOW`.
pub fn foreign_payload() -> Value {
    json!({
        "iss": THEIRS, "sub": "f1", "aud": ["x", "api"], "exp": NOW.seconds() + 3600,
        "realm_access": { "roles": ["editor"] },
    })
}

pub fn sign(key: &PrivateKey, header: &str, payload: &[u8]) -> String {
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    let signature = URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes()).unwrap());
    format!("{signed}.{signature}")
}

/// A key of a foreign issuer, and its entry in a JWKS.
pub fn foreign_key(algorithm: Algorithm, kid: &str) -> (PrivateKey, Value) {
    let key = PrivateKey::parse(algorithm, &PrivateKey::generate(algorithm).unwrap()).unwrap();
    let mut jwk: serde_json::Map<_, _> =
        key.public_members().into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
    jwk.insert("kid".into(), kid.into());
    jwk.insert("alg".into(), algorithm.name().into());
    (key, jwk.into())
}

pub fn jwks(keys: &[&Value]) -> String {
    json!({ "keys": keys }).to_string()
}
