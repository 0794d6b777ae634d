//! Every way a call to a store of files can fail, and what the client is told about it.

use std::time::Duration;

use crate::fault::Fault;

#[derive(Clone, Debug)]
pub enum FileError {
    NotFound,
    PreconditionFailed,
    /// `size`: of the whole object, where the store told.
    RangeNotSatisfiable {
        size: Option<u64>,
    },
    /// The content does not amount to the checksum that was sent with it.
    ChecksumMismatch,
    /// A file where a folder would have to be, or the other way round.
    Conflict,
    /// The store cannot keep an object of this name.
    InvalidName(&'static str),
    /// The client's fault, or its absence.
    Client(Fault),
    /// The store answered, and not as it should: a wrong bucket, credentials it does not know, an error of its own.
    Broken(String),
    /// The store asks to be left alone for a while.
    Busy {
        retry_after: Duration,
        cause: String,
    },
    /// There is no room left.
    Full(String),
    /// No connection, or one that broke.
    Unreachable(String),
    Timeout(String),
}

impl FileError {
    /// One word for metrics.
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::PreconditionFailed | Self::RangeNotSatisfiable { .. } => "precondition",
            Self::ChecksumMismatch | Self::Conflict | Self::InvalidName(_) | Self::Client(_) => "refused",
            Self::Broken(_) => "broken",
            Self::Busy { .. } => "busy",
            Self::Full(_) => "full",
            Self::Unreachable(_) => "unreachable",
            Self::Timeout(_) => "timeout",
        }
    }
}

const UNAVAILABLE: &str = "file_store_unavailable";

impl From<FileError> for Fault {
    fn from(e: FileError) -> Self {
        match e {
            FileError::NotFound => Fault::new(404, "file_not_found", "There is no such file."),
            FileError::PreconditionFailed => {
                Fault::new(412, "precondition_failed", "The file is not in the state the request asks for.")
            }
            FileError::RangeNotSatisfiable { size } => Fault {
                content_range: size.map(|size| format!("bytes */{size}")),
                ..Fault::new(
                    416,
                    "range_not_satisfiable",
                    "The file does not reach as far as the range that was asked for.",
                )
            },
            FileError::ChecksumMismatch => Fault::bad_request(
                "checksum_mismatch",
                "What arrived does not amount to the checksum that was sent with it. Nothing was stored; send it again.",
            ),
            FileError::Conflict => Fault::new(
                409,
                "conflict",
                "A folder of this name is there already, or a file where the name has a folder.",
            ),
            FileError::InvalidName(detail) => Fault::bad_request("invalid_file_name", detail),
            FileError::Client(fault) => fault,
            FileError::Broken(cause) => {
                Fault::new(502, "file_store_error", "The store of this file gave no valid answer.")
                    .caused_by(cause)
            }
            FileError::Busy { retry_after, cause } => {
                Fault::unavailable(UNAVAILABLE, cause).retry_after(retry_after)
            }
            FileError::Full(cause) => {
                Fault::new(507, "file_store_full", "The store of this file has no room left.")
                    .caused_by(cause)
            }
            FileError::Unreachable(cause) => Fault::unavailable(UNAVAILABLE, cause),
            FileError::Timeout(cause) => {
                Fault::new(504, "file_store_timeout", "The store of this file did not answer in time.")
                    .caused_by(cause)
            }
        }
    }
}
