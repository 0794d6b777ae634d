//! From a share link to what it permits, for as long as the session that made it lives.

use std::sync::Arc;

use super::Permitted;
use super::policy::authorize_link;
use crate::clock::Timestamp;
use crate::fault::Fault;
use crate::store::{FamilyState, Sessions};
use crate::tokens::{Revocations, ShareLinks};

pub struct Links {
    tokens: Arc<ShareLinks>,
    sessions: Arc<dyn Sessions>,
    revocations: Arc<Revocations>,
}

impl Links {
    pub fn new(tokens: Arc<ShareLinks>, sessions: Arc<dyn Sessions>, revocations: Arc<Revocations>) -> Self {
        Self { tokens, sessions, revocations }
    }

    /// What `token` permits with `path`, of a route that serves `store`.
    ///
    /// Revocations are forgotten once no access token needs them, and a link may live longer: so the session store is asked
    /// as well.
    ///
    /// # Errors
    /// 403, the same for every cause; 503 when it cannot be found out whether the session lives.
    pub async fn verify(
        &self,
        token: &str,
        store: &str,
        path: &str,
        now: Timestamp,
    ) -> Result<Permitted, Fault> {
        let grant = self
            .tokens
            .decode(token, store, path, now)
            .ok_or_else(|| refused("not a link of ours, or expired"))?;
        let live = self.sessions.list(&grant.user, now).await?;
        let session =
            live.iter().find(|family| family.id == grant.session && family.state == FamilyState::Active);
        let Some(session) = session else { return Err(refused("its session has ended")) };
        if self.revocations.is_revoked(Some(session.id), session.began, &grant.user) {
            return Err(refused("its session is revoked"));
        }
        if self.revocations.is_deaf(now) {
            return Err(Fault::unavailable(
                "store_unavailable",
                "whether the session was revoked is not known",
            ));
        }
        Ok(authorize_link(grant))
    }
}

fn refused(cause: &str) -> Fault {
    Fault::new(
        403,
        "invalid_share_link",
        "The link is not valid (any more). Ask whoever sent it for another.",
    )
    .caused_by(cause)
}
