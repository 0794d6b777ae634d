//! Why a token is not believed.

/// One reason for each way a token can fail. The client learns only that the token is invalid; the reason
/// goes to logs, metrics and `token inspect`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rejection {
    /// Longer than [`super::jws::MAX_TOKEN_BYTES`].
    TooLong,
    /// Not three non-empty parts joined by dots (RFC 7515 section 7.1).
    NotCompact,
    /// A part is not canonical base64url without padding (RFC 7515 section 2).
    Encoding,
    /// The header is not one JSON object with distinct members of the right types.
    Header,
    /// `alg` is `none`, however it is spelt.
    Unsecured,
    /// `alg` is none of the algorithms we verify.
    UnsupportedAlgorithm,
    /// `crit` or `b64` is present; we understand no extension (RFC 7515 section 4.1.11, RFC 7797).
    Critical,
    /// No key of the issuer fits: an unknown `kid`, or none given and the choice is not unique.
    UnknownKey,
    /// The key exists, for another algorithm than the header's.
    AlgorithmMismatch,
    /// The signature does not match.
    Signature,
    /// `typ` says that this is something else than an access token.
    TokenType,
    /// The payload is not one JSON object with distinct members.
    Payload,
    /// The named claim is missing or has the wrong type or form.
    Claim(&'static str),
    /// `iss` is neither ours nor that of a configured issuer.
    UnknownIssuer,
    /// `aud` does not name us.
    Audience,
    /// `exp` has passed.
    Expired,
    /// `nbf` has not come.
    NotYetValid,
    /// `iat` lies in the future.
    IssuedInFuture,
    /// The session or the user's sessions were ended.
    Revoked,
    /// The key that signed it was removed since.
    KeyRemoved,
    /// The issuer's keys were never fetched, or too long ago to be relied on. Not the token's fault: 503, not 401.
    Unavailable,
    /// Nothing has been heard of revocations for too long to tell. Not the token's fault either.
    RevocationsUnknown,
}

impl Rejection {
    /// A stable word for logs, metrics and `token inspect`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::TooLong => "too_long",
            Self::NotCompact => "not_compact",
            Self::Encoding => "encoding",
            Self::Header => "header",
            Self::Unsecured => "alg_none",
            Self::UnsupportedAlgorithm => "unsupported_alg",
            Self::Critical => "crit",
            Self::UnknownKey => "unknown_key",
            Self::AlgorithmMismatch => "alg_mismatch",
            Self::Signature => "signature",
            Self::TokenType => "typ",
            Self::Payload => "payload",
            Self::Claim(_) => "claim",
            Self::UnknownIssuer => "unknown_issuer",
            Self::Audience => "audience",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::IssuedInFuture => "issued_in_future",
            Self::Revoked => "revoked",
            Self::KeyRemoved => "key_removed",
            Self::Unavailable => "keys_unavailable",
            Self::RevocationsUnknown => "revocations_unknown",
        }
    }
}

impl std::error::Error for Rejection {}

impl std::fmt::Display for Rejection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::TooLong => "the token is longer than 16 KiB",
            Self::NotCompact => "the token is not three base64url parts joined by dots",
            Self::Encoding => "a part of the token is not canonical base64url without padding",
            Self::Header => "the header is not a JSON object with distinct, rightly typed members",
            Self::Unsecured => "the token is unsecured (alg none)",
            Self::UnsupportedAlgorithm => "the algorithm is not supported",
            Self::Critical => "the header demands an extension (crit or b64)",
            Self::UnknownKey => "no key of the issuer fits the token",
            Self::AlgorithmMismatch => "the key is for another algorithm",
            Self::Signature => "the signature does not match",
            Self::TokenType => "the token is not an access token (typ)",
            Self::Payload => "the payload is not a JSON object with distinct members",
            Self::Claim(name) => return write!(f, "the claim {name} is missing or malformed"),
            Self::UnknownIssuer => "the issuer is not trusted",
            Self::Audience => "the token is meant for another audience",
            Self::Expired => "the token has expired",
            Self::NotYetValid => "the token is not valid yet",
            Self::IssuedInFuture => "the token was issued in the future",
            Self::Revoked => "the session was ended",
            Self::KeyRemoved => "the signing key was removed",
            Self::Unavailable => "the issuer's keys cannot be had at the moment",
            Self::RevocationsUnknown => "what was revoked lately is not known at the moment",
        })
    }
}
