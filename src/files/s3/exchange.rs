//! Requests to S3 over pingora's connector and its pool, and the answers' bodies, chunk by chunk.
//!
//! Not through pingora's proxy: that one has sent the client S3's status before anybody can read the document that says
//! what it means (a missing key and a missing bucket are both 404), and it closes both connections when the status is to
//! be another. Here the answer is looked at first; then its bytes go straight to the client.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use pingora_core::connectors::ConnectorOptions;
use pingora_core::connectors::http::v1::Connector;
use pingora_core::protocols::http::v1::client::HttpSession;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorType};
use pingora_http::{RequestHeader, ResponseHeader};

use super::failure::{MAX_DOCUMENT, Refusal};
use super::signer::Address;
use crate::addresses::Addresses;
use crate::config::Timeouts;
use crate::fault::Fault;
use crate::files::error::FileError;
use crate::files::store::Content;

/// Idle connections kept for reuse, over all threads.
const POOL: usize = 1024;
/// So many pooled connections may turn out to be closed before a request is given up.
const STALE: usize = 8;
/// Characters of a cause that are logged.
const MAX_CAUSE: usize = 200;
/// Of an upload this much is kept until S3 has taken it, to be sent again when the pooled connection was closed.
const RESEND: usize = 64 * 1024;

/// The way to one server.
pub struct Exchange {
    connector: Arc<Connector>,
    addresses: Addresses,
    next: AtomicUsize,
    peer: HttpPeer,
    idle: Duration,
}

impl Exchange {
    pub fn new(address: &Address, ca: Option<&Path>, timeouts: &Timeouts, group: u64) -> Self {
        let Address { https, authority, .. } = address;
        let (host, port) = match authority.rsplit_once(':') {
            // The colons of an IPv6 address stand within brackets.
            Some((host, port)) if !port.ends_with(']') => (host, port),
            _ => (authority.as_str(), if *https { "443" } else { "80" }),
        };
        let sni = if *https { host.trim_matches(['[', ']']).to_owned() } else { String::new() };
        // The address is a placeholder; a literal is parsed without DNS.
        let mut peer = HttpPeer::new("127.0.0.1:0", *https, sni);
        peer.group_key = group;
        let options = &mut peer.options;
        options.connection_timeout = Some(timeouts.connect);
        options.total_connection_timeout = Some(timeouts.connect);
        options.read_timeout = Some(timeouts.read);
        options.write_timeout = Some(timeouts.write);
        options.idle_timeout = Some(timeouts.idle);
        let mut options = ConnectorOptions::new(POOL);
        options.ca_file = ca.map(|path| path.to_string_lossy().into_owned());
        Self {
            connector: Arc::new(Connector::new(Some(options))),
            addresses: Addresses::new(&format!("{host}:{port}")),
            next: AtomicUsize::new(0),
            peer,
            idle: timeouts.idle,
        }
    }

    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Sends a request without a body and waits for the head of its answer.
    ///
    /// # Errors
    /// `Unreachable` or `Timeout`.
    pub async fn ask(&self, request: RequestHeader) -> Result<Answer, FileError> {
        let mut stale = 0;
        loop {
            let (mut session, peer, reused) = self.connect().await?;
            let asked = async {
                session.write_request_header(Box::new(request.clone())).await?;
                self.read_head_in_time(&mut session).await
            };
            match asked.await {
                Ok(()) => return Ok(self.answer(session, peer)),
                // Nothing has been answered, and asking twice does no harm.
                Err(e) if reused && !is_timeout(&e) && stale < STALE => stale += 1,
                Err(e) => return Err(broken(&e)),
            }
        }
    }

    /// Sends `length` bytes of `content` behind the head and waits for the head of the answer, which may come before all
    /// is sent: then the rest is not.
    ///
    /// # Errors
    /// `Unreachable`, `Timeout`, or what `content` fails with; the connection is closed before S3 has the whole.
    pub async fn upload(
        &self,
        request: RequestHeader,
        length: u64,
        content: &mut dyn Content,
    ) -> Result<Answer, FileError> {
        let mut sent_first: Vec<Bytes> = Vec::new();
        let mut kept = 0;
        let mut may_resend = true;
        let mut left = length;
        if left == 0 {
            at_end(content).await?;
        }
        let mut stale = 0;
        'connection: loop {
            let (mut session, peer, reused) = self.connect().await?;
            let mut again = |e: &Error, may_resend: bool| {
                stale += 1;
                reused && may_resend && !is_timeout(e) && stale <= STALE
            };
            let begin = async {
                session.write_request_header(Box::new(request.clone())).await?;
                for chunk in &sent_first {
                    session.write_body(chunk).await?;
                }
                Ok::<(), Box<Error>>(())
            };
            if let Err(e) = begin.await {
                if again(&e, may_resend) {
                    continue;
                }
                return self.refused_early(session, peer, &e).await;
            }
            // While the client has not sent all, S3 has no reason to answer; how long the client may take is not said here.
            let read_timeout = session.read_timeout.take();
            while left > 0 {
                let chunk = tokio::select! {
                    biased;
                    chunk = content.next() => chunk?,
                    // S3 has made up its mind. Reading a head can be broken off and taken up again.
                    early = read_head(&mut session) => match early {
                        Ok(()) => return Ok(self.answer(session, peer).closing()),
                        Err(e) if again(&e, may_resend) => continue 'connection,
                        Err(e) => return Err(broken(&e)),
                    },
                };
                let chunk = chunk.ok_or_else(ended_early)?;
                left = left.checked_sub(chunk.len() as u64).ok_or_else(too_long)?;
                if left == 0 {
                    // With its last byte S3 has the object: the client must have ended by then.
                    at_end(content).await?;
                }
                kept += chunk.len();
                may_resend &= kept <= RESEND;
                let written = session.write_body(&chunk).await;
                if may_resend {
                    sent_first.push(chunk);
                } else {
                    sent_first.clear();
                }
                match written {
                    Ok(_) => {}
                    Err(e) if again(&e, may_resend) => continue 'connection,
                    Err(e) => return self.refused_early(session, peer, &e).await,
                }
            }
            session.read_timeout = read_timeout;
            let ended = async {
                session.finish_body().await?;
                self.read_head_in_time(&mut session).await
            };
            match ended.await {
                Ok(()) => return Ok(self.answer(session, peer)),
                Err(e) if again(&e, may_resend) => {}
                Err(e) => return Err(broken(&e)),
            }
        }
    }

    /// A server that refuses an upload says why, and stops reading: what it said may still be read.
    async fn refused_early(
        &self,
        mut session: HttpSession,
        peer: HttpPeer,
        write_error: &Error,
    ) -> Result<Answer, FileError> {
        session.read_timeout = self.peer.options.read_timeout;
        match self.read_head_in_time(&mut session).await {
            Ok(()) => Ok(self.answer(session, peer).closing()),
            Err(_) => Err(broken(write_error)),
        }
    }

    /// A head may come in pieces, and interim ones before it, all within the time for one read.
    async fn read_head_in_time(&self, session: &mut HttpSession) -> Result<(), Box<Error>> {
        let limit = self.peer.options.read_timeout.unwrap_or(Duration::MAX);
        match tokio::time::timeout(limit, read_head(session)).await {
            Ok(read) => read,
            Err(_) => Err(Error::explain(ErrorType::ReadTimedout, "no head of an answer in time")),
        }
    }

    async fn connect(&self) -> Result<(HttpSession, HttpPeer, bool), FileError> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let address = self
            .addresses
            .get(turn)
            .ok_or_else(|| FileError::Unreachable("the name of S3 is not resolved".into()))?;
        let mut peer = self.peer.clone();
        peer._address = SocketAddr::Inet(address);
        let (mut session, reused) = match self.connector.reused_http_session(&peer).await {
            Some(session) => (session, true),
            // What it takes to connect, with TLS, is 9 kB: on the heap, or every request would carry room for it.
            None => Box::pin(self.connector.get_http_session(&peer)).await.map_err(|e| broken(&e))?,
        };
        session.read_timeout = peer.options.read_timeout;
        session.write_timeout = peer.options.write_timeout;
        Ok((session, peer, reused))
    }

    fn answer(&self, session: HttpSession, peer: HttpPeer) -> Answer {
        Answer {
            session: Some(session),
            peer,
            connector: self.connector.clone(),
            idle: self.idle,
            closing: false,
        }
    }
}

async fn at_end(content: &mut dyn Content) -> Result<(), FileError> {
    match content.next().await? {
        None => Ok(()),
        Some(_) => Err(too_long()),
    }
}

fn ended_early() -> FileError {
    FileError::Client(
        Fault::bad_request("incomplete_body", "The content is shorter than announced.").closing(),
    )
}

fn too_long() -> FileError {
    FileError::Client(Fault::bad_request("malformed_body", "The content is longer than announced.").closing())
}

/// The head of an answer that is final; interim ones (1xx) are passed over.
async fn read_head(session: &mut HttpSession) -> Result<(), Box<Error>> {
    loop {
        session.read_response().await?;
        if session.get_status().is_some_and(|status| !status.is_informational()) {
            return Ok(());
        }
    }
}

/// An answer whose head has come. Its connection goes back to the pool when the body has been read to its end; dropped
/// before, it is closed, and S3 stops sending.
pub struct Answer {
    session: Option<HttpSession>,
    peer: HttpPeer,
    connector: Arc<Connector>,
    idle: Duration,
    closing: bool,
}

impl Answer {
    /// The request was not sent whole, so that nothing can follow it.
    fn closing(mut self) -> Self {
        self.closing = true;
        self
    }

    /// Whether S3 answered before it had the whole request.
    pub fn is_early(&self) -> bool {
        self.closing
    }

    pub fn head(&self) -> Option<&ResponseHeader> {
        self.session.as_ref()?.resp_header()
    }

    pub fn status(&self) -> u16 {
        self.head().map_or(0, |head| head.status.as_u16())
    }

    /// The next bytes of the body, `None` at its end.
    ///
    /// # Errors
    /// `Unreachable` or `Timeout`.
    pub async fn next(&mut self) -> Result<Option<&[u8]>, FileError> {
        let ended = match &mut self.session {
            None => return Ok(None),
            Some(session) => session.is_body_done(),
        };
        if ended {
            self.release().await;
        }
        let Some(session) = &mut self.session else { return Ok(None) };
        session.read_body_ref().await.map_err(|e| broken(&e))
    }

    async fn release(&mut self) {
        let Some(mut session) = self.session.take() else { return };
        if self.closing {
            session.shutdown().await;
            return;
        }
        self.connector.release_http_session(session, &self.peer, Some(self.idle)).await;
    }

    /// Reads what is left, which is nothing much, so that the connection can be used again.
    pub async fn finish(mut self) {
        let mut read = 0;
        while let Ok(Some(chunk)) = self.next().await {
            read += chunk.len();
            if read > MAX_DOCUMENT {
                return;
            }
        }
        self.release().await;
    }

    /// The answer as a refusal.
    pub async fn refusal(mut self) -> Refusal {
        let (status, headers) = match self.head() {
            Some(head) => (head.status.as_u16(), head.headers.clone()),
            None => return Refusal::read(0, &http::HeaderMap::new(), b""),
        };
        let mut document = Vec::new();
        // What broke off is no less a refusal.
        while let Ok(Some(chunk)) = self.next().await {
            document.extend_from_slice(chunk);
            if document.len() > MAX_DOCUMENT {
                self.session = None;
            }
        }
        self.release().await;
        Refusal::read(status, &headers, &document)
    }
}

fn is_timeout(e: &Error) -> bool {
    matches!(e.etype(), ErrorType::ReadTimedout | ErrorType::WriteTimedout | ErrorType::ConnectTimedout)
}

fn broken(e: &Error) -> FileError {
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    let cause: String = e.to_string().trim_start().chars().take(MAX_CAUSE).map(printable).collect();
    match e.etype() {
        ErrorType::ReadTimedout | ErrorType::WriteTimedout => FileError::Timeout(cause),
        // Its text holds what came, which may be anything.
        ErrorType::InvalidHTTPHeader | ErrorType::H1Error => {
            FileError::Broken("the answer of S3 is not HTTP as it should be".into())
        }
        _ => FileError::Unreachable(cause),
    }
}
