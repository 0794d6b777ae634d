//! The last stage of a request to a file route: between pingora's session and `files`, which knows none.

use async_trait::async_trait;
use bytes::Bytes;
use pingora_core::protocols::http::ServerSession;
use pingora_core::{Error, ErrorType, Result as PingoraResult};
use pingora_proxy::Session;

use super::Outcome;
use crate::auth::{Authenticated, Permitted};
use crate::body::Incoming;
use crate::context::Context;
use crate::fault::Fault;
use crate::files::error::FileError;
use crate::files::store::Content;
use crate::files::{Answer, Caller, Download, Files, Request};
use crate::reply::{self, Broken};
use crate::route::CleanPath;
use crate::target::Edits;

pub(super) async fn serve_files(
    files: &Files,
    session: &mut Session,
    path: &CleanPath,
    permitted: &Permitted,
) -> Result<Outcome, Fault> {
    let head = session.req_header();
    let caller = match permitted.caller() {
        Authenticated::Link(grant) => Caller::Link(grant),
        Authenticated::User(identity) => Caller::User(&identity.claims),
        Authenticated::Anonymous => Caller::Anonymous,
    };
    let request = Request {
        method: head.method.as_str(),
        headers: &head.headers,
        path: path.as_str(),
        query: path.query(),
        caller,
    };
    let plan = files.plan(&request)?;
    let answer = if plan.takes_content() {
        files.carry_out(plan, &mut Incoming::new(session)).await?
    } else {
        let downstream: &mut ServerSession = &mut session.downstream_session;
        // A body that nobody wants is still to be read, and would be taken for the end of the connection.
        let watched = downstream.is_body_done();
        let mut nothing = NoContent;
        tokio::select! {
            biased;
            answer = files.carry_out(plan, &mut nothing) => answer?,
            _ = downstream.read_body_or_idle(true), if watched => return Err(Fault::client_closed()),
        }
    };
    Ok(match answer {
        Answer::Reply(reply) => Outcome::Reply(reply),
        Answer::Object(download) => Outcome::Stream(download),
    })
}

/// Sends an object; a failure in its middle ends the connection, by which the client knows.
pub(super) async fn send_file(
    session: &mut Session,
    ctx: &mut Context,
    download: Download,
) -> PingoraResult<()> {
    let nothing = Edits::default();
    let route = ctx.route.clone();
    let edits = route.as_ref().map_or(&nothing, |route| &route.edits.response);
    match reply::stream(session, download, edits, &ctx.request_id).await {
        Ok(()) => Ok(()),
        Err(Broken::Client(e)) => Err(e),
        Err(Broken::Store(cause)) => {
            tracing::warn!(request_id = ctx.request_id, cause, "a store of files broke off");
            ctx.fault = Some(FileError::Unreachable(cause).into());
            Err(Error::explain(ErrorType::ConnectionClosed, "the store of a file broke off").into_up())
        }
    }
}

struct NoContent;

#[async_trait]
impl Content for NoContent {
    async fn next(&mut self) -> Result<Option<Bytes>, FileError> {
        Ok(None)
    }
}
