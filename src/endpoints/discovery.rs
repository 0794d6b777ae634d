//! The public keys (RFC 7517) and the OpenAPI document.

use bytes::Bytes;
use http::header::{self, HeaderValue};

use super::Endpoints;
use crate::reply::Reply;

/// How long others may keep the key set. A new key is published for longer than this before it signs
/// (`PUBLISH_AHEAD`), and an old one verifies far longer.
const CACHE_JWKS: HeaderValue = HeaderValue::from_static("public, max-age=300");
const CACHE_OPENAPI: HeaderValue = HeaderValue::from_static("public, max-age=3600");

const OPENAPI: &str = include_str!("openapi.json");

impl Endpoints {
    pub(super) fn jwks(&self) -> Reply {
        let keys = Bytes::from(self.mint.jwks_json());
        Reply::of(200, HeaderValue::from_static("application/jwk-set+json"), keys)
            .with(header::CACHE_CONTROL, CACHE_JWKS)
    }

    pub(super) fn openapi(&self) -> Reply {
        let document = openapi(&self.issuer, &self.config.prefix);
        Reply::of(200, HeaderValue::from_static("application/json"), document.into())
            .with(header::CACHE_CONTROL, CACHE_OPENAPI)
    }
}

/// The document for a gateway at `issuer` with its endpoints under `prefix`.
pub fn openapi(issuer: &str, prefix: &str) -> String {
    let quoted = serde_json::Value::from(issuer).to_string();
    OPENAPI.replace("\"{issuer}\"", &quoted).replace("/auth/", &format!("{prefix}/"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::CACHE_JWKS;
    use crate::tokens::PUBLISH_AHEAD;

    /// A copy fetched just before a rotation, and kept by a library that then waits 30 s before it fetches again.
    #[test]
    fn every_copy_of_the_key_set_is_renewed_before_a_new_key_signs() {
        let max_age: u64 = CACHE_JWKS.to_str().unwrap().split_once("max-age=").unwrap().1.parse().unwrap();
        assert!(Duration::from_secs(max_age + 30) < PUBLISH_AHEAD);
    }
}
