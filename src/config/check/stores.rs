//! `[users]` and `[sessions]`: where they are kept, and whether several gateways would see the same.

use super::super::file::{self, Section, Span, Written};
use super::super::{SessionStore, UserStore};
use super::{Check, mongodb_uri, redis_url};
use crate::store::settings::{
    IdType, MongoDbSettings, OnUnreachable, RedisSettings, RevocationPolicy, Secret, UserFields,
};

/// Fields of a user's document that are the gateway's own.
const OWN_FIELDS: [&str; 3] = ["_id", "sessions_valid_after", "sessions_keep"];

impl Check<'_> {
    pub(super) fn stores(
        &mut self,
        users: &Section<file::Users>,
        sessions: &Section<file::Sessions>,
    ) -> (UserStore, SessionStore) {
        let stores = (self.users(users), self.sessions(sessions));
        // By what was asked for: what it came to, with an error, may be another.
        match (users.store.value.as_str(), sessions.store.value.as_str()) {
            ("embedded", "redis") => {
                self.warning(
                    &sessions.store.span,
                    "each gateway has users of its own, though the sessions are shared",
                )
                .help("write store = \"mongodb\" in [users] before a second gateway is started");
            }
            ("mongodb", "embedded") => {
                self.warning(
                    &users.store.span,
                    "the sessions stay on this machine, so one gateway only can serve",
                )
                .help("write store = \"redis\" in [sessions] before a second gateway is started");
            }
            _ => {}
        }
        stores
    }

    fn users(&mut self, written: &Section<file::Users>) -> UserStore {
        match self.word("store", &written.store, &["embedded", "mongodb"], &[]) {
            Some(1) => self.mongodb(written),
            Some(_) => {
                let uri = written.uri.as_ref().map(|uri| &uri.span);
                let of_mongodb = [
                    ("uri", uri),
                    ("database", written.database.written_at()),
                    ("timeout", written.timeout.written_at()),
                    ("mongodb", Some(&written.mongodb.span).filter(|span| !span.is_empty())),
                ];
                self.of_another_store("mongodb", of_mongodb);
                UserStore::Embedded
            }
            // Which keys belong here cannot be told.
            None => UserStore::Embedded,
        }
    }

    fn sessions(&mut self, written: &Section<file::Sessions>) -> SessionStore {
        match self.word("store", &written.store, &["embedded", "redis"], &[]) {
            Some(1) => self.redis(written),
            Some(_) => {
                let of_redis = [
                    ("url", written.url.as_ref().map(|url| &url.span)),
                    ("prefix", written.prefix.written_at()),
                    ("timeout", written.timeout.written_at()),
                    ("ca", written.ca.as_ref().map(|ca| &ca.span)),
                    ("on_unreachable", written.on_unreachable.written_at()),
                    ("unreachable_after", written.unreachable_after.written_at()),
                ];
                self.of_another_store("redis", of_redis);
                SessionStore::Embedded
            }
            None => SessionStore::Embedded,
        }
    }

    /// Keys of `store`, which is not the one that was chosen: left in silence they would seem to count.
    fn of_another_store<const N: usize>(&mut self, store: &str, keys: [(&str, Option<&Span>); N]) {
        for (key, span) in keys {
            if let Some(span) = span {
                self.error(span, format!("the embedded store has no `{key}`"))
                    .help(format!("write store = \"{store}\", or remove it"));
            }
        }
    }

    fn mongodb(&mut self, written: &Section<file::Users>) -> UserStore {
        match &written.uri {
            Some(uri) => self.mongodb_uri(uri),
            None if self.damaged.contains(&written.span) => {}
            None => {
                self.error(&written.store.span, "`mongodb` without its address")
                    .help("add uri = \"mongodb://host/\", with user:password@ before the host where needed");
            }
        }
        let id = self.word("id", &written.mongodb.id, &["string", "objectid"], &[]);
        UserStore::MongoDb(Box::new(MongoDbSettings {
            uri: Secret::new(written.uri.as_ref().map_or("", |uri| &uri.value)),
            database: self.database(&written.database),
            collection: self.collection(&written.mongodb.collection),
            id: if id == Some(1) { IdType::ObjectId } else { IdType::String },
            fields: self.fields(&written.mongodb.fields),
            timeout: self.duration(&written.timeout, "50ms", "10s"),
        }))
    }

    fn mongodb_uri(&mut self, written: &Written<String>) {
        let uri = match mongodb_uri::parse(&written.value) {
            Ok(uri) => uri,
            Err(bad) => return self.bad(&written.span, bad),
        };
        if uri.credentials && !uri.tls && !uri.loopback {
            self.warning(&written.span, "accounts, with the hashes of their passwords, travel without TLS")
                .help("add ?tls=true, unless this network is your own");
        }
        if uri.tls && uri.trusts_anybody {
            self.warning(&written.span, "TLS that trusts any server protects from nobody")
                .help("name the authority instead: ?tlsCAFile=...");
        }
    }

    /// A name MongoDB takes for a database.
    fn database(&mut self, written: &Written<String>) -> String {
        let odd = |c: char| c.is_control() || c.is_whitespace() || "/\\.\"$*<>:|?".contains(c);
        if !(1..=63).contains(&written.value.len()) || written.value.contains(odd) {
            self.error(&written.span, "not a name a database can have")
                .help("write letters, digits, `-` and `_`, 63 bytes at most: \"portcullis\"");
        }
        written.value.clone()
    }

    /// A name MongoDB takes for a collection, of ours.
    fn collection(&mut self, written: &Written<String>) -> String {
        let name = written.value.as_str();
        let odd = |c: char| c.is_control() || c == '$';
        let system = name.starts_with("system.") || name.starts_with('.') || name.ends_with('.');
        if !(1..=120).contains(&name.len()) || name.contains(odd) || system {
            self.error(&written.span, "not a name a collection can have").help(
                "write letters, digits, `-` and `_`, 120 bytes at most, not beginning with `system.`: \"users\"",
            );
        }
        name.to_owned()
    }

    fn fields(&mut self, written: &Section<file::Fields>) -> UserFields {
        let named = [
            ("email", &written.email),
            ("password", &written.password),
            ("name", &written.name),
            ("roles", &written.roles),
            ("scopes", &written.scopes),
            ("disabled", &written.disabled),
            ("created_at", &written.created_at),
        ];
        for (at, (key, field)) in named.iter().enumerate() {
            self.field(field);
            // Of two that meet, one at least was written: the defaults differ.
            let same = named[..at].iter().find(|(_, other)| other.value == field.value);
            let Some((other_key, other)) = same else { continue };
            let (span, taken_by) =
                if field.is_written() { (&field.span, other_key) } else { (&other.span, key) };
            self.error(span, format!("`{taken_by}` is kept in the field of this name"))
                .help("each needs a field of its own");
        }
        UserFields {
            email: written.email.value.clone(),
            password: written.password.value.clone(),
            name: written.name.value.clone(),
            roles: written.roles.value.clone(),
            scopes: written.scopes.value.clone(),
            disabled: written.disabled.value.clone(),
            created_at: written.created_at.value.clone(),
        }
    }

    fn field(&mut self, written: &Written<String>) {
        let name = written.value.as_str();
        if name.contains('.') {
            self.error(&written.span, "a field within another document cannot be used")
                .help("write the name of a field at the top of the user's document, without dots");
        } else if name.is_empty() || name.len() > 120 || name.contains('$') || name.contains(char::is_control)
        {
            self.error(&written.span, "not the name of a field").help("write a name without `$`: \"email\"");
        } else if OWN_FIELDS.contains(&name) {
            self.error(&written.span, "this field is the gateway's own").help(
                "write another; `_id` is the user's id, `sessions_valid_after` and `sessions_keep` end sessions",
            );
        }
    }

    fn redis(&mut self, written: &Section<file::Sessions>) -> SessionStore {
        let url = match &written.url {
            Some(url) => self.redis_url(url),
            None => {
                if !self.damaged.contains(&written.span) {
                    self.error(&written.store.span, "`redis` without its address")
                        .help("add url = \"redis://host\", with :password@ before the host where needed");
                }
                None
            }
        };
        let tls = url.as_ref().is_none_or(|url| url.tls);
        let ca = match &written.ca {
            Some(ca) if !tls => {
                self.error(&ca.span, "authorities for a connection without TLS")
                    .help("write rediss for redis in `url`, or remove it");
                None
            }
            Some(ca) => self.authorities(ca),
            None => None,
        };
        let prefix = self.prefix(&written.prefix);
        let timeout = self.duration(&written.timeout, "50ms", "10s");
        let policy = RevocationPolicy {
            unreachable_after: self.duration(&written.unreachable_after, "1s", "1h"),
            on_unreachable: match self.word(
                "on_unreachable",
                &written.on_unreachable,
                &["serve", "refuse"],
                &[],
            ) {
                Some(1) => OnUnreachable::Refuse,
                _ => OnUnreachable::Serve,
            },
        };
        // Without an address there is an error, so nobody sees what store this is.
        let Some(url) = url else { return SessionStore::Embedded };
        let settings = RedisSettings {
            topology: url.topology,
            servers: url.servers,
            tls: url.tls,
            ca,
            username: url.username,
            password: url.password,
            sentinel_password: url.sentinel_password,
            database: url.database,
            prefix,
            timeout,
        };
        SessionStore::Redis(Box::new(settings), policy)
    }

    fn redis_url(&mut self, written: &Written<String>) -> Option<redis_url::RedisUrl> {
        let url = match redis_url::parse(&written.value) {
            Ok(url) => url,
            Err(bad) => {
                self.bad(&written.span, bad);
                return None;
            }
        };
        let secret = url.password.is_some() || url.sentinel_password.is_some();
        let loopback = url.servers.iter().all(|(host, _)| super::address::is_loopback(host));
        if secret && !url.tls && !loopback {
            self.warning(&written.span, "the password of Redis travels without TLS")
                .help("write rediss for redis, unless this network is your own");
        }
        Some(url)
    }

    /// Braces would make one hash tag, and so one node of a cluster, of all keys.
    fn prefix(&mut self, written: &Written<String>) -> String {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"-_.:".contains(&b);
        if !(1..=64).contains(&written.value.len()) || !written.value.bytes().all(fits) {
            self.error(&written.span, "not a prefix of keys")
                .help("write 1 to 64 letters, digits and `-_.:`: \"portcullis\"");
        }
        written.value.clone()
    }
}
