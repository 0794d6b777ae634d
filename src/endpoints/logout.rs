//! POST /logout and POST /logout-all.

use serde::Deserialize;

use super::{Endpoints, Request, json};
use crate::auth::Identity;
use crate::config::AuthMode;
use crate::fault::Fault;
use crate::reply::Reply;
use crate::store::{RevocationSink, SessionId, SessionsCut, UserChange};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    refresh_token: String,
}

impl Endpoints {
    /// 204: the session's refresh and access tokens are dead. A refresh token that is not known any more is a
    /// session that has ended: 204 too (RFC 7009 section 2.2).
    pub(super) async fn logout(&self, request: Request<'_>) -> Result<Reply, Fault> {
        let (user, session) = if request.body.is_empty() {
            let query = request.path.query();
            let caller = self
                .authenticator
                .authenticate(AuthMode::Required, request.headers, query, request.now)
                .await?;
            let caller =
                caller.as_deref().ok_or_else(|| Fault::internal("required authentication gave nobody"))?;
            own_session(caller)?
        } else {
            let Body { refresh_token } = json::body(&request)?;
            let Some(token) = self.refresh_tokens.decode(&refresh_token) else {
                self.secret_is_confirmed()?;
                return Ok(Reply::empty(204));
            };
            (token.user, token.family)
        };
        self.sessions.end(&user, session, self.refresh_policy, request.now).await?;
        Ok(Reply::empty(204))
    }

    /// 204: every session of the caller has ended.
    pub(super) async fn logout_all(&self, request: Request<'_>) -> Result<Reply, Fault> {
        let (user, _) = caller(&request)?;
        let cut = SessionsCut { at: self.sessions.clock(request.now), keep: None };
        self.users.update(&user, UserChange { sessions_cut: Some(cut), ..UserChange::default() }).await?;
        self.end_all(&user, cut).await?;
        Ok(Reply::empty(204))
    }

    /// Ends the sessions `cut` does not spare. When the session store fails, this gateway still refuses their
    /// access tokens, and the cut in the user record already keeps them from being refreshed.
    pub(super) async fn end_all(&self, user: &str, cut: SessionsCut) -> Result<(), Fault> {
        self.sessions.end_all(user, cut, self.refresh_policy).await.map_err(|e| {
            self.revocations.user(user, cut, cut.at.plus(self.refresh_policy.access_lifetime));
            e.into()
        })
    }
}

/// User and session of a caller who came with a token of ours.
pub fn caller(request: &Request<'_>) -> Result<(String, SessionId), Fault> {
    let identity = request.identity.ok_or_else(|| Fault::internal("no identity on a protected endpoint"))?;
    own_session(identity)
}

fn own_session(identity: &Identity) -> Result<(String, SessionId), Fault> {
    match identity.claims.session {
        Some(session) if identity.claims.own => Ok((identity.claims.subject.clone(), session)),
        _ => Err(Fault::forbidden("the token is another issuer's; it has no session here")),
    }
}
