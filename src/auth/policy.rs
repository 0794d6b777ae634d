//! What a route demands of the identity, evaluated on every request (invariant 4).

use std::sync::Arc;

use serde_json::Value;

use super::Identity;
use crate::config::Require;
use crate::fault::Fault;
use crate::tokens::{Claims, ShareGrant};

/// Who is calling, as far as that was found out.
#[derive(Clone, Debug)]
pub enum Authenticated {
    Anonymous,
    User(Arc<Identity>),
    /// Anybody who holds this share link. It stands for what its maker was permitted when it was made.
    Link(Arc<ShareGrant>),
}

impl From<Option<Arc<Identity>>> for Authenticated {
    fn from(identity: Option<Arc<Identity>>) -> Self {
        identity.map_or(Self::Anonymous, Self::User)
    }
}

/// Proof that the route's policy was evaluated and passed. Holds whom it passed for.
#[derive(Clone, Debug)]
pub struct Permitted(Authenticated);

impl Permitted {
    pub fn caller(&self) -> &Authenticated {
        &self.0
    }

    pub fn identity(&self) -> Option<&Arc<Identity>> {
        match &self.0 {
            Authenticated::User(identity) => Some(identity),
            Authenticated::Anonymous | Authenticated::Link(_) => None,
        }
    }
}

/// Evaluates `require` for `caller`.
///
/// # Errors
/// 403 naming, in the log only, what is missing. An anonymous caller passes an empty `require` only.
pub fn authorize(require: &Require, caller: Authenticated) -> Result<Permitted, Fault> {
    let missing = match &caller {
        Authenticated::User(identity) => unmet(require, &identity.claims),
        Authenticated::Anonymous if !require.is_empty() => Some("the caller is anonymous".into()),
        Authenticated::Anonymous | Authenticated::Link(_) => None,
    };
    match missing {
        Some(cause) => Err(Fault::forbidden(cause)),
        None => Ok(Permitted(caller)),
    }
}

/// The first demand `claims` does not meet, in words.
pub fn unmet(require: &Require, claims: &Claims) -> Option<String> {
    if !require.roles.is_empty() && !require.roles.iter().any(|r| claims.roles.contains(r)) {
        return Some(format!("none of the roles {:?} is held", require.roles));
    }
    if let Some(scope) = require.scopes.iter().find(|s| !claims.scopes.contains(s)) {
        return Some(format!("the scope {scope:?} is missing"));
    }
    let unmet_claim =
        require.claims.iter().find(|(path, wanted)| !claims.lookup(path).is_some_and(|v| holds(v, wanted)));
    unmet_claim.map(|(path, wanted)| format!("the claim {path} is not {wanted:?}"))
}

/// Whether a claim equals `wanted`, or is an array that contains it.
fn holds(value: &Value, wanted: &str) -> bool {
    match value {
        Value::String(s) => s == wanted,
        Value::Bool(b) => wanted == if *b { "true" } else { "false" },
        Value::Number(n) => n.to_string() == wanted,
        Value::Array(items) => items.iter().any(|v| v.as_str() == Some(wanted)),
        Value::Null | Value::Object(_) => false,
    }
}

impl Require {
    pub fn is_empty(&self) -> bool {
        self.roles.is_empty() && self.scopes.is_empty() && self.claims.is_empty()
    }
}
