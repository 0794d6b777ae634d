//! What a request asks for: whose file, which one, under what conditions. Everything that can be refused without the store
//! is refused here.

use http::HeaderMap;
use http::header::{self, HeaderName, HeaderValue};

use super::checksum::Checksum;
use super::key::{self, KeyError, ObjectKey};
use super::query::Query;
use super::range::ByteRange;
use super::store::{Conditions, List, Read, Write};
use super::{Caller, Files, Request};
use crate::fault::Fault;
use crate::tokens::{Claims, ShareMethod};

/// Entries of a page, at most.
const MAX_PAGE: usize = 1000;

/// A request that may be carried out.
#[derive(Debug)]
pub enum Plan {
    Read {
        key: ObjectKey,
        read: Read,
        if_range: Option<IfRange>,
        download: Option<String>,
        by_link: bool,
    },
    /// `location`: the path of the file.
    Write {
        key: ObjectKey,
        write: Write,
        location: String,
    },
    Delete {
        key: ObjectKey,
        if_match: Option<HeaderValue>,
    },
    /// `prefix` is the caller's, the list's may be a folder below it.
    List {
        prefix: String,
        list: List,
    },
    Share(Share),
}

/// A link to be made.
#[derive(Debug)]
pub struct Share {
    pub key: ObjectKey,
    /// The path of the file.
    pub path: String,
    pub session: crate::store::SessionId,
    pub user: String,
    /// Whether its maker may put the file.
    pub may_put: bool,
}

/// `If-Range` (RFC 9110 section 13.1.5): the part, if the object is still this one, else the whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IfRange {
    /// A strong entity tag.
    Tag(HeaderValue),
    Date(HeaderValue),
}

impl Plan {
    /// Whether the request's body is looked at.
    pub fn takes_content(&self) -> bool {
        matches!(self, Self::Write { .. } | Self::Share(_))
    }
}

impl Files {
    /// # Errors
    /// 400, 403, 404, 411, 413 or 415, with what to do.
    pub fn plan(&self, request: &Request<'_>) -> Result<Plan, Fault> {
        let query = Query::parse(request.query)?;
        let rest = self.rest(request.path);
        match request.method {
            "GET" | "HEAD" if query.list => self.plan_list(request, &query, rest),
            "GET" | "HEAD" => self.plan_read(request, &query, rest),
            "PUT" => self.plan_write(request, &query, rest),
            "DELETE" => self.plan_delete(request, &query, rest),
            "POST" if query.share.is_some() => self.plan_share(request, &query, rest),
            "POST" => Err(Fault::bad_request(
                "invalid_query",
                "POST makes a share link: add ?share. A file is stored with PUT.",
            )),
            _ => Err(Fault::method_not_allowed(self.policy.methods.iter().collect::<Vec<_>>().join(", "))),
        }
    }

    fn plan_read(&self, request: &Request<'_>, query: &Query<'_>, rest: &str) -> Result<Plan, Fault> {
        let prefix = self.prefix(request, query, ShareMethod::Get)?;
        let key = match ObjectKey::below(&prefix, rest) {
            Ok(key) => key,
            // Nothing can be there.
            Err(KeyError::Empty | KeyError::Folder) => {
                let detail = "A folder is no file. Add ?list to see what is in it.";
                return Err(Fault::new(404, "file_not_found", detail));
            }
            Err(e) => return Err(invalid_name(e)),
        };
        let head = request.method == "HEAD";
        let field = |name: HeaderName| request.headers.get(name).cloned();
        let conditions = Conditions {
            if_match: joined(request.headers, header::IF_MATCH),
            if_none_match: joined(request.headers, header::IF_NONE_MATCH),
            if_modified_since: field(header::IF_MODIFIED_SINCE),
            if_unmodified_since: field(header::IF_UNMODIFIED_SINCE),
        };
        // Defined for GET only (RFC 9110 section 14.2); several fields would be several ranges.
        let mut ranges = request.headers.get_all(header::RANGE).iter();
        let range = ranges.next().filter(|_| !head).and_then(|v| v.to_str().ok()).and_then(ByteRange::parse);
        let mut range = range.filter(|_| ranges.next().is_none());
        let if_range = match (range, field(header::IF_RANGE)) {
            (Some(_), Some(value)) => {
                let if_range = IfRange::parse(value);
                // What can never be the same, or is asked together with what would hide the answer.
                if if_range.is_none()
                    || conditions.if_match.is_some()
                    || conditions.if_unmodified_since.is_some()
                {
                    range = None;
                }
                if_range.filter(|_| range.is_some())
            }
            _ => None,
        };
        let download = query.download.as_ref().map(|name| match &**name {
            "" => key.file_name().to_owned(),
            name => name.to_owned(),
        });
        let by_link = matches!(request.caller, Caller::Link(_));
        Ok(Plan::Read { key, read: Read { head, range, conditions }, if_range, download, by_link })
    }

    fn plan_write(&self, request: &Request<'_>, query: &Query<'_>, rest: &str) -> Result<Plan, Fault> {
        let prefix = self.prefix(request, query, ShareMethod::Put)?;
        let key = ObjectKey::below(&prefix, rest).map_err(invalid_name)?;
        let headers = request.headers;
        self.may_write(request.caller)?;
        let length =
            headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
        let Some(length) = length.filter(|_| !headers.contains_key(header::TRANSFER_ENCODING)) else {
            let detail = "A file is stored with its length: send Content-Length.";
            return Err(Fault::new(411, "length_required", detail).closing());
        };
        let mut limit = self.policy.max_size;
        if let Caller::Link(grant) = request.caller {
            limit = limit.min(grant.max_size);
        }
        if length > limit {
            return Err(too_large(length, limit));
        }
        let content_type = self.content_type(headers)?;
        for name in [header::IF_UNMODIFIED_SINCE, header::IF_MODIFIED_SINCE] {
            unsupported(headers, &name)?;
        }
        let if_absent = match headers.get(header::IF_NONE_MATCH) {
            None => false,
            Some(value) if value == "*" => true,
            Some(_) => {
                let detail =
                    "A file that is stored under If-None-Match takes * only: store it if there is none.";
                return Err(Fault::bad_request("unsupported_precondition", detail));
            }
        };
        let checksums = Checksum::announced(headers).map_err(|name| {
            Fault::bad_request(
                "invalid_checksum",
                format!("{name} is not one checksum of its kind, in base64."),
            )
        })?;
        if checksums.iter().filter(|sum| sum.algorithm != super::checksum::Algorithm::Md5).count() > 1 {
            let detail = "Send one x-amz-checksum field, besides Content-MD5.";
            return Err(Fault::bad_request("invalid_checksum", detail));
        }
        let if_match = joined(headers, header::IF_MATCH);
        let write = Write { length, content_type, checksums, if_absent, if_match };
        Ok(Plan::Write { key, write, location: request.path.to_owned() })
    }

    fn plan_delete(&self, request: &Request<'_>, query: &Query<'_>, rest: &str) -> Result<Plan, Fault> {
        let Caller::User(_) = request.caller else { return Err(no_link()) };
        let prefix = self.prefix(request, query, ShareMethod::Put)?;
        let key = ObjectKey::below(&prefix, rest).map_err(invalid_name)?;
        self.may_write(request.caller)?;
        for name in [header::IF_UNMODIFIED_SINCE, header::IF_MODIFIED_SINCE, header::IF_NONE_MATCH] {
            unsupported(request.headers, &name)?;
        }
        Ok(Plan::Delete { key, if_match: joined(request.headers, header::IF_MATCH) })
    }

    fn plan_list(&self, request: &Request<'_>, query: &Query<'_>, rest: &str) -> Result<Plan, Fault> {
        if !self.policy.list {
            return Err(Fault::new(403, "listing_disabled", "What lies here is not listed."));
        }
        if matches!(request.caller, Caller::Link(_)) {
            return Err(no_link());
        }
        let prefix = self.prefix(request, query, ShareMethod::Get)?;
        let folder = key::folder(rest).map_err(|e| match e {
            KeyError::TooLong => invalid_name(e),
            _ => Fault::bad_request(
                "invalid_file_name",
                "What is listed is a folder: end the path with a slash.",
            ),
        })?;
        let invalid = |detail: &'static str| Fault::bad_request("invalid_query", detail);
        let folders = match query.delimiter.as_deref() {
            None | Some("") => false,
            Some("/") => true,
            Some(_) => {
                return Err(invalid(
                    "The delimiter of folders is a slash: write delimiter=/ or leave it out.",
                ));
            }
        };
        let limit = match query.limit.as_deref().map(str::parse) {
            None => MAX_PAGE,
            Some(Ok(limit)) if (1..=MAX_PAGE).contains(&limit) => limit,
            Some(_) => return Err(invalid("limit is a number from 1 to 1000.")),
        };
        let below = [prefix.as_str(), &folder].concat();
        let from = match query.cursor.as_deref() {
            None => None,
            Some(cursor) => {
                let from = self.tokens.read_cursor(cursor, &self.store.name, &below, folders);
                Some(from.ok_or_else(|| {
                    invalid("The cursor is not one of this listing: take it from next_cursor.")
                })?)
            }
        };
        Ok(Plan::List { prefix, list: List { prefix: below, from, folders, limit } })
    }

    fn plan_share(&self, request: &Request<'_>, query: &Query<'_>, rest: &str) -> Result<Plan, Fault> {
        let Caller::User(claims) = request.caller else { return Err(no_link()) };
        let Some(session) = claims.session else {
            return Err(Fault::forbidden(
                "a token of another issuer has no session that a link could end with",
            ));
        };
        let prefix = self.prefix(request, query, ShareMethod::Get)?;
        let key = ObjectKey::below(&prefix, rest).map_err(invalid_name)?;
        let may_put = self.policy.methods.contains("PUT") && self.may_write(request.caller).is_ok();
        let path = request.path.to_owned();
        Ok(Plan::Share(Share { key, path, session, user: claims.subject.clone(), may_put }))
    }

    /// The object that `method` on `path` is about for a user with these claims, for `explain`.
    ///
    /// # Errors
    /// As [`Self::plan`], as far as headers and query play no part in it.
    pub fn explain(&self, method: &str, path: &str, claims: Option<&Claims>) -> Result<String, Fault> {
        let caller = claims.map_or(Caller::Anonymous, Caller::User);
        let headers = HeaderMap::new();
        let request = Request { method, headers: &headers, path, query: None, caller };
        let prefix = self.prefix(&request, &Query::default(), ShareMethod::Get)?;
        if matches!(method, "PUT" | "DELETE") {
            self.may_write(caller)?;
        }
        match ObjectKey::below(&prefix, self.rest(path)) {
            Ok(key) => Ok(key.as_str().to_owned()),
            Err(KeyError::Empty | KeyError::Folder) => Ok(prefix),
            Err(e) => Err(invalid_name(e)),
        }
    }

    /// The prefix of the caller, or the one that a privileged caller names.
    fn prefix(&self, request: &Request<'_>, query: &Query<'_>, method: ShareMethod) -> Result<String, Fault> {
        let no_claims = serde_json::Map::new();
        let claims = match request.caller {
            Caller::Link(grant) if grant.method == method => return Ok(grant.prefix.clone()),
            Caller::Link(_) => return Err(no_link()),
            Caller::User(claims) => Some(claims),
            Caller::Anonymous => None,
        };
        if let Some(named) = &query.prefix {
            if claims.is_none() {
                return Err(Fault::new(403, "forbidden", "Only some users may name a prefix."));
            }
            if !claims.is_some_and(|claims| holds_one(claims, &self.policy.admin_roles)) {
                return Err(Fault::forbidden("names a prefix without a role of `admin_roles`"));
            }
            if !self.policy.prefix.admits(named) {
                let detail = format!("prefix is not of the form {:?}.", self.policy.prefix.as_str());
                return Err(Fault::bad_request("invalid_query", detail));
            }
            return Ok(named.clone().into_owned());
        }
        let filled = self.policy.prefix.fill(claims.map_or(&no_claims, |claims| &claims.all));
        filled.map_err(|e| Fault::forbidden(e.to_string()))
    }

    fn may_write(&self, caller: Caller<'_>) -> Result<(), Fault> {
        match caller {
            // Its maker was asked.
            Caller::Link(_) => Ok(()),
            Caller::User(claims)
                if self.policy.write_roles.is_empty() || holds_one(claims, &self.policy.write_roles) =>
            {
                Ok(())
            }
            _ => Err(Fault::forbidden(format!("none of the roles {:?} is held", self.policy.write_roles))),
        }
    }

    /// The type of the content, if it is one that is taken.
    fn content_type(&self, headers: &HeaderMap) -> Result<Option<HeaderValue>, Fault> {
        let refused = |detail| Err(Fault::new(415, "unsupported_media_type", detail));
        let mut codings = headers.get_all(header::CONTENT_ENCODING).iter();
        if codings.any(|v| !v.as_bytes().eq_ignore_ascii_case(b"identity")) {
            return refused("A file is stored as it is: send it without Content-Encoding.".to_owned());
        }
        if headers.contains_key(header::CONTENT_RANGE) {
            // RFC 9110 section 14.5.
            return Err(Fault::bad_request(
                "invalid_request",
                "A file is stored whole: send no Content-Range.",
            ));
        }
        let value = headers.get(header::CONTENT_TYPE);
        let essence = value.and_then(|v| v.to_str().ok()).and_then(essence);
        if value.is_some() && essence.is_none() {
            return refused("Content-Type is not a media type.".to_owned());
        }
        let types = &self.policy.types;
        let taken = |essence: &str| {
            types.iter().any(|t| t == essence || t.strip_suffix('*').is_some_and(|t| essence.starts_with(t)))
        };
        if !types.is_empty() && !essence.is_some_and(|e| taken(&e)) {
            return refused(format!(
                "Files of these types are stored here: {}. Say which in Content-Type.",
                types.join(", ")
            ));
        }
        Ok(value.cloned())
    }
}

impl IfRange {
    /// `None` for what can never be the same: a weak tag, or neither tag nor date.
    fn parse(value: HeaderValue) -> Option<Self> {
        match value.as_bytes() {
            [b'"', tag @ .., b'"'] if !tag.is_empty() && !tag.contains(&b'"') => Some(Self::Tag(value)),
            [first, second, ..] if first.is_ascii_alphabetic() && *second != b'/' => Some(Self::Date(value)),
            _ => None,
        }
    }
}

/// Several fields of one name are one list (RFC 9110 section 5.3).
fn joined(headers: &HeaderMap, name: HeaderName) -> Option<HeaderValue> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    let rest: Vec<&[u8]> = values.map(HeaderValue::as_bytes).collect();
    if rest.is_empty() {
        return Some(first.clone());
    }
    let all = [first.as_bytes()].into_iter().chain(rest).collect::<Vec<_>>().join(&b", "[..]);
    HeaderValue::from_bytes(&all).ok()
}

/// `type/subtype` in lower case, without parameters.
fn essence(value: &str) -> Option<String> {
    let essence = value.split(';').next()?.trim().to_ascii_lowercase();
    let (kind, subtype) = essence.split_once('/')?;
    let token = |text: &str| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
    };
    (token(kind) && token(subtype)).then_some(essence)
}

fn holds_one(claims: &Claims, roles: &[String]) -> bool {
    roles.iter().any(|role| claims.roles.contains(role))
}

/// A condition that protects a file and could not be kept is refused rather than ignored.
fn unsupported(headers: &HeaderMap, name: &HeaderName) -> Result<(), Fault> {
    if !headers.contains_key(name) {
        return Ok(());
    }
    let detail = format!("{name} is not supported here: use If-Match with the file's ETag.");
    Err(Fault::bad_request("unsupported_precondition", detail))
}

pub(super) fn too_large(size: u64, limit: u64) -> Fault {
    Fault::new(413, "file_too_large", format!("The file has {size} bytes; at most {limit} are taken."))
        .numbers(vec![("size", size), ("limit", limit)])
        .closing()
}

fn invalid_name(e: KeyError) -> Fault {
    let text = e.to_string();
    let mut letters = text.chars();
    let detail = letters.next().map(|first| first.to_uppercase().chain(letters).collect::<String>() + ".");
    Fault::bad_request("invalid_file_name", detail.unwrap_or_default())
}

fn no_link() -> Fault {
    Fault::invalid_share_link("the link does not allow this")
}
