//! Keys about where a request goes: upstreams and routes.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Files, Later, Section, Written};

#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct Upstream {
    /// Its servers, `"host:port"` each, used in turn. Required.
    pub servers: Option<Written<Vec<Written<String>>>>,
    /// How a server is chosen.
    #[schemars(extend("enum" = ["round_robin"]))]
    pub balance: Written<String>,
    /// How long it is waited for.
    pub timeouts: Section<Timeouts>,
    /// Pass the caller's verified bearer token on to the servers.
    pub forward_token: Written<bool>,
    #[schemars(skip)]
    #[serde(skip_serializing)]
    pub health: Option<Later>,
}

impl Default for Upstream {
    fn default() -> Self {
        Self {
            servers: None,
            balance: "round_robin".into(),
            timeouts: Section::default(),
            forward_token: false.into(),
            health: None,
        }
    }
}

#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct Timeouts {
    /// For a connection to be made, 10ms to 5m.
    pub connect: Written<String>,
    /// Longest wait for more of a response, and for the first byte of it, 10ms to 24h.
    pub read: Written<String>,
    /// Longest wait for the server to take more of a request, 10ms to 24h.
    pub write: Written<String>,
    /// An idle connection kept for reuse is closed after this, 1s to 24h.
    pub idle: Written<String>,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: "2s".into(), read: "30s".into(), write: "30s".into(), idle: "60s".into() }
    }
}

/// One route. It has exactly one target: `upstream`, `files`, `echo`, `respond` or `redirect`.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct Route {
    /// Exact segments, `{name}` for any one segment, `{*rest}` at the end for all that follow. Required.
    pub path: Option<Written<String>>,
    /// Host name, or `*.example.com`; any host when silent.
    pub host: Option<Written<String>>,
    /// Methods it answers; any when silent. GET includes HEAD.
    pub methods: Option<Written<Vec<Written<String>>>>,
    /// Target: the name of an upstream.
    pub upstream: Option<Written<String>>,
    /// Target: files, read and written below the caller's own prefix.
    pub files: Option<Section<Files>>,
    /// Target: answers with the request as an upstream would have received it, tokens left out.
    pub echo: Option<Written<bool>>,
    /// Target: a fixed answer.
    pub respond: Option<Section<Respond>>,
    /// Target: sends the client elsewhere.
    pub redirect: Option<Section<Redirect>>,
    /// Who may call it: anybody (`none`), anybody but a bad token is refused (`optional`), token holders only.
    #[schemars(extend("enum" = ["none", "optional", "required"], "default" = "required"))]
    pub auth: Option<Written<String>>,
    /// What the caller must have besides a token.
    pub require: Option<Section<Require>>,
    /// Beginning of the path that the target does not see, whole segments without placeholders.
    pub strip_prefix: Option<Written<String>>,
    /// Requests per time, by user or else by address: `"100/1m"`.
    pub rate_limit: Option<Written<String>>,
    /// Largest request body; `server.limits.body` when silent.
    pub max_body: Option<Written<String>>,
    /// Changes to the headers the target sees.
    pub request_headers: Section<HeaderEdits>,
    /// Changes to the headers the client sees.
    pub response_headers: Section<HeaderEdits>,
    #[schemars(skip)]
    #[serde(skip_serializing)]
    pub cors: Option<Later>,
}

#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct Respond {
    /// 200 to 599.
    #[schemars(range(min = 200, max = 599))]
    pub status: Written<i64>,
    /// The answer's body.
    pub body: Written<String>,
    /// Its media type.
    pub content_type: Written<String>,
}

impl Default for Respond {
    fn default() -> Self {
        Self { status: 200.into(), body: "".into(), content_type: "text/plain; charset=utf-8".into() }
    }
}

#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct Redirect {
    /// A path, or an absolute http(s) URL. Required.
    pub to: Option<Written<String>>,
    /// 301, 302, 303, 307 or 308.
    #[schemars(extend("enum" = [301, 302, 303, 307, 308]))]
    pub status: Written<i64>,
}

impl Default for Redirect {
    fn default() -> Self {
        Self { to: None, status: 308.into() }
    }
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct Require {
    /// One of these roles.
    pub roles: Vec<Written<String>>,
    /// All of these scopes.
    pub scopes: Vec<Written<String>>,
    /// All of these claims: a dotted path, and the text it equals or, being an array, holds.
    pub claims: BTreeMap<Written<String>, Written<String>>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct HeaderEdits {
    /// Headers given this value, whatever they held.
    pub set: BTreeMap<Written<String>, Written<String>>,
    /// Headers taken away.
    pub remove: Vec<Written<String>>,
}
