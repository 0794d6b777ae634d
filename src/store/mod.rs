//! What the gateway keeps: users, sessions (refresh families), revocations and login throttles.
//!
//! Traits and domain types only; `embedded` (SQLite) implements all of them for one machine, `mongodb` (users) and
//! `redis` (the rest) for a fleet. Nothing here knows HTTP. Every call either decides or answers [`Unavailable`]; a store that is in doubt never
//! guesses (invariant 9).

pub mod embedded;
pub mod mongodb;
pub mod redis;
pub mod rotation;
pub mod settings;

use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use crate::clock::Timestamp;

/// A store that is down, slow or in doubt. The caller answers 503 with Retry-After.
#[derive(Debug, thiserror::Error)]
#[error("{store} store unavailable: {cause}")]
pub struct Unavailable {
    pub store: &'static str,
    pub cause: String,
}

pub type Result<T, E = Unavailable> = std::result::Result<T, E>;

/// Stable identifier of a user, the `sub` of our tokens. At most 64 bytes of visible ASCII.
pub type UserId = String;

/// A session is one login on one device; it is also the refresh family. UUID version 7: its first 48 bits
/// are the time of the login in milliseconds.
pub type SessionId = Uuid;

/// An e-mail address in the one form it is stored and looked up in: trimmed, lower-cased, at most 254
/// bytes, exactly one `@` with something on both sides, no control characters or white space.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Email(String);

impl Email {
    /// `None` when `text` is not an address anybody could receive mail at.
    pub fn parse(text: &str) -> Option<Self> {
        // Lower-cased first: some letters grow, and the limits hold for what is stored.
        let text = text.trim().to_lowercase();
        let (local, domain) = text.rsplit_once('@')?;
        let ok = text.len() <= 254
            && !local.is_empty()
            && local.len() <= 64
            && !local.contains('@')
            && !domain.is_empty()
            && !domain.starts_with('.')
            && !domain.ends_with('.')
            && !text.chars().any(|c| c.is_control() || c.is_whitespace());
        ok.then_some(Self(text))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether `name` may be a role or a scope. A scope-token of RFC 6749 section 3.3 has no space, and roles travel in a
/// header, split at commas.
pub fn is_role(name: &str) -> bool {
    !name.is_empty() && !name.contains([' ', ',']) && !name.contains(char::is_control)
}

/// Whether `name` may be a user's name: at most 200 characters, none of them a control character.
pub fn is_display_name(name: &str) -> bool {
    name.chars().count() <= 200 && !name.contains(char::is_control)
}

/// All sessions that began at or before `at` are over, except `keep` (the one that changed the password).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionsCut {
    pub at: Timestamp,
    pub keep: Option<SessionId>,
}

impl SessionsCut {
    /// Whether the session `id`, which began at `began`, survives this cut.
    pub fn spares(&self, id: SessionId, began: Timestamp) -> bool {
        began > self.at || self.keep == Some(id)
    }
}

#[derive(Clone, PartialEq, Eq)]
pub struct User {
    pub id: UserId,
    pub email: Email,
    pub name: Option<String>,
    pub roles: Vec<String>,
    pub scopes: Vec<String>,
    /// In one of the formats of `passwords`; never logged, never serialised to a client.
    pub password_hash: String,
    pub disabled: bool,
    pub created_at: Timestamp,
    pub sessions_cut: Option<SessionsCut>,
}

/// Changes to one user, applied together or not at all. `None` leaves a field as it is.
#[derive(Clone, Default)]
pub struct UserChange {
    pub name: Option<Option<String>>,
    pub roles: Option<Vec<String>>,
    pub scopes: Option<Vec<String>>,
    pub password_hash: Option<String>,
    /// Apply the change only while the stored hash equals this one (hash upgrade at login).
    pub if_password_hash: Option<String>,
    pub disabled: Option<bool>,
    /// A cut never moves back: what is stored is the later of the two instants, with this `keep`.
    pub sessions_cut: Option<SessionsCut>,
}

#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    #[error("the address is already registered")]
    AddressTaken,
    #[error("the user id is already in use")]
    IdTaken,
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

#[async_trait]
pub trait Users: Send + Sync {
    /// An id for a new user, of the kind this store keeps.
    fn new_id(&self) -> UserId {
        Uuid::now_v7().to_string()
    }
    async fn create(&self, user: User) -> Result<(), CreateError>;
    async fn by_id(&self, id: &str) -> Result<Option<User>>;
    async fn by_email(&self, email: &Email) -> Result<Option<User>>;
    /// In order of id, after `after`, at most `limit`.
    async fn list(&self, after: Option<&str>, limit: usize) -> Result<Vec<User>>;
    /// The user after the change; `None` when there is no such user or `if_password_hash` did not match.
    async fn update(&self, id: &str, change: UserChange) -> Result<Option<User>>;
    /// Whether there was one.
    async fn delete(&self, id: &str) -> Result<bool>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FamilyState {
    Active,
    Revoked,
}

/// One refresh family (DESIGN section 4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Family {
    pub id: SessionId,
    pub user: UserId,
    /// The generation of the newest refresh token handed out; the first is 1.
    pub generation: u64,
    pub began: Timestamp,
    pub rotated_at: Timestamp,
    pub idle_expiry: Timestamp,
    pub absolute_expiry: Timestamp,
    pub state: FamilyState,
    /// User-Agent at login, shortened.
    pub device: String,
    /// Client address at the last use.
    pub address: String,
}

/// The decision on a presented refresh token whose MAC was good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// It was current: `generation` is the successor's.
    Rotated { generation: u64 },
    /// It was the predecessor, within the grace: the same successor again, nothing changed.
    Replay { generation: u64 },
    /// An old token after the grace: the family is now revoked, its access tokens too.
    Reuse,
    /// A generation that was never handed out as far as the store remembers: it lost history. Revoked.
    LostHistory,
    /// The family is revoked or expired.
    Dead,
    /// No such family (or one of another user).
    Unknown,
}

#[derive(Clone, Copy, Debug)]
pub struct RefreshPolicy {
    pub grace: Duration,
    pub idle_ttl: Duration,
    /// How long an access token minted now stays valid, leeway included: revocations are kept this long.
    pub access_lifetime: Duration,
}

#[async_trait]
pub trait Sessions: Send + Sync {
    /// `now`, read from this machine's clock, by the clock that all who share the store go by: sessions begin and are cut
    /// off at instants of that one, so that they can be compared whoever's clock is wrong.
    fn clock(&self, now: Timestamp) -> Timestamp {
        now
    }
    /// Keeps a new family; as revoked when an `end_all` that does not spare it came in between.
    async fn open(&self, family: Family) -> Result<()>;
    /// Decides on generation `presented` of `family` in one atomic step.
    async fn rotate(
        &self,
        user: &str,
        family: SessionId,
        presented: u64,
        address: &str,
        policy: RefreshPolicy,
        now: Timestamp,
    ) -> Result<Rotation>;
    /// Ends one session of `user`: the family is deleted and its access tokens are revoked. Whether there was one.
    /// An unknown session is revoked all the same (its access token may outlive its family); one of another user
    /// is left alone. The caller took `family` from a verified token, or from the user's own list.
    async fn end(&self, user: &str, family: SessionId, policy: RefreshPolicy, now: Timestamp)
    -> Result<bool>;
    /// Ends every session of `user` that `cut` does not spare, and revokes by user what it cannot name.
    async fn end_all(&self, user: &str, cut: SessionsCut, policy: RefreshPolicy) -> Result<()>;
    /// The live sessions of `user`, newest first.
    async fn list(&self, user: &str, now: Timestamp) -> Result<Vec<Family>>;
    /// Whether a session could be written now; leaves no trace.
    async fn check(&self) -> Result<()>;
    /// Removes what has expired, unless the store does so by itself; returns how many records went.
    async fn sweep(&self, now: Timestamp) -> Result<usize>;
}

/// Where a session store announces what it revoked, before it answers the call that revoked it, and where
/// it replays what is still in force at start. Implemented by `tokens::Revocations`.
pub trait RevocationSink: Send + Sync {
    /// Access tokens of `user`'s `session` are dead; forget this after `until`. Said of another user's session, it
    /// means nothing. An empty `user` is whoever's it is.
    fn session(&self, user: &str, session: SessionId, until: Timestamp);
    /// Access tokens of `user`'s sessions that `cut` does not spare are dead; forget this after `until`.
    fn user(&self, user: &str, cut: SessionsCut, until: Timestamp);
    /// How long the access tokens live that are judged here: what is revoked matters at least for so long.
    fn token_lifetime(&self) -> Duration {
        Duration::ZERO
    }
    /// Whatever was revoked up to `at` (this machine's clock) has been passed on. A store that is told of
    /// revocations by others says so again and again; one that hears of its own at once never needs to.
    fn heard_until(&self, at: Timestamp);
}

/// Nobody to tell: a process that verifies no tokens, as the command line.
impl RevocationSink for () {
    fn session(&self, _: &str, _: SessionId, _: Timestamp) {}
    fn user(&self, _: &str, _: SessionsCut, _: Timestamp) {}
    fn heard_until(&self, _: Timestamp) {}
}

/// A part of what a caller may do within a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lease {
    /// So many requests, at least one, to be made within `lifetime`: until then they are counted as made.
    Granted {
        requests: u32,
        lifetime: Duration,
    },
    Exhausted {
        retry_after: Duration,
    },
}

#[async_trait]
pub trait RateLimits: Send + Sync {
    /// Takes part of the `requests` in each `window` that `name` (a caller of a route) has over the whole fleet. A request
    /// waits for the answer, which comes within a tenth of a second.
    async fn lease(&self, name: &str, requests: u32, window: Duration, now: Timestamp) -> Result<Lease>;
}

/// Who is trying to log in, for the throttle.
#[derive(Clone, Debug)]
pub struct LoginAttempt {
    /// Normalised address as given, registered or not.
    pub account: String,
    /// Client address, an IPv6 one cut to its /64.
    pub address: String,
    /// A device this account has logged in from before (its cookie verified): counted apart, so that
    /// strangers' failures cannot lock it out.
    pub known_device: Option<String>,
}

/// Limits on failed logins (OWASP device cookies; NIST SP 800-63B section 5.2.2: at most 100 consecutive failures).
#[derive(Clone, Copy, Debug)]
pub struct ThrottlePolicy {
    /// Consecutive failures of an account (or known device) before delays begin.
    pub free_failures: u32,
    /// The first delay; it doubles with every further failure.
    pub first_delay: Duration,
    pub max_delay: Duration,
    /// Consecutive failures after which only known devices, or an operator, can unlock the account.
    pub max_failures: u32,
    /// Failures of one client address within `address_window`, over all accounts.
    pub address_failures: u32,
    pub address_window: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    Allowed,
    Blocked { retry_after: Duration },
}

#[async_trait]
pub trait LoginThrottle: Send + Sync {
    /// Counts a failure in advance and says whether the password may be looked at. Atomic: of any number of
    /// parallel attempts no more than the policy allows are let through.
    async fn begin(
        &self,
        attempt: &LoginAttempt,
        policy: ThrottlePolicy,
        now: Timestamp,
    ) -> Result<Admission>;
    /// The attempt was good: takes back what `begin` counted and clears the account's (or device's) run of failures.
    async fn succeeded(&self, attempt: &LoginAttempt, now: Timestamp) -> Result<()>;
    /// The attempt could not be judged (no room to hash, a store down): takes back what `begin` counted.
    async fn undecided(&self, attempt: &LoginAttempt, now: Timestamp) -> Result<()>;
    /// Forgets all failures of an account (password set or account enabled by an operator).
    async fn forgive(&self, account: &str) -> Result<()>;
}
