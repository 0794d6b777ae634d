//! Sessions begin here, and token responses are made here (RFC 6749 section 5.1).

use std::time::Duration;

use http::header::{self, HeaderValue};
use serde::Serialize;
use uuid::Uuid;

use super::{Endpoints, Request};
use crate::clock::Timestamp;
use crate::fault::Fault;
use crate::reply::Reply;
use crate::store::{Email, Family, FamilyState, LoginAttempt, SessionId, User};
use crate::tokens::AccessSubject;

/// The cookie by which a device is known that this account has logged in from (OWASP device cookies).
const DEVICE_COOKIE: &str = "portcullis_device";
const DEVICE_COOKIE_SECONDS: u64 = 365 * 24 * 3600;
/// Characters of User-Agent kept with a session.
const DEVICE_CHARS: usize = 200;

#[derive(Serialize)]
struct TokenResponse<'a> {
    access_token: String,
    token_type: &'static str,
    expires_in: u64,
    refresh_token: String,
    refresh_expires_in: u64,
    user: UserView<'a>,
}

/// A user as the API shows one.
#[derive(Serialize)]
pub struct UserView<'a> {
    pub id: &'a str,
    pub email: &'a str,
    pub name: Option<&'a str>,
    pub roles: &'a [String],
}

impl<'a> From<&'a User> for UserView<'a> {
    fn from(user: &'a User) -> Self {
        Self { id: &user.id, email: user.email.as_str(), name: user.name.as_deref(), roles: &user.roles }
    }
}

/// A session id of this moment: UUID version 7 (RFC 9562 section 5.7).
fn new_session_id(now: Timestamp) -> SessionId {
    let milliseconds = u64::try_from(now.0).unwrap_or(0);
    let at =
        uuid::Timestamp::from_unix_time(milliseconds / 1000, (milliseconds % 1000) as u32 * 1_000_000, 0, 0);
    Uuid::new_v7(at)
}

/// When the session `id` began.
pub fn began(id: SessionId) -> Timestamp {
    // The first 48 bits of a version 7 UUID.
    Timestamp(i64::try_from(id.as_u128() >> 80).unwrap_or(i64::MAX))
}

impl Endpoints {
    /// Opens a new session for `user` and answers with its first pair of tokens.
    pub(super) async fn begin_session(
        &self,
        user: &User,
        request: &Request<'_>,
        status: u16,
    ) -> Result<Reply, Fault> {
        self.secret_is_confirmed()?;
        let now = self.sessions.clock(request.now);
        let absolute_expiry = now.plus(self.refresh_ttl);
        let family = Family {
            id: new_session_id(now),
            user: user.id.clone(),
            generation: 1,
            began: now,
            rotated_at: now,
            idle_expiry: now.plus(self.refresh_policy.idle_ttl).min(absolute_expiry),
            absolute_expiry,
            state: FamilyState::Active,
            device: device(request),
            address: request.client.to_string(),
        };
        let id = family.id;
        self.sessions.open(family).await?;
        self.ensure_unchanged(user, id, now).await?;
        let reply = self.token_response(status, user, id, 1, request.now)?;
        Ok(reply.with(header::SET_COOKIE, self.device_cookie(user, request)?))
    }

    /// Hashing takes long enough for the account to be disabled, or its password changed, meanwhile. The cut
    /// that came with such a change lies before this session's beginning, so the session has to be ended here.
    async fn ensure_unchanged(&self, judged: &User, session: SessionId, now: Timestamp) -> Result<(), Fault> {
        let current = self.users.by_id(&judged.id).await?;
        // Not the hash: a parallel login may have upgraded it. Whatever changes the password sets a cut.
        if current.is_some_and(|u| !u.disabled && u.sessions_cut == judged.sessions_cut) {
            return Ok(());
        }
        self.sessions.end(&judged.id, session, self.refresh_policy, now).await?;
        Err(super::login::invalid_credentials("the account changed during login"))
    }

    /// Access token, refresh token of `generation`, and whom they are for.
    pub(super) fn token_response(
        &self,
        status: u16,
        user: &User,
        session: SessionId,
        generation: u64,
        now: Timestamp,
    ) -> Result<Reply, Fault> {
        let subject = AccessSubject {
            user: &user.id,
            email: user.email.as_str(),
            roles: &user.roles,
            scopes: &user.scopes,
            session,
        };
        let access = self.mint.access_token(&subject, now).map_err(|e| Fault::internal(e.to_string()))?;
        let until_absolute = began(session).plus(self.refresh_ttl).until(now);
        let response = TokenResponse {
            access_token: access.token,
            token_type: "Bearer",
            expires_in: access.expires_in.as_secs(),
            refresh_token: self.refresh_tokens.encode(&user.id, session, generation),
            refresh_expires_in: self.refresh_policy.idle_ttl.min(until_absolute).as_secs(),
            user: UserView::from(user),
        };
        Reply::json(status, &response)
    }

    fn device_cookie(&self, user: &User, request: &Request<'_>) -> Result<HeaderValue, Fault> {
        let account = user.email.as_str();
        let value = match self.device_cookie_of(account, request) {
            // The same device keeps its identity, and the cookie its full life.
            Some((cookie, _)) => cookie.to_owned(),
            None => self.device_cookies.encode(account, &Uuid::new_v4().simple().to_string()),
        };
        let secure = if request.https || self.issuer.starts_with("https://") { "; Secure" } else { "" };
        let cookie = format!(
            "{DEVICE_COOKIE}={value}; Path={}; Max-Age={DEVICE_COOKIE_SECONDS}; HttpOnly; SameSite=Strict{secure}",
            self.config.prefix,
        );
        HeaderValue::from_str(&cookie).map_err(|e| Fault::internal(e.to_string()))
    }

    /// The cookie of `request` that proves that its device is one of `account`'s, and the device's identity.
    fn device_cookie_of<'r>(&self, account: &str, request: &Request<'r>) -> Option<(&'r str, String)> {
        let cookies = request.headers.get_all(header::COOKIE).iter().filter_map(|v| v.to_str().ok());
        let pairs = cookies.flat_map(|v| v.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs
            .filter(|(name, _)| *name == DEVICE_COOKIE)
            .find_map(|(_, value)| Some((value, self.device_cookies.verify(account, value)?)))
    }

    pub(super) fn login_attempt(&self, email: &Email, request: &Request<'_>) -> LoginAttempt {
        LoginAttempt {
            account: email.as_str().to_owned(),
            address: crate::limits::client_key(request.client).to_string(),
            known_device: self.device_cookie_of(email.as_str(), request).map(|(_, device)| device),
        }
    }
}

fn device(request: &Request<'_>) -> String {
    let agent = request.headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    agent.chars().take(DEVICE_CHARS).collect()
}

/// Retry-After for a full hashing queue.
pub fn busy(retry_after: Duration) -> Fault {
    Fault::unavailable("busy", "the password hashing queue is full").retry_after(retry_after)
}
