//! Responses the gateway writes itself: endpoints, demo targets, and every fault as problem+json.

use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use pingora_core::protocols::http::ServerSession;
use pingora_core::{Error, ErrorType};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use crate::fault::Fault;
use crate::files::Download;
use crate::target::Edits;
use crate::{body, edit, request_stream};

/// The fault behind an error pingora reports, `None` when the client has gone and nobody is left to answer.
pub fn fault_of(e: &Error) -> Option<Fault> {
    use pingora_core::{ErrorSource, ErrorType as T};
    let cause = e.to_string();
    if let Some(fault) = body::malformed(e) {
        return Some(fault.caused_by(cause));
    }
    let fault = match (e.esource(), e.etype()) {
        (ErrorSource::Downstream, T::ReadTimedout) => Fault::body_timeout(),
        (ErrorSource::Downstream, T::WriteError | T::WriteTimedout | T::ReadError | T::ConnectionClosed) => {
            return None;
        }
        (ErrorSource::Downstream, _) => {
            Fault::bad_request("malformed_request", "The request is not valid HTTP.").closing()
        }
        (
            ErrorSource::Upstream,
            T::ConnectTimedout
            | T::ConnectRefused
            | T::ConnectNoRoute
            | T::ConnectError
            | T::SocketError
            | T::BindError,
        ) => Fault::unavailable("upstream_unavailable", ""),
        (ErrorSource::Upstream, T::ReadTimedout | T::WriteTimedout) => {
            Fault::new(504, "upstream_timeout", "The service behind the gateway did not answer in time.")
        }
        (ErrorSource::Upstream, _) => {
            Fault::new(502, "bad_gateway", "The service behind the gateway gave no valid answer.")
        }
        _ => Fault::internal(""),
    };
    Some(fault.caused_by(cause))
}

/// A complete response that fits in memory.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: Bytes,
    /// Say `Connection: close` and mean it.
    pub close: bool,
}

/// The name of the response header that carries the request's id.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

impl Reply {
    pub fn empty(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Bytes::new(), close: false }
    }

    /// JSON that must not be stored by any cache (RFC 6749 section 5.1, RFC 9111 section 5.2.2.5).
    pub fn json(status: u16, value: &impl serde::Serialize) -> Result<Self, Fault> {
        let body = serde_json::to_vec(value).map_err(|e| Fault::internal(e.to_string()))?;
        Ok(Self::of(status, JSON, body.into()).with(header::CACHE_CONTROL, NO_STORE))
    }

    pub fn of(status: u16, content_type: HeaderValue, body: Bytes) -> Self {
        Self { status, headers: vec![(header::CONTENT_TYPE, content_type)], body, close: false }
    }

    #[must_use]
    pub fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Where a failure becomes a response.
    pub fn from_fault(fault: &Fault, request_id: &str) -> Self {
        let mut reply = Self::of(fault.status, PROBLEM_JSON, fault.to_json(request_id).into())
            .with(header::CACHE_CONTROL, NO_STORE);
        if let Some(challenge) = fault.challenge {
            reply = reply.with(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge.header()));
        }
        if let Some(seconds) = fault.retry_after {
            reply = reply.with(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(allow) = fault.allow.as_deref().and_then(|a| HeaderValue::from_str(a).ok()) {
            reply = reply.with(header::ALLOW, allow);
        }
        if let Some(range) = fault
            .more
            .as_ref()
            .and_then(|m| m.content_range.as_deref())
            .and_then(|r| HeaderValue::from_str(r).ok())
        {
            reply = reply.with(header::CONTENT_RANGE, range);
        }
        reply.close = fault.close;
        reply
    }
}

/// Bodies up to this size are read to their end so that the connection can serve the next request.
const DRAIN_BYTES: usize = 64 * 1024;
/// How long a client that is still sending may go on before the connection is cut.
const LINGER: Duration = Duration::from_secs(2);

/// Writes `reply`. A request body nobody read is drained when it is small; otherwise the connection is
/// closed after the response, lingering so that the client can read it (RFC 9112 section 9.6).
pub async fn send(session: &mut Session, reply: Reply, request_id: &str) -> pingora_core::Result<()> {
    let downstream: &mut ServerSession = &mut session.downstream_session;
    let drained = if reply.close { downstream.is_body_done() } else { drain(downstream).await };
    let closing = reply.close || !drained;

    let mut head = ResponseHeader::build(reply.status, Some(reply.headers.len() + 5))?;
    for (name, value) in reply.headers {
        head.append_header(name, value)?;
    }
    head.insert_header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")?;
    head.insert_header(REQUEST_ID, request_id)?;
    if reply.status != 204 && reply.status != 304 {
        head.insert_header(header::CONTENT_LENGTH, reply.body.len())?;
    }
    if closing {
        downstream.set_keepalive(None);
    }
    let bodiless = downstream.req_header().method == http::Method::HEAD || reply.body.is_empty();
    session.write_response_header(Box::new(head), bodiless).await?;
    if !bodiless {
        session.write_response_body(Some(reply.body), true).await?;
    }
    if !drained {
        linger(session).await;
    }
    Ok(())
}

/// Whether the request body has been read to its end. A client that waits for `100 Continue` is not made to send.
async fn drain(session: &mut ServerSession) -> bool {
    if session.is_body_done() {
        return true;
    }
    if session.req_header().headers.contains_key(header::EXPECT) {
        return false;
    }
    let declared = session
        .get_header(header::CONTENT_LENGTH)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.parse::<usize>().ok());
    if declared.is_some_and(|n| n > DRAIN_BYTES) {
        return false;
    }
    matches!(tokio::time::timeout(LINGER, read_to_end(session)).await, Ok(Ok(true)))
}

/// False when the body is longer than [`DRAIN_BYTES`]. pingora calls a body done when reading it has failed: only
/// `None` is its end.
async fn read_to_end(session: &mut ServerSession) -> pingora_core::Result<bool> {
    let mut total = 0;
    while let Some(chunk) = session.read_request_body().await? {
        total += chunk.len();
        if total > DRAIN_BYTES {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Streams an object to the client, and stops reading it when the client is gone.
///
/// # Errors
/// When either side broke off. The response is then incomplete, and the connection must not be used again.
pub async fn stream(
    session: &mut Session,
    download: Download,
    edits: &Edits,
    request_id: &str,
) -> Result<(), Broken> {
    let Download { status, headers, length, mut body, mut operation } = download;
    if !drain(&mut session.downstream_session).await {
        session.downstream_session.set_keepalive(None);
    }
    let bodiless = status == 304 || session.req_header().method == http::Method::HEAD;
    let head = || -> pingora_core::Result<ResponseHeader> {
        let mut head = ResponseHeader::build(status, Some(headers.len() + 6))?;
        for (name, value) in headers {
            head.append_header(name, value)?;
        }
        if let Some(length) = length {
            head.insert_header(header::CONTENT_LENGTH, length)?;
        }
        edit::response_headers(&mut head, edits)?;
        head.insert_header(REQUEST_ID, request_id)?;
        Ok(head)
    };
    if !bodiless {
        request_stream::hold_small_writes(&session.downstream_session);
    }
    session.write_response_header(Box::new(head()?), bodiless).await?;
    if bodiless {
        operation.succeeded();
        return Ok(());
    }
    let mut left = length.unwrap_or_default();
    while left > 0 {
        let downstream: &mut ServerSession = &mut session.downstream_session;
        let chunk = tokio::select! {
            biased;
            chunk = body.next() => chunk,
            gone = downstream.read_body_or_idle(true) => {
                let e = gone.err().unwrap_or_else(|| Error::new_down(ErrorType::ConnectionClosed));
                return Err(Broken::Client(e));
            }
        };
        let chunk = match chunk {
            Ok(Some(chunk)) if chunk.len() as u64 <= left => chunk,
            ended => {
                operation.broke_off();
                let cause =
                    ended.err().unwrap_or_else(|| "it has another length than the store said".to_owned());
                if let ServerSession::H1(h1) = downstream {
                    // As much as there is of it arrives, and then the end of the connection, before that of the object.
                    let _ = tokio::time::timeout(LINGER, h1.shutdown()).await;
                }
                return Err(Broken::Store(cause));
            }
        };
        let size = chunk.len();
        left -= size as u64;
        match downstream {
            // From the buffer it was read into.
            ServerSession::H1(h1) => drop(h1.write_body(chunk).await?),
            other => other.write_response_body(Bytes::copy_from_slice(chunk), false).await?,
        }
        operation.sent(size);
    }
    session.downstream_session.write_response_body(Bytes::new(), true).await?;
    // The end is read as well, so that the store's connection can be used again.
    match body.next().await {
        Ok(None) => operation.succeeded(),
        _ => operation.broke_off(),
    }
    Ok(())
}

/// Which side broke off.
pub enum Broken {
    Client(Box<Error>),
    /// For the log.
    Store(String),
}

impl From<Box<Error>> for Broken {
    fn from(e: Box<Error>) -> Self {
        Self::Client(e)
    }
}

/// Reads and discards what the client still sends, for a bounded time: closing at once would make its
/// kernel throw the response away.
async fn linger(session: &mut Session) {
    let downstream: &mut ServerSession = &mut session.downstream_session;
    if downstream.finish_body().await.is_err() {
        return;
    }
    let discard = async { while let Ok(Some(_)) = downstream.read_request_body().await {} };
    let _ = tokio::time::timeout(LINGER, discard).await;
}
