//! Signed requests (SigV4, by query parameters), made by the SDK.
//!
//! A signed GET, HEAD or DELETE of a key is the same for everybody who may make it, and is kept while it is good: what a
//! request adds, such as a range, is not part of the signature. The signature of a PUT covers what it is about, so that
//! it is good for that one only.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::presigning::{PresignedRequest, PresigningConfig};
use aws_sdk_s3::types::ChecksumMode;
use http::Method;
use http::header::{self, HeaderName, HeaderValue};
use pingora_http::RequestHeader;
use prometheus::IntCounter;
use quick_cache::sync::Cache;

use super::credentials::{Held, Keys, causes};
use crate::clock::Timestamp;
use crate::files::checksum::Algorithm;
use crate::files::error::FileError;
use crate::files::store::Write;

/// How long S3 accepts a signature.
const EXPIRES: Duration = Duration::from_secs(900);
/// How long a signature is used again: what is left is for a slow way and a wrong clock.
const REUSED: Duration = Duration::from_secs(600);
/// Not used again when its credentials end within this time.
const MARGIN: Duration = Duration::from_secs(60);
/// Requests kept, of about a kilobyte each.
const KEPT: usize = 10_000;

pub struct Signer {
    client: Client,
    bucket: String,
    keys: Arc<Keys>,
    signed: Cache<(Verb, String), Arc<Signed>>,
    cached: IntCounter,
    fresh: IntCounter,
}

/// A request of which the method, the key and nothing else is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    Get,
    Head,
    Delete,
}

/// One part of an upload in parts.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    pub upload_id: &'a str,
    pub number: i32,
    pub length: u64,
}

/// A signed request, and which credentials it was signed with.
pub struct Signed {
    head: RequestHeader,
    pub epoch: u64,
    good_until: Timestamp,
}

impl Signed {
    /// Its head, to which what is not signed may be added.
    pub fn head(&self) -> RequestHeader {
        self.head.clone()
    }
}

impl Signer {
    pub fn new(client: Client, bucket: &str, keys: Arc<Keys>, cached: IntCounter, fresh: IntCounter) -> Self {
        Self { client, bucket: bucket.to_owned(), keys, signed: Cache::new(KEPT), cached, fresh }
    }

    /// A request for `key`, from the cache when it may be.
    ///
    /// # Errors
    /// `Broken`: there are no credentials.
    pub async fn sign(&self, verb: Verb, key: &str, now: Timestamp) -> Result<Arc<Signed>, FileError> {
        let held = self.keys.current().await?;
        let name = (verb, key.to_owned());
        if let Some(signed) = self.signed.get(&name)
            && signed.epoch == held.epoch
            && now < signed.good_until
        {
            self.cached.inc();
            return Ok(signed);
        }
        let expires = expires()?;
        let request = match verb {
            Verb::Get => {
                let get = self.client.get_object().bucket(&self.bucket).key(key);
                get.checksum_mode(ChecksumMode::Enabled).presigned(expires).await.map_err(|e| unsigned(&e))?
            }
            Verb::Head => {
                let head = self.client.head_object().bucket(&self.bucket).key(key);
                head.checksum_mode(ChecksumMode::Enabled)
                    .presigned(expires)
                    .await
                    .map_err(|e| unsigned(&e))?
            }
            Verb::Delete => {
                let delete = self.client.delete_object().bucket(&self.bucket).key(key);
                delete.presigned(expires).await.map_err(|e| unsigned(&e))?
            }
        };
        let method = match verb {
            Verb::Get => Method::GET,
            Verb::Head => Method::HEAD,
            Verb::Delete => Method::DELETE,
        };
        let signed = Arc::new(self.signed(method, &request, &held, now)?);
        if now < signed.good_until {
            self.signed.insert(name, signed.clone());
        }
        Ok(signed)
    }

    /// A PUT of a whole object.
    ///
    /// # Errors
    /// As [`Self::sign`].
    pub async fn sign_put(&self, key: &str, write: &Write, now: Timestamp) -> Result<Signed, FileError> {
        let held = self.keys.current().await?;
        let text = |value: &HeaderValue| value.to_str().ok().map(str::to_owned);
        let mut put = self.client.put_object().bucket(&self.bucket).key(key);
        put = put.set_content_length(i64::try_from(write.length).ok());
        put = put.set_content_type(write.content_type.as_ref().and_then(text));
        put = put.set_if_match(write.if_match.as_ref().and_then(text));
        put = put.set_if_none_match(write.if_absent.then(|| "*".to_owned()));
        for sum in &write.checksums {
            let value = text(&sum.value());
            put = match sum.algorithm {
                Algorithm::Md5 => put.set_content_md5(value),
                Algorithm::Crc32 => put.set_checksum_crc32(value),
                Algorithm::Crc32c => put.set_checksum_crc32_c(value),
                Algorithm::Crc64Nvme => put.set_checksum_crc64_nvme(value),
                Algorithm::Sha1 => put.set_checksum_sha1(value),
                Algorithm::Sha256 => put.set_checksum_sha256(value),
            };
        }
        let request = put.presigned(expires()?).await.map_err(|e| unsigned(&e))?;
        self.signed(Method::PUT, &request, &held, now)
    }

    /// A PUT of a part.
    ///
    /// # Errors
    /// As [`Self::sign`].
    pub async fn sign_part(&self, key: &str, part: &Part<'_>, now: Timestamp) -> Result<Signed, FileError> {
        let held = self.keys.current().await?;
        let upload = self.client.upload_part().bucket(&self.bucket).key(key);
        let upload = upload.upload_id(part.upload_id).part_number(part.number);
        let upload = upload.set_content_length(i64::try_from(part.length).ok());
        let request = upload.presigned(expires()?).await.map_err(|e| unsigned(&e))?;
        self.signed(Method::PUT, &request, &held, now)
    }

    /// Forgets what was signed, since S3 no longer accepts it.
    pub fn forget(&self) {
        self.signed.clear();
    }

    fn signed(
        &self,
        method: Method,
        request: &PresignedRequest,
        held: &Held,
        now: Timestamp,
    ) -> Result<Signed, FileError> {
        self.fresh.inc();
        let odd = |what: &str| FileError::Broken(format!("a signed request {what}"));
        let uri: http::Uri = request.uri().parse().map_err(|_| odd("without a URI"))?;
        let (Some(authority), Some(target)) = (uri.authority(), uri.path_and_query()) else {
            return Err(odd("without an address"));
        };
        let mut head = RequestHeader::build(method, target.as_str().as_bytes(), Some(8))
            .map_err(|_| odd("without a head"))?;
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| odd("without a host"))?;
        let mut append = |name: HeaderName, value: HeaderValue| {
            head.append_header(name, value).map(drop).map_err(|_| odd("with too many fields"))
        };
        append(header::HOST, host)?;
        for (name, value) in request.headers().filter(|(name, _)| !name.eq_ignore_ascii_case("host")) {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| odd("with an odd field"))?;
            append(name, HeaderValue::from_str(value).map_err(|_| odd("with an odd field"))?)?;
        }
        let mut good_until = now.plus(REUSED);
        if let Some(expiry) = held.credentials.expiry() {
            let left = expiry.duration_since(std::time::SystemTime::now()).unwrap_or_default();
            good_until = good_until.min(now.plus(left).minus(MARGIN));
        }
        Ok(Signed { head, epoch: held.epoch, good_until })
    }
}

fn expires() -> Result<PresigningConfig, FileError> {
    PresigningConfig::expires_in(EXPIRES).map_err(|e| FileError::Broken(causes(&e)))
}

fn unsigned<E: std::error::Error + 'static, R: std::fmt::Debug + Send + Sync + 'static>(
    e: &SdkError<E, R>,
) -> FileError {
    FileError::Broken(format!("no signature for S3: {}", causes(e)))
}
