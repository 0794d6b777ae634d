//! The public keys (RFC 7517) and the OpenAPI document.

use bytes::Bytes;
use http::header::{self, HeaderValue};

use super::Endpoints;
use crate::reply::Reply;

/// How long others may keep the key set. A rotated key stays valid far longer than this.
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
