//! Our own access tokens (RFC 9068).

use std::time::Duration;

use serde::Serialize;
use uuid::Uuid;

use super::private_key::PrivateKeyError;
use super::signing_keys::{KeysError, SigningKeys};
use crate::clock::Timestamp;
use crate::config::Tokens;
use crate::store::SessionId;

/// Whom a token speaks for.
#[derive(Clone, Copy, Debug)]
pub struct AccessSubject<'a> {
    pub user: &'a str,
    pub email: &'a str,
    pub roles: &'a [String],
    pub scopes: &'a [String],
    pub session: SessionId,
}

/// A signed token and how long it is good, in whole seconds.
#[derive(Clone, Debug)]
pub struct AccessToken {
    pub token: String,
    pub expires_in: Duration,
}

/// The token could not be signed; the cryptographic library had no randomness to give.
#[derive(Debug, thiserror::Error)]
#[error("the access token cannot be signed: {0}")]
pub struct MintError(#[from] PrivateKeyError);

/// Signs access tokens with the key whose turn it is.
///
/// RFC 9068 section 2.2 also requires `client_id`. It is left out: people log in to the gateway itself, there
/// is no registered OAuth client it could name, and an invented value would be taken for one.
pub struct Mint {
    keys: SigningKeys,
    issuer: String,
    audience: String,
    ttl: Duration,
}

#[derive(Serialize)]
struct Payload<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    exp: i64,
    iat: i64,
    jti: Uuid4,
    sid: String,
    email: &'a str,
    roles: &'a [String],
    scope: String,
}

/// A random UUID in its text form.
struct Uuid4(Uuid);

impl Serialize for Uuid4 {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.hyphenated().encode_lower(&mut Uuid::encode_buffer()))
    }
}

impl Mint {
    pub fn new(keys: SigningKeys, tokens: &Tokens) -> Self {
        let (issuer, audience) = (tokens.issuer.clone(), tokens.audience.clone());
        Self { keys, issuer, audience, ttl: tokens.access_ttl }
    }

    /// The keys it signs with.
    pub fn keys(&self) -> &SigningKeys {
        &self.keys
    }

    /// See [`SigningKeys::jwks_json`].
    pub fn jwks_json(&self) -> String {
        self.keys.jwks_json()
    }

    /// See [`SigningKeys::reload_if_changed`].
    ///
    /// # Errors
    /// [`KeysError`].
    pub fn reload_if_changed(&self, now: Timestamp) -> Result<bool, KeysError> {
        self.keys.reload_if_changed(now)
    }

    /// A token for `subject`, issued at `now` and good for the configured `access_ttl`.
    ///
    /// # Errors
    /// [`MintError`].
    pub fn access_token(&self, subject: &AccessSubject, now: Timestamp) -> Result<AccessToken, MintError> {
        let expires_in = Duration::from_secs(self.ttl.as_secs());
        let payload = Payload {
            iss: &self.issuer,
            sub: subject.user,
            aud: &self.audience,
            exp: now.plus(expires_in).seconds(),
            iat: now.seconds(),
            jti: Uuid4(Uuid::new_v4()),
            sid: subject.session.hyphenated().to_string(),
            email: subject.email,
            roles: subject.roles,
            scope: subject.scopes.join(" "),
        };
        // A struct of strings and numbers always has a JSON form.
        let payload = serde_json::to_vec(&payload).unwrap_or_default();
        let token = self.keys.current().signer(now).sign(&payload)?;
        Ok(AccessToken { token, expires_in })
    }
}
