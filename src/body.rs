//! Request bodies: read whole for the endpoints, counted for everything else.

use std::io;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::header;
use pingora_core::ErrorType;
use pingora_proxy::Session;

use crate::chunked::Malformed;
use crate::fault::Fault;
use crate::files::error::FileError;
use crate::files::store::Content;

/// Largest body an endpoint reads, in bytes.
pub const ENDPOINT_BODY: u64 = 16 * 1024;

/// The declared length of the body, when there is one. The head was checked: it is digits only.
pub fn declared_length(session: &Session) -> Option<u64> {
    session.get_header(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok())
}

/// Refuses a body whose declared length is over `limit`, before a byte of it is read.
pub fn check_declared(session: &Session, limit: u64) -> Result<(), Fault> {
    match declared_length(session) {
        Some(n) if n > limit => Err(Fault::body_too_large(limit)),
        _ => Ok(()),
    }
}

/// Reads the whole body, at most `limit` bytes, waiting at most `timeout` for all of it.
pub async fn read_whole(session: &mut Session, limit: u64, timeout: Duration) -> Result<Bytes, Fault> {
    check_declared(session, limit)?;
    let downstream = &mut session.downstream_session;
    if downstream.req_header().headers.contains_key(header::EXPECT) {
        downstream.write_continue_response().await.map_err(|e| disconnected(&e))?;
    }
    let read = async {
        let mut body = BytesMut::new();
        while let Some(chunk) = downstream.read_request_body().await.map_err(|e| unreadable(&e))? {
            if body.len() as u64 + chunk.len() as u64 > limit {
                return Err(Fault::body_too_large(limit));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    };
    tokio::time::timeout(timeout, read).await.unwrap_or_else(|_| Err(Fault::body_timeout()))
}

/// A body on its way to a store of files: as many bytes as its head declares, and no more is asked for than the store takes.
pub struct Incoming<'s> {
    session: &'s mut Session,
    length: u64,
    received: u64,
    /// The client waits to be told that its body is wanted (RFC 9110 section 10.1.1).
    expects_continue: bool,
}

impl<'s> Incoming<'s> {
    pub fn new(session: &'s mut Session) -> Self {
        let expects_continue = session.req_header().headers.contains_key(header::EXPECT);
        Self { length: declared_length(session).unwrap_or_default(), session, received: 0, expects_continue }
    }
}

#[async_trait]
impl Content for Incoming<'_> {
    async fn next(&mut self) -> Result<Option<Bytes>, FileError> {
        let downstream = &mut self.session.downstream_session;
        if std::mem::take(&mut self.expects_continue) {
            downstream.write_continue_response().await.map_err(|e| FileError::Client(disconnected(&e)))?;
        }
        let chunk = loop {
            match downstream.read_request_body().await.map_err(|e| FileError::Client(unreadable(&e)))? {
                // An empty DATA frame of HTTP/2.
                Some(chunk) if chunk.is_empty() => {}
                chunk => break chunk,
            }
        };
        self.received += chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        let short = chunk.is_none() && self.received < self.length;
        if short || self.received > self.length {
            let detail = "The request body has another length than Content-Length says.";
            return Err(FileError::Client(Fault::bad_request("malformed_body", detail).closing()));
        }
        Ok(chunk)
    }
}

/// The fault behind a read that `RequestStream` failed because the body is malformed.
pub fn malformed(e: &pingora_core::Error) -> Option<Fault> {
    let why = e.root_cause().downcast_ref::<io::Error>()?.get_ref()?.downcast_ref::<Malformed>()?;
    Some(Fault::from(*why))
}

fn unreadable(e: &pingora_core::Error) -> Fault {
    if let Some(fault) = malformed(e) {
        return fault;
    }
    match e.etype() {
        ErrorType::ReadTimedout => Fault::body_timeout(),
        ErrorType::ConnectionClosed | ErrorType::ReadError => disconnected(e),
        _ => Fault::bad_request("malformed_body", "The request body is not framed correctly.")
            .closing()
            .caused_by(e.to_string()),
    }
}

fn disconnected(e: &pingora_core::Error) -> Fault {
    Fault::bad_request("incomplete_body", "The connection ended before the request body did.")
        .closing()
        .caused_by(e.to_string())
}
