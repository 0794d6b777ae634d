//! Objects in a bucket of S3, or of a server that speaks its protocol.
//!
//! The SDK finds credentials and the endpoint, signs, lists, and begins and ends uploads in parts; the objects' bytes
//! travel over [`exchange`].

mod credentials;
mod exchange;
mod failure;
mod listing;
mod multipart;
mod object;
mod signer;
mod tags;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, IdentityCache, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    SharedHttpClient, StalledStreamProtectionConfig,
};
use aws_sdk_s3::presigning::PresigningConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use pingora_http::RequestHeader;
use tokio::runtime::Handle;

use self::credentials::{Keys, SdkKeys};
use self::exchange::{Answer, Exchange};
use self::failure::of_sdk;
use self::signer::{Address, Signer, Verb};
use super::conditions::plain_date;
use super::error::FileError;
use super::key::ObjectKey;
use super::store::{Content, FileStore, List, Object, Page, Read, Write};
use crate::clock::Timestamp;
use crate::config::S3Settings;
use crate::metrics::Metrics;

pub struct S3 {
    client: Client,
    bucket: String,
    keys: Arc<Keys>,
    signer: Signer,
    exchange: Exchange,
    multipart_above: u64,
    runtime: Handle,
}

impl S3 {
    /// `name` is what metrics call it; `group` keeps its connections apart from all others'. Nothing is asked of S3 yet.
    ///
    /// # Errors
    /// Why not, for the operator.
    pub async fn new(
        name: &str,
        settings: &S3Settings,
        group: u64,
        metrics: &Metrics,
        runtime: &Handle,
    ) -> Result<Self, String> {
        let keys = Keys::new(&settings.credentials, runtime.clone());
        let client = client(settings, &keys)?;
        let address = address(&client, settings).await?;
        let signatures = |source| metrics.file_signatures.with_label_values(&[name, source]);
        Ok(Self {
            exchange: Exchange::new(&address, settings.ca.as_deref(), &settings.timeouts, group),
            signer: Signer::new(address, keys.clone(), signatures("cache"), signatures("fresh")),
            client,
            bucket: settings.bucket.clone(),
            keys,
            multipart_above: settings.multipart_above,
            runtime: runtime.clone(),
        })
    }

    /// Keeps credentials fresh. Never ends.
    pub async fn keep_credentials(&self) {
        self.keys.clone().keep_fresh().await;
    }

    /// Looks the server's name up again.
    pub async fn resolve(&self) {
        self.exchange.addresses().resolve().await;
    }

    /// Asks, once more when S3 did not know the credentials and there are others now.
    async fn ask(
        &self,
        verb: Verb,
        key: &str,
        add: impl Fn(&mut RequestHeader) -> Result<(), FileError>,
    ) -> Result<Answer, FileError> {
        let mut tries = 0;
        loop {
            let signed = self.signer.sign(verb, key, Timestamp::now()).await?;
            let mut head = signed.head();
            add(&mut head)?;
            let answer = self.exchange.ask(head).await?;
            if matches!(answer.status(), 200..=299 | 304) {
                return Ok(answer);
            }
            let refusal = answer.refusal().await;
            if refusal.is_of_credentials() || (verb == Verb::Head && matches!(refusal.status, 400 | 403)) {
                self.signer.forget();
                tries += 1;
                if tries == 1 && self.keys.refused(signed.epoch).await {
                    continue;
                }
            }
            // A HEAD has no document that could tell which of two things was not found.
            if verb == Verb::Head && refusal.status == 404 {
                return Err(self.what_is_missing(key).await);
            }
            return Err(refusal.into());
        }
    }

    async fn what_is_missing(&self, key: &str) -> FileError {
        let first_byte = |head: &mut RequestHeader| insert(head, header::RANGE, "bytes=0-0");
        match Box::pin(self.ask(Verb::Get, key, first_byte)).await {
            Ok(answer) => {
                answer.finish().await;
                FileError::NotFound
            }
            Err(FileError::RangeNotSatisfiable { .. }) => FileError::NotFound,
            Err(e) => e,
        }
    }
}

/// Where requests of the SDK's making go.
async fn address(client: &Client, settings: &S3Settings) -> Result<Address, String> {
    const KEY: &str = "k";
    let expires = PresigningConfig::expires_in(Duration::from_secs(60)).map_err(|e| e.to_string())?;
    // With any credentials: none may be there yet.
    let any = aws_credential_types::Credentials::new("-", "-", None, None, "none");
    let config = client.config().to_builder().credentials_provider(any).build();
    let probe =
        Client::from_conf(config).get_object().bucket(&settings.bucket).key(KEY).presigned(expires).await;
    let probe = probe.map_err(|e| credentials::causes(&e))?;
    let uri: http::Uri = probe.uri().parse().map_err(|_| "the endpoint is not a URL".to_owned())?;
    let authority = uri.authority().ok_or("the endpoint has no host")?.to_string();
    let root = uri.path().strip_suffix(KEY).ok_or("the endpoint has an odd path")?.to_owned();
    Ok(Address { https: uri.scheme_str() == Some("https"), authority, root, region: settings.region.clone() })
}

fn client(settings: &S3Settings, keys: &Arc<Keys>) -> Result<Client, String> {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(settings.timeouts.connect)
        .read_timeout(settings.timeouts.read)
        .operation_timeout(settings.timeouts.read * 2)
        .build();
    let mut config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(settings.region.clone()))
        .force_path_style(settings.path_style)
        .credentials_provider(SdkKeys(keys.clone()))
        // `Keys` is the cache.
        .identity_cache(IdentityCache::no_cache())
        .http_client(http_client(settings)?)
        .retry_config(RetryConfig::standard().with_max_attempts(2))
        .timeout_config(timeouts)
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .disable_s3_express_session_auth(true)
        // Checksums are the client's business; not every server knows those the SDK would add.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    if let Some(endpoint) = &settings.endpoint {
        config = config.endpoint_url(endpoint);
    }
    Ok(Client::from_conf(config.build()))
}

fn http_client(settings: &S3Settings) -> Result<SharedHttpClient, String> {
    let mut trust = TrustStore::default();
    if let Some(path) = &settings.ca {
        let pem = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
        trust = TrustStore::empty().with_pem_certificate(pem);
    }
    let context =
        TlsContext::builder().with_trust_store(trust).build().map_err(|e| credentials::causes(&e))?;
    let builder = aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::AwsLc));
    Ok(builder.tls_context(context).build_https())
}

#[async_trait]
impl FileStore for S3 {
    async fn read(&self, key: &ObjectKey, read: &Read) -> Result<Object, FileError> {
        let verb = if read.head { Verb::Head } else { Verb::Get };
        let tags = self.one_tag(key, &read.conditions).await?;
        let date = |field: &Option<HeaderValue>| field.as_ref().and_then(plain_date);
        let conditions = [
            (header::IF_MATCH, tags.if_match),
            (header::IF_NONE_MATCH, tags.if_none_match),
            // Without meaning beside If-None-Match (RFC 9110 section 13.1.3), as some servers do not know.
            (
                header::IF_MODIFIED_SINCE,
                date(&read.conditions.if_modified_since).filter(|_| read.conditions.if_none_match.is_none()),
            ),
            (
                header::IF_UNMODIFIED_SINCE,
                date(&read.conditions.if_unmodified_since).filter(|_| read.conditions.if_match.is_none()),
            ),
        ];
        let add = |head: &mut RequestHeader| {
            if let Some(range) = read.range {
                insert(head, header::RANGE, range.to_string())?;
            }
            for (name, value) in &conditions {
                if let Some(value) = value {
                    insert(head, name.clone(), value.clone())?;
                }
            }
            Ok(())
        };
        match self.ask(verb, key.as_str(), add).await {
            Ok(answer) => object::of(answer, read).await,
            // The client is to learn how far it could have gone (RFC 9110 section 15.5.17).
            Err(FileError::RangeNotSatisfiable { size: None }) => {
                Err(FileError::RangeNotSatisfiable { size: self.size(key).await? })
            }
            Err(e) => Err(e),
        }
    }

    async fn write(
        &self,
        key: &ObjectKey,
        write: &Write,
        content: &mut dyn Content,
    ) -> Result<HeaderValue, FileError> {
        let if_match = self.matched(key, write.if_match.as_ref()).await?;
        let write = Write { if_match, ..write.clone() };
        let write = &write;
        if write.length > self.multipart_above {
            return self.write_parts(key, write, content).await;
        }
        let signed = self.signer.sign_put(key.as_str(), write, Timestamp::now()).await?;
        let answer = self.exchange.upload(signed.head(), write.length, content).await?;
        self.stored(answer, signed.epoch).await
    }

    async fn delete(&self, key: &ObjectKey, if_match: Option<&HeaderValue>) -> Result<(), FileError> {
        let if_match = self.matched(key, if_match).await?;
        let add = |head: &mut RequestHeader| match &if_match {
            Some(tag) => insert(head, header::IF_MATCH, tag.clone()),
            None => Ok(()),
        };
        match self.ask(Verb::Delete, key.as_str(), add).await {
            Ok(answer) => {
                answer.finish().await;
                Ok(())
            }
            // Some servers say so; S3 does not.
            Err(FileError::NotFound) if if_match.is_none() => Ok(()),
            Err(e) => Err(e),
        }
    }

    async fn list(&self, list: &List) -> Result<Page, FileError> {
        self.keys.current().await?;
        listing::list(&self.client, &self.bucket, list).await
    }

    async fn size(&self, key: &ObjectKey) -> Result<Option<u64>, FileError> {
        match self.ask(Verb::Head, key.as_str(), |_| Ok(())).await {
            Ok(answer) => {
                let size = answer.head().and_then(|head| length(&head.headers)).unwrap_or_default();
                answer.finish().await;
                Ok(Some(size))
            }
            Err(FileError::NotFound) => Ok(None),
            Err(e) => Err(e),
        }
    }

    async fn check(&self) -> Result<(), FileError> {
        self.keys.current().await?;
        let asked = self.client.list_objects_v2().bucket(&self.bucket).max_keys(1).send().await;
        asked.map(drop).map_err(|e| of_sdk(&e))
    }
}

impl S3 {
    /// The entity tag in the answer to a PUT.
    async fn stored(&self, answer: Answer, epoch: u64) -> Result<HeaderValue, FileError> {
        if answer.is_early() && answer.status() < 300 {
            return Err(FileError::Broken("S3 took an object that it does not have yet".into()));
        }
        if !matches!(answer.status(), 200..=299) {
            let refusal = answer.refusal().await;
            if refusal.is_of_credentials() {
                // The content is gone, so that this one cannot be sent again; the next one will find others.
                self.signer.forget();
                self.keys.refused(epoch).await;
            }
            return Err(refusal.into());
        }
        let etag = answer.head().and_then(|head| head.headers.get(header::ETAG).cloned());
        answer.finish().await;
        etag.ok_or_else(|| FileError::Broken("S3 stored an object without an entity tag".into()))
    }
}

fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn insert(
    head: &mut RequestHeader,
    name: HeaderName,
    value: impl TryInto<HeaderValue>,
) -> Result<(), FileError> {
    let odd = || FileError::Broken("a request to S3 with an odd field".into());
    let value = value.try_into().map_err(|_| odd())?;
    head.insert_header(name, value).map_err(|_| odd())
}
