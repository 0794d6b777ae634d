//! The connection to Redis: one, shared by all callers, kept up by a task of its own.
//!
//! A caller never waits longer than the time limit, and while Redis is known to be gone he does not wait at
//! all. The task reconnects with a growing pause between attempts, at most a second, and asks the sentinels anew each time.
//! Nothing is sent twice unless the server said that it did nothing: what became of a call whose answer is missing is
//! for the caller's client to find out by trying again, which every decision allows. A library that repeated a rotation behind our back
//! would, after another tab's, present a token of two generations ago.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::SingleNodeRoutingInfo;
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ErrorKind, IntoConnectionInfo, Pipeline,
    RedisConnectionInfo, RedisError, RedisFuture, RedisResult, ServerErrorKind, TlsCertificates, TlsMode,
    Value,
};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::store::settings::{RedisSettings, Secret, Topology};
use crate::store::{Result, Unavailable};

/// Pauses between attempts to connect.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Longest an attempt takes; sentinels are asked one after the other within it.
const CONNECT: Duration = Duration::from_secs(1);
const CONNECT_BY_SENTINEL: Duration = Duration::from_secs(3);

/// While a cluster sorts itself out.
const CLUSTER_PAUSE: Duration = Duration::from_millis(20);

/// Settings that no connection could ever be made with.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the Redis in [sessions]: {0}")]
pub struct OpenError(String);

pub struct Link {
    state: watch::Receiver<State>,
    broken: watch::Sender<Broken>,
    limit: Duration,
    cluster: bool,
}

#[derive(Clone)]
enum State {
    Connecting,
    Up { number: u64, connection: Connection },
    Down { cause: Arc<str> },
}

/// The last connection that failed a caller, and how.
struct Broken {
    number: u64,
    cause: Arc<str>,
}

impl Link {
    /// Connects in the background, on the runtime this is called in, and keeps connected until dropped.
    pub fn open(settings: &RedisSettings) -> Result<Self, OpenError> {
        let source = Source::new(settings).map_err(|e| OpenError(explain(&e)))?;
        let (publish, state) = watch::channel(State::Connecting);
        let (broken, reports) = watch::channel(Broken { number: 0, cause: "".into() });
        tokio::spawn(keep_up(source, publish, reports));
        let cluster = settings.topology == Topology::Cluster;
        Ok(Self { state, broken, limit: settings.timeout, cluster })
    }

    pub fn is_cluster(&self) -> bool {
        self.cluster
    }

    /// Longest a caller waits.
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// Makes one call, within the time limit.
    pub async fn call<T>(&self, work: impl AsyncFnOnce(Connection) -> RedisResult<T>) -> Result<T> {
        self.call_numbered(work).await.map(|(_, answer)| answer)
    }

    /// As [`Self::call`], with the number of the connection that answered; a new connection has a new one.
    pub async fn call_numbered<T>(
        &self,
        work: impl AsyncFnOnce(Connection) -> RedisResult<T>,
    ) -> Result<(u64, T)> {
        let end = Instant::now() + self.limit;
        let (number, connection) = self.connection(end).await?;
        match timeout_at(end, work(connection)).await {
            Ok(Ok(answer)) => Ok((number, answer)),
            Ok(Err(error)) => {
                let cause = explain(&error);
                if is_broken(&error) {
                    self.report(number, &cause);
                }
                Err(unavailable(cause))
            }
            // It may be slow, or it may have gone without a word: a new connection tells.
            Err(_) => {
                let cause = format!("no answer within {:?}", self.limit);
                self.report(number, &cause);
                Err(unavailable(cause))
            }
        }
    }

    /// Asks for another connection than this one.
    pub fn report(&self, number: u64, cause: &str) {
        self.broken.send_if_modified(|broken| {
            let news = number > broken.number;
            if news {
                *broken = Broken { number, cause: cause.into() };
            }
            news
        });
    }

    async fn connection(&self, end: Instant) -> Result<(u64, Connection)> {
        let mut state = self.state.clone();
        loop {
            match &*state.borrow_and_update() {
                State::Up { number, connection } => return Ok((*number, connection.clone())),
                State::Down { cause } => return Err(unavailable(cause)),
                State::Connecting => {}
            }
            match timeout_at(end, state.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(unavailable("the gateway is stopping")),
                Err(_) => return Err(unavailable(format!("no connection within {:?}", self.limit))),
            }
        }
    }
}

async fn keep_up(mut source: Source, state: watch::Sender<State>, mut reports: watch::Receiver<Broken>) {
    let mut pause = FIRST_PAUSE;
    // One node of a cluster that is gone is no reason to turn away the users of the others: the old connection serves
    // until there is a new one.
    let stays = matches!(source, Source::Cluster(_));
    for number in 1.. {
        let connection = loop {
            let attempt = timeout(source.patience(), source.connect()).await;
            let cause = match attempt {
                Ok(Ok(connection)) => break connection,
                Ok(Err(error)) => explain(&error),
                Err(_) => format!("no connection within {:?}", source.patience()),
            };
            if state.is_closed() {
                return;
            }
            if number == 1 || !stays {
                let _ = state.send(State::Down { cause: cause.into() });
            }
            rest(&mut pause).await;
        };
        let since = Instant::now();
        if state.send(State::Up { number, connection }).is_err() {
            return;
        }
        let Ok(cause) = reports.wait_for(|broken| broken.number == number).await.map(|b| b.cause.clone())
        else {
            return;
        };
        let lasted = since.elapsed() > LONGEST_PAUSE;
        if !stays {
            let _ = state.send(if lasted { State::Connecting } else { State::Down { cause } });
        }
        if lasted {
            pause = FIRST_PAUSE;
        } else {
            // It lets us in and then fails: to come back faster would help nobody.
            rest(&mut pause).await;
        }
    }
}

/// Anything from half to the whole of the pause, so that a fleet does not come back in step; the next one is longer.
async fn rest(pause: &mut Duration) {
    sleep(pause.mul_f64(0.5 + f64::from(jitter()) / 512.0)).await;
    *pause = (*pause * 2).min(LONGEST_PAUSE);
}

fn jitter() -> u8 {
    uuid::Uuid::new_v4().as_bytes()[0]
}

/// Whether another connection might do better.
fn is_broken(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_connection_dropped()
        || error.is_timeout()
        || error.is_unrecoverable_error()
        // What was the master is a replica now.
        || error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly)
}

/// `error` in one line, without what was sent.
fn explain(error: &RedisError) -> String {
    match (error.kind(), error.code()) {
        (ErrorKind::Server(_) | ErrorKind::Extension, Some(code)) => {
            format!("{code} {}", error.detail().unwrap_or_default())
        }
        _ => error.to_string(),
    }
}

pub fn unavailable(cause: impl std::fmt::Display) -> Unavailable {
    Unavailable { store: "redis", cause: cause.to_string() }
}

/// Where connections come from.
enum Source {
    Single(Client, AsyncConnectionConfig),
    Sentinel(Box<SentinelClient>, AsyncConnectionConfig),
    Cluster(ClusterClient),
}

impl Source {
    fn new(settings: &RedisSettings) -> RedisResult<Self> {
        let tls = settings.tls.then(|| certificates(settings)).transpose()?;
        let password = settings.password.as_ref().map(Secret::expose);
        // Our own limit ends a call; the library's is there to forget about it afterwards.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(Some(settings.timeout.max(CONNECT)));
        let address = |(host, port): &(String, u16)| match settings.tls {
            true => {
                ConnectionAddr::TcpTls { host: host.clone(), port: *port, insecure: false, tls_params: None }
            }
            false => ConnectionAddr::Tcp(host.clone(), *port),
        };
        let mut addresses = settings.servers.iter().map(address);
        let source = match &settings.topology {
            Topology::Single => {
                let address =
                    addresses.next().ok_or((ErrorKind::InvalidClientConfig, "no server is named"))?;
                let mut login = RedisConnectionInfo::default().set_db(settings.database);
                if let Some(username) = &settings.username {
                    login = login.set_username(username.as_str());
                }
                if let Some(password) = password {
                    login = login.set_password(password);
                }
                let info = address.into_connection_info()?.set_redis_settings(login);
                let client = match tls {
                    Some(certificates) => Client::build_with_tls(info, certificates)?,
                    None => Client::open(info)?,
                };
                Self::Single(client, config)
            }
            Topology::Sentinel { master } => {
                let mut builder =
                    SentinelClientBuilder::new(addresses, master.clone(), SentinelServerType::Master)?
                        .set_client_to_redis_db(settings.database);
                if let Some(username) = &settings.username {
                    builder = builder.set_client_to_redis_username(username);
                }
                if let Some(password) = password {
                    builder = builder.set_client_to_redis_password(password);
                }
                if let Some(password) = &settings.sentinel_password {
                    builder = builder.set_client_to_sentinel_password(password.expose());
                }
                if let Some(certificates) = tls {
                    builder = builder
                        .set_client_to_redis_tls_mode(TlsMode::Secure)
                        .set_client_to_redis_certificates(certificates.clone())
                        .set_client_to_sentinel_tls_mode(TlsMode::Secure)
                        .set_client_to_sentinel_certificates(certificates);
                }
                Self::Sentinel(Box::new(builder.build()?), config)
            }
            Topology::Cluster => {
                let mut builder = ClusterClientBuilder::new(addresses)
                    .retries(0)
                    .connection_timeout(CONNECT)
                    .response_timeout(settings.timeout.max(CONNECT));
                if let Some(username) = &settings.username {
                    builder = builder.username(username);
                }
                if let Some(password) = password {
                    builder = builder.password(password);
                }
                if let Some(certificates) = tls {
                    builder = builder.tls(TlsMode::Secure).certs(certificates);
                }
                Self::Cluster(builder.build()?)
            }
        };
        Ok(source)
    }

    fn patience(&self) -> Duration {
        match self {
            Self::Single(..) => CONNECT,
            Self::Sentinel(..) | Self::Cluster(_) => CONNECT_BY_SENTINEL,
        }
    }

    async fn connect(&mut self) -> RedisResult<Connection> {
        Ok(match self {
            Self::Single(client, config) => {
                Connection::Server(client.get_multiplexed_async_connection_with_config(config).await?)
            }
            Self::Sentinel(client, config) => {
                Connection::Server(client.get_async_connection_with_config(config).await?)
            }
            Self::Cluster(client) => Connection::Cluster(client.get_async_connection().await?),
        })
    }
}

fn certificates(settings: &RedisSettings) -> RedisResult<TlsCertificates> {
    let root_cert = match &settings.ca {
        Some(path) => Some(std::fs::read(path)?),
        None => None,
    };
    Ok(TlsCertificates { client_tls: None, root_cert })
}

/// A connection to one server, or to a cluster.
#[derive(Clone)]
pub enum Connection {
    Server(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Server(connection) => connection.req_packed_command(cmd),
            Self::Cluster(connection) => Box::pin(send_to_cluster(connection, cmd)),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Server(connection) => connection.req_packed_commands(pipeline, offset, count),
            Self::Cluster(connection) => connection.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Server(connection) => connection.get_db(),
            Self::Cluster(connection) => connection.get_db(),
        }
    }
}

/// Sends `cmd` to the node that has its key, and again for as long as nodes answer that they left it undone. The caller's time limit
/// ends it.
async fn send_to_cluster(connection: &mut ClusterConnection, cmd: &Cmd) -> RedisResult<Value> {
    loop {
        let error = match connection.req_packed_command(cmd).await {
            Err(error) if was_left_undone(&error) => error,
            outcome => return outcome,
        };
        match error.redirect_node().filter(|_| error.kind() == ErrorKind::Server(ServerErrorKind::Ask)) {
            Some((node, _)) => match ask(connection, cmd, node).await {
                Err(error) if was_left_undone(&error) => {}
                outcome => return outcome,
            },
            // The map of the cluster is being drawn anew.
            None => sleep(CLUSTER_PAUSE).await,
        }
    }
}

/// Whether the nodes have said, or it is clear, that nothing was done.
fn was_left_undone(error: &RedisError) -> bool {
    use ServerErrorKind::{Ask, BusyLoading, ClusterDown, MasterDown, Moved, ReadOnly, TryAgain};
    matches!(
        error.kind(),
        ErrorKind::ClusterConnectionNotFound
            | ErrorKind::Server(Ask | BusyLoading | ClusterDown | MasterDown | Moved | ReadOnly | TryAgain)
    )
}

/// Sends `cmd` to `node`, which is taking over the slot of its key.
async fn ask(connection: &mut ClusterConnection, cmd: &Cmd, node: &str) -> RedisResult<Value> {
    let odd = || RedisError::from((ErrorKind::ClusterConnectionNotFound, "an odd redirection"));
    let (host, port) = node.rsplit_once(':').ok_or_else(odd)?;
    let node =
        SingleNodeRoutingInfo::ByAddress { host: host.to_owned(), port: port.parse().map_err(|_| odd())? };
    let mut both = redis::pipe();
    both.cmd("ASKING").add_command(cmd.clone());
    connection.route_pipeline(both, 0, 2, node).await?.pop().ok_or_else(odd)
}
