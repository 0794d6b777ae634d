//! What tells one state of a file from another, and what is kept beside its bytes.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicI64, Ordering};

use http::header::{HeaderName, HeaderValue};
use rustix::buffer::spare_capacity;
use rustix::fs::{FileType, Stat, Timespec, Timestamps, XattrFlags, fgetxattr, fsetxattr, futimens};
use rustix::io::Errno;

use crate::clock::Timestamp;
use crate::files::checksum::{Algorithm, Checksum};
use crate::files::conditions::{Validators, http_date};
use crate::files::store::Meta;

const CONTENT_TYPE: &str = "user.portcullis.content-type";
const CHECKSUMS: &str = "user.portcullis.checksums";

/// Bytes of an attribute, at most.
const LONGEST: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// Bytes.
    pub size: u64,
    /// Nanoseconds since 1970.
    modified: i128,
    inode: u64,
}

impl State {
    /// `None` for what is not a regular file.
    pub fn of(stat: &Stat) -> Option<Self> {
        let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        regular.then(|| Self {
            size: u64::try_from(stat.st_size).unwrap_or(0),
            modified: i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec),
            inode: stat.st_ino,
        })
    }

    /// A strong entity tag (RFC 9110 section 8.8.3), with its quotes.
    pub fn etag(&self) -> String {
        format!("\"{:x}-{:x}-{:x}\"", self.size, self.modified, self.inode)
    }

    pub fn etag_field(&self) -> HeaderValue {
        HeaderValue::try_from(self.etag()).unwrap_or(HeaderValue::from_static("\"\""))
    }

    pub fn validators<'a>(&self, etag: &'a HeaderValue) -> Validators<'a> {
        Validators { etag: etag.as_bytes(), modified: Some(self.timestamp().seconds()) }
    }

    pub fn timestamp(&self) -> Timestamp {
        Timestamp(i64::try_from(self.modified.div_euclid(1_000_000)).unwrap_or(i64::MAX))
    }

    /// The tag and the date, which is all a 304 says.
    pub fn meta(&self) -> Meta {
        Meta {
            etag: Some(self.etag_field()),
            last_modified: http_date(self.timestamp().seconds()),
            ..Meta::default()
        }
    }
}

/// Gives `file` a time of modification that no other has, whatever the ticks of the file system's clock: of two files
/// of one size that follow each other at once, the second may get the inode the first had.
///
/// Where the file system refuses, the tag is as good as its clock.
pub fn stamp(file: impl AsFd) {
    static LAST: AtomicI64 = AtomicI64::new(0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let now = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX - 1);
    let last = LAST.fetch_max(now, Ordering::Relaxed);
    let unique = if last < now { now } else { LAST.fetch_add(1, Ordering::Relaxed) + 1 };
    let time =
        Timespec { tv_sec: unique.div_euclid(1_000_000_000), tv_nsec: unique.rem_euclid(1_000_000_000) as _ };
    let _ = futimens(file, &Timestamps { last_access: time, last_modification: time });
}

/// The type that came with the file, if one did.
pub fn content_type(file: impl AsFd) -> Option<HeaderValue> {
    HeaderValue::from_bytes(&attribute(file, CONTENT_TYPE)?).ok()
}

pub fn keep_content_type(file: impl AsFd, value: &HeaderValue) -> Result<(), Errno> {
    keep(file, CONTENT_TYPE, value.as_bytes())
}

/// The checksums that came with the file, while it is in the state it came in.
pub fn checksums(file: impl AsFd, state: &State) -> Vec<(HeaderName, HeaderValue)> {
    let text = attribute(file, CHECKSUMS).and_then(|bytes| String::from_utf8(bytes).ok());
    let text = text.unwrap_or_default();
    let Some(lines) = text.strip_prefix(&era(state)) else { return Vec::new() };
    let field = |line: &str| {
        let (name, value) = line.split_once('=')?;
        let algorithm = kept().find(|algorithm| algorithm.header() == name)?;
        Some((algorithm.header(), HeaderValue::from_str(value).ok()?))
    };
    lines.lines().filter_map(field).collect()
}

/// Keeps those of `sums` that belong to `x-amz-checksum-*`, for as long as the file stays as it is.
pub fn keep_checksums(file: impl AsFd, state: &State, sums: &[Checksum]) -> Result<(), Errno> {
    let mut text = era(state);
    let start = text.len();
    for sum in sums.iter().filter(|sum| kept().any(|algorithm| algorithm == sum.algorithm)) {
        let value = sum.value();
        text.extend([sum.algorithm.header().as_str(), "=", value.to_str().unwrap_or_default(), "\n"]);
    }
    if text.len() == start { Ok(()) } else { keep(file, CHECKSUMS, text.as_bytes()) }
}

fn kept() -> impl Iterator<Item = Algorithm> {
    Algorithm::ALL.into_iter().filter(|algorithm| *algorithm != Algorithm::Md5)
}

/// Names the content that checksums were computed of: somebody may edit the file in its place. Without the inode, so
/// that they outlast a restored backup.
fn era(state: &State) -> String {
    format!("{:x}-{:x}\n", state.size, state.modified)
}

fn attribute(file: impl AsFd, name: &str) -> Option<Vec<u8>> {
    let mut value = Vec::with_capacity(LONGEST);
    fgetxattr(file, name, spare_capacity(&mut value)).ok()?;
    Some(value)
}

/// File systems without attributes keep the bytes alone.
fn keep(file: impl AsFd, name: &str, value: &[u8]) -> Result<(), Errno> {
    if value.len() > LONGEST {
        return Ok(());
    }
    match fsetxattr(file, name, value, XattrFlags::empty()) {
        Err(Errno::NOTSUP | Errno::NOSYS | Errno::PERM | Errno::TOOBIG | Errno::RANGE) => Ok(()),
        kept => kept,
    }
}
