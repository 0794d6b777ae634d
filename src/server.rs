//! The composition root: builds every part from the configuration and runs them. The only module that names
//! a concrete store.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::apps::HttpServerOptions;
use pingora_core::listeners::tls::TlsSettings;
use pingora_core::protocols::http::v2::server::default_h2_options;
use pingora_core::server::configuration::ServerConf;
use pingora_core::server::{RunArgs, Server, ShutdownSignal, ShutdownSignalWatch};
use pingora_core::services::listening::Service;
use pingora_proxy::{HttpProxy, http_proxy};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::access_log::AccessLog;
use crate::admin::Admin;
use crate::auth::{Authenticator, IdentityHeaders, Links};
use crate::background::Background;
use crate::clock::Timestamp;
use crate::config::{Config, Limits, SessionStore};
use crate::connection::Connections;
use crate::context::RequestIds;
use crate::endpoints::Endpoints;
use crate::gateway::Gateway;
use crate::metrics::Metrics;
use crate::observed::Observed;
use crate::passwords::Hasher;
use crate::store::{LoginThrottle, RateLimits, RefreshPolicy, Sessions, Users};
use crate::tokens::{
    DeviceCookies, FileTokens, Issuers, Mint, RefreshTokens, Revocations, SigningKeys, Verifier,
};
use crate::upstream::Upstream;

mod file_stores;
mod routes;
mod stores;

pub use self::file_stores::FileStores;
pub use self::routes::routes;
pub use self::stores::Stores;

/// A reason not to start, in words for the operator.
pub type StartError = Box<dyn std::error::Error + Send + Sync>;

/// Requests one HTTP/2 connection may have running (RFC 9113 section 6.5.2 recommends at least 100).
const MAX_STREAMS: u32 = 128;

/// How long the start waits for revocations to be heard of.
pub const CATCH_UP: Duration = Duration::from_secs(2);

/// How often the end of the last request is looked for while stopping.
const DRAIN_POLL: Duration = Duration::from_millis(10);

/// The parts that sign and verify.
pub struct TokenParts {
    pub mint: Arc<Mint>,
    pub issuers: Arc<Issuers>,
    pub verifier: Arc<Verifier>,
    pub revocations: Arc<Revocations>,
}

/// Loads or makes our keys and prepares verification.
pub fn token_parts(config: &Config, now: Timestamp) -> Result<TokenParts, StartError> {
    let keys = SigningKeys::open(&config.server.data_dir, &config.tokens, now)?;
    let mint = Arc::new(Mint::new(keys, &config.tokens));
    let revocations = match &config.sessions {
        SessionStore::Embedded => Revocations::new(),
        SessionStore::Redis(_, policy) => Revocations::heard_from_afar(*policy, now),
    };
    let revocations = Arc::new(revocations.of_tokens(refresh_policy(config).access_lifetime));
    let issuers = Arc::new(Issuers::new(&config.issuers)?);
    let verifier = Verifier::new(&config.tokens, mint.clone(), issuers.clone(), revocations.clone());
    Ok(TokenParts { mint, issuers, verifier: Arc::new(verifier), revocations })
}

pub fn refresh_policy(config: &Config) -> RefreshPolicy {
    RefreshPolicy {
        grace: config.tokens.refresh_grace,
        idle_ttl: config.tokens.refresh_idle_ttl,
        access_lifetime: config.tokens.access_ttl + config.tokens.leeway,
    }
}

/// Upstreams by name.
fn upstreams(config: &Config) -> BTreeMap<String, Arc<Upstream>> {
    let numbered = config.upstreams.iter().zip(1..);
    numbered.map(|((name, u), group)| (name.clone(), Arc::new(Upstream::new(name, u, group)))).collect()
}

/// Runs the gateway until a signal ends it.
///
/// # Errors
/// Whatever keeps it from starting, with the remedy. Once it serves, it does not return an error.
pub fn run(config: &Config) -> Result<(), StartError> {
    let now = Timestamp::now();
    let metrics = Arc::new(Metrics::new()?);
    count_panics(&metrics);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("background")
        .enable_all()
        .build()?;
    let _inside = runtime.enter();

    let tokens = token_parts(config, now)?;
    let stores = runtime.block_on(Stores::open(config, tokens.revocations.clone()))?;
    if !runtime.block_on(stores.catch_up(CATCH_UP)) {
        tracing::error!("revocations not heard of yet: starting without, see sessions.unreachable_after");
    }
    let refresh_tokens = Arc::new(RefreshTokens::load_or_create(&config.server.data_dir)?);
    match runtime.block_on(stores.fleet.has_fingerprint(&refresh_tokens.fingerprint())) {
        Ok(true) => refresh_tokens.confirm(),
        Ok(false) => return Err(stores.fleet.stranger().into()),
        Err(_) => drop(runtime.spawn(stores.fleet.clone().confirm_in_time(refresh_tokens.clone()))),
    }
    let users: Arc<dyn Users> = Observed::new(stores.users, "users", &metrics);
    let sessions: Arc<dyn Sessions> = Observed::new(stores.sessions, "sessions", &metrics);
    let throttle: Arc<dyn LoginThrottle> = Observed::new(stores.throttle, "throttle", &metrics);
    let upstreams = upstreams(config);
    let rate_limits: Option<Arc<dyn RateLimits>> = match stores.rate_limits {
        Some(store) => Some(Observed::new(store, "rate_limits", &metrics)),
        None => None,
    };
    let file_stores = runtime.block_on(FileStores::open(config, &metrics, runtime.handle()))?;
    let file_tokens = Arc::new(FileTokens::load_or_create(&config.server.data_dir)?);
    let links = Links::new(file_tokens.clone(), sessions.clone(), tokens.revocations.clone());
    let table = routes(config, &upstreams, &file_stores, &file_tokens, &metrics, rate_limits)?;
    let identity_headers = Arc::new(IdentityHeaders::new(&config.identity.headers));
    let authenticator = Arc::new(Authenticator::new(
        tokens.verifier.clone(),
        config.tokens.cache_bytes,
        identity_headers.clone(),
    ));
    let ids = Arc::new(RequestIds::new());
    let access_log = match config.log.access {
        true => Some(Arc::new(AccessLog::start(metrics.access_log_dropped.clone())?)),
        false => None,
    };
    let endpoints = Endpoints {
        config: config.endpoints.clone(),
        issuer: config.tokens.issuer.clone(),
        users: users.clone(),
        sessions: sessions.clone(),
        throttle,
        throttle_policy: config.throttle,
        hasher: Arc::new(Hasher::start(
            config.passwords.cost,
            config.passwords.concurrency,
            config.passwords.queue,
        )?),
        min_password_length: config.passwords.min_length,
        mint: tokens.mint.clone(),
        refresh_tokens,
        device_cookies: DeviceCookies::load_or_create(&config.server.data_dir)?,
        revocations: tokens.revocations.clone(),
        authenticator: authenticator.clone(),
        refresh_policy: refresh_policy(config),
        refresh_ttl: config.tokens.refresh_ttl,
        metrics: metrics.clone(),
    };
    let background = Background {
        mint: tokens.mint.clone(),
        issuers: tokens.issuers.clone(),
        revocations: tokens.revocations.clone(),
        sessions: sessions.clone(),
        upstreams: upstreams.values().cloned().collect(),
    };
    background.start(runtime.handle());
    file_stores.keep(runtime.handle());

    let draining = Arc::new(AtomicBool::new(false));
    let admin = Admin {
        metrics: metrics.clone(),
        authenticator: authenticator.clone(),
        revocations: tokens.revocations.clone(),
        users,
        sessions,
        upstreams: upstreams.values().cloned().collect(),
        file_stores: file_stores.by_name.values().cloned().collect(),
        draining: draining.clone(),
    };
    let gateway = Gateway {
        routes: table,
        auth: authenticator,
        links,
        identity_headers,
        endpoints: Arc::new(endpoints),
        limits: config.server.limits,
        trusted_proxies: config.server.trusted_proxies.clone(),
        unrouted: metrics.route("-"),
        metrics: metrics.clone(),
        access_log: access_log.clone(),
        ids: ids.clone(),
    };
    let drain =
        Drain { metrics, draining, access_log: access_log.clone(), background: runtime.handle().clone() };
    serve(config, gateway, admin, ids, drain)?;
    end_process(access_log.as_deref())
}

/// Listens and serves until a signal.
fn serve(
    config: &Config,
    gateway: Gateway,
    admin: Admin,
    ids: Arc<RequestIds>,
    drain: Drain,
) -> Result<(), StartError> {
    // pingora panics on an address it cannot bind; asking first gives an error in words.
    for address in config.server.listen.iter().map(|l| l.address).chain(config.server.admin) {
        std::net::TcpListener::bind(address)
            .map_err(|e| format!("cannot listen on {address}: {e}; see server.listen and server.admin"))?;
    }
    let conf = ServerConf {
        threads: config.server.threads,
        grace_period_seconds: Some(config.server.shutdown_grace.as_secs()),
        graceful_shutdown_timeout_seconds: Some(0),
        upstream_keepalive_pool_size: 1024,
        max_retries: 8,
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();

    let mut proxy = http_proxy(&server.configuration, gateway);
    limit_http2(&mut proxy, &config.server.limits);
    let proxy = Arc::new(proxy);
    let connections =
        Connections::new(proxy, config.server.limits, drain.metrics.clone(), drain.access_log.clone(), ids);
    let mut public = Service::new("gateway".to_owned(), connections);
    for listener in &config.server.listen {
        let address = listener.address.to_string();
        match &listener.tls {
            None => public.add_tcp(&address),
            Some(tls) => {
                let mut settings =
                    TlsSettings::intermediate(&tls.cert.to_string_lossy(), &tls.key.to_string_lossy())?;
                if listener.h2 {
                    settings.enable_h2();
                }
                public.add_tls_with_settings(&address, None, settings);
            }
        }
        tracing::info!(%address, tls = listener.tls.is_some(), h2 = listener.h2, "listening");
    }
    server.add_service(public);
    if let Some(address) = config.server.admin {
        let mut service = Service::new("admin".to_owned(), admin);
        service.add_tcp(&address.to_string());
        server.add_service(service);
        tracing::info!(%address, "admin listening");
    }
    server.run(RunArgs { shutdown_signal: Box::new(drain) });
    Ok(())
}

/// The limits of HTTP/1 heads and idle connections, for HTTP/2.
fn limit_http2(proxy: &mut HttpProxy<Gateway>, limits: &Limits) {
    let mut h2 = default_h2_options();
    h2.max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX));
    h2.max_concurrent_streams(MAX_STREAMS);
    proxy.h2_options = Some(h2);
    let mut options = HttpServerOptions::default();
    options.h2_idle_timeout = Some(limits.idle_timeout);
    proxy.server_options = Some(options);
}

/// Every panic is counted and logged; it costs its connection, not the process.
fn count_panics(metrics: &Metrics) {
    let panics = metrics.panics.clone();
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        panics.inc();
        tracing::error!(location = ?info.location().map(ToString::to_string), "panic");
        default(info);
    }));
}

/// Turns a signal into a shutdown: pingora closes the listeners and idle connections, and the process ends as
/// soon as the running requests have.
struct Drain {
    metrics: Arc<Metrics>,
    draining: Arc<AtomicBool>,
    access_log: Option<Arc<AccessLog>>,
    background: tokio::runtime::Handle,
}

#[async_trait]
impl ShutdownSignalWatch for Drain {
    async fn recv(&self) -> ShutdownSignal {
        let Some(mut signals) = Signals::listen() else { return std::future::pending().await };
        signals.stop().await;
        self.draining.store(true, Ordering::Release);
        tracing::info!(in_flight = self.metrics.in_flight.get(), "stopping");
        let (metrics, access_log) = (self.metrics.clone(), self.access_log.clone());
        self.background.spawn(async move {
            let idle = async {
                // A connection accepted last may not have become a request yet.
                tokio::time::sleep(DRAIN_POLL * 5).await;
                while metrics.in_flight.get() > 0 {
                    tokio::time::sleep(DRAIN_POLL).await;
                }
            };
            // A second signal means now. Otherwise pingora's grace period is the limit.
            tokio::select! { () = idle => {}, () = signals.stop() => {} }
            end_process(access_log.as_deref())
        });
        ShutdownSignal::GracefulTerminate
    }
}

/// pingora sleeps through its whole grace period even when nothing runs any more, so the end comes from here.
fn end_process(access_log: Option<&AccessLog>) -> ! {
    if let Some(log) = access_log {
        log.finish();
    }
    tracing::info!("stopped");
    std::process::exit(0)
}

/// The signals that concern us. Listened to once and for all: a listener made later would miss what came before.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> Option<Self> {
        let (terminate, interrupt) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
        Some(Self {
            terminate: terminate.ok()?,
            interrupt: interrupt.ok()?,
            hangup: signal(SignalKind::hangup()).ok()?,
        })
    }

    /// The next SIGTERM or SIGINT. SIGHUP is left for reloading and must not end the process meanwhile.
    async fn stop(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => {
                    tracing::warn!("SIGHUP ignored: reloading is not available; restart to apply changes");
                }
            }
        }
    }
}
