//! Reading a JWKS document from where it is: an address or a file. Bounded in time and size.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use parking_lot::Mutex;
use reqwest::header::{ACCEPT, CACHE_CONTROL};
use reqwest::{Client, redirect};

/// For connection, headers and body together.
const TIMEOUT: Duration = Duration::from_secs(5);
const MAX_BYTES: usize = 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("{0}")]
    Http(String),
    #[error("the answer has status {0}")]
    Status(u16),
    #[error("the document is larger than 1 MiB")]
    TooLarge,
    #[error("{}: {cause}", path.display())]
    File { path: PathBuf, cause: std::io::Error },
}

impl From<reqwest::Error> for SourceError {
    fn from(error: reqwest::Error) -> Self {
        // The cause says what happened, the outer error only that something did.
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(inner) = cause {
            text = format!("{text}: {inner}");
            cause = inner.source();
        }
        Self::Http(text)
    }
}

pub enum Source {
    Url { url: String, client: Client },
    File { path: PathBuf, read: Mutex<Option<Version>>, pending: Mutex<Option<Version>> },
}

/// Inode, time of change and size: another version of a file differs in one of them.
type Version = (u64, i64, i64, u64);

pub enum Fetched {
    Document {
        body: Vec<u8>,
        /// From `Cache-Control`.
        max_age: Option<Duration>,
    },
    /// The file is the one that was read before.
    Unchanged,
}

/// A client that follows no redirect (an open redirect at the issuer would serve keys from anywhere) and
/// verifies certificates as reqwest does by default.
pub fn client() -> Result<Client, reqwest::Error> {
    Client::builder().redirect(redirect::Policy::none()).timeout(TIMEOUT).connect_timeout(TIMEOUT).build()
}

impl Source {
    pub fn url(url: String, client: Client) -> Self {
        Self::Url { url, client }
    }

    pub fn file(path: PathBuf) -> Self {
        Self::File { path, read: Mutex::new(None), pending: Mutex::new(None) }
    }

    /// # Errors
    /// [`SourceError`].
    pub async fn fetch(&self) -> Result<Fetched, SourceError> {
        match self {
            Self::Url { url, client } => fetch_url(client, url).await,
            Self::File { path, read, pending } => {
                let fail = |cause| SourceError::File { path: path.clone(), cause };
                let meta = tokio::task::spawn_blocking({
                    let path = path.clone();
                    move || std::fs::metadata(path)
                });
                let meta = meta.await.map_err(std::io::Error::other).flatten().map_err(fail)?;
                let version = (meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.size());
                if *read.lock() == Some(version) {
                    return Ok(Fetched::Unchanged);
                }
                if meta.size() > MAX_BYTES as u64 {
                    return Err(SourceError::TooLarge);
                }
                let content = tokio::task::spawn_blocking({
                    let path = path.clone();
                    move || std::fs::read(path)
                });
                let body = content.await.map_err(std::io::Error::other).flatten().map_err(fail)?;
                *pending.lock() = Some(version);
                Ok(Fetched::Document { body, max_age: None })
            }
        }
    }

    /// The document fetched last was good: do not read the same file again.
    pub fn remember(&self) {
        if let Self::File { read, pending, .. } = self {
            *read.lock() = pending.lock().take();
        }
    }
}

async fn fetch_url(client: &Client, url: &str) -> Result<Fetched, SourceError> {
    let request = client.get(url).header(ACCEPT, "application/jwk-set+json, application/json");
    let mut response = request.send().await?;
    if response.status() != reqwest::StatusCode::OK {
        return Err(SourceError::Status(response.status().as_u16()));
    }
    if response.content_length().is_some_and(|length| length > MAX_BYTES as u64) {
        return Err(SourceError::TooLarge);
    }
    let max_age = response.headers().get(CACHE_CONTROL).and_then(|value| max_age(value.to_str().ok()?));
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > MAX_BYTES {
            return Err(SourceError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Fetched::Document { body, max_age })
}

/// RFC 9111 section 5.2.2.1; `no-store` and `no-cache` count as an age of zero.
fn max_age(cache_control: &str) -> Option<Duration> {
    let mut directives = cache_control.split(',').map(str::trim);
    directives.find_map(|directive| {
        if directive.eq_ignore_ascii_case("no-store") || directive.eq_ignore_ascii_case("no-cache") {
            return Some(Duration::ZERO);
        }
        let (name, seconds) = directive.split_once('=')?;
        let seconds =
            name.trim().eq_ignore_ascii_case("max-age").then(|| seconds.trim().trim_matches('"'))?;
        seconds.parse().ok().map(Duration::from_secs)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn max_age_is_read() {
        assert_eq!(max_age("public, max-age=300"), Some(Duration::from_secs(300)));
        assert_eq!(max_age("Max-Age=\"5\""), Some(Duration::from_secs(5)));
        assert_eq!(max_age("no-cache"), Some(Duration::ZERO));
        assert_eq!(max_age("public, s-maxage=300"), None);
        assert_eq!(max_age("max-age=-1"), None);
        assert_eq!(max_age(""), None);
    }
}
