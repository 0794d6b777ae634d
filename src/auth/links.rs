//! From the token of a share link to what it grants, for as long as the session that made it lives.

use std::sync::Arc;

use super::Authenticated;
use crate::clock::Timestamp;
use crate::fault::Fault;
use crate::store::{Family, FamilyState, Sessions};
use crate::tokens::{FileTokens, Revocations};

pub struct Links {
    tokens: Arc<FileTokens>,
    sessions: Arc<dyn Sessions>,
    revocations: Arc<Revocations>,
}

impl Links {
    pub fn new(tokens: Arc<FileTokens>, sessions: Arc<dyn Sessions>, revocations: Arc<Revocations>) -> Self {
        Self { tokens, sessions, revocations }
    }

    /// Whoever holds `token`, a link to `path` of a route that serves `store`.
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
    ) -> Result<Authenticated, Fault> {
        let refused = |cause| Err(Fault::invalid_share_link(cause));
        let Some(grant) = self.tokens.read_link(token, store, path, now) else {
            return refused("not a link of ours, or expired");
        };
        let live = self.sessions.list(&grant.user, now).await?;
        let is_its = |family: &&Family| family.id == grant.session && family.state == FamilyState::Active;
        let Some(session) = live.iter().find(is_its) else { return refused("its session has ended") };
        if self.revocations.is_revoked(Some(session.id), session.began, &grant.user) {
            return refused("its session is revoked");
        }
        if self.revocations.is_deaf(now) {
            let cause = "whether the session was revoked is not known";
            return Err(Fault::unavailable("store_unavailable", cause));
        }
        Ok(Authenticated::Link(Arc::new(grant)))
    }
}
