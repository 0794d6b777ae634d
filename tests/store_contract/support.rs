//! What the cases share: a deployment to run on, a sink that records, and plain values.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use portcullis::clock::Timestamp;
use portcullis::store::{
    Email, Family, FamilyState, LoginThrottle, RefreshPolicy, RevocationSink, SessionId, Sessions,
    SessionsCut, User, Users,
};
use uuid::Uuid;

/// One set of records, which any number of gateways open.
#[async_trait]
pub trait Deployment: Send + Sync {
    /// A gateway (or another process) that opens the same records now.
    async fn gateway(&self) -> Gateway;
}

pub struct Gateway {
    pub users: Arc<dyn Users>,
    pub sessions: Arc<dyn Sessions>,
    pub throttle: Arc<dyn LoginThrottle>,
    pub heard: Arc<Heard>,
}

/// A revocation sink that remembers what it was told.
#[derive(Default)]
pub struct Heard {
    pub sessions: Mutex<Vec<(String, SessionId, Timestamp)>>,
    pub users: Mutex<Vec<(String, SessionsCut, Timestamp)>>,
}

impl RevocationSink for Heard {
    fn session(&self, user: &str, session: SessionId, until: Timestamp) {
        self.sessions.lock().unwrap().push((user.to_owned(), session, until));
    }

    fn user(&self, user: &str, cut: SessionsCut, until: Timestamp) {
        self.users.lock().unwrap().push((user.to_owned(), cut, until));
    }

    fn heard_until(&self, _: Timestamp) {}
}

impl Heard {
    pub fn sessions(&self) -> Vec<(String, SessionId, Timestamp)> {
        self.sessions.lock().unwrap().clone()
    }

    pub fn users(&self) -> Vec<(String, SessionsCut, Timestamp)> {
        self.users.lock().unwrap().clone()
    }

    pub fn nothing(&self) -> bool {
        self.sessions().is_empty() && self.users().is_empty()
    }
}

/// Real time, because revocations that are over are not replayed.
pub fn start() -> Timestamp {
    Timestamp::now()
}

pub const SECOND: Duration = Duration::from_secs(1);
pub const MS: Duration = Duration::from_millis(1);
pub const HOUR: Duration = Duration::from_secs(3600);
pub const DAY: Duration = Duration::from_secs(24 * 3600);

pub fn policy() -> RefreshPolicy {
    RefreshPolicy { grace: 10 * SECOND, idle_ttl: 90 * DAY, access_lifetime: HOUR }
}

/// A family of `user` that begins at `began`, as a login makes it.
pub fn family(user: &str, began: Timestamp) -> Family {
    Family {
        id: Uuid::now_v7(),
        user: user.to_owned(),
        generation: 1,
        began,
        rotated_at: began,
        idle_expiry: began.plus(policy().idle_ttl),
        absolute_expiry: began.plus(365 * DAY),
        state: FamilyState::Active,
        device: "curl/8".into(),
        address: "192.0.2.1".into(),
    }
}

pub fn user(id: &str, email: &str) -> User {
    User {
        id: id.to_owned(),
        email: Email::parse(email).unwrap(),
        name: None,
        roles: vec![],
        scopes: vec![],
        password_hash: "$2b$04$CCCCCCCCCCCCCCCCCCCCC.FXJHjF.8tyWAsIeGLxC7hC/nyX4QxgC".into(),
        disabled: false,
        created_at: Timestamp(1_700_000_000_000),
        sessions_cut: None,
    }
}

/// Waits until `met`, at most `limit`.
pub async fn within(limit: Duration, what: &str, met: impl Fn() -> bool) {
    let end = Instant::now() + limit;
    while !met() {
        assert!(Instant::now() < end, "not within {limit:?}: {what}");
        tokio::time::sleep(5 * MS).await;
    }
}
