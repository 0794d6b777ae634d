//! One client connection. HTTP/1 request heads are read and checked here, before pingora parses them.
//!
//! pingora reads heads with a time limit per read, accepts a mebibyte of them, bare LF line ends, and both
//! Content-Length and Transfer-Encoding (DESIGN section 7). So we read the head ourselves, under one deadline
//! and one size limit, hold it against RFC 9112 byte for byte (`head::check`), and only then hand the very same
//! bytes to pingora's parser, which finds its head complete and reads the body, and nothing else, from the
//! connection (`RequestStream`). Requests that arrive early wait until the one before them is answered.
//!
//! HTTP/2 connections go to pingora as they are: their framing is the h2 crate's.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::BytesMut;
use pingora_core::apps::{HttpServerApp, ServerApp};
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::{ALPN, Stream};
use pingora_core::server::ShutdownWatch;
use pingora_proxy::HttpProxy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::access_log::{AccessLog, Line};
use crate::config::Limits;
use crate::context::{InFlight, RequestIds};
use crate::fault::Fault;
use crate::gateway::Gateway;
use crate::head::{self, HeadLimits};
use crate::metrics::Metrics;
use crate::request_stream::RequestStream;

/// The size of the first read; usual heads fit.
const FIRST_READ: usize = 4096;
/// After refusing a head, how long the client may go on sending before the connection is cut.
const LINGER: Duration = Duration::from_secs(1);

/// Accepts connections for the gateway.
pub struct Connections {
    proxy: Arc<HttpProxy<Gateway>>,
    limits: Limits,
    head_limits: HeadLimits,
    metrics: Arc<Metrics>,
    access_log: Option<Arc<AccessLog>>,
    ids: Arc<RequestIds>,
}

/// Why no request came of a read.
enum NoHead {
    /// The client closed, reset, or stayed idle: nothing to answer.
    Gone,
    Refused(Fault),
}

impl Connections {
    pub fn new(
        proxy: Arc<HttpProxy<Gateway>>,
        limits: Limits,
        metrics: Arc<Metrics>,
        access_log: Option<Arc<AccessLog>>,
        ids: Arc<RequestIds>,
    ) -> Self {
        let head_limits = HeadLimits { bytes: limits.header_bytes, fields: limits.header_count };
        Self { proxy, limits, head_limits, metrics, access_log, ids }
    }

    /// Reads one head: waits for its first byte as long as a connection may idle and the server goes on, then for its
    /// last as long as a head may take, the end of the server or not. What arrived of the request's body is returned with
    /// it, and the rest kept by `stream`.
    async fn read_head(
        &self,
        stream: &mut RequestStream,
        idle: Duration,
        stopping: &mut ShutdownWatch,
    ) -> Result<BytesMut, NoHead> {
        let mut buf = stream.take_ahead();
        if buf.is_empty() {
            buf = BytesMut::with_capacity(FIRST_READ);
            let first = tokio::select! {
                biased;
                first = timeout(idle, stream.connection().read_buf(&mut buf)) => first,
                () = stopped(stopping) => return Err(NoHead::Gone),
            };
            match first {
                Ok(Ok(n)) if n > 0 => {}
                _ => return Err(NoHead::Gone),
            }
        }
        // The process does not end before the request has.
        let _begun = InFlight::count(&self.metrics.in_flight);
        skip_blank_line(&mut buf);
        let mut searched = 0;
        let end = match head::find_end(&buf, searched) {
            Some(end) => end,
            None => {
                buf.reserve(FIRST_READ);
                let rest = async {
                    loop {
                        if buf.len() > self.limits.header_bytes {
                            return Err(NoHead::Refused(head_too_large(self.limits.header_bytes)));
                        }
                        // A terminator may straddle two reads.
                        searched = buf.len().saturating_sub(3);
                        match stream.connection().read_buf(&mut buf).await {
                            Ok(n) if n > 0 => {}
                            _ => return Err(NoHead::Gone),
                        }
                        if let Some(end) = head::find_end(&buf, searched) {
                            return Ok(end);
                        }
                    }
                };
                timeout(self.limits.header_timeout, rest).await.unwrap_or_else(|_| {
                    let fault =
                        Fault::new(408, "request_timeout", "The request's headers did not arrive in time.");
                    Err(NoHead::Refused(fault))
                })?
            }
        };
        let facts = head::check(&buf[..end], &self.head_limits)
            .map_err(|e| NoHead::Refused(Fault::new(e.status, code(e.status), e.reason)))?;
        stream.begin(facts.body, &mut buf, end).map_err(|why| NoHead::Refused(Fault::from(why)))?;
        Ok(buf)
    }

    /// Answers a head that was refused, then closes, letting the client read the answer.
    async fn refuse(&self, mut stream: Stream, fault: &Fault) {
        self.metrics.rejected_heads.with_label_values(&[&fault.status.to_string()]).inc();
        let request_id = self.ids.next();
        let peer = stream.get_socket_digest().and_then(|d| d.peer_addr().and_then(|a| a.as_inet()).copied());
        if let Some(log) = &self.access_log {
            log.log(&Line::refused_head(&request_id, peer.map(|p| p.ip()), fault));
        }
        let body = fault.to_json(&request_id);
        let head = format!(
            "HTTP/1.1 {} {}\r\nContent-Type: application/problem+json\r\nContent-Length: {}\r\n\
             Cache-Control: no-store\r\nX-Request-Id: {request_id}\r\nConnection: close\r\n{}\r\n",
            fault.status,
            fault.title(),
            body.len(),
            fault.allow.as_ref().map_or(String::new(), |a| format!("Allow: {a}\r\n")),
        );
        let answer = [head.as_bytes(), &body].concat();
        let farewell = async {
            stream.write_all(&answer).await?;
            stream.flush().await?;
            stream.shutdown().await?;
            let mut sink = [0; 4096];
            while stream.read(&mut sink).await? > 0 {}
            std::io::Result::Ok(())
        };
        let _ = timeout(LINGER, farewell).await;
    }

    /// Serves HTTP/1 requests one after the other until one side is done with the connection.
    async fn serve_http1(&self, stream: Stream, shutdown: &ShutdownWatch) {
        let mut stream = Box::new(RequestStream::new(stream, self.limits.header_bytes));
        let mut settings = None;
        // The first head must come soon after the connection; later ones may leave it idle for a while.
        let mut wait = self.limits.header_timeout;
        let mut stopping = shutdown.clone();
        loop {
            let head = match self.read_head(&mut stream, wait, &mut stopping).await {
                Ok(head) => head,
                Err(NoHead::Gone) => return,
                Err(NoHead::Refused(fault)) => return self.refuse(stream.into_connection(), &fault).await,
            };
            let mut session = ServerSession::new_http1(stream);
            match settings.take() {
                Some(settings) => {
                    pingora_core::apps::HttpPersistentSettings::apply_to_session(settings, &mut session)
                }
                None => session.set_keepalive(Some(0)),
            }
            session.set_pipelined_prefix(head);
            session.set_read_timeout(Some(self.limits.body_timeout));
            session.set_write_timeout(Some(self.limits.body_timeout));
            let Some(reused) = self.proxy.process_new_http(session, shutdown).await else { return };
            let (returned, kept) = reused.consume();
            let Some(returned) = RequestStream::at_end(returned) else { return };
            (stream, settings) = (returned, kept);
            wait = self.limits.idle_timeout;
        }
    }
}

#[async_trait]
impl ServerApp for Connections {
    async fn process_new(self: &Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let _open = OpenConnection::count(&self.metrics);
        if matches!(stream.selected_alpn_proto(), Some(ALPN::H2)) {
            return self.proxy.process_new(stream, shutdown).await;
        }
        self.serve_http1(stream, shutdown).await;
        None
    }

    async fn cleanup(&self) {
        self.proxy.http_cleanup().await;
    }
}

/// Resolves when the server begins to shut down.
async fn stopped(shutdown: &mut ShutdownWatch) {
    while !*shutdown.borrow_and_update() {
        if shutdown.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// A server should ignore one empty line before a request line (RFC 9112 section 2.2).
fn skip_blank_line(buf: &mut BytesMut) {
    if buf.starts_with(b"\r\n") {
        let _ = buf.split_to(2);
    }
}

/// The stable code of a refused head.
fn code(status: u16) -> &'static str {
    match status {
        405 => "method_not_allowed",
        431 => "header_too_large",
        501 => "not_implemented",
        505 => "http_version_not_supported",
        _ => "malformed_request",
    }
}

fn head_too_large(limit: usize) -> Fault {
    Fault::new(431, "header_too_large", format!("The request's header section is larger than {limit} bytes."))
}

/// Counts a connection for as long as it is open, panics included.
struct OpenConnection<'a>(&'a Metrics);

impl<'a> OpenConnection<'a> {
    fn count(metrics: &'a Metrics) -> Self {
        metrics.connections.inc();
        Self(metrics)
    }
}

impl Drop for OpenConnection<'_> {
    fn drop(&mut self) {
        self.0.connections.dec();
    }
}
