//! The Redis store: its deployment for the suite, and what holds for a server only.

use std::sync::Arc;

use async_trait::async_trait;
use portcullis::store::embedded::Embedded;
use portcullis::store::redis::{Clock, Redis};
use portcullis::store::settings::{RedisSettings, Topology};
use tempfile::TempDir;
use uuid::Uuid;

use crate::servers::{shared_cluster, shared_redis};
use crate::support::{Deployment, Gateway, Heard, MS};

/// Sessions and throttles under a prefix of their own in the Redis all cases share; users in a file.
pub struct Shared {
    folder: TempDir,
    settings: RedisSettings,
}

impl Shared {
    pub fn one_server() -> Self {
        Self::at(settings(shared_redis(), &prefix()))
    }

    pub fn cluster() -> Self {
        let servers = shared_cluster().into_iter().map(|port| ("127.0.0.1".into(), port)).collect();
        Self::at(RedisSettings { topology: Topology::Cluster, servers, ..settings(0, &prefix()) })
    }

    fn at(settings: RedisSettings) -> Self {
        Self { folder: tempfile::tempdir().unwrap(), settings }
    }
}

pub fn prefix() -> String {
    format!("test-{}", Uuid::new_v4().simple())
}

pub fn settings(port: u16, prefix: &str) -> RedisSettings {
    RedisSettings {
        topology: Topology::Single,
        servers: vec![("127.0.0.1".into(), port)],
        tls: false,
        ca: None,
        username: None,
        password: None,
        sentinel_password: None,
        database: 0,
        prefix: prefix.into(),
        // Long enough for a loaded machine: the cases here are not about time limits.
        timeout: 5_000 * MS,
    }
}

#[async_trait]
impl Deployment for Shared {
    async fn gateway(&self) -> Gateway {
        let heard = Arc::new(Heard::default());
        let store = Redis::open(&self.settings, heard.clone(), Clock::Caller).unwrap();
        store.caught_up().await;
        let users = Embedded::open(self.folder.path(), Arc::new(())).unwrap();
        Gateway { users, sessions: store.clone(), throttle: store, heard }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_gateway_says_what_fleet_it_is() {
    let on = Shared::one_server();
    let open = || Redis::open(&on.settings, Arc::new(()), Clock::Server).unwrap();
    let (first, second) = (open(), open());
    assert!(first.is_of_this_fleet("0123").await.unwrap());
    assert!(second.is_of_this_fleet("0123").await.unwrap());
    assert!(!second.is_of_this_fleet("4567").await.unwrap());
    assert!(second.is_of_this_fleet("0123").await.unwrap(), "a stranger changes nothing");
}
