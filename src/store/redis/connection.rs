//! How a connection is made, to one server, by way of sentinels, or to a cluster; and how a command reaches its node.

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
use tokio::time::sleep;

use crate::store::settings::{RedisSettings, Secret, Topology};

/// Longest an attempt takes; sentinels are asked one after the other within it.
const CONNECT: Duration = Duration::from_secs(1);
const CONNECT_BY_SENTINEL: Duration = Duration::from_secs(3);
/// While a cluster sorts itself out.
const CLUSTER_PAUSE: Duration = Duration::from_millis(20);

/// Where connections come from.
pub enum Source {
    Single(Client, AsyncConnectionConfig),
    Sentinel(Box<SentinelClient>, AsyncConnectionConfig),
    Cluster(ClusterClient),
}

impl Source {
    pub fn new(settings: &RedisSettings) -> RedisResult<Self> {
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

    /// Longest an attempt takes.
    pub fn patience(&self) -> Duration {
        match self {
            Self::Single(..) => CONNECT,
            Self::Sentinel(..) | Self::Cluster(_) => CONNECT_BY_SENTINEL,
        }
    }

    pub async fn connect(&mut self) -> RedisResult<Connection> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(text: &str) -> RedisError {
        redis::parse_redis_value(text.as_bytes()).unwrap().extract_error().unwrap_err()
    }

    #[test]
    fn only_what_was_surely_not_done_is_sent_again() {
        for refusal in [
            "MOVED 1 a:1",
            "ASK 1 a:1",
            "TRYAGAIN x",
            "CLUSTERDOWN x",
            "LOADING x",
            "READONLY x",
            "MASTERDOWN x",
        ] {
            assert!(was_left_undone(&answered(&format!("-{refusal}\r\n"))), "{refusal}");
        }
        for other in ["ERR x", "OOM x", "MISCONF x", "NOSCRIPT x", "WRONGTYPE x", "UNKNOWN x", "NOAUTH x"] {
            assert!(!was_left_undone(&answered(&format!("-{other}\r\n"))), "{other}");
        }
        assert!(!was_left_undone(&std::io::Error::from(std::io::ErrorKind::BrokenPipe).into()));
        assert!(!was_left_undone(&std::io::Error::from(std::io::ErrorKind::TimedOut).into()));
    }
}
