//! A file on its way to the client.

use std::fs::File;
use std::sync::Arc;

use async_trait::async_trait;
use http::header::HeaderValue;
use rustix::buffer::spare_capacity;
use rustix::io::{pread, retry_on_intr};
use tokio::task::JoinHandle;

use super::state::{self, State};
use super::walk::{self, Root, names, open_file, reading};
use crate::files::conditions::{Method, Outcome, evaluate};
use crate::files::error::FileError;
use crate::files::key::ObjectKey;
use crate::files::store::{Body, Empty, Found, Meta, Object, Read};

/// Bytes that are read at a time.
const CHUNK: u64 = 64 * 1024;

pub fn read(root: &Root, key: &ObjectKey, read: &Read) -> Result<Object, FileError> {
    let names = names(key)?;
    let (name, folders) = names.split_last().ok_or(FileError::NotFound)?;
    let folder = root.folder(folders).map_err(reading("opening a folder"))?;
    let (file, now) = open_file(folder, name).map_err(reading("opening a file"))?;

    let meta = now.meta();
    let validators = meta.etag.as_ref().map(|etag| now.validators(etag));
    match evaluate(Method::Read, validators, &read.conditions) {
        Outcome::Failed => return Err(FileError::PreconditionFailed),
        Outcome::NotModified => {
            return Ok(Object { found: Found::NotModified, meta, body: Box::new(Empty) });
        }
        Outcome::Proceed => {}
    }

    let (found, from, to) = match read.range {
        None => (Found::Whole, 0, now.size),
        Some(range) => {
            let unsatisfiable = FileError::RangeNotSatisfiable { size: Some(now.size) };
            let (first, last) = range.within(now.size).ok_or(unsatisfiable)?;
            (Found::Part(content_range(first, last, now.size)?), first, last + 1)
        }
    };
    let meta = Meta {
        length: Some(to - from),
        content_type: Some(state::content_type(&file).unwrap_or_else(|| guess(name))),
        checksums: if found == Found::Whole { state::checksums(&file, &now) } else { Vec::new() },
        ..meta
    };
    let body: Box<dyn Body> =
        if read.head { Box::new(Empty) } else { Box::new(Chunks::open(file, from, to)?) };
    Ok(Object { found, meta, body })
}

/// The size of a file, `None` for everything else.
pub fn size(root: &Root, key: &ObjectKey) -> Result<Option<u64>, FileError> {
    let find = || {
        let names = names(key)?;
        let (name, folders) = names.split_last().ok_or(FileError::NotFound)?;
        let folder = root.folder(folders).map_err(reading("opening a folder"))?;
        walk::state(folder, name).map_err(reading("looking at a file"))
    };
    match find() {
        Err(FileError::NotFound) | Ok(None) => Ok(None),
        Ok(Some(State { size, .. })) => Ok(Some(size)),
        Err(e) => Err(e),
    }
}

/// RFC 9110 section 14.4.
fn content_range(first: u64, last: u64, size: u64) -> Result<HeaderValue, FileError> {
    HeaderValue::try_from(format!("bytes {first}-{last}/{size}"))
        .map_err(|e| FileError::Broken(e.to_string()))
}

fn guess(name: &str) -> HeaderValue {
    let guessed = mime_guess::from_path(name).first_raw();
    HeaderValue::from_static(guessed.unwrap_or("application/octet-stream"))
}

/// The bytes of a file between two offsets. While one chunk is lent, the next is read.
struct Chunks {
    file: Arc<File>,
    /// What is lent.
    chunk: Vec<u8>,
    ahead: Ahead,
    /// Where the chunk behind the one ahead begins.
    next: u64,
    end: u64,
}

enum Ahead {
    Nothing,
    Read(Vec<u8>),
    Reading(JoinHandle<Result<Vec<u8>, String>>),
    Failed(String),
}

impl Chunks {
    /// Reads the first chunk at once: a small file needs no second way to this thread.
    fn open(file: File, from: u64, to: u64) -> Result<Self, FileError> {
        let ahead = Ahead::Nothing;
        let mut chunks = Self { file: Arc::new(file), chunk: Vec::new(), ahead, next: from, end: to };
        if let Some((at, length)) = chunks.advance() {
            let first = read_exactly(&chunks.file, at, length, Vec::new());
            chunks.ahead = Ahead::Read(first.map_err(FileError::Broken)?);
        }
        Ok(chunks)
    }

    /// Offset and length of the next chunk.
    fn advance(&mut self) -> Option<(u64, usize)> {
        let at = self.next;
        let length = (self.end - at).min(CHUNK);
        self.next += length;
        usize::try_from(length).ok().filter(|length| *length > 0).map(|length| (at, length))
    }
}

#[async_trait]
impl Body for Chunks {
    async fn next(&mut self) -> Result<Option<&[u8]>, String> {
        // The chunk stays ahead until it has come: whoever drops this future finds it the next time.
        if let Ahead::Reading(reading) = &mut self.ahead {
            self.ahead = match reading.await {
                Ok(Ok(chunk)) => Ahead::Read(chunk),
                Ok(Err(cause)) => Ahead::Failed(cause),
                Err(e) => Ahead::Failed(format!("reading a file: {e}")),
            };
        }
        let spare = match &mut self.ahead {
            Ahead::Nothing | Ahead::Reading(_) => return Ok(None),
            Ahead::Failed(cause) => return Err(cause.clone()),
            Ahead::Read(chunk) => {
                std::mem::swap(&mut self.chunk, chunk);
                std::mem::take(chunk)
            }
        };
        self.ahead = match self.advance() {
            None => Ahead::Nothing,
            Some((at, length)) => {
                let file = self.file.clone();
                Ahead::Reading(tokio::task::spawn_blocking(move || read_exactly(&file, at, length, spare)))
            }
        };
        Ok(Some(&self.chunk))
    }
}

/// Into `chunk`. The end of the file before the end of the chunk is an error: what comes must be as long as was said.
fn read_exactly(file: &File, at: u64, length: usize, mut chunk: Vec<u8>) -> Result<Vec<u8>, String> {
    chunk.clear();
    chunk.reserve(length);
    while chunk.len() < length {
        let at = at + chunk.len() as u64;
        let read = retry_on_intr(|| pread(file, spare_capacity(&mut chunk), at))
            .map_err(|e| format!("reading a file: {e}"))?;
        if read == 0 {
            return Err("the file became shorter while it was read".to_owned());
        }
    }
    // There may be room for more than was asked for.
    chunk.truncate(length);
    Ok(chunk)
}
