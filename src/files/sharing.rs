//! `POST ...?share`: a link to a file, for GET or PUT.

use std::time::Duration;

use http::header::{self, HeaderValue};
use serde::{Deserialize, Serialize};

use super::Files;
use super::plan::Share;
use super::store::Content;
use crate::clock::Timestamp;
use crate::fault::Fault;
use crate::reply::Reply;
use crate::tokens::{ShareGrant, ShareMethod, json};

/// Longest body, in bytes.
const MAX_BODY: usize = 4096;
/// Life of a link for which nothing is said.
const USUAL_LIFE: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Wish {
    method: Option<Method>,
    /// Seconds.
    expires_in: Option<u64>,
    /// Bytes; for PUT.
    max_size: Option<u64>,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
enum Method {
    #[serde(rename = "GET")]
    Get,
    #[serde(rename = "PUT")]
    Put,
}

#[derive(Serialize)]
struct Link {
    /// A reference relative to the address of the gateway, which knows the names it is called by no better than its client.
    url: String,
    method: Method,
    /// RFC 3339.
    expires_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_size: Option<u64>,
}

impl Files {
    pub(super) async fn share(&self, share: Share, content: &mut dyn Content) -> Result<Reply, Fault> {
        let invalid = |detail: String| Fault::bad_request("invalid_request", detail);
        let wish: Wish = match body(content).await? {
            body if body.is_empty() => Wish::default(),
            body => wish(&body).map_err(|e| {
                invalid(format!("The body is JSON with method (\"GET\" or \"PUT\"), expires_in (seconds) and max_size (bytes), all optional: {e}."))
            })?,
        };
        let longest = self.policy.share.unwrap_or_default();
        let life = wish.expires_in.map_or(USUAL_LIFE.min(longest), Duration::from_secs);
        if life.is_zero() || life > longest {
            return Err(invalid(format!(
                "expires_in is a number of seconds from 1 to {}.",
                longest.as_secs()
            )));
        }
        let method = wish.method.unwrap_or(Method::Get);
        let max_size = match (method, wish.max_size) {
            (Method::Get, Some(_)) => return Err(invalid("max_size is for links that put a file.".into())),
            (Method::Get, None) if !self.policy.methods.contains("GET") => {
                return Err(Fault::forbidden("a link to read on a route that is not read"));
            }
            (Method::Put, _) if !share.may_put => {
                return Err(Fault::forbidden("may not put the file himself"));
            }
            (Method::Put, Some(size)) if size > self.policy.max_size => {
                return Err(invalid(format!("max_size is at most {}.", self.policy.max_size)));
            }
            (_, size) => size.unwrap_or(self.policy.max_size),
        };
        // A whole second, as the token has it.
        let expires_at = Timestamp::from_seconds(Timestamp(Timestamp::now().plus(life).0 + 999).seconds());
        let grant = ShareGrant {
            method: match method {
                Method::Get => ShareMethod::Get,
                Method::Put => ShareMethod::Put,
            },
            expires_at,
            max_size,
            session: share.session,
            user: share.user,
            prefix: share.key.prefix().to_owned(),
        };
        let token = self.tokens.link(&grant, &self.store.name, &share.path);
        let token = token.ok_or_else(|| Fault::internal("a link that is too long"))?;
        let link = Link {
            url: format!("{}?share={token}", share.path),
            method,
            expires_at: expires_at.to_string(),
            max_size: (method == Method::Put).then_some(max_size),
        };
        let location = HeaderValue::from_str(&link.url).map_err(|e| Fault::internal(e.to_string()))?;
        Ok(Reply::json(201, &link)?.with(header::LOCATION, location))
    }
}

/// An object with distinct members; a struct would be read from an array as well.
fn wish(body: &[u8]) -> Result<Wish, String> {
    let object = json::object(body, 2).map_err(|e| e.to_string())?;
    serde_json::from_value(object.into()).map_err(|e| e.to_string())
}

async fn body(content: &mut dyn Content) -> Result<Vec<u8>, Fault> {
    let mut body = Vec::new();
    while let Some(chunk) = content.next().await? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_BODY {
            return Err(Fault::body_too_large(MAX_BODY as u64));
        }
    }
    Ok(body)
}
