//! What went wrong, in words that may stand in a log.
//!
//! The messages of the server and the driver quote what was asked: a duplicate key names the address, a refused
//! command its whole filter, a parse error the connection string. Only codes, the names of codes and the errors of
//! the operating system are passed on.

use mongodb::error::{Error, ErrorKind, WriteFailure};

/// Duplicate key, of an insert or of an index under construction.
pub const DUPLICATE_KEY: i32 = 11000;
const UNAUTHORIZED: i32 = 13;
const INDEX_CONFLICTS: [i32; 2] = [85, 86];

pub fn describe(error: &Error) -> String {
    match &*error.kind {
        ErrorKind::Command(refusal) => {
            format!("command refused: {}", named(&refusal.code_name, refusal.code))
        }
        ErrorKind::Write(WriteFailure::WriteError(refusal)) => {
            format!(
                "write refused: {}",
                named(refusal.code_name.as_deref().unwrap_or_default(), refusal.code)
            )
        }
        ErrorKind::Write(WriteFailure::WriteConcernError(refusal)) => {
            format!("a majority did not confirm the write: {}", named(&refusal.code_name, refusal.code))
        }
        ErrorKind::Authentication { .. } => "the server refuses the user name or the password".into(),
        ErrorKind::ServerSelection { .. } => "no server of the deployment can be used".into(),
        ErrorKind::Io(error) => error.to_string(),
        ErrorKind::DnsResolve { message, .. } => format!("name not resolved: {message}"),
        ErrorKind::ConnectionPoolCleared { .. } => "the connection was lost".into(),
        ErrorKind::InvalidTlsConfig { message, .. } => format!("TLS: {message}"),
        ErrorKind::IncompatibleServer { .. } => "the server's version is not supported".into(),
        ErrorKind::InvalidResponse { .. } | ErrorKind::Bson(_) => "the reply cannot be read".into(),
        _ => "the driver failed".into(),
    }
}

fn named(name: &str, code: i32) -> String {
    if name.is_empty() { format!("code {code}") } else { format!("{name} (code {code})") }
}

pub fn code(error: &Error) -> Option<i32> {
    match &*error.kind {
        ErrorKind::Command(refusal) => Some(refusal.code),
        ErrorKind::Write(WriteFailure::WriteError(refusal)) => Some(refusal.code),
        _ => None,
    }
}

pub fn is_duplicate(error: &Error) -> bool {
    code(error) == Some(DUPLICATE_KEY)
}

pub fn is_index_conflict(error: &Error) -> bool {
    code(error).is_some_and(|code| INDEX_CONFLICTS.contains(&code))
}

pub fn is_refused_access(error: &Error) -> bool {
    code(error) == Some(UNAUTHORIZED) || matches!(&*error.kind, ErrorKind::Authentication { .. })
}

#[cfg(test)]
#[path = "fault_tests.rs"]
mod tests;
