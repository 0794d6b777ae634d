//! Talking to the store.

use http::header::{self, HeaderValue};
use serde::Serialize;

use super::error::FileError;
use super::meter::{Kind, Operation};
use super::plan::{IfRange, Plan};
use super::store::{Content, Entry, Found, Object, Read, Write};
use super::{Answer, Download, Files};
use crate::fault::Fault;
use crate::files::key::ObjectKey;
use crate::reply::Reply;

#[derive(Serialize)]
struct Listing<'p> {
    objects: Vec<Listed<'p>>,
    folders: Vec<&'p str>,
    next_cursor: Option<String>,
}

#[derive(Serialize)]
struct Listed<'p> {
    /// Below the caller's prefix.
    key: &'p str,
    /// Bytes.
    size: u64,
    /// RFC 3339.
    last_modified: String,
    etag: &'p str,
}

impl Files {
    /// # Errors
    /// What the store or the client could not do, as it is told to the client.
    pub async fn carry_out(&self, plan: Plan, content: &mut dyn Content) -> Result<Answer, Fault> {
        let mut operation = self.meters.begin(match &plan {
            Plan::Read { .. } => Kind::Read,
            Plan::Write { .. } => Kind::Write,
            Plan::Delete { .. } => Kind::Delete,
            Plan::List { .. } => Kind::List,
            Plan::Share(_) => Kind::Share,
        });
        let reply = match plan {
            Plan::Read { key, read, if_range, download, by_link } => {
                let opened = self.open(&key, read, if_range).await.map_err(|e| failed(&mut operation, e))?;
                operation.answered();
                let Object { found, meta, body } = opened;
                let headers = self.headers.of_object(&found, &meta, download.as_deref(), by_link);
                let status = match found {
                    Found::Whole => 200,
                    Found::Part(_) => 206,
                    Found::NotModified => 304,
                };
                let length = if status == 304 { None } else { meta.length };
                return Ok(Answer::Object(Box::new(Download { status, headers, length, body, operation })));
            }
            Plan::Write { key, write, location } => {
                self.put(&key, &write, &location, content, &mut operation).await?
            }
            Plan::Delete { key, if_match } => {
                let deleted = self.store.backend.delete(&key, if_match.as_ref()).await;
                deleted.map_err(|e| failed(&mut operation, e))?;
                self.store.removed(key.prefix());
                operation.answered();
                Reply::empty(204)
            }
            Plan::List { prefix, list } => {
                let page = self.store.backend.list(&list).await.map_err(|e| failed(&mut operation, e))?;
                operation.answered();
                let cursor = |next: &String| {
                    let cursor = self.tokens.cursor(next, &self.store.name, &list.prefix, list.folders);
                    cursor
                        .ok_or_else(|| FileError::Broken("where a listing goes on is too long to say".into()))
                };
                let next =
                    page.next.as_ref().map(cursor).transpose().map_err(|e| failed(&mut operation, e))?;
                Reply::json(200, &listing(&page.entries, &prefix, next))?
            }
            Plan::Share(share) => self.share(share, content).await?,
        };
        operation.succeeded();
        Ok(Answer::Reply(reply))
    }

    async fn put(
        &self,
        key: &ObjectKey,
        write: &Write,
        location: &str,
        content: &mut dyn Content,
        operation: &mut Operation,
    ) -> Result<Reply, Fault> {
        let room = match &self.policy.quota {
            Some(quota) => {
                let room = self.store.reserve(key, write.length, quota).await;
                Some(room.map_err(|e| failed(operation, e))?)
            }
            None => None,
        };
        let stored = self.store.backend.write(key, write, content).await;
        let etag = stored.map_err(|e| failed(operation, e))?;
        operation.answered();
        self.meters.received(write.length);
        if let Some(room) = room {
            room.keep();
        }
        let location = HeaderValue::from_str(location).map_err(|e| Fault::internal(e.to_string()))?;
        Ok(Reply::empty(201).with(header::ETAG, etag).with(header::LOCATION, location))
    }

    /// The object, or its part if it is still the one that `if_range` names.
    async fn open(
        &self,
        key: &ObjectKey,
        read: Read,
        if_range: Option<IfRange>,
    ) -> Result<Object, FileError> {
        let store = &self.store.backend;
        let Some(if_range) = if_range else { return store.read(key, &read).await };
        // Stores need not know If-Range. A condition that fails says that the object is another.
        let mut part = read.clone();
        match &if_range {
            IfRange::Tag(tag) => part.conditions.if_match = Some(tag.clone()),
            IfRange::Date(date) => part.conditions.if_unmodified_since = Some(date.clone()),
        }
        let whole = Read { range: None, ..read };
        let is_same = |object: &Object| match &if_range {
            IfRange::Tag(tag) => object.meta.etag.as_ref() == Some(tag),
            // A date must be the very one (RFC 9110 section 13.1.5).
            IfRange::Date(date) => object.meta.last_modified.as_ref() == Some(date),
        };
        match store.read(key, &part).await {
            Ok(object) if object.found == Found::NotModified || is_same(&object) => Ok(object),
            Ok(_) | Err(FileError::PreconditionFailed) => store.read(key, &whole).await,
            // Of another object the part was not asked for.
            Err(e @ FileError::RangeNotSatisfiable { .. }) => {
                let object = store.read(key, &whole).await?;
                if is_same(&object) { Err(e) } else { Ok(object) }
            }
            Err(e) => Err(e),
        }
    }
}

fn failed(operation: &mut Operation, e: FileError) -> Fault {
    operation.failed(&e);
    e.into()
}

fn listing<'p>(entries: &'p [Entry], prefix: &str, next_cursor: Option<String>) -> Listing<'p> {
    let mut listing = Listing { objects: Vec::new(), folders: Vec::new(), next_cursor };
    for entry in entries {
        // A store that shows what it was not asked for is not believed.
        let Some(name) = entry.key().strip_prefix(prefix).filter(|name| !name.is_empty()) else { continue };
        match entry {
            // What consoles make to show an empty folder: no file, and no path leads to it.
            Entry::Object { .. } if name.ends_with('/') => {}
            Entry::Object { size, modified, etag, .. } => {
                listing.objects.push(Listed {
                    key: name,
                    size: *size,
                    last_modified: modified.to_string(),
                    etag,
                });
            }
            Entry::Folder { .. } => listing.folders.push(name),
        }
    }
    listing
}
