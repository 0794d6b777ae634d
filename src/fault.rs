//! Every way a request can fail, and the one place where a failure becomes a response.
//!
//! A [`Fault`] keeps what the client may know (status, stable `code`, `detail`) apart from what only the
//! log may know (`cause`). Nothing secret goes into either: causes name the dependency and the reason, never
//! a token, a password or a key.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

/// What the client is told about authentication (RFC 6750 section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// No token was sent: no error code may be given.
    Missing,
    /// A token was sent and refused.
    InvalidToken,
    /// The token is good, its rights are not enough.
    InsufficientScope,
    /// The request carries its token in a way RFC 6750 forbids.
    InvalidRequest,
}

impl Challenge {
    pub fn header(self) -> &'static str {
        match self {
            Self::Missing => "Bearer",
            Self::InvalidToken => "Bearer error=\"invalid_token\"",
            Self::InsufficientScope => "Bearer error=\"insufficient_scope\"",
            Self::InvalidRequest => "Bearer error=\"invalid_request\"",
        }
    }
}

/// A failed request: what the client is told and what the log is told.
#[derive(Clone, Debug)]
pub struct Fault {
    pub status: u16,
    /// Stable, machine-readable; part of the interface.
    pub code: &'static str,
    pub detail: Cow<'static, str>,
    pub challenge: Option<Challenge>,
    /// Whole seconds, at least 1.
    pub retry_after: Option<u64>,
    /// For 405 (RFC 9110 section 10.2.1).
    pub allow: Option<String>,
    /// What few failures have. Boxed: every `Result` has room for a fault.
    pub more: Option<Box<More>>,
    /// The connection cannot be used for another request.
    pub close: bool,
    /// For the log only.
    pub cause: Option<String>,
}

/// Details of some failures.
#[derive(Clone, Debug, Default)]
pub struct More {
    /// For 416 (RFC 9110 section 15.5.17).
    pub content_range: Option<String>,
    /// Further members of the problem: limits, and what there is.
    pub numbers: Vec<(&'static str, u64)>,
}

/// RFC 9457 problem details. `type` is absent, which means `about:blank`.
#[derive(Serialize)]
struct Problem<'a> {
    title: &'a str,
    status: u16,
    code: &'a str,
    detail: &'a str,
    request_id: &'a str,
    #[serde(flatten)]
    numbers: BTreeMap<&'static str, u64>,
}

impl Fault {
    pub fn new(status: u16, code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            code,
            detail: detail.into(),
            challenge: None,
            retry_after: None,
            allow: None,
            more: None,
            close: false,
            cause: None,
        }
    }

    pub fn bad_request(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(400, code, detail)
    }

    /// The body is readable and its content is not acceptable.
    pub fn invalid_field(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(400, "invalid_request", detail)
    }

    pub fn unauthenticated(challenge: Challenge, cause: impl Into<String>) -> Self {
        let (code, detail) = match challenge {
            Challenge::Missing => ("authentication_required", "This resource needs a bearer access token."),
            _ => ("invalid_token", "The access token is not valid (any more). Refresh it or log in again."),
        };
        Self { challenge: Some(challenge), cause: Some(cause.into()), ..Self::new(401, code, detail) }
    }

    pub fn forbidden(cause: impl Into<String>) -> Self {
        Self {
            challenge: Some(Challenge::InsufficientScope),
            cause: Some(cause.into()),
            ..Self::new(403, "forbidden", "You are logged in, but not permitted to do this.")
        }
    }

    /// The same for every cause: whoever tries links learns nothing.
    pub fn invalid_share_link(cause: &str) -> Self {
        let detail = "The link is not valid (any more). Ask whoever sent it for another.";
        Self::new(403, "invalid_share_link", detail).caused_by(cause)
    }

    pub fn not_found() -> Self {
        Self::new(404, "not_found", "Nothing is served at this address.")
    }

    pub fn method_not_allowed(allow: String) -> Self {
        Self {
            allow: Some(allow),
            ..Self::new(405, "method_not_allowed", "This address does not support the request's method.")
        }
    }

    pub fn body_too_large(limit: u64) -> Self {
        Self {
            close: true,
            ..Self::new(413, "body_too_large", format!("The request body is larger than {limit} bytes."))
        }
    }

    pub fn body_timeout() -> Self {
        Self { close: true, ..Self::new(408, "request_timeout", "The request body did not arrive in time.") }
    }

    pub fn too_many_requests(code: &'static str, retry_after: Duration) -> Self {
        Self::new(429, code, "Too many requests; wait before you try again.").retry_after(retry_after)
    }

    /// A dependency is down or in doubt. `cause` is logged.
    pub fn unavailable(code: &'static str, cause: impl Into<String>) -> Self {
        let detail = "A service this request needs is not available at the moment.";
        Self { cause: Some(cause.into()), ..Self::new(503, code, detail) }.retry_after(Duration::from_secs(1))
    }

    /// Nobody is left to answer; the log says so (499, as nginx does).
    pub fn client_closed() -> Self {
        Self::new(499, "client_closed", "The client closed the connection.").closing()
    }

    pub fn internal(cause: impl Into<String>) -> Self {
        Self {
            cause: Some(cause.into()),
            ..Self::new(500, "internal_error", "The gateway failed to handle this request.")
        }
    }

    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        self.retry_after = Some(seconds.max(1));
        self
    }

    /// With limits and counts as members of the problem.
    #[must_use]
    pub fn numbers(mut self, numbers: Vec<(&'static str, u64)>) -> Self {
        self.more.get_or_insert_default().numbers = numbers;
        self
    }

    /// With a `Content-Range`.
    #[must_use]
    pub fn content_range(mut self, range: Option<String>) -> Self {
        self.more.get_or_insert_default().content_range = range;
        self
    }

    #[must_use]
    pub fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    #[must_use]
    pub fn caused_by(mut self, cause: impl Into<String>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// The reason phrase's words (RFC 9110 section 15), as the problem's `title`.
    pub fn title(&self) -> &'static str {
        http::StatusCode::from_u16(self.status).ok().and_then(|s| s.canonical_reason()).unwrap_or("Error")
    }

    /// The body, `application/problem+json`.
    pub fn to_json(&self, request_id: &str) -> Vec<u8> {
        let problem = Problem {
            title: self.title(),
            status: self.status,
            code: self.code,
            detail: &self.detail,
            request_id,
            numbers: self.more.iter().flat_map(|more| &more.numbers).copied().collect(),
        };
        serde_json::to_vec(&problem).unwrap_or_default()
    }
}

impl From<crate::chunked::Malformed> for Fault {
    fn from(why: crate::chunked::Malformed) -> Self {
        Self::bad_request("malformed_body", why.0).closing()
    }
}

impl From<crate::store::Unavailable> for Fault {
    fn from(e: crate::store::Unavailable) -> Self {
        Self::unavailable("store_unavailable", e.to_string())
    }
}
