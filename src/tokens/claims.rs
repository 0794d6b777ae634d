//! The claims of a verified token, each of the right type (RFC 7519 section 4.1, RFC 9068 section 2.2).
//!
//! Reading is strict: a claim of the wrong type refuses the token instead of counting as absent, which is how
//! an `exp` of `"never"` has passed elsewhere.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::keys::Fingerprint;
use super::rejection::Rejection;
use crate::claim_path::{ClaimPath, ClaimPathError};
use crate::clock::Timestamp;
use crate::store::SessionId;

/// The largest integer every JSON parser keeps exact (RFC 8259 section 6), as the end of time.
const MAX_NUMERIC_DATE: f64 = 9_007_199_254_740_992.0;

/// What a believed token says.
#[derive(Clone, Debug)]
pub struct Claims {
    pub issuer: String,
    /// Unique within the issuer: a user is (issuer, subject), never an e-mail address.
    pub subject: String,
    /// Our own tokens only.
    pub session: Option<SessionId>,
    /// When the session began: the time in its UUID version 7; for a foreign token `iat`, or 1970 without one.
    pub began: Timestamp,
    pub issued_at: Option<Timestamp>,
    pub not_before: Option<Timestamp>,
    pub expires_at: Timestamp,
    pub audience: Vec<String>,
    pub email: Option<String>,
    pub roles: Vec<String>,
    pub scopes: Vec<String>,
    /// The whole payload; claims that the configuration maps stand under our names too.
    pub all: Map<String, Value>,
    /// Whether we minted the token.
    pub own: bool,
    pub(super) provenance: Provenance,
}

/// Which key vouched for the claims, so that its removal can be noticed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Provenance {
    /// Index of a foreign issuer; of no meaning for our own tokens.
    pub issuer: usize,
    pub epoch: u64,
    pub key: Fingerprint,
}

/// What an issuer's tokens must look like.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    pub issuer: String,
    /// One of these must be in `aud`.
    pub audience: Vec<String>,
    pub own: bool,
    pub paths: Paths,
}

/// Where a foreign issuer puts the claims we name.
#[derive(Clone, Debug, Default)]
pub(super) struct Paths(Vec<(String, ClaimPath)>);

impl Paths {
    /// From the configuration's mapping of `sub`, `email`, `roles`, `scope` to dotted paths.
    pub fn new(mapping: &BTreeMap<String, String>) -> Result<Self, ClaimPathError> {
        let parse = |(name, path): (&String, &String)| Ok((name.clone(), ClaimPath::parse(path)?));
        mapping.iter().map(parse).collect::<Result<_, _>>().map(Self)
    }

    /// Puts the mapped values under our names. A name that is mapped means its path and nothing else: what the
    /// issuer itself put under that name goes, even when the path leads nowhere.
    fn apply(&self, all: &mut Map<String, Value>) {
        let found: Vec<_> = self.0.iter().map(|(name, path)| (name, path.find(all).cloned())).collect();
        for (name, value) in found {
            match value {
                Some(value) => all.insert(name.clone(), value),
                None => all.remove(name),
            };
        }
    }
}

impl Claims {
    /// Reads a payload whose signature was good.
    ///
    /// # Errors
    /// [`Rejection::TokenType`], `Claim`, `UnknownIssuer` or `Audience`; times are judged by [`Self::check_times`].
    pub(super) fn read(
        typ: Option<&str>,
        mut all: Map<String, Value>,
        terms: &Terms,
        provenance: Provenance,
    ) -> Result<Self, Rejection> {
        check_type(typ, &all, terms.own)?;
        if all.get("iss").and_then(Value::as_str) != Some(terms.issuer.as_str()) {
            return Err(Rejection::UnknownIssuer);
        }
        let audience = strings(all.get("aud"), "aud")?.ok_or(Rejection::Claim("aud"))?;
        if !audience.iter().any(|name| terms.audience.contains(name)) {
            return Err(Rejection::Audience);
        }
        let expires_at = numeric_date(all.get("exp"), "exp")?.ok_or(Rejection::Claim("exp"))?;
        let not_before = numeric_date(all.get("nbf"), "nbf")?;
        let issued_at = numeric_date(all.get("iat"), "iat")?;
        terms.paths.apply(&mut all);
        let subject = string(all.get("sub"), "sub")?.ok_or(Rejection::Claim("sub"))?;
        if subject.is_empty() || subject.chars().any(char::is_control) {
            return Err(Rejection::Claim("sub"));
        }
        let email = string(all.get("email"), "email")?;
        if terms.own && !all.get("roles").is_some_and(Value::is_array) {
            return Err(Rejection::Claim("roles"));
        }
        let roles = roles(&mut all)?;
        let scopes = scopes(&all)?;
        let session = if terms.own { Some(session(&all)?) } else { None };
        if terms.own {
            // We wrote these; a token of ours without them is not one (RFC 9068 section 2.2).
            issued_at.ok_or(Rejection::Claim("iat"))?;
            email.as_ref().ok_or(Rejection::Claim("email"))?;
        }
        Ok(Self {
            issuer: terms.issuer.clone(),
            subject,
            session,
            began: session.and_then(began).or(issued_at).unwrap_or_default(),
            issued_at,
            not_before,
            expires_at,
            audience,
            email,
            roles: roles.unwrap_or_default(),
            scopes,
            all,
            own: terms.own,
            provenance,
        })
    }

    /// Claims as our own token for `subject` would have them, verified by nobody: for explaining what a route
    /// would answer.
    pub fn assumed(issuer: &str, subject: &str, roles: Vec<String>, now: Timestamp) -> Self {
        let mut all = Map::new();
        all.insert("iss".into(), issuer.into());
        all.insert("sub".into(), subject.into());
        all.insert("roles".into(), roles.clone().into());
        Self {
            issuer: issuer.to_owned(),
            subject: subject.to_owned(),
            session: None,
            began: now,
            issued_at: Some(now),
            not_before: None,
            expires_at: now,
            audience: Vec::new(),
            email: None,
            roles,
            scopes: Vec::new(),
            all,
            own: true,
            provenance: Provenance { issuer: 0, epoch: 0, key: Fingerprint::NONE },
        }
    }

    /// The claim that `path` leads to (see [`ClaimPath`]), by our names where the configuration maps them.
    pub fn lookup(&self, path: &str) -> Option<&Value> {
        ClaimPath::parse(path).ok()?.find(&self.all)
    }

    /// Judges `exp`, `nbf` and `iat` with `leeway` for clocks that differ.
    ///
    /// # Errors
    /// [`Rejection::Expired`], `NotYetValid` or `IssuedInFuture`.
    pub(super) fn check_times(&self, now: Timestamp, leeway: std::time::Duration) -> Result<(), Rejection> {
        if now >= self.expires_at.plus(leeway) {
            return Err(Rejection::Expired);
        }
        let latest = now.plus(leeway);
        if self.not_before.is_some_and(|start| start > latest) {
            return Err(Rejection::NotYetValid);
        }
        if self.issued_at.is_some_and(|issued| issued > latest) {
            return Err(Rejection::IssuedInFuture);
        }
        Ok(())
    }

    /// Memory these claims hold, in bytes, roughly: for the weight of a cache entry.
    pub fn weight(&self) -> usize {
        let list = |texts: &[String]| texts.iter().map(|text| text.len() + 24).sum::<usize>();
        let texts = [&self.issuer, &self.subject].into_iter().chain(&self.email);
        size_of::<Self>()
            + texts.map(String::len).sum::<usize>()
            + list(&self.audience)
            + list(&self.roles)
            + list(&self.scopes)
            + self.all.iter().map(|(name, value)| member_weight(name, value)).sum::<usize>()
    }
}

/// A member of a map: name, value and their share of a tree node.
fn member_weight(name: &str, value: &Value) -> usize {
    name.len() + 80 + value_weight(value)
}

fn value_weight(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(|item| 32 + value_weight(item)).sum(),
        Value::Object(members) => members.iter().map(|(name, value)| member_weight(name, value)).sum(),
    }
}

/// Our own tokens say `at+jwt` (RFC 9068 section 4). Foreign ones say that, or `JWT`, or nothing; beyond that
/// the marks of ID, refresh and logout tokens are looked for, since issuers sign those with the same keys.
fn check_type(typ: Option<&str>, all: &Map<String, Value>, own: bool) -> Result<(), Rejection> {
    // RFC 7515 section 4.1.9: "application/" may be left out; media types are compared without case.
    let typ = typ.map(str::to_ascii_lowercase);
    let typ = typ.as_deref().map(|typ| typ.strip_prefix("application/").unwrap_or(typ));
    match typ {
        Some("at+jwt") => return Ok(()),
        Some("jwt") | None if !own => {}
        _ => return Err(Rejection::TokenType),
    }
    // OpenID Connect Core section 3.3.2.11, Back-Channel Logout section 2.4.
    if ["at_hash", "c_hash", "s_hash", "events"].iter().any(|name| all.contains_key(*name)) {
        return Err(Rejection::TokenType);
    }
    // Cognito and Keycloak say in the payload what a token is for.
    let is = |name: &str, allowed: &str| {
        all.get(name)
            .is_none_or(|value| value.as_str().is_some_and(|text| text.eq_ignore_ascii_case(allowed)))
    };
    if !is("token_use", "access") || !is("typ", "bearer") {
        return Err(Rejection::TokenType);
    }
    Ok(())
}

fn string(value: Option<&Value>, name: &'static str) -> Result<Option<String>, Rejection> {
    match value {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(Rejection::Claim(name)),
    }
}

/// A string, or an array of nothing but strings.
fn strings(value: Option<&Value>, name: &'static str) -> Result<Option<Vec<String>>, Rejection> {
    match value {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(vec![text.clone()])),
        Some(Value::Array(items)) => {
            let texts = items.iter().map(|item| item.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>();
            texts.map(Some).ok_or(Rejection::Claim(name))
        }
        Some(_) => Err(Rejection::Claim(name)),
    }
}

/// An array of role names, or text with spaces between them. Whichever it was, the payload holds the array from
/// here on: a name with a comma in it must not look like two to whoever renders the claim.
fn roles(all: &mut Map<String, Value>) -> Result<Option<Vec<String>>, Rejection> {
    let roles: Vec<String> = match all.get("roles") {
        None => return Ok(None),
        Some(Value::String(text)) => text.split_whitespace().map(str::to_owned).collect(),
        some => strings(some, "roles")?.unwrap_or_default(),
    };
    all.insert("roles".into(), roles.clone().into());
    Ok(Some(roles))
}

/// `scope` (RFC 8693 section 4.2: separated by spaces), or `scp` as some issuers call it, usually an array.
fn scopes(all: &Map<String, Value>) -> Result<Vec<String>, Rejection> {
    let texts = strings(all.get("scope").or_else(|| all.get("scp")), "scope")?.unwrap_or_default();
    Ok(texts.iter().flat_map(|text| text.split(' ')).filter(|s| !s.is_empty()).map(str::to_owned).collect())
}

fn session(all: &Map<String, Value>) -> Result<SessionId, Rejection> {
    let text = all.get("sid").and_then(Value::as_str).ok_or(Rejection::Claim("sid"))?;
    SessionId::try_parse(text).map_err(|_| Rejection::Claim("sid"))
}

/// The first 48 bits of a UUID version 7: milliseconds since 1970 (RFC 9562 section 5.7).
fn began(session: SessionId) -> Option<Timestamp> {
    let (seconds, nanos) = (session.get_version_num() == 7).then(|| session.get_timestamp())??.to_unix();
    let millis = seconds.checked_mul(1000)?.checked_add(u64::from(nanos / 1_000_000))?;
    i64::try_from(millis).ok().map(Timestamp)
}

/// Seconds since 1970, a fraction allowed (RFC 7519 section 2), to milliseconds rounded down.
fn numeric_date(value: Option<&Value>, name: &'static str) -> Result<Option<Timestamp>, Rejection> {
    let Some(value) = value else { return Ok(None) };
    let seconds = value.as_f64().ok_or(Rejection::Claim(name))?;
    if !seconds.is_finite() || seconds.is_sign_negative() || seconds >= MAX_NUMERIC_DATE {
        return Err(Rejection::Claim(name));
    }
    // Below 2^53 seconds the product is below 2^63.
    #[allow(clippy::cast_possible_truncation)]
    let millis = (seconds * 1000.0).floor() as i64;
    Ok(Some(Timestamp(millis)))
}
