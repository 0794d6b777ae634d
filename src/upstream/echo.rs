//! The built-in `echo` upstream: a server in this process that answers with the request it received.
//!
//! Requests reach it over an in-memory connection through the very path any upstream's requests take, so
//! what it shows is what a backend would have received. Bearer tokens are redacted.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use bytes::Bytes;
use http::HeaderMap;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use pingora_core::connectors::l4::Connect;
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use pingora_core::upstreams::peer::HttpPeer;
use pingora_http::ResponseHeader;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

/// Buffer of the in-memory connection, in each direction.
const PIPE_BYTES: usize = 64 * 1024;
/// Body bytes shown in the answer; longer bodies are counted, not shown.
const SHOWN_BYTES: usize = 16 * 1024;

/// The peer that leads to the echo server.
pub fn echo_peer() -> Box<HttpPeer> {
    let mut peer = Box::new(HttpPeer::new("127.0.0.1:0", false, String::new()));
    peer.options.custom_l4 = Some(Arc::new(ToEcho));
    peer
}

#[derive(Debug)]
struct ToEcho;

#[async_trait]
impl Connect for ToEcho {
    async fn connect(&self, _: &SocketAddr) -> pingora_core::Result<Stream> {
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        tokio::spawn(serve(stream(theirs)));
        Ok(stream(ours))
    }
}

fn stream(end: DuplexStream) -> Stream {
    VirtualSocketStream::new(Box::new(Pipe(end))).into()
}

/// Answers one request and closes.
async fn serve(connection: Stream) {
    let mut session = ServerSession::new_http1(Box::new(connection));
    session.set_keepalive(None);
    if !matches!(session.read_request().await, Ok(true)) {
        return;
    }
    if let Err(e) = answer(&mut session).await {
        tracing::debug!(error = %e, "echo aborted");
    }
    let _ = session.finish().await;
}

async fn answer(session: &mut ServerSession) -> pingora_core::Result<()> {
    let mut shown = Vec::new();
    let mut total = 0_usize;
    while let Some(chunk) = session.read_request_body().await? {
        total += chunk.len();
        let room = SHOWN_BYTES.saturating_sub(shown.len()).min(chunk.len());
        shown.extend_from_slice(&chunk[..room]);
    }
    let request = session.req_header();
    let echo = json!({
        "method": request.method.as_str(),
        "target": String::from_utf8_lossy(request.raw_path()),
        "headers": fields(&request.headers),
        "body": String::from_utf8_lossy(&shown),
        "body_bytes": total,
    });
    let mut text = serde_json::to_vec_pretty(&echo).unwrap_or_default();
    text.push(b'\n');

    let mut head = ResponseHeader::build(200, Some(3))?;
    head.insert_header(CONTENT_TYPE, "application/json")?;
    head.set_content_length(text.len())?;
    session.write_response_header(Box::new(head)).await?;
    session.write_response_body(Bytes::from(text), true).await
}

/// Every field in order of arrival by name; several of one name as a list.
fn fields(headers: &HeaderMap) -> Value {
    let mut shown = serde_json::Map::new();
    for name in headers.keys() {
        let values = headers.get_all(name).iter();
        let mut texts: Vec<Value> = values
            .map(|v| match name {
                name if name == AUTHORIZATION => redact(v.as_bytes()),
                _ => String::from_utf8_lossy(v.as_bytes()).into_owned().into(),
            })
            .collect();
        let value = if texts.len() == 1 { texts.remove(0) } else { Value::Array(texts) };
        shown.insert(name.as_str().to_owned(), value);
    }
    Value::Object(shown)
}

fn redact(credentials: &[u8]) -> Value {
    let scheme = credentials.split(|&b| b == b' ').next().unwrap_or_default();
    format!("{} [redacted]", String::from_utf8_lossy(scheme)).into()
}

/// An in-memory connection in the shape pingora takes.
#[derive(Debug)]
struct Pipe(DuplexStream);

impl VirtualSocket for Pipe {
    fn set_socket_option(&self, _: VirtualSockOpt) -> std::io::Result<()> {
        Ok(())
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
