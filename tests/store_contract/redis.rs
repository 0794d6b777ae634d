//! The Redis store: its deployment for the suite, and what holds for a server only.

use std::sync::Arc;

use std::time::{Duration, Instant};

use async_trait::async_trait;
use portcullis::store::embedded::Embedded;
use portcullis::store::redis::{Clock, Redis};
use portcullis::store::settings::{RedisSettings, Topology};
use portcullis::store::{
    Family, LoginAttempt, LoginThrottle, RefreshPolicy, Rotation, Sessions, SessionsCut, Unavailable,
};
use tempfile::TempDir;
use uuid::Uuid;

use crate::servers::{shared_cluster, shared_redis};
use crate::support::{Deployment, Gateway, Heard, MS, SECOND, family, policy, start};
use crate::throttle::policy as throttle_policy;

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

/// A store on real time with little patience, as gateways have it, and what it heard.
pub struct Client {
    pub store: Arc<Redis>,
    pub heard: Arc<Heard>,
}

pub const PATIENCE: Duration = Duration::from_millis(400);

impl Client {
    pub fn open(settings: &RedisSettings) -> Self {
        let heard = Arc::new(Heard::default());
        let settings = RedisSettings { timeout: PATIENCE, ..settings.clone() };
        let store = Redis::open(&settings, heard.clone(), Clock::Server).unwrap();
        Self { store, heard }
    }

    pub async fn connected(settings: &RedisSettings) -> Self {
        let client = Self::open(settings);
        tokio::time::timeout(5 * SECOND, client.store.caught_up()).await.expect("caught up");
        client
    }

    pub async fn login(&self, user: &str) -> Family {
        let family = family(user, start());
        self.store.open(family.clone()).await.unwrap();
        family
    }

    pub async fn rotate(&self, family: &Family, presented: u64) -> Result<Rotation, Unavailable> {
        self.rotate_under(policy(), family, presented).await
    }

    pub async fn rotate_under(
        &self,
        policy: RefreshPolicy,
        family: &Family,
        presented: u64,
    ) -> Result<Rotation, Unavailable> {
        self.store.rotate(&family.user, family.id, presented, "192.0.2.2", policy, start()).await
    }

    pub async fn end(&self, family: &Family) -> Result<bool, Unavailable> {
        self.store.end(&family.user, family.id, policy(), start()).await
    }

    /// Every kind of call is refused in time.
    pub async fn is_down(&self) {
        let family = family("u1", start());
        let attempt = LoginAttempt { account: "a@b".into(), address: "192.0.2.1".into(), known_device: None };
        let cut = SessionsCut { at: start(), keep: None };
        in_time(self.store.open(family.clone())).await.unwrap_err();
        in_time(self.rotate(&family, 1)).await.unwrap_err();
        in_time(self.end(&family)).await.unwrap_err();
        in_time(self.store.end_all("u1", cut, policy())).await.unwrap_err();
        in_time(self.store.list("u1", start())).await.unwrap_err();
        in_time(self.store.begin(&attempt, throttle_policy(), start())).await.unwrap_err();
        in_time(self.store.succeeded(&attempt, start())).await.unwrap_err();
        in_time(self.store.forgive("a@b")).await.unwrap_err();
    }

    /// The first answer of `call` that is one; it has to come within five seconds.
    pub async fn recovers<T>(&self, call: impl AsyncFn() -> Result<T, Unavailable>) -> T {
        let end = Instant::now() + 5 * SECOND;
        loop {
            match call().await {
                Ok(answer) => return answer,
                Err(error) => assert!(Instant::now() < end, "no recovery within 5 s: {error}"),
            }
            tokio::time::sleep(10 * MS).await;
        }
    }
}

/// No caller waits longer than he was told.
pub async fn in_time<T>(call: impl Future<Output = T>) -> T {
    let begin = Instant::now();
    let answer = call.await;
    assert!(begin.elapsed() < PATIENCE + 250 * MS, "{:?}", begin.elapsed());
    answer
}
