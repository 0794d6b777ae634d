//! The configuration: checked, immutable, the only form the rest of the program sees.
//!
//! `file` mirrors what may be written, `read` fills that from the text, `check` turns it into [`Config`] and
//! collects every problem on the way, `problem` shows them. Nothing here starts, opens a socket or knows the
//! proxy.

mod check;
mod dotenv;
mod file;
mod load;
mod problem;
mod read;
mod schema;
mod values;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

pub use load::Loaded;
pub use problem::{Problem, Problems, Severity};
pub use schema::schema;

use crate::key_prefix::KeyPrefix;
use crate::route::{HostPattern, Methods, Pattern};
use crate::store::settings::{MongoDbSettings, RedisSettings, RevocationPolicy, Secret};

#[derive(Clone, Debug)]
pub struct Config {
    pub server: Server,
    pub log: Log,
    pub tokens: Tokens,
    pub issuers: Vec<Issuer>,
    pub users: UserStore,
    pub sessions: SessionStore,
    pub passwords: Passwords,
    pub throttle: crate::store::ThrottlePolicy,
    pub mail: Mail,
    pub endpoints: Endpoints,
    pub identity: Identity,
    pub upstreams: BTreeMap<String, Upstream>,
    pub file_stores: BTreeMap<String, FileStore>,
    pub routes: Vec<Route>,
}

#[derive(Clone, Debug)]
pub struct Server {
    pub listen: Vec<Listener>,
    pub admin: Option<SocketAddr>,
    /// Worker threads, already resolved (never 0).
    pub threads: usize,
    pub trusted_proxies: Vec<IpNet>,
    /// Keys, secrets and the embedded database; absolute, or relative to the configuration file's folder (resolved).
    pub data_dir: PathBuf,
    pub limits: Limits,
    /// Time running requests get to finish after SIGTERM.
    pub shutdown_grace: Duration,
}

#[derive(Clone, Debug)]
pub struct Listener {
    pub address: SocketAddr,
    pub tls: Option<Tls>,
    pub h2: bool,
}

/// Certificate chain and key, read and matched at check time; the paths are what pingora is given.
#[derive(Clone, Debug)]
pub struct Tls {
    pub cert: PathBuf,
    pub key: PathBuf,
}

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Request line and header section together; beyond: 431.
    pub header_bytes: usize,
    /// Header fields; beyond: 431.
    pub header_count: usize,
    /// Request body; beyond: 413.
    pub body: u64,
    /// From the first byte of a head to its last; beyond: 408.
    pub header_timeout: Duration,
    /// Longest wait for more of a request body; beyond: 408.
    pub body_timeout: Duration,
    /// A keep-alive connection without a request, closed after this.
    pub idle_timeout: Duration,
}

#[derive(Clone, Debug)]
pub struct Log {
    /// One JSON line a request.
    pub access: bool,
    /// A `tracing` filter, e.g. `info` or `portcullis=debug`.
    pub level: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    Hs256,
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    EdDsa,
}

impl Algorithm {
    pub const ALL: [Algorithm; 10] = [
        Self::Hs256,
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
        Self::Es256,
        Self::Es384,
        Self::EdDsa,
    ];
    /// Algorithms we sign with.
    pub const OWN: [Algorithm; 4] = [Self::EdDsa, Self::Es256, Self::Rs256, Self::Hs256];

    /// The name in a JWS header (RFC 7518 section 3.1, RFC 8037 section 3.1).
    pub fn name(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::EdDsa => "EdDSA",
        }
    }

    /// Exact match; algorithm names are case-sensitive (RFC 7515 section 4.1.1).
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|a| a.name() == name)
    }
}

#[derive(Clone, Debug)]
pub struct Tokens {
    pub issuer: String,
    pub audience: String,
    pub algorithm: Algorithm,
    pub access_ttl: Duration,
    pub refresh_ttl: Duration,
    pub refresh_idle_ttl: Duration,
    pub refresh_grace: Duration,
    pub leeway: Duration,
    /// Verified tokens held in memory, at most this many bytes (keys, claims and overhead).
    pub cache_bytes: usize,
}

/// A foreign issuer whose access tokens are accepted.
#[derive(Clone, Debug)]
pub struct Issuer {
    pub issuer: String,
    pub jwks: JwksSource,
    pub audience: Vec<String>,
    pub algorithms: Vec<Algorithm>,
    /// Where our claim names (`sub`, `email`, `roles`, `scope`) are found: a dotted path into the payload.
    pub claims: BTreeMap<String, String>,
    /// How long keys that can no longer be fetched stay good.
    pub max_stale: Duration,
    pub refresh_interval: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JwksSource {
    Url(String),
    File(PathBuf),
}

// There is one in a process.
#[derive(Clone, Debug)]
pub enum UserStore {
    Embedded,
    MongoDb(Box<MongoDbSettings>),
}

// There is one in a process.
#[derive(Clone, Debug)]
pub enum SessionStore {
    Embedded,
    Redis(Box<RedisSettings>, RevocationPolicy),
}

#[derive(Clone, Debug)]
pub struct Passwords {
    /// bcrypt cost, 4 to 16.
    pub cost: u32,
    /// Unicode characters.
    pub min_length: usize,
    /// Hashing threads, already resolved (never 0).
    pub concurrency: usize,
    /// Passwords waiting for a hashing thread; beyond: 503.
    pub queue: usize,
}

#[derive(Clone, Debug)]
pub enum Mail {
    Log,
}

#[derive(Clone, Debug)]
pub struct Endpoints {
    /// Canonical path without a final slash, `/auth` by default.
    pub prefix: String,
    /// Whether POST {prefix}/register is served; 404 when off.
    pub registration: bool,
    /// Roles a user who registers himself gets.
    pub default_roles: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct Identity {
    /// Header name as written, and the claim (a dotted path) it carries.
    pub headers: Vec<(String, String)>,
}

#[derive(Clone, Debug)]
pub struct Upstream {
    pub servers: Vec<String>,
    pub timeouts: Timeouts,
    /// Pass the verified bearer token on to the backend.
    pub forward_token: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    pub connect: Duration,
    /// Longest wait for more of a response, and for the first byte of it.
    pub read: Duration,
    pub write: Duration,
    /// Idle connections kept for reuse are closed after this.
    pub idle: Duration,
}

/// Where the objects of file routes lie.
#[derive(Clone, Debug)]
pub enum FileStore {
    S3(Box<S3Settings>),
    Directory {
        /// The root folder; it exists.
        path: PathBuf,
    },
}

/// A bucket, and how it is reached.
#[derive(Clone, Debug)]
pub struct S3Settings {
    pub bucket: String,
    pub region: String,
    /// `http(s)://host[:port]`, without a path; that of AWS when `None`.
    pub endpoint: Option<String>,
    /// `endpoint/bucket/key` instead of `bucket.endpoint/key`.
    pub path_style: bool,
    pub credentials: S3Credentials,
    /// PEM file of the authorities that vouch for the server; the usual ones when `None`.
    pub ca: Option<PathBuf>,
    pub timeouts: Timeouts,
    /// Objects larger than this are uploaded in parts (5 MiB to 5 GiB, the limit of one PUT).
    pub multipart_above: u64,
}

#[derive(Clone, Debug)]
pub enum S3Credentials {
    /// Written in the file.
    Keys { id: String, secret: Secret },
    /// The usual chain: environment, profile, web identity, container, instance role.
    Chain { profile: Option<String> },
}

/// A `files` target.
#[derive(Clone, Debug)]
pub struct Files {
    /// Key of `file_stores`.
    pub store: String,
    /// Below which prefix of the store the caller's files lie.
    pub prefix: KeyPrefix,
    /// GET (with HEAD), PUT, DELETE; POST is added where `share` is set. The same as the route's `methods`.
    pub methods: Methods,
    /// Largest object taken, in bytes.
    pub max_size: u64,
    /// Media types taken, `image/*` too; any when empty.
    pub types: Vec<String>,
    /// Value of `Cache-Control`.
    pub cache_control: String,
    /// Anybody may read, and shared caches may keep.
    pub public: bool,
    /// Who may PUT and DELETE: holders of one of these; anybody the route lets in when empty.
    pub write_roles: Vec<String>,
    /// Holders of one of these may name another caller's prefix.
    pub admin_roles: Vec<String>,
    /// Whether `?list` is answered.
    pub list: bool,
    /// Longest life of a share link; `None`: there are none.
    pub share: Option<Duration>,
    pub quota: Option<Quota>,
}

/// What may lie below one prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    pub bytes: Option<u64>,
    pub objects: Option<u64>,
}

#[derive(Clone, Debug)]
pub struct Route {
    /// Line of the `[[routes]]` table in the file, for `explain` and for conflicts.
    pub line: usize,
    pub path: Pattern,
    pub host: HostPattern,
    pub methods: Methods,
    pub target: Target,
    pub auth: AuthMode,
    pub require: Require,
    /// Literal path prefix removed before forwarding; the pattern is known to start with it.
    pub strip_prefix: Option<String>,
    pub rate_limit: Option<Rate>,
    /// Overrides `limits.body`.
    pub max_body: Option<u64>,
    pub request_headers: HeaderEdits,
    pub response_headers: HeaderEdits,
}

#[derive(Clone, Debug)]
pub enum Target {
    /// Key of `upstreams`.
    Upstream(String),
    Files(Box<Files>),
    Echo,
    Respond {
        status: u16,
        body: String,
        content_type: String,
    },
    /// `to` is a path or an absolute http(s) URL; never derived from the request's Host.
    Redirect {
        status: u16,
        to: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMode {
    None,
    Optional,
    Required,
}

/// What an identity must have: one of `roles` (when any), all of `scopes`, all of `claims`.
#[derive(Clone, Debug, Default)]
pub struct Require {
    pub roles: Vec<String>,
    pub scopes: Vec<String>,
    /// Dotted path and the string it must equal, or contain when the claim is an array.
    pub claims: Vec<(String, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub requests: u32,
    pub per: Duration,
}

#[derive(Clone, Debug, Default)]
pub struct HeaderEdits {
    pub set: Vec<(String, String)>,
    pub remove: Vec<String>,
}
