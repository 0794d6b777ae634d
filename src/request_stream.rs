//! One request's share of an HTTP/1 connection: what pingora may read of it.
//!
//! pingora reads as much as arrives. Bytes behind the body of the request in hand end that request with 400 when they
//! come while it runs, or close the connection after it, and its idea of where a chunked body ends is lenient. So it
//! reads through [`RequestStream`], which delivers the body whose length `head::check` found, to the byte, and keeps
//! what comes behind it for the next request. After a 101 all bytes pass.
//!
//! While a file is sent, small writes are held back until a larger one follows, or until its sender has to wait: its
//! head and first bytes go out with the rest, in one call instead of three.
//!
//! Bodies are not decoded here, and not limited: that is pingora's and the gateway's. HTTP/2 does not come this way.

use std::io;
use std::mem::{self, MaybeUninit};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::{SslDigest, TlsRef};
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream,
    TimingDigest, UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::chunked::{Chunks, Malformed};
use crate::head::BodyLength;

/// How much is read at a time of what arrives early.
const EARLY_READ: usize = 1024;

/// So much is held back.
const HELD: usize = 8192;

/// A client connection that ends, for its reader, where the request in hand ends.
#[derive(Debug)]
pub struct RequestStream {
    connection: Stream,
    body: Body,
    /// Bytes behind the request in hand.
    ahead: BytesMut,
    /// With so many bytes ahead no more are read before the next request: the client has to wait.
    most_ahead: usize,
    /// The request became a tunnel. Set by the gateway while pingora holds the stream.
    tunnel: AtomicBool,
    /// Small writes are held back. Set by the gateway while pingora holds the stream.
    holding: AtomicBool,
    held: BytesMut,
}

/// What is still to come of the body.
#[derive(Debug)]
enum Body {
    Bytes(u64),
    Chunked(Chunks),
}

/// From now on all bytes pass, in the order they arrived: call it when a request to upgrade is answered with 101.
pub fn open_tunnel(session: &ServerSession) {
    let stream = session.stream().and_then(|stream| (**stream).as_any().downcast_ref::<RequestStream>());
    if let Some(stream) = stream {
        stream.tunnel.store(true, Ordering::Relaxed);
    }
}

/// From now on, and until the next request, small writes wait for a larger one, for a flush (every response ends with
/// one), or for a read: who listens for the client has nothing to send.
pub fn hold_small_writes(session: &ServerSession) {
    let stream = session.stream().and_then(|stream| (**stream).as_any().downcast_ref::<RequestStream>());
    if let Some(stream) = stream {
        stream.holding.store(true, Ordering::Relaxed);
    }
}

impl RequestStream {
    /// `most_ahead`: about how many bytes of further requests are kept while one runs.
    pub fn new(connection: Stream, most_ahead: usize) -> Self {
        Self {
            connection,
            body: Body::Bytes(0),
            ahead: BytesMut::new(),
            most_ahead,
            tunnel: AtomicBool::new(false),
            holding: AtomicBool::new(false),
            held: BytesMut::new(),
        }
    }

    /// The stream as pingora gives it back, when the request was read to its end and the next one may begin.
    pub fn at_end(stream: Stream) -> Option<Box<Self>> {
        let stream = stream.into_any().downcast::<Self>().ok()?;
        let ended = stream.body.ended() && !stream.tunnel.load(Ordering::Relaxed);
        ended.then_some(stream)
    }

    /// What arrived behind the last request.
    pub fn take_ahead(&mut self) -> BytesMut {
        mem::take(&mut self.ahead)
    }

    /// The connection itself, to read the next head from.
    pub fn connection(&mut self) -> &mut Stream {
        &mut self.connection
    }

    pub fn into_connection(self) -> Stream {
        self.connection
    }

    /// Begins a request whose head is the first `head` bytes of `arrived`, leaves in `arrived` what belongs to it, and
    /// keeps the rest.
    ///
    /// # Errors
    /// What arrived of the body is malformed.
    pub fn begin(
        &mut self,
        length: BodyLength,
        arrived: &mut BytesMut,
        head: usize,
    ) -> Result<(), Malformed> {
        *self.holding.get_mut() = false;
        self.body = Body::new(length);
        let end = head + self.body.take(&arrived[head..])?;
        // Splitting costs an allocation, and mostly nothing is behind the request.
        if end < arrived.len() {
            self.ahead = arrived.split_off(end);
        }
        Ok(())
    }

    /// Sends what is held back.
    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            let sent = ready!(Pin::new(&mut self.connection).poll_write(cx, &self.held))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.held.advance(sent);
        }
        Poll::Ready(Ok(()))
    }

    /// Sends what is held back together with some of `buf`; how much of `buf` went.
    fn poll_both(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        while !self.held.is_empty() {
            let both = [io::IoSlice::new(&self.held), io::IoSlice::new(buf)];
            let sent = ready!(Pin::new(&mut self.connection).poll_write_vectored(cx, &both))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_held = sent.min(self.held.len());
            self.held.advance(of_held);
            if sent > of_held {
                return Poll::Ready(Ok(sent - of_held));
            }
        }
        Pin::new(&mut self.connection).poll_write(cx, buf)
    }

    fn poll_body(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.connection).poll_read(cx, buf))?;
        let arrived = &buf.filled()[before..];
        let own = match self.body.take(arrived) {
            Ok(own) => own,
            Err(why) => {
                buf.set_filled(before);
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, why)));
            }
        };
        self.ahead.extend_from_slice(&arrived[own..]);
        buf.set_filled(before + own);
        Poll::Ready(Ok(()))
    }

    /// Behind the body nothing is delivered, but that the client closed or the connection broke: pingora then gives up
    /// the request. Behind a malformed body, which was reported when it was read, what comes is thrown away, so that
    /// the client gets to read its answer.
    fn poll_behind(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if *self.holding.get_mut() {
            // Whether it can be sent or not: that the client is gone is read all the same.
            let _ = Pin::new(&mut *self).poll_flush(cx)?;
        }
        let broken = self.body.broken();
        let mut room = [MaybeUninit::uninit(); EARLY_READ];
        while broken || self.ahead.len() < self.most_ahead {
            let mut early = ReadBuf::uninit(&mut room);
            ready!(Pin::new(&mut self.connection).poll_read(cx, &mut early))?;
            if early.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            if !broken {
                self.ahead.extend_from_slice(early.filled());
            }
        }
        // Nobody will wake this read; the request ends without it.
        Poll::Pending
    }

    fn poll_tunnel(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut self.connection).poll_read(cx, buf);
        }
        let fits = self.ahead.len().min(buf.remaining());
        buf.put_slice(&self.ahead[..fits]);
        self.ahead.advance(fits);
        Poll::Ready(Ok(()))
    }
}

impl Body {
    fn new(length: BodyLength) -> Self {
        match length {
            BodyLength::None => Self::Bytes(0),
            BodyLength::Bytes(length) => Self::Bytes(length),
            BodyLength::Chunked => Self::Chunked(Chunks::default()),
        }
    }

    /// How many of the next `bytes` belong to the body.
    fn take(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        match self {
            Self::Bytes(left) => {
                let own = (*left).min(bytes.len() as u64);
                *left -= own;
                Ok(own as usize)
            }
            Self::Chunked(chunks) => chunks.take(bytes),
        }
    }

    fn ended(&self) -> bool {
        match self {
            Self::Bytes(left) => *left == 0,
            Self::Chunked(chunks) => chunks.ended(),
        }
    }

    fn broken(&self) -> bool {
        matches!(self, Self::Chunked(chunks) if chunks.broken())
    }
}

impl AsyncRead for RequestStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if *this.tunnel.get_mut() {
            return this.poll_tunnel(cx, buf);
        }
        if this.body.ended() || this.body.broken() {
            return this.poll_behind(cx);
        }
        this.poll_body(cx, buf)
    }
}

impl AsyncWrite for RequestStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if *this.holding.get_mut() && this.held.len() + buf.len() <= HELD {
            this.held.extend_from_slice(buf);
            return Poll::Ready(Ok(buf.len()));
        }
        if this.held.is_empty() {
            return Pin::new(&mut this.connection).poll_write(cx, buf);
        }
        if this.connection.is_write_vectored() {
            return this.poll_both(cx, buf);
        }
        ready!(this.poll_held(cx))?;
        Pin::new(&mut this.connection).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_held(cx))?;
        Pin::new(&mut self.connection).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_held(cx))?;
        Pin::new(&mut self.connection).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_held(cx))?;
        Pin::new(&mut self.connection).poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for RequestStream {
    async fn shutdown(&mut self) {
        // What is held back belongs to an answer that broke off: its client is to see as much as there is of it.
        let _ = std::future::poll_fn(|cx| self.poll_held(cx)).await;
        Shutdown::shutdown(&mut *self.connection).await;
    }
}

/// Peeking would look past the end of the request: it is said not to be supported.
impl Peek for RequestStream {}

impl UniqueID for RequestStream {
    fn id(&self) -> UniqueIDType {
        self.connection.id()
    }
}

impl Ssl for RequestStream {
    fn get_ssl(&self) -> Option<&TlsRef> {
        self.connection.get_ssl()
    }

    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.connection.get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.connection.selected_alpn_proto()
    }
}

impl GetTimingDigest for RequestStream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.connection.get_timing_digest()
    }

    fn get_read_pending_time(&self) -> Duration {
        self.connection.get_read_pending_time()
    }

    fn get_write_pending_time(&self) -> Duration {
        self.connection.get_write_pending_time()
    }
}

impl GetProxyDigest for RequestStream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.connection.get_proxy_digest()
    }

    fn set_proxy_digest(&mut self, digest: ProxyDigest) {
        self.connection.set_proxy_digest(digest);
    }
}

impl GetSocketDigest for RequestStream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.connection.get_socket_digest()
    }

    fn set_socket_digest(&mut self, digest: SocketDigest) {
        self.connection.set_socket_digest(digest);
    }
}

#[cfg(test)]
#[path = "request_stream_tests.rs"]
mod tests;
