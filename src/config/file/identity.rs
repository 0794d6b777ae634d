//! Keys about who somebody is: tokens, issuers, passwords, mail, endpoints, identity headers.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::{Later, Section, Written};

#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct Tokens {
    /// The `iss` of our tokens: the URL clients know the gateway by, or any text without spaces.
    pub issuer: Written<String>,
    /// The `aud` of our tokens.
    pub audience: Written<String>,
    /// What our tokens are signed with.
    #[schemars(extend("enum" = ["EdDSA", "ES256", "RS256", "HS256"]))]
    pub algorithm: Written<String>,
    /// Life of an access token, 10s to 24h.
    pub access_ttl: Written<String>,
    /// A session ends this long after its login, 1m to 3650d.
    pub refresh_ttl: Written<String>,
    /// A session ends when it was not refreshed for this long, 1m to `refresh_ttl`.
    pub refresh_idle_ttl: Written<String>,
    /// How long the last refresh token still yields its successor again (parallel tabs, lost replies), 0s to 60s.
    pub refresh_grace: Written<String>,
    /// How far clocks may differ when `exp`, `nbf` and `iat` are judged, our own tokens' included, 0s to 60s.
    pub leeway: Written<String>,
    /// Memory for tokens already verified, up to 64GiB; 0B for none.
    pub cache_size: Written<String>,
}

impl Default for Tokens {
    fn default() -> Self {
        Self {
            issuer: "http://localhost:8080".into(),
            audience: "portcullis".into(),
            algorithm: "ES256".into(),
            access_ttl: "1h".into(),
            refresh_ttl: "365d".into(),
            refresh_idle_ttl: "90d".into(),
            refresh_grace: "10s".into(),
            leeway: "30s".into(),
            cache_size: "32MiB".into(),
        }
    }
}

#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct Issuer {
    /// The exact `iss` of its tokens. Required.
    pub issuer: Option<Written<String>>,
    /// Its public keys: an https URL, or a file relative to the configuration file. Required.
    pub jwks: Option<Written<String>>,
    /// The `aud` a token must hold, or several of which it must hold one. Required.
    pub audience: Option<Written<OneOrMany>>,
    /// The algorithms its keys may be used with.
    #[schemars(extend("items" = {
        "type": "string", "enum": ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"]
    }))]
    pub algorithms: Written<Vec<Written<String>>>,
    /// Where its tokens hold what ours hold in `sub`, `email`, `roles` and `scope`.
    pub claims: Section<Claims>,
    /// How often its keys are fetched anew, 30s to 24h.
    pub refresh_interval: Written<String>,
    /// How long its last keys stay good when they can no longer be fetched, up to 30d.
    pub max_stale: Written<String>,
}

impl Default for Issuer {
    fn default() -> Self {
        Self {
            issuer: None,
            jwks: None,
            audience: None,
            algorithms: Written::from(vec!["RS256".into()]),
            claims: Section::default(),
            refresh_interval: "10m".into(),
            max_stale: "24h".into(),
        }
    }
}

/// Claim paths: names joined by dots, `realm_access.roles`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct Claims {
    /// The user's stable identifier; never an address that can change hands.
    pub sub: Written<String>,
    /// The user's e-mail address.
    pub email: Written<String>,
    /// The user's roles: an array, or text with spaces between.
    pub roles: Written<String>,
    /// The token's scopes: text with spaces between, or an array.
    pub scope: Written<String>,
}

impl Default for Claims {
    fn default() -> Self {
        Self { sub: "sub".into(), email: "email".into(), roles: "roles".into(), scope: "scope".into() }
    }
}

/// A string or several.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub(in crate::config) enum OneOrMany {
    One(String),
    Many(Vec<Written<String>>),
}

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct StringOrArray;
        impl<'de> Visitor<'de> for StringOrArray {
            type Value = OneOrMany;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of strings")
            }
            fn visit_str<E>(self, text: &str) -> Result<OneOrMany, E> {
                Ok(OneOrMany::One(text.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<OneOrMany, A::Error> {
                let mut many = Vec::new();
                while let Some(item) = items.next_element()? {
                    many.push(item);
                }
                Ok(OneOrMany::Many(many))
            }
        }
        deserializer.deserialize_any(StringOrArray)
    }
}

#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct Passwords {
    /// bcrypt cost, 4 to 16: one more doubles the time of a hash. Below 10 is for tests.
    #[schemars(range(min = 4, max = 16))]
    pub cost: Written<i64>,
    /// Shortest password that is taken, in Unicode characters, 1 to 128.
    #[schemars(range(min = 1, max = 128))]
    pub min_length: Written<i64>,
    /// Hashing threads, 0 to 256; 0 is one per core.
    #[schemars(range(min = 0, max = 256))]
    pub concurrency: Written<i64>,
    /// Passwords that may wait for a hashing thread, 0 to 100000; beyond: 503.
    #[schemars(range(min = 0, max = 100_000))]
    pub queue: Written<i64>,
}

impl Default for Passwords {
    fn default() -> Self {
        Self { cost: 12.into(), min_length: 8.into(), concurrency: 0.into(), queue: 64.into() }
    }
}

#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct Throttle {
    /// Consecutive failures of an account before delays begin, 1 to 100.
    #[schemars(range(min = 1, max = 100))]
    pub free_failures: Written<i64>,
    /// The first delay, 100ms to 1h; it doubles with every further failure.
    pub first_delay: Written<String>,
    /// The longest delay, `first_delay` to 24h.
    pub max_delay: Written<String>,
    /// Consecutive failures after which only a known device or an operator unlocks the account, `free_failures` to 100.
    #[schemars(range(min = 1, max = 100))]
    pub max_failures: Written<i64>,
    /// Failures of one client address, over all accounts, within `address_window`, 1 to 1000000.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub address_failures: Written<i64>,
    /// The time `address_failures` are counted over, 1s to 24h.
    pub address_window: Written<String>,
}

impl Default for Throttle {
    fn default() -> Self {
        Self {
            free_failures: 5.into(),
            first_delay: "1s".into(),
            max_delay: "15m".into(),
            max_failures: 100.into(),
            address_failures: 50.into(),
            address_window: "10m".into(),
        }
    }
}

#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct Mail {
    /// `log`: mail is written to the log, for development.
    #[schemars(extend("enum" = ["log"]))]
    pub transport: Written<String>,
    #[schemars(skip)]
    #[serde(skip_serializing)]
    pub from: Option<Later>,
    #[schemars(skip)]
    #[serde(skip_serializing)]
    pub api_key: Option<Later>,
    #[schemars(skip)]
    #[serde(skip_serializing)]
    pub url: Option<Later>,
}

impl Default for Mail {
    fn default() -> Self {
        Self { transport: "log".into(), from: None, api_key: None, url: None }
    }
}

#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct Endpoints {
    /// Where login, refresh and the others are found.
    pub prefix: Written<String>,
    /// Whether anybody may register himself.
    pub registration: Written<bool>,
    /// Roles of a user who registered himself.
    pub default_roles: Vec<Written<String>>,
}

impl Default for Endpoints {
    fn default() -> Self {
        Self { prefix: "/auth".into(), registration: true.into(), default_roles: Vec::new() }
    }
}

#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct Identity {
    /// Header name and the claim it carries, a dotted path. What a client sends under these names, in any
    /// case and with `_` or `.` for `-`, never reaches a backend. Writing this key replaces the whole default.
    pub headers: BTreeMap<Written<String>, Written<String>>,
}

impl Default for Identity {
    fn default() -> Self {
        let pairs = [
            ("X-User-Id", "sub"),
            ("X-User-Email", "email"),
            ("X-User-Roles", "roles"),
            ("X-Session-Id", "sid"),
        ];
        Self { headers: pairs.into_iter().map(|(name, claim)| (name.into(), claim.into())).collect() }
    }
}
