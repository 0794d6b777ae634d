//! A verified caller.

use http::header::{HeaderName, HeaderValue};

use crate::tokens::Claims;

/// Proof that an access token was verified: its claims, and the identity headers they amount to.
#[derive(Debug)]
pub struct Identity {
    pub claims: Claims,
    /// Rendered once a token, not once a request; only claims that are present.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

impl Identity {
    /// Bytes this identity holds in memory, roughly; the cache is bounded by their sum.
    pub fn weight(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(n, v)| n.as_str().len() + v.len() + 64).sum();
        self.claims.weight() + headers + size_of::<Self>()
    }
}
