//! Signed requests (SigV4), made by the SDK's signer.
//!
//! A signed GET, HEAD or DELETE of a key is the same for everybody who may make it, and is kept while it is good: what a
//! request adds, such as a range, is not part of the signature. The signature of a PUT covers what it is about, so that
//! it is good for that one only.
//!
//! The signature stands in the header, not in the query: there it would be written to the access logs of the storage
//! server, and the SDK does not sign `x-amz-checksum-mode`, which servers other than Amazon's insist on.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
    UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4;
use http::Method;
use http::header::{self, HeaderName, HeaderValue};
use pingora_http::RequestHeader;
use prometheus::IntCounter;
use quick_cache::sync::Cache;

use super::credentials::{Held, Keys, causes};
use crate::clock::Timestamp;
use crate::files::error::FileError;
use crate::files::store::Write;
use crate::percent;

/// How long a signature is used again. S3 accepts it for a quarter of an hour; what is left is for clocks that differ.
const REUSED: Duration = Duration::from_secs(300);
/// Not used again when its credentials end within this time.
const MARGIN: Duration = Duration::from_secs(60);
/// Requests kept, of one to four kilobytes each.
const KEPT: usize = 4096;

/// Where the objects are, as requests name it.
#[derive(Clone, Debug)]
pub struct Address {
    pub https: bool,
    /// Host, and port where it is not the usual one.
    pub authority: String,
    /// What stands before every key: `/`, or `/bucket/`.
    pub root: String,
    pub region: String,
}

pub struct Signer {
    address: Address,
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

type Field = (HeaderName, HeaderValue);

impl Signer {
    pub fn new(address: Address, keys: Arc<Keys>, cached: IntCounter, fresh: IntCounter) -> Self {
        Self { address, keys, signed: Cache::new(KEPT), cached, fresh }
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
        let checksums = (HeaderName::from_static("x-amz-checksum-mode"), HeaderValue::from_static("ENABLED"));
        let (method, fields) = match verb {
            Verb::Get => (Method::GET, vec![checksums]),
            Verb::Head => (Method::HEAD, vec![checksums]),
            Verb::Delete => (Method::DELETE, vec![]),
        };
        let signed = Arc::new(self.signed(method, &self.target(key), fields, &held, now)?);
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
        let mut fields: Vec<Field> = vec![(header::CONTENT_LENGTH, HeaderValue::from(write.length))];
        fields.extend(write.content_type.clone().map(|value| (header::CONTENT_TYPE, value)));
        fields.extend(write.if_match.clone().map(|value| (header::IF_MATCH, value)));
        if write.if_absent {
            fields.push((header::IF_NONE_MATCH, HeaderValue::from_static("*")));
        }
        fields.extend(write.checksums.iter().map(|sum| (sum.algorithm.header(), sum.value())));
        self.signed(Method::PUT, &self.target(key), fields, &held, now)
    }

    /// A PUT of a part.
    ///
    /// # Errors
    /// As [`Self::sign`].
    pub async fn sign_part(&self, key: &str, part: &Part<'_>, now: Timestamp) -> Result<Signed, FileError> {
        let held = self.keys.current().await?;
        let target = format!(
            "{}?partNumber={}&uploadId={}",
            self.target(key),
            part.number,
            encoded(part.upload_id, false)
        );
        let fields = vec![(header::CONTENT_LENGTH, HeaderValue::from(part.length))];
        self.signed(Method::PUT, &target, fields, &held, now)
    }

    /// Forgets what was signed, since S3 no longer accepts it.
    pub fn forget(&self) {
        self.signed.clear();
    }

    fn target(&self, key: &str) -> String {
        format!("{}{}", self.address.root, encoded(key, true))
    }

    fn signed(
        &self,
        method: Method,
        target: &str,
        fields: Vec<Field>,
        held: &Held,
        now: Timestamp,
    ) -> Result<Signed, FileError> {
        self.fresh.inc();
        let unsigned =
            |e: &dyn std::error::Error| FileError::Broken(format!("no signature for S3: {}", causes(e)));
        let mut settings = SigningSettings::default();
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        let params = v4::SigningParams::builder()
            .identity(&held.identity)
            .region(&self.address.region)
            .name("s3")
            .time(UNIX_EPOCH + Duration::from_millis(u64::try_from(now.0).unwrap_or_default()))
            .settings(settings)
            .build()
            .map_err(|e| unsigned(&e))?
            .into();
        let scheme = if self.address.https { "https" } else { "http" };
        let url = format!("{scheme}://{}{target}", self.address.authority);
        // The content is not known yet; its length is signed, and checksums where the client sent any.
        let texts = fields.iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
        let request = SignableRequest::new(method.as_str(), &url, texts, SignableBody::UnsignedPayload)
            .map_err(|e| unsigned(&e))?;
        let (instructions, _) = sign(request, &params).map_err(|e| unsigned(&e))?.into_parts();

        let odd = |_| FileError::Broken("a signed request with an odd field".into());
        let mut head = RequestHeader::build(method, target.as_bytes(), Some(16)).map_err(odd)?;
        head.append_header(header::HOST, self.address.authority.as_str()).map_err(odd)?;
        for (name, value) in fields {
            head.append_header(name, value).map_err(odd)?;
        }
        for (name, value) in instructions.headers() {
            head.append_header(name.to_owned(), value).map_err(odd)?;
        }
        let mut good_until = now.plus(REUSED);
        if let Some(expiry) = held.credentials.expiry() {
            let left = expiry.duration_since(SystemTime::now()).unwrap_or_default();
            good_until = good_until.min(now.plus(left).minus(MARGIN));
        }
        Ok(Signed { head, epoch: held.epoch, good_until })
    }
}

/// Percent-encoded as the signature has it: all but unreserved characters (RFC 3986 section 2.3), and the slashes of a key.
fn encoded(text: &str, is_key: bool) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    let unreserved = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    percent::encode(&mut out, text.as_bytes(), |b| unreserved(b) || (is_key && b == b'/'));
    out
}
