//! What a store of files can do: S3 and a local folder give the same answers to the same questions.

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};

use super::checksum::Checksum;
use super::error::FileError;
use super::key::ObjectKey;
use super::range::ByteRange;
use crate::clock::Timestamp;

#[async_trait]
pub trait FileStore: Send + Sync {
    /// Opens an object, or the part of it that is asked for.
    ///
    /// # Errors
    /// `NotFound`, `PreconditionFailed`, `RangeNotSatisfiable`, or what is wrong with the store.
    async fn read(&self, key: &ObjectKey, read: &Read) -> Result<Object, FileError>;

    /// Puts an object in its place, whole or not at all; returns its entity tag.
    ///
    /// # Errors
    /// `PreconditionFailed`, `ChecksumMismatch`, whatever `content` fails with, or what is wrong with the store.
    async fn write(
        &self,
        key: &ObjectKey,
        write: &Write,
        content: &mut dyn Content,
    ) -> Result<HeaderValue, FileError>;

    /// Removes an object. One that is not there is removed all the same.
    ///
    /// # Errors
    /// `PreconditionFailed`, or what is wrong with the store.
    async fn delete(&self, key: &ObjectKey, if_match: Option<&HeaderValue>) -> Result<(), FileError>;

    /// What lies below `list.prefix`, in the order of the keys' bytes.
    ///
    /// # Errors
    /// What is wrong with the store.
    async fn list(&self, list: &List) -> Result<Page, FileError>;

    /// The size of an object in bytes, `None` when there is none.
    ///
    /// # Errors
    /// What is wrong with the store.
    async fn size(&self, key: &ObjectKey) -> Result<Option<u64>, FileError>;

    /// Whether the store can be reached with the credentials there are.
    ///
    /// # Errors
    /// Why not.
    async fn check(&self) -> Result<(), FileError>;
}

/// A GET or HEAD (RFC 9110 sections 13 and 14).
#[derive(Clone, Debug, Default)]
pub struct Read {
    /// HEAD: no body follows.
    pub head: bool,
    pub range: Option<ByteRange>,
    pub conditions: Conditions,
}

/// Preconditions as the client sent them (RFC 9110 section 13.1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    pub if_match: Option<HeaderValue>,
    pub if_none_match: Option<HeaderValue>,
    pub if_modified_since: Option<HeaderValue>,
    pub if_unmodified_since: Option<HeaderValue>,
}

/// An opened object.
pub struct Object {
    pub found: Found,
    pub meta: Meta,
    pub body: Box<dyn Body>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// 200.
    Whole,
    /// 206, with the value of `Content-Range`.
    Part(HeaderValue),
    /// 304.
    NotModified,
}

/// What is known of an object.
#[derive(Clone, Debug, Default)]
pub struct Meta {
    /// Bytes of the body; `None` for 304.
    pub length: Option<u64>,
    pub content_type: Option<HeaderValue>,
    pub content_encoding: Option<HeaderValue>,
    pub content_language: Option<HeaderValue>,
    /// With its quotes.
    pub etag: Option<HeaderValue>,
    /// An HTTP date.
    pub last_modified: Option<HeaderValue>,
    /// `x-amz-checksum-*` of the whole object.
    pub checksums: Vec<(HeaderName, HeaderValue)>,
}

/// The bytes of an object on their way to the client.
#[async_trait]
pub trait Body: Send {
    /// The next bytes, `None` at the end. They are lent, so that nobody needs to copy them on their way.
    ///
    /// # Errors
    /// For the log: why the rest does not come. The client has its head already and learns by the connection's end.
    async fn next(&mut self) -> Result<Option<&[u8]>, String>;
}

/// No bytes.
pub struct Empty;

#[async_trait]
impl Body for Empty {
    async fn next(&mut self) -> Result<Option<&[u8]>, String> {
        Ok(None)
    }
}

/// A PUT whose length, size and type are acceptable.
#[derive(Clone, Debug)]
pub struct Write {
    /// Bytes that will come.
    pub length: u64,
    pub content_type: Option<HeaderValue>,
    /// What the content must amount to.
    pub checksums: Vec<Checksum>,
    /// `If-None-Match: *`: there must be no object yet.
    pub if_absent: bool,
    pub if_match: Option<HeaderValue>,
}

/// The bytes of an object on their way from the client.
#[async_trait]
pub trait Content: Send {
    /// The next bytes, `None` when all have come, which are as many as were announced.
    ///
    /// # Errors
    /// The client is gone, too slow, or sends too much.
    async fn next(&mut self) -> Result<Option<Bytes>, FileError>;
}

#[derive(Clone, Debug)]
pub struct List {
    /// Whole keys begin with it.
    pub prefix: String,
    /// Where a page before said that this one begins.
    pub from: Option<String>,
    /// Whether what lies below a further slash is shown as a folder.
    pub folders: bool,
    /// 1 to 1000.
    pub limit: usize,
}

#[derive(Clone, Debug, Default)]
pub struct Page {
    pub entries: Vec<Entry>,
    /// Where the next page begins, in the store's own words; `None` when nothing follows.
    pub next: Option<String>,
}

/// In the order of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    Object {
        /// The whole key.
        key: String,
        size: u64,
        modified: Timestamp,
        /// With its quotes.
        etag: String,
    },
    /// The whole key's beginning, with the slash.
    Folder { prefix: String },
}

impl Entry {
    /// The whole key or prefix.
    pub fn key(&self) -> &str {
        match self {
            Self::Object { key, .. } => key,
            Self::Folder { prefix } => prefix,
        }
    }
}
