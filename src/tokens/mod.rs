//! Access tokens (JWT) and refresh tokens: made, verified, revoked. Knows no HTTP.
