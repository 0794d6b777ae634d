//! What S3 says when it refuses, and what that means. None of its words reach the client.

use std::time::Duration;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use http::HeaderMap;
use http::header;

use super::credentials::causes;
use crate::files::error::FileError;

/// Error documents are short; more is not read.
pub const MAX_DOCUMENT: usize = 16 * 1024;
/// Longer than this nobody is told to wait.
const MAX_WAIT: Duration = Duration::from_secs(3600);
/// Characters of S3's message that are logged.
const MAX_MESSAGE: usize = 200;

/// An answer of S3 that is none of those hoped for.
#[derive(Debug)]
pub struct Refusal {
    pub status: u16,
    /// Empty after HEAD, whose answers have no body.
    pub code: String,
    message: String,
    retry_after: Option<Duration>,
    /// Of the object, in an answer to a range beyond it.
    size: Option<u64>,
}

impl Refusal {
    /// From head and body of the answer.
    pub fn read(status: u16, headers: &HeaderMap, document: &[u8]) -> Self {
        let document = String::from_utf8_lossy(document);
        let text = |name| headers.get(name).and_then(|v| v.to_str().ok());
        let size = text(header::CONTENT_RANGE).and_then(|range| range.rsplit('/').next()?.parse().ok());
        Self {
            status,
            code: element(&document, "Code").unwrap_or_default(),
            message: element(&document, "Message").unwrap_or_default(),
            retry_after: text(header::RETRY_AFTER).and_then(wait),
            size: size.or_else(|| element(&document, "ActualObjectSize")?.parse().ok()),
        }
    }

    /// Whether the credentials are at fault, or look as if they were.
    pub fn is_of_credentials(&self) -> bool {
        matches!(
            self.code.as_str(),
            "InvalidAccessKeyId"
                | "InvalidClientTokenId"
                | "SignatureDoesNotMatch"
                | "ExpiredToken"
                | "TokenRefreshRequired"
                | "InvalidToken"
        ) || (self.status == 403 && self.message.contains("expired"))
    }
}

impl From<Refusal> for FileError {
    fn from(refusal: Refusal) -> Self {
        let Refusal { status, code, message, retry_after, size } = refusal;
        let cause = || format!("S3 answered {status} {code}: {message}");
        let busy =
            || Self::Busy { retry_after: retry_after.unwrap_or(Duration::from_secs(1)), cause: cause() };
        match (status, code.as_str()) {
            (_, "NoSuchBucket" | "NoSuchUpload") => Self::Broken(cause()),
            (404, _) => Self::NotFound,
            (412, _) => Self::PreconditionFailed,
            (416, _) => Self::RangeNotSatisfiable { size },
            (400, "BadDigest" | "InvalidDigest" | "XAmzContentChecksumMismatch" | "ChecksumMismatch") => {
                Self::ChecksumMismatch
            }
            // MinIO's word for a checksum field that does not match.
            (400, "XAmzContentSHA256Mismatch") => Self::ChecksumMismatch,
            (_, "KeyTooLongError") => Self::InvalidName("The name of the file is too long for its store."),
            (_, "XMinioInvalidObjectName" | "XMinioInvalidResourceName" | "InvalidObjectName") => {
                Self::InvalidName("The store of this file cannot keep a file of this name.")
            }
            // Servers that keep objects in a file system.
            (
                _,
                "XMinioParentIsObject"
                | "XMinioObjectExistsAsDirectory"
                | "ObjectParentIsFile"
                | "ExistingObjectIsDirectory"
                | "DirectoryObjectContainsData",
            ) => Self::Conflict,
            (_, "XMinioStorageFull" | "QuotaExceeded" | "XMinioAdminBucketQuotaExceeded") => {
                Self::Full(cause())
            }
            (409, _) | (429, _) | (503, _) | (_, "SlowDown" | "Throttling" | "RequestLimitExceeded") => {
                busy()
            }
            (504, _) => Self::Timeout(cause()),
            _ => Self::Broken(cause()),
        }
    }
}

/// What became of a call of the SDK.
pub fn of_sdk<E>(error: &SdkError<E, HttpResponse>) -> FileError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    match error {
        SdkError::TimeoutError(_) => FileError::Timeout("no answer of S3 in time".into()),
        SdkError::DispatchFailure(e) if e.is_timeout() => {
            FileError::Timeout("no answer of S3 in time".into())
        }
        SdkError::DispatchFailure(e)
            if e.as_connector_error().is_some_and(|e| is_parse_error(&causes(e))) =>
        {
            FileError::Broken("the answer of S3 is not HTTP as it should be".into())
        }
        SdkError::DispatchFailure(e) => match e.as_connector_error() {
            Some(e) => FileError::Unreachable(causes(e)),
            None => FileError::Unreachable("no connection to S3".into()),
        },
        SdkError::ServiceError(e) => FileError::from(Refusal {
            status: e.raw().status().as_u16(),
            code: e.err().code().unwrap_or_default().to_owned(),
            message: printable(e.err().message().unwrap_or_default()),
            retry_after: e.raw().headers().get("retry-after").and_then(wait),
            size: None,
        }),
        other => FileError::Broken(printable(&format!("{}", DisplayErrorContext(other)))),
    }
}

/// The SDK tells what hyper could not parse from what was cut off by its words only.
fn is_parse_error(causes: &str) -> bool {
    ["invalid HTTP", "invalid content-length", "unexpected transfer-encoding", "message head is too large"]
        .iter()
        .any(|words| causes.contains(words))
}

fn wait(seconds: &str) -> Option<Duration> {
    let digits = !seconds.is_empty() && seconds.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| seconds.parse().map_or(MAX_WAIT, Duration::from_secs).min(MAX_WAIT))
}

/// The text of the first `<name>` of an XML document.
fn element(document: &str, name: &str) -> Option<String> {
    let (_, rest) = document.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once('<')?;
    Some(printable(text))
}

fn printable(text: &str) -> String {
    text.chars().take(MAX_MESSAGE).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status: u16, document: &str) -> FileError {
        Refusal::read(status, &HeaderMap::new(), document.as_bytes()).into()
    }

    #[test]
    fn codes_have_meanings() {
        let error = |code: &str| {
            format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>m</Message></Error>")
        };
        assert!(matches!(refusal(404, &error("NoSuchKey")), FileError::NotFound));
        assert!(matches!(refusal(404, ""), FileError::NotFound));
        assert!(
            matches!(refusal(404, &error("NoSuchBucket")), FileError::Broken(c) if c == "S3 answered 404 NoSuchBucket: m")
        );
        assert!(matches!(refusal(403, &error("AccessDenied")), FileError::Broken(_)));
        assert!(matches!(refusal(412, ""), FileError::PreconditionFailed));
        assert!(matches!(refusal(400, &error("BadDigest")), FileError::ChecksumMismatch));
        assert!(matches!(refusal(503, &error("SlowDown")), FileError::Busy { .. }));
        assert!(matches!(refusal(500, &error("InternalError")), FileError::Broken(_)));
        assert!(matches!(refusal(301, &error("PermanentRedirect")), FileError::Broken(_)));
        let size = "<Error><Code>InvalidRange</Code><ActualObjectSize>12</ActualObjectSize></Error>";
        assert!(matches!(refusal(416, size), FileError::RangeNotSatisfiable { size: Some(12) }));
    }

    #[test]
    fn odd_documents_do_no_harm() {
        for odd in ["<Code>", "<Code>\u{1b}[31m\n</Code>", "</Code><Code", "\u{0}"] {
            let refusal = Refusal::read(403, &HeaderMap::new(), odd.as_bytes());
            assert!(!refusal.code.contains(char::is_control), "{odd:?}");
        }
        let long = format!("<Message>{}</Message>", "x".repeat(5000));
        assert_eq!(Refusal::read(500, &HeaderMap::new(), long.as_bytes()).message.len(), MAX_MESSAGE);
    }
}
