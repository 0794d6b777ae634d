//! PUT /password.

use serde::Deserialize;

use super::logout::caller;
use super::register::check_new;
use super::session::busy;
use super::{Endpoints, Request, json, login};
use crate::clock::Timestamp;
use crate::fault::{Challenge, Fault};
use crate::passwords::Verdict;
use crate::reply::Reply;
use crate::store::{Admission, LoginAttempt, SessionsCut, UserChange};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    current: String,
    new: String,
}

impl Endpoints {
    /// 204; the caller's other sessions end. 403 `invalid_credentials` when `current` is wrong: not 401, the
    /// access token is in order.
    pub(super) async fn change_password(&self, request: Request<'_>) -> Result<Reply, Fault> {
        let (id, session) = caller(&request)?;
        let Body { current, new } = json::body(&request)?;
        login::check_length(&current)?;
        login::check_length(&new)?;
        let gone = || Fault::unauthenticated(Challenge::InvalidToken, "the account is gone");
        let user = self.users.by_id(&id).await?.filter(|u| !u.disabled).ok_or_else(gone)?;
        check_new(&new, &user.email, self.min_password_length)?;

        // A stolen access token must not become a way to guess the password: the session counts as a device.
        let attempt = LoginAttempt {
            known_device: Some(format!("session:{session}")),
            ..self.login_attempt(&user.email, &request)
        };
        let admission = self.throttle.begin(&attempt, self.throttle_policy, request.now).await?;
        if let Admission::Blocked { retry_after } = admission {
            return Err(Fault::too_many_requests("too_many_attempts", retry_after));
        }
        let verdict = match self.hasher.verify(Some(&user.password_hash), current.as_bytes()).await {
            Ok(verdict) => verdict,
            Err(full) => {
                self.throttle.undecided(&attempt, request.now).await?;
                return Err(busy(full.retry_after));
            }
        };
        if matches!(verdict, Verdict::Wrong) {
            return Err(Fault::new(403, "invalid_credentials", "The current password is wrong."));
        }
        self.throttle.succeeded(&attempt, request.now).await?;

        let hash = self.hasher.hash(new.as_bytes()).await.map_err(|full| busy(full.retry_after))?;
        let cut = SessionsCut { at: self.sessions.clock(Timestamp::now()), keep: Some(session) };
        let change = UserChange {
            password_hash: Some(hash),
            if_password_hash: Some(user.password_hash),
            sessions_cut: Some(cut),
            ..UserChange::default()
        };
        if self.users.update(&id, change).await?.is_none() {
            return Err(Fault::new(
                409,
                "conflict",
                "The password was changed by another request meanwhile.",
            ));
        }
        // Until the change was committed somebody may have logged in with the old password: hence a second, later cut.
        self.end_all(&id, SessionsCut { at: self.sessions.clock(Timestamp::now()), ..cut }).await?;
        Ok(Reply::empty(204))
    }
}
