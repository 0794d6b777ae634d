//! POST /login.

use serde::Deserialize;

use super::session::busy;
use super::{Endpoints, Request, json};
use crate::fault::Fault;
use crate::passwords::{self, Verdict};
use crate::reply::Reply;
use crate::store::{Admission, Email, LoginAttempt, User, UserChange};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    email: String,
    password: String,
}

impl Endpoints {
    /// 200 with a token pair; 401 `invalid_credentials` for every cause, after the same work.
    pub(super) async fn login(&self, request: Request<'_>) -> Result<Reply, Fault> {
        let Body { email, password } = json::body(&request)?;
        let email =
            Email::parse(&email).ok_or_else(|| Fault::invalid_field("email is not an e-mail address."))?;
        check_length(&password)?;
        let attempt = self.login_attempt(&email, &request);
        let outcome = match self.judge(&email, &password, &attempt, &request).await {
            Ok(user) => self.begin_session(&user, &request, 200).await,
            Err(fault) => Err(fault),
        };
        let label = outcome.as_ref().map_or_else(|f| f.code, |_| "success");
        self.metrics.logins.with_label_values(&[label]).inc();
        outcome
    }

    /// The user whose password this is. The attempt is counted as a failure before the password is looked at,
    /// so that parallel guesses cannot overtake the count.
    async fn judge(
        &self,
        email: &Email,
        password: &str,
        attempt: &LoginAttempt,
        request: &Request<'_>,
    ) -> Result<User, Fault> {
        let admission = self.throttle.begin(attempt, self.throttle_policy, request.now).await?;
        if let Admission::Blocked { retry_after } = admission {
            return Err(Fault::too_many_requests("too_many_attempts", retry_after));
        }
        let judged = self.verify_password(email, password).await;
        match &judged {
            Ok(Some(_)) => self.throttle.succeeded(attempt, request.now).await?,
            Ok(None) => {}
            // Not the caller's fault: what begin() counted is taken back, as far as the store can be reached.
            Err(_) => drop(self.throttle.undecided(attempt, request.now).await),
        }
        judged?.ok_or_else(|| invalid_credentials("wrong password, unknown or disabled account"))
    }

    async fn verify_password(&self, email: &Email, password: &str) -> Result<Option<User>, Fault> {
        let user = self.users.by_email(email).await?;
        let hash = user.as_ref().map(|u| u.password_hash.as_str());
        let verdict = self.hasher.verify(hash, password.as_bytes()).await.map_err(|b| busy(b.retry_after))?;
        let good = matches!(verdict, Verdict::Right { .. });
        let Some(user) = user.filter(|u| good && !u.disabled) else { return Ok(None) };
        if let Verdict::Right { upgrade: true } = verdict {
            return self.upgrade_hash(user, password).await.map(Some);
        }
        Ok(Some(user))
    }

    /// An imported or cheaper hash is replaced while the password is at hand. Not worth failing a login for.
    async fn upgrade_hash(&self, user: User, password: &str) -> Result<User, Fault> {
        let Ok(hash) = self.hasher.hash(password.as_bytes()).await else { return Ok(user) };
        let change = UserChange {
            password_hash: Some(hash),
            if_password_hash: Some(user.password_hash.clone()),
            ..UserChange::default()
        };
        match self.users.update(&user.id, change).await {
            Ok(Some(upgraded)) => {
                tracing::info!(user = %user.id, "password hash upgraded");
                Ok(upgraded)
            }
            Ok(None) => Ok(user),
            Err(e) => {
                tracing::warn!(user = %user.id, error = %e, "password hash not upgraded");
                Ok(user)
            }
        }
    }
}

/// Bounds the work a password can cause before anything is done with it.
pub fn check_length(password: &str) -> Result<(), Fault> {
    if password.is_empty() {
        return Err(Fault::invalid_field("password is empty."));
    }
    if password.len() > passwords::MAX_BYTES {
        return Err(Fault::invalid_field(format!("password is longer than {} bytes.", passwords::MAX_BYTES)));
    }
    Ok(())
}

pub fn invalid_credentials(cause: &'static str) -> Fault {
    // RFC 9110 section 15.5.2 asks for a challenge with every 401.
    Fault {
        challenge: Some(crate::fault::Challenge::Missing),
        ..Fault::new(401, "invalid_credentials", "The e-mail address or the password is wrong.")
    }
    .caused_by(cause)
}
