//! What an operator may say about the stores of a fleet. Checked by `config`, used by `redis` and `mongodb`.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Text that is never printed: a password, or an address that holds one.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// A Redis deployment that keeps sessions, revocations, throttles and rate limits.
#[derive(Clone, Debug)]
pub struct RedisSettings {
    pub topology: Topology,
    /// Host and port: the server, the sentinels, or nodes of the cluster to begin with.
    pub servers: Vec<(String, u16)>,
    pub tls: bool,
    /// PEM file of the authorities that vouch for the servers; the usual ones when `None`.
    pub ca: Option<PathBuf>,
    pub username: Option<String>,
    pub password: Option<Secret>,
    /// What the sentinels want to hear, when they ask for a password.
    pub sentinel_password: Option<Secret>,
    /// Number of the database (SELECT); 0 in a cluster.
    pub database: i64,
    /// The first part of every key's name.
    pub prefix: String,
    /// Longest a caller waits for an answer.
    pub timeout: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topology {
    Single,
    /// The master of this name, wherever the sentinels say it is.
    Sentinel {
        master: String,
    },
    Cluster,
}

/// A MongoDB deployment that keeps users.
#[derive(Clone, Debug)]
pub struct MongoDbSettings {
    /// Connection string with credentials, TLS and pool options.
    pub uri: Secret,
    pub database: String,
    pub collection: String,
    pub id: IdType,
    pub fields: UserFields,
    /// Longest a caller waits for an answer.
    pub timeout: Duration,
}

/// What `_id` of a user is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdType {
    /// A string: the user's id as it is.
    String,
    /// An ObjectId, of which the user's id is the 24 hexadecimal digits.
    ObjectId,
}

/// What the fields of a user's document are called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserFields {
    pub email: String,
    pub password: String,
    pub name: String,
    pub roles: String,
    pub scopes: String,
    pub disabled: String,
    pub created_at: String,
}

impl Default for UserFields {
    fn default() -> Self {
        Self {
            email: "email".into(),
            password: "password".into(),
            name: "name".into(),
            roles: "roles".into(),
            scopes: "scopes".into(),
            disabled: "disabled".into(),
            created_at: "created_at".into(),
        }
    }
}

/// What happens to authenticated requests while nothing can be heard of new revocations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RevocationPolicy {
    /// Silence up to this is normal.
    pub unreachable_after: Duration,
    pub on_unreachable: OnUnreachable,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnUnreachable {
    /// Tokens go on being accepted; `portcullis_revocation_lag_seconds` and the log raise the alarm.
    Serve,
    /// Authenticated requests are answered with 503.
    Refuse,
}
