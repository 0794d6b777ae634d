//! Keys about where users and sessions are kept.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Section, Written};
use crate::store::settings::UserFields;

#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct Users {
    /// `embedded`: SQLite in `server.data_dir`, for one machine; `mongodb`: a MongoDB that any number of gateways share.
    #[schemars(extend("enum" = ["embedded", "mongodb"]))]
    pub store: Written<String>,
    /// Connection string, `mongodb://` or `mongodb+srv://`, with credentials, TLS and pool options. Required with `mongodb`.
    pub uri: Option<Written<String>>,
    /// Name of the MongoDB database.
    pub database: Written<String>,
    /// Longest wait for an answer of MongoDB, 50ms to 10s.
    pub timeout: Written<String>,
    /// How a user is kept in MongoDB, to take over a collection that is already there.
    pub mongodb: Section<MongoDb>,
}

impl Default for Users {
    fn default() -> Self {
        Self {
            store: "embedded".into(),
            uri: None,
            database: "portcullis".into(),
            timeout: "800ms".into(),
            mongodb: Section::default(),
        }
    }
}

#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct MongoDb {
    /// Name of the collection of users.
    pub collection: Written<String>,
    /// What `_id` is: `string`, the user's id as it is; `objectid`, an ObjectId, of which the user's id is the 24 hexadecimal digits.
    #[schemars(extend("enum" = ["string", "objectid"]))]
    pub id: Written<String>,
    /// What the fields of a user's document are called; those not named keep their own name.
    pub fields: Section<Fields>,
}

impl Default for MongoDb {
    fn default() -> Self {
        Self { collection: "users".into(), id: "string".into(), fields: Section::default() }
    }
}

#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct Fields {
    /// The e-mail address.
    pub email: Written<String>,
    /// The password's hash.
    pub password: Written<String>,
    /// The name to show.
    pub name: Written<String>,
    /// An array of roles.
    pub roles: Written<String>,
    /// An array of scopes.
    pub scopes: Written<String>,
    /// Whether logins are refused.
    pub disabled: Written<String>,
    /// When the account was made.
    pub created_at: Written<String>,
}

impl Default for Fields {
    fn default() -> Self {
        let UserFields { email, password, name, roles, scopes, disabled, created_at } = UserFields::default();
        Self {
            email: email.into(),
            password: password.into(),
            name: name.into(),
            roles: roles.into(),
            scopes: scopes.into(),
            disabled: disabled.into(),
            created_at: created_at.into(),
        }
    }
}

#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct Sessions {
    /// `embedded`: SQLite in `server.data_dir`, for one machine; `redis`: a Redis that any number of gateways share.
    #[schemars(extend("enum" = ["embedded", "redis"]))]
    pub store: Written<String>,
    /// Address of Redis, with credentials: a server, its sentinels, or nodes of a cluster. Required with `redis`.
    pub url: Option<Written<String>>,
    /// First part of the name of every key in Redis: 1 to 64 letters, digits and `-_.:`.
    pub prefix: Written<String>,
    /// Longest wait for an answer of Redis, 50ms to 10s.
    pub timeout: Written<String>,
    /// PEM file of the authorities that vouch for Redis, relative to the configuration file; the usual ones when silent.
    pub ca: Option<Written<String>>,
    /// What happens to requests with a token once revocations have been unheard of for `unreachable_after`: they are served and an alarm is raised (`serve`), or they get 503 (`refuse`).
    #[schemars(extend("enum" = ["serve", "refuse"]))]
    pub on_unreachable: Written<String>,
    /// How long revocations may be unheard of before `on_unreachable` counts, 1s to 1h.
    pub unreachable_after: Written<String>,
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            store: "embedded".into(),
            url: None,
            prefix: "portcullis".into(),
            timeout: "500ms".into(),
            ca: None,
            on_unreachable: "serve".into(),
            unreachable_after: "10s".into(),
        }
    }
}
