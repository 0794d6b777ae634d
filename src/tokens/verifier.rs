//! Believing a token, or not: the one place where signature, claims and revocations come together.
//!
//! [`Verifier::verify`] is the cold path, for a token seen for the first time. Its result may be cached;
//! [`Verifier::recheck`] is what a cached result must pass on every request, since time goes on, sessions
//! end and keys are removed (invariant 4).

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use super::claims::{Claims, Paths, Provenance, Terms};
use super::issuers::{ForeignIssuer, Issuers};
use super::json;
use super::jws::CompactJws;
use super::keys::{Key, KeySet};
use super::mint::Mint;
use super::rejection::Rejection;
use super::revocations::Revocations;
use crate::clock::Timestamp;
use crate::config::Tokens;

/// Clocks that differ by more than this are broken, not skewed.
const MAX_LEEWAY: Duration = Duration::from_secs(60);
/// Claims nest; nobody's nest deeper.
const PAYLOAD_DEPTH: usize = 16;

pub struct Verifier {
    own: Terms,
    mint: Arc<Mint>,
    foreign: Arc<Issuers>,
    revocations: Arc<Revocations>,
    leeway: Duration,
}

impl Verifier {
    /// Believes tokens of `mint` and of `foreign` issuers. `tokens.leeway` counts up to 60 seconds.
    pub fn new(
        tokens: &Tokens,
        mint: Arc<Mint>,
        foreign: Arc<Issuers>,
        revocations: Arc<Revocations>,
    ) -> Self {
        let own = Terms {
            issuer: tokens.issuer.clone(),
            audience: vec![tokens.audience.clone()],
            own: true,
            paths: Paths::default(),
        };
        Self { own, mint, foreign, revocations, leeway: tokens.leeway.min(MAX_LEEWAY) }
    }

    /// Believes `token`, or says why not.
    ///
    /// # Errors
    /// The first [`Rejection`] met; `Unavailable` when the issuer's keys cannot be had (503, not 401).
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<Claims, Rejection> {
        let unverified = Unverified::parse(token)?;
        match self.issuer(&unverified)? {
            None => self.verify_own(unverified, now),
            Some((index, issuer)) => self.verify_foreign(unverified, index, issuer, now),
        }
    }

    /// As [`Self::verify`], but a foreign token whose key is not known (yet) waits up to two seconds for a
    /// fetch of the issuer's keys, if one is allowed now. All such tokens share one fetch, and an issuer is
    /// asked at most once in 30 seconds on their account, whatever kids they invent.
    ///
    /// # Errors
    /// As [`Self::verify`].
    pub async fn verify_or_refetch(&self, token: &str, now: Timestamp) -> Result<Claims, Rejection> {
        let refused = match self.verify(token, now) {
            Err(refused @ (Rejection::UnknownKey | Rejection::Unavailable)) => refused,
            decided => return decided,
        };
        let Some((_, issuer)) = self.issuer(&Unverified::parse(token)?)? else { return Err(refused) };
        if !issuer.refetch(now).await {
            return Err(refused);
        }
        self.verify(token, now)
    }

    /// Whether what was believed before may be believed still. No allocation, no lock that a request waits for.
    ///
    /// # Errors
    /// [`Rejection::Expired`], `KeyRemoved`, `Revoked`, `RevocationsUnknown` or `Unavailable`.
    pub fn recheck(&self, claims: &Claims, now: Timestamp) -> Result<(), Rejection> {
        claims.check_times(now, self.leeway)?;
        if !claims.own {
            let issuer = self.foreign.get(claims.provenance.issuer).ok_or(Rejection::UnknownIssuer)?;
            return still_vouched(&*issuer.keys(now)?, claims.provenance);
        }
        still_vouched(&self.mint.keys().current().set, claims.provenance)?;
        self.check_revoked(claims, now)
    }

    /// The issuer the token names, by exact match; `None`: ourselves. Only its keys will be tried.
    fn issuer(&self, token: &Unverified) -> Result<Option<(usize, &Arc<ForeignIssuer>)>, Rejection> {
        let name = token.payload.get("iss").and_then(Value::as_str).ok_or(Rejection::Claim("iss"))?;
        if name == self.own.issuer {
            return Ok(None);
        }
        self.foreign.by_name(name).map(Some).ok_or(Rejection::UnknownIssuer)
    }

    fn verify_own(&self, token: Unverified, now: Timestamp) -> Result<Claims, Rejection> {
        let mut ring = self.mint.keys().current();
        let mut key = usable(&token.jws, &ring.set, now);
        if key == Err(Rejection::UnknownKey) {
            // A sibling process may have rotated the keys a moment ago.
            // One that cannot be read is reported by the background task, which asks every second: here,
            // anybody could fill the log.
            if let Ok(true) = self.mint.reload_if_changed(now) {
                ring = self.mint.keys().current();
                key = usable(&token.jws, &ring.set, now);
            }
        }
        let provenance = Provenance { issuer: 0, epoch: ring.set.epoch(), key: key?.fingerprint() };
        let claims = Claims::read(token.jws.header.typ.as_deref(), token.payload, &self.own, provenance)?;
        claims.check_times(now, self.leeway)?;
        self.check_revoked(&claims, now)?;
        Ok(claims)
    }

    fn verify_foreign(
        &self,
        token: Unverified,
        index: usize,
        issuer: &ForeignIssuer,
        now: Timestamp,
    ) -> Result<Claims, Rejection> {
        let keys = issuer.keys(now)?;
        let key = usable(&token.jws, &keys, now)?;
        let provenance = Provenance { issuer: index, epoch: keys.epoch(), key: key.fingerprint() };
        let claims =
            Claims::read(token.jws.header.typ.as_deref(), token.payload, issuer.terms(), provenance)?;
        claims.check_times(now, self.leeway)?;
        Ok(claims)
    }

    fn check_revoked(&self, claims: &Claims, now: Timestamp) -> Result<(), Rejection> {
        if self.revocations.is_revoked(claims.session, claims.began, &claims.subject) {
            return Err(Rejection::Revoked);
        }
        if self.revocations.is_deaf(now) {
            return Err(Rejection::RevocationsUnknown);
        }
        Ok(())
    }
}

/// A well-formed token and its payload, before any signature was looked at.
struct Unverified<'t> {
    jws: CompactJws<'t>,
    payload: Map<String, Value>,
}

impl<'t> Unverified<'t> {
    fn parse(token: &'t str) -> Result<Self, Rejection> {
        let jws = CompactJws::parse(token)?;
        let payload = json::object(&jws.payload, PAYLOAD_DEPTH).map_err(|_| Rejection::Payload)?;
        Ok(Self { jws, payload })
    }
}

/// The key that signed, if its time is not over.
fn usable<'k>(jws: &CompactJws, keys: &'k KeySet, now: Timestamp) -> Result<&'k Key, Rejection> {
    let key = jws.signing_key(keys)?;
    if key.not_after().is_some_and(|end| end <= now) {
        return Err(Rejection::UnknownKey);
    }
    Ok(key)
}

fn still_vouched(keys: &KeySet, provenance: Provenance) -> Result<(), Rejection> {
    if keys.epoch() == provenance.epoch || keys.contains(provenance.key) {
        return Ok(());
    }
    Err(Rejection::KeyRemoved)
}

#[cfg(test)]
#[path = "verifier_tests.rs"]
mod tests;
