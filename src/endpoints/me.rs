//! GET /me, GET /sessions, DELETE /sessions/{id}.

use serde::Serialize;
use uuid::Uuid;

use super::logout::caller;
use super::session::UserView;
use super::{Endpoints, Request};
use crate::fault::{Challenge, Fault};
use crate::reply::Reply;
use crate::store::{Family, SessionId};

#[derive(Serialize)]
struct Me<'a> {
    #[serde(flatten)]
    user: UserView<'a>,
    session: String,
}

#[derive(Serialize)]
struct SessionView {
    id: String,
    device: String,
    address: String,
    began: String,
    last_used: String,
    expires: String,
    current: bool,
}

impl SessionView {
    fn new(family: Family, current: SessionId) -> Self {
        Self {
            id: family.id.to_string(),
            device: family.device,
            address: family.address,
            began: family.began.to_string(),
            last_used: family.rotated_at.to_string(),
            expires: family.idle_expiry.min(family.absolute_expiry).to_string(),
            current: family.id == current,
        }
    }
}

#[derive(Serialize)]
struct SessionList {
    sessions: Vec<SessionView>,
}

impl Endpoints {
    pub(super) async fn me(&self, request: Request<'_>) -> Result<Reply, Fault> {
        let (user, session) = caller(&request)?;
        let gone = || Fault::unauthenticated(Challenge::InvalidToken, "the account is gone");
        let user = self.users.by_id(&user).await?.filter(|u| !u.disabled).ok_or_else(gone)?;
        Reply::json(200, &Me { user: UserView::from(&user), session: session.to_string() })
    }

    pub(super) async fn list_sessions(&self, request: Request<'_>) -> Result<Reply, Fault> {
        let (user, current) = caller(&request)?;
        let families = self.sessions.list(&user, request.now).await?;
        let sessions = families.into_iter().map(|f| SessionView::new(f, current)).collect();
        Reply::json(200, &SessionList { sessions })
    }

    /// 204, or 404 when the caller has no such session.
    pub(super) async fn end_session(&self, request: Request<'_>) -> Result<Reply, Fault> {
        let (user, _) = caller(&request)?;
        let id = request.path.as_str().rsplit('/').next().and_then(|s| Uuid::try_parse(s).ok());
        let no_such = || Fault::new(404, "no_such_session", "You have no session with this id.");
        let id = id.ok_or_else(no_such)?;
        // Only sessions of the caller's are ended: a session that is not known would be revoked all the same.
        let owned = self.sessions.list(&user, request.now).await?.iter().any(|f| f.id == id);
        if !owned || !self.sessions.end(&user, id, self.refresh_policy, request.now).await? {
            return Err(no_such());
        }
        Ok(Reply::empty(204))
    }
}
