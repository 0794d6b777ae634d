//! The request path: the only `impl ProxyHttp`.

use async_trait::async_trait;
use bytes::Bytes;
use ipnet::IpNet;
use pingora_core::protocols::http::ServerSession;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorSource, ErrorType, Result as PingoraResult};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, Session};
use std::sync::Arc;
use std::time::Duration;

use crate::access_log::AccessLog;
use crate::auth::{Authenticated, Authenticator, IdentityHeaders, Links, Permitted, authorize};
use crate::clock::Timestamp;
use crate::config::Limits;
use crate::context::{Answered, Context, InFlight, RequestIds};
use crate::endpoints::{Endpoint, Endpoints, Request};
use crate::fault::{Challenge, Fault};
use crate::files::Download;
use crate::limits::{Caller, client_key};
use crate::metrics::{Metrics, RouteMetrics};
use crate::reply::{self, Reply};
use crate::route::{CleanPath, Host, NoMatch};
use crate::target::{Route, Routes, Target};
use crate::upstream::forwarded::Origin;
use crate::{body, edit, request_stream, upstream};

mod files;

use files::{send_file, serve_files};

/// Everything a request needs, fixed at start.
pub struct Gateway {
    pub routes: Routes,
    pub auth: Arc<Authenticator>,
    pub links: Links,
    pub identity_headers: Arc<IdentityHeaders>,
    pub endpoints: Arc<Endpoints>,
    pub limits: Limits,
    pub trusted_proxies: Vec<IpNet>,
    pub metrics: Arc<Metrics>,
    /// Counts requests no route answered.
    pub unrouted: RouteMetrics,
    pub access_log: Option<Arc<AccessLog>>,
    pub ids: Arc<RequestIds>,
}

/// How long a WebSocket may be silent in one direction; the limits of requests would end it far too soon.
const TUNNEL_IDLE: Duration = Duration::from_secs(3600);

/// What becomes of a request that passed every stage.
enum Outcome {
    Forward,
    Reply(Reply),
    Stream(Box<Download>),
}

impl Gateway {
    /// The way of a request. Each stage's result is the next one's argument: none can be left out.
    async fn pass(&self, session: &mut Session, ctx: &mut Context) -> Result<Outcome, Fault> {
        let now = Timestamp::now();
        let host = self.receive(session, ctx)?;
        let path = clean_path(session)?;
        let route = self.route(session, ctx, &host, &path)?;
        let caller = self.authenticate(session, &route, &path, now).await?;
        let permitted = authorize(&route.policy.require, caller)?;
        self.admit(session, ctx, &route, &permitted, now).await?;
        self.dispatch(session, ctx, &route, path, permitted, now).await
    }

    /// Where the request came from and for which host.
    fn receive<'s>(&self, session: &'s Session, ctx: &mut Context) -> Result<Host<'s>, Fault> {
        let request = session.req_header();
        let peer = session.client_addr().and_then(|a| a.as_inet()).map(|a| a.ip());
        let tls = session.digest().is_some_and(|d| d.ssl_digest.is_some());
        if let Some(peer) = peer {
            ctx.origin = Origin::of(peer, tls, &request.headers, &self.trusted_proxies);
        }
        edit::check_framing(request, &self.limits)?;
        let authority = edit::authority(request)?;
        let host = Host::parse(authority).map_err(|e| Fault::bad_request("invalid_host", e.to_string()))?;
        ctx.authority = Some(authority.to_owned());
        Ok(host)
    }

    fn route(
        &self,
        session: &Session,
        ctx: &mut Context,
        host: &Host<'_>,
        path: &CleanPath,
    ) -> Result<Arc<Route>, Fault> {
        let method = session.req_header().method.as_str();
        if matches!(method, "CONNECT" | "TRACE") {
            return Err(Fault::method_not_allowed(String::new()));
        }
        ctx.path = Some(path.clone());
        match self.routes.find(host, path, method) {
            Ok(route) => {
                ctx.route = Some(route.clone());
                Ok(route.clone())
            }
            Err(NoMatch::NotFound) => Err(Fault::not_found()),
            Err(NoMatch::MethodNotAllowed { allow }) => Err(Fault::method_not_allowed(allow.to_owned())),
        }
    }

    /// Who is calling. Whoever comes by a share link is nobody else: other credentials are not looked at.
    async fn authenticate(
        &self,
        session: &Session,
        route: &Route,
        path: &CleanPath,
        now: Timestamp,
    ) -> Result<Authenticated, Fault> {
        let request = session.req_header();
        if let Target::Files(files) = &route.target
            && let Some(token) = files.link_token(request.method.as_str(), path.query())
        {
            return Box::pin(self.links.verify(&token, files.store_name(), path.as_str(), now)).await;
        }
        let identity = self.auth.authenticate(route.policy.auth, &request.headers, path.query(), now).await?;
        Ok(identity.into())
    }

    /// Limits that depend on the route and the caller: 413 and 429.
    async fn admit(
        &self,
        session: &Session,
        ctx: &Context,
        route: &Route,
        permitted: &Permitted,
        now: Timestamp,
    ) -> Result<(), Fault> {
        // A file route says itself what is too large, with the numbers.
        if !matches!(route.target, Target::Files(_)) {
            body::check_declared(session, self.body_limit(route))?;
        }
        let Some(limiter) = &route.limiter else { return Ok(()) };
        let caller = match permitted.identity() {
            Some(identity) => {
                Caller::User { issuer: &identity.claims.issuer, subject: &identity.claims.subject }
            }
            None => Caller::Address(client_key(ctx.origin.client)),
        };
        limiter.check(&caller, now).await.map_err(|wait| {
            self.metrics.rate_limited.with_label_values(&[route.policy.path.as_str()]).inc();
            Fault::too_many_requests("rate_limited", wait)
        })
    }

    /// Forwards, or answers from here. The futures of what is rare are boxed: they are large, and every request's
    /// future would have room for them.
    async fn dispatch(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        route: &Route,
        path: CleanPath,
        permitted: Permitted,
        now: Timestamp,
    ) -> Result<Outcome, Fault> {
        let permitted = ctx.permitted.insert(permitted);
        match &route.target {
            Target::Upstream(_) | Target::Echo => Ok(Outcome::Forward),
            Target::Files(files) => Box::pin(serve_files(files, session, &path, permitted)).await,
            Target::Fixed(reply) => Ok(Outcome::Reply(reply.clone())),
            Target::Endpoint(endpoint) => {
                let serve = self.serve_endpoint(*endpoint, session, &ctx.origin, path, permitted, now);
                Box::pin(serve).await.map(Outcome::Reply)
            }
        }
    }

    async fn serve_endpoint(
        &self,
        endpoint: Endpoint,
        session: &mut Session,
        origin: &Origin,
        path: CleanPath,
        permitted: &Permitted,
        now: Timestamp,
    ) -> Result<Reply, Fault> {
        let body = if endpoint.takes_body() {
            body::read_whole(session, body::ENDPOINT_BODY, self.limits.body_timeout).await?
        } else {
            Bytes::new()
        };
        let request = Request {
            headers: &session.req_header().headers,
            path: &path,
            body,
            client: origin.client,
            https: origin.https,
            identity: permitted.identity(),
            now,
        };
        self.endpoints.serve(endpoint, request).await
    }

    fn body_limit(&self, route: &Route) -> u64 {
        route.policy.max_body.unwrap_or(self.limits.body)
    }

    async fn answer(&self, session: &mut Session, ctx: &mut Context, mut reply: Reply) -> PingoraResult<()> {
        if let Some(route) = &ctx.route {
            edit::reply_headers(&mut reply, &route.edits.response);
        }
        Box::pin(reply::send(session, reply, &ctx.request_id)).await
    }

    /// The failure as a response, and in the log and counters.
    fn refuse(&self, ctx: &mut Context, fault: Fault) -> Reply {
        if fault.challenge == Some(Challenge::InvalidToken) {
            let reason = fault.cause.as_deref().unwrap_or("other");
            self.metrics.token_rejections.with_label_values(&[reason]).inc();
        }
        if fault.status >= 500 {
            tracing::warn!(
                request_id = ctx.request_id,
                status = fault.status,
                code = fault.code,
                cause = fault.cause.as_deref().unwrap_or_default(),
                "request failed"
            );
        }
        let reply = Reply::from_fault(&fault, &ctx.request_id);
        ctx.fault = Some(fault);
        reply
    }
}

fn clean_path(session: &Session) -> Result<CleanPath, Fault> {
    let target = edit::origin_form(session.req_header());
    CleanPath::parse(target).map_err(|e| Fault::bad_request("invalid_path", e.to_string()))
}

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        Context::new(self.ids.next())
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Context) -> PingoraResult<bool> {
        ctx.in_flight = Some(InFlight::count(&self.metrics.in_flight));
        edit::unasked_upgrade(session.req_header_mut());
        if session.is_http2() {
            // As `connection` does for HTTP/1: a stream that stands still gives back what it holds.
            session.set_read_timeout(Some(self.limits.body_timeout));
            session.set_write_timeout(Some(self.limits.body_timeout));
        }
        let reply = match self.pass(session, ctx).await {
            Ok(Outcome::Forward) => return Ok(false),
            Ok(Outcome::Reply(reply)) => reply,
            Ok(Outcome::Stream(download)) => {
                return Box::pin(send_file(session, ctx, *download)).await.map(|()| true);
            }
            Err(fault) => self.refuse(ctx, fault),
        };
        self.answer(session, ctx, reply).await?;
        Ok(true)
    }

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Context) -> PingoraResult<Box<HttpPeer>> {
        let peer = match ctx.route.as_deref().map(|r| &r.target) {
            Some(Target::Upstream(upstream)) => upstream.peer(&mut ctx.attempts),
            Some(Target::Echo) => Some(upstream::echo_peer()),
            _ => None,
        };
        let mut peer = peer
            .ok_or_else(|| Error::explain(ErrorType::ConnectNoRoute, "no server has an address").into_up())?;
        ctx.upstream = peer._address.as_inet().copied();
        // A retry sends the body from its beginning, through the same filter.
        ctx.body_received = 0;
        if session.is_upgrade_req() {
            peer.options.read_timeout = Some(TUNNEL_IDLE);
        }
        Ok(peer)
    }

    /// Runs after pingora has removed hop-by-hop fields, so that what is set here arrives (invariant 2).
    async fn upstream_request_filter(
        &self,
        _: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Context,
    ) -> PingoraResult<()> {
        let (Some(route), Some(path), Some(permitted)) = (&ctx.route, &ctx.path, &ctx.permitted) else {
            return Err(Error::explain(ErrorType::InternalError, "not permitted").into_in());
        };
        edit::target(request, path, route.policy.strip_prefix.as_deref())?;
        edit::credentials(request, forwards_token(route) && permitted.identity().is_some());
        edit::method_override(request, &route.policy.methods);
        edit::request_headers(request, &route.edits.request)?;
        self.identity_headers.apply(request, permitted.identity().map(Arc::as_ref))?;
        upstream::forwarded::rewrite(
            request,
            &ctx.origin,
            ctx.authority.as_deref(),
            route.policy.strip_prefix.as_deref(),
        )?;
        edit::request_id(request, &ctx.request_id)
    }

    async fn request_body_filter(
        &self,
        _: &mut Session,
        chunk: &mut Option<Bytes>,
        end: bool,
        ctx: &mut Context,
    ) -> PingoraResult<()> {
        // An HTTP/2 body may end in an empty DATA frame. As an empty chunk it would end a chunked body once, and the
        // end of the stream a second time: the upstream would take the rest for another request.
        if end && chunk.as_ref().is_some_and(Bytes::is_empty) {
            *chunk = None;
        }
        ctx.body_received += chunk.as_ref().map_or(0, |b| b.len() as u64);
        let limit = ctx.route.as_deref().map_or(self.limits.body, |r| self.body_limit(r));
        // After an upgrade this is a tunnel, not a body.
        if ctx.body_received > limit && !ctx.upgraded {
            ctx.fault = Some(Fault::body_too_large(limit));
            return Err(Error::explain(ErrorType::HTTPStatus(413), "request body too large").into_down());
        }
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Context,
    ) -> PingoraResult<()> {
        if response.status == http::StatusCode::SWITCHING_PROTOCOLS {
            if !session.is_upgrade_req() {
                let e = Error::explain(
                    ErrorType::InvalidHTTPHeader,
                    "101 to a request that asked for no upgrade",
                );
                return Err(e.into_up());
            }
            ctx.upgraded = true;
            session.set_read_timeout(Some(TUNNEL_IDLE));
            request_stream::open_tunnel(&session.downstream_session);
        }
        edit::response_hop_by_hop(response);
        if let Some(route) = &ctx.route {
            edit::response_headers(response, &route.edits.response)?;
        }
        response.insert_header(reply::REQUEST_ID, &ctx.request_id)
    }

    fn fail_to_connect(
        &self,
        _: &mut Session,
        peer: &HttpPeer,
        ctx: &mut Context,
        mut e: Box<Error>,
    ) -> Box<Error> {
        let Some(Target::Upstream(upstream)) = ctx.route.as_deref().map(|r| &r.target) else { return e };
        self.metrics.upstream_errors.with_label_values(&[&upstream.name, "connect"]).inc();
        tracing::warn!(upstream = %upstream.name, server = %peer._address, error = %e, "upstream not reached");
        // Nothing has been sent, so another server may take any request.
        ctx.attempts.failed();
        e.set_retry(upstream.has_another(ctx.attempts));
        e
    }

    async fn fail_to_proxy(&self, session: &mut Session, e: &Error, ctx: &mut Context) -> FailToProxy {
        let silent = FailToProxy { error_code: 0, can_reuse_downstream: false };
        if session.response_written().is_some() {
            return silent;
        }
        let Some(fault) = ctx.fault.take().or_else(|| reply::fault_of(e)) else { return silent };
        if *e.esource() == ErrorSource::Upstream
            && let Some(Target::Upstream(upstream)) = ctx.route.as_deref().map(|r| &r.target)
            && fault.status != 503
        {
            self.metrics.upstream_errors.with_label_values(&[&upstream.name, fault.code]).inc();
        }
        let status = fault.status;
        // The upstream may have taken part of the request: neither side's framing is certain any more.
        let reply = self.refuse(ctx, fault.closing());
        if let Err(e) = self.answer(session, ctx, reply).await {
            tracing::debug!(request_id = ctx.request_id, error = %e, "error response not sent");
        }
        FailToProxy { error_code: status, can_reuse_downstream: false }
    }

    /// Failures are logged once, by `refuse` and the access log.
    fn suppress_error_log(&self, _: &Session, _: &Context, _: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _: &Session,
        _: &Context,
        _: &Error,
        _: pingora_proxy::ProxyWarnLogContext,
    ) -> bool {
        true
    }

    async fn logging(&self, session: &mut Session, e: Option<&Error>, ctx: &mut Context) {
        ctx.in_flight = None;
        let elapsed = ctx.started.elapsed();
        let downstream: &ServerSession = &session.downstream_session;
        // 499 (nginx): the client left before a response could be written.
        let status = downstream.response_written().map_or(499, |r| r.status.as_u16());
        match &ctx.route {
            Some(route) => route.metrics.observe(status, elapsed),
            None => self.unrouted.observe(status, elapsed),
        }
        let Some(log) = &self.access_log else { return };
        if ctx.fault.is_none() {
            ctx.fault = e.and_then(reply::fault_of);
        }
        let answered = Answered {
            status,
            bytes_in: downstream.body_bytes_read() as u64,
            bytes_out: downstream.body_bytes_sent() as u64,
            elapsed,
        };
        let request = downstream.req_header();
        log.log(&ctx.log_line(request.method.as_str(), request.uri.path(), answered));
    }
}

fn forwards_token(route: &Route) -> bool {
    matches!(&route.target, Target::Upstream(u) if u.forward_token)
}
