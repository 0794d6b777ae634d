//! POST /refresh: one generation of refresh token for the next (DESIGN section 4).

use serde::Deserialize;

use super::session::began;
use super::{Endpoints, Request, json};
use crate::fault::Fault;
use crate::reply::Reply;
use crate::store::{Rotation, User};
use crate::tokens::RefreshToken;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    refresh_token: String,
}

impl Endpoints {
    /// 200 with a new pair; 403 `invalid_refresh_token` for every cause; 503 when a store is in doubt, and then
    /// trying again is safe.
    pub(super) async fn refresh(&self, request: Request<'_>) -> Result<Reply, Fault> {
        let Body { refresh_token } = json::body(&request)?;
        let outcome = match self.refresh_tokens.decode(&refresh_token) {
            Some(token) => self.rotate(&token, &request).await,
            None => Err(match self.secret_is_confirmed() {
                Ok(()) => ("unknown", invalid("not a token of ours")),
                Err(fault) => ("unavailable", fault),
            }),
        };
        let label = outcome.as_ref().map_or_else(|(label, _)| *label, |(label, _)| *label);
        self.metrics.refreshes.with_label_values(&[label]).inc();
        outcome.map(|(_, reply)| reply).map_err(|(_, fault)| fault)
    }

    /// Before our secret has been compared with the fleet's, a token it did not make may be a good one, and one it makes may be
    /// good for nothing.
    pub(super) fn secret_is_confirmed(&self) -> Result<(), Fault> {
        match self.refresh_tokens.is_confirmed() {
            true => Ok(()),
            false => Err(Fault::unavailable(
                "store_unavailable",
                "whether refresh.key is the fleet's is not known",
            )),
        }
    }

    async fn rotate(
        &self,
        token: &RefreshToken,
        request: &Request<'_>,
    ) -> Result<(&'static str, Reply), (&'static str, Fault)> {
        let down = |e: crate::store::Unavailable| ("unavailable", Fault::from(e));
        // The account first: a session that an account-wide change has ended is dead whatever its family says,
        // even if the session store lost the write that said so.
        let user = self.users.by_id(&token.user).await.map_err(down)?.filter(|u| admits(u, token));
        let Some(user) = user else {
            self.sessions
                .end(&token.user, token.family, self.refresh_policy, request.now)
                .await
                .map_err(down)?;
            return Err(("dead", invalid("the account is gone, disabled, or has ended this session")));
        };
        // The session store may have lost in a failover what this gateway has heard.
        let family_began = began(token.family);
        if self.revocations.is_revoked(Some(token.family), family_began, &user.id) {
            self.sessions
                .end(&user.id, token.family, self.refresh_policy, request.now)
                .await
                .map_err(down)?;
            return Err(("dead", invalid("revoked")));
        }
        let address = request.client.to_string();
        let rotation = self
            .sessions
            .rotate(&user.id, token.family, token.generation, &address, self.refresh_policy, request.now)
            .await
            .map_err(down)?;
        let (label, generation) = match rotation {
            Rotation::Rotated { generation } => ("rotated", generation),
            Rotation::Replay { generation } => ("replay", generation),
            Rotation::Reuse => {
                self.audit(token, request, "refresh token reused: session revoked");
                return Err(("reuse", invalid("reuse")));
            }
            Rotation::LostHistory => {
                self.audit(token, request, "refresh token newer than the store remembers: session revoked");
                return Err(("lost_history", invalid("the store lost history")));
            }
            Rotation::Dead => return Err(("dead", invalid("revoked or expired"))),
            Rotation::Unknown => return Err(("unknown", invalid("no such session"))),
        };
        let reply = self.token_response(200, &user, token.family, generation, request.now);
        reply.map(|reply| (label, reply)).map_err(|fault| ("error", fault))
    }

    fn audit(&self, token: &RefreshToken, request: &Request<'_>, event: &'static str) {
        tracing::error!(
            target: "portcullis::audit",
            user = %token.user, session = %token.family, generation = token.generation, client = %request.client,
            event
        );
    }
}

fn admits(user: &User, token: &RefreshToken) -> bool {
    !user.disabled && user.sessions_cut.is_none_or(|cut| cut.spares(token.family, began(token.family)))
}

fn invalid(cause: &'static str) -> Fault {
    Fault::new(403, "invalid_refresh_token", "The refresh token is not valid (any more). Log in again.")
        .caused_by(cause)
}
