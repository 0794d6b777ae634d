//! The endpoints the gateway answers itself: accounts, sessions, keys, and the document that describes them.
//!
//! JSON in, JSON out; failures are problem+json with a stable code. Nothing here knows pingora: an endpoint
//! takes a [`Request`] whose body has been read and gives a [`Reply`] or a [`Fault`].

mod discovery;
mod json;
mod login;
mod logout;
mod me;
mod password;
mod refresh;
mod register;
mod session;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;

use crate::auth::{Authenticator, Identity};
use crate::clock::Timestamp;
use crate::config::{self, AuthMode};
use crate::fault::Fault;
use crate::metrics::Metrics;
use crate::passwords::Hasher;
use crate::reply::Reply;
use crate::route::CleanPath;
use crate::store::{LoginThrottle, RefreshPolicy, Sessions, ThrottlePolicy, Users};
use crate::tokens::{DeviceCookies, Mint, RefreshTokens, Revocations};

/// Every endpoint, in the order of the OpenAPI document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Register,
    Login,
    Refresh,
    Logout,
    LogoutAll,
    Me,
    Sessions,
    EndSession,
    Password,
    Jwks,
    OpenApi,
}

/// A request as an endpoint sees it.
pub struct Request<'a> {
    pub headers: &'a HeaderMap,
    pub path: &'a CleanPath,
    pub body: Bytes,
    pub client: IpAddr,
    pub https: bool,
    pub identity: Option<&'a Arc<Identity>>,
    pub now: Timestamp,
}

/// What the endpoints work with.
pub struct Endpoints {
    pub config: config::Endpoints,
    pub issuer: String,
    pub users: Arc<dyn Users>,
    pub sessions: Arc<dyn Sessions>,
    pub throttle: Arc<dyn LoginThrottle>,
    pub throttle_policy: ThrottlePolicy,
    pub hasher: Arc<Hasher>,
    pub min_password_length: usize,
    pub mint: Arc<Mint>,
    pub refresh_tokens: Arc<RefreshTokens>,
    pub device_cookies: DeviceCookies,
    pub revocations: Arc<Revocations>,
    pub authenticator: Arc<Authenticator>,
    pub refresh_policy: RefreshPolicy,
    pub refresh_ttl: Duration,
    pub metrics: Arc<Metrics>,
}

impl Endpoint {
    pub const ALL: [Self; 11] = [
        Self::Register,
        Self::Login,
        Self::Refresh,
        Self::Logout,
        Self::LogoutAll,
        Self::Me,
        Self::Sessions,
        Self::EndSession,
        Self::Password,
        Self::Jwks,
        Self::OpenApi,
    ];

    /// Method and path pattern; `prefix` has no final slash.
    pub fn address(self, prefix: &str) -> (&'static str, String) {
        let (method, path) = match self {
            Self::Register => ("POST", "/register"),
            Self::Login => ("POST", "/login"),
            Self::Refresh => ("POST", "/refresh"),
            Self::Logout => ("POST", "/logout"),
            Self::LogoutAll => ("POST", "/logout-all"),
            Self::Me => ("GET", "/me"),
            Self::Sessions => ("GET", "/sessions"),
            Self::EndSession => ("DELETE", "/sessions/{id}"),
            Self::Password => ("PUT", "/password"),
            Self::Jwks => return ("GET", "/.well-known/jwks.json".into()),
            Self::OpenApi => ("GET", "/openapi.json"),
        };
        (method, format!("{prefix}{path}"))
    }

    /// Logout judges its tokens itself: it must work with an expired access token and a good refresh token.
    pub fn auth(self) -> AuthMode {
        match self {
            Self::LogoutAll | Self::Me | Self::Sessions | Self::EndSession | Self::Password => {
                AuthMode::Required
            }
            Self::Register | Self::Login | Self::Refresh | Self::Logout | Self::Jwks | Self::OpenApi => {
                AuthMode::None
            }
        }
    }

    pub fn takes_body(self) -> bool {
        matches!(self, Self::Register | Self::Login | Self::Refresh | Self::Logout | Self::Password)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::Login => "login",
            Self::Refresh => "refresh",
            Self::Logout => "logout",
            Self::LogoutAll => "logout-all",
            Self::Me => "me",
            Self::Sessions => "sessions",
            Self::EndSession => "end-session",
            Self::Password => "password",
            Self::Jwks => "jwks",
            Self::OpenApi => "openapi",
        }
    }
}

impl Endpoints {
    /// Answers `request` at `endpoint`.
    pub async fn serve(&self, endpoint: Endpoint, request: Request<'_>) -> Result<Reply, Fault> {
        match endpoint {
            Endpoint::Register => self.register(request).await,
            Endpoint::Login => self.login(request).await,
            Endpoint::Refresh => self.refresh(request).await,
            Endpoint::Logout => self.logout(request).await,
            Endpoint::LogoutAll => self.logout_all(request).await,
            Endpoint::Me => self.me(request).await,
            Endpoint::Sessions => self.list_sessions(request).await,
            Endpoint::EndSession => self.end_session(request).await,
            Endpoint::Password => self.change_password(request).await,
            Endpoint::Jwks => Ok(self.jwks()),
            Endpoint::OpenApi => Ok(self.openapi()),
        }
    }
}
