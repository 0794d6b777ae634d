//! Objects too large for one PUT: uploaded in parts, streamed one after the other, and put together at the end.

use aws_sdk_s3::Client;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use http::HeaderValue;
use tokio::runtime::Handle;

use super::S3;
use super::failure::of_sdk;
use super::signer::Part;
use crate::clock::Timestamp;
use crate::files::checksum::Hashers;
use crate::files::error::FileError;
use crate::files::key::ObjectKey;
use crate::files::store::{Content, Write};

const MIB: u64 = 1024 * 1024;
/// S3's limit.
const MAX_PARTS: u64 = 10_000;
/// Parts are no smaller, but for the last (S3's limit), and no larger than they need be.
const SMALLEST: u64 = 5 * MIB;
const USUAL: u64 = 256 * MIB;

impl S3 {
    pub(super) async fn write_parts(
        &self,
        key: &ObjectKey,
        write: &Write,
        content: &mut dyn Content,
    ) -> Result<HeaderValue, FileError> {
        let text = |value: &HeaderValue| value.to_str().ok().map(str::to_owned);
        let create = self.client.create_multipart_upload().bucket(&self.bucket).key(key.as_str());
        let create = create.set_content_type(write.content_type.as_ref().and_then(text)).send().await;
        let id = create.map_err(|e| of_sdk(&e))?.upload_id.unwrap_or_default();
        let mut upload = Upload::new(self, key.as_str(), &id);

        // S3 checks parts; what was announced of the whole is for us to check.
        let mut rest = Rest {
            content,
            hashers: Some(Hashers::new(&write.checksums)),
            ahead: None,
            left: 0,
            is_last: false,
        };
        let size = part_size(write.length, self.multipart_above);
        let mut left = write.length;
        let mut parts = Vec::new();
        for number in 1.. {
            if left == 0 {
                break;
            }
            let length = size.min(left);
            left -= length;
            rest.left = length;
            rest.is_last = left == 0;
            let part = Part { upload_id: &id, number, length };
            let signed = self.signer.sign_part(key.as_str(), &part, Timestamp::now()).await?;
            let answer = self.exchange.upload(signed.head(), length, &mut rest).await?;
            let etag = self.stored(answer, signed.epoch).await?;
            parts.push(CompletedPart::builder().part_number(number).set_e_tag(text(&etag)).build());
        }
        if !rest.hashers.take().is_some_and(Hashers::agree) {
            return Err(FileError::ChecksumMismatch);
        }
        let complete =
            self.client.complete_multipart_upload().bucket(&self.bucket).key(key.as_str()).upload_id(&id);
        let complete = complete
            .multipart_upload(CompletedMultipartUpload::builder().set_parts(Some(parts)).build())
            .set_if_none_match(write.if_absent.then(|| "*".to_owned()))
            .set_if_match(write.if_match.as_ref().and_then(text))
            .send()
            .await
            .map_err(|e| of_sdk(&e))?;
        upload.complete = true;
        let etag = complete.e_tag().and_then(|tag| HeaderValue::from_str(tag).ok());
        etag.ok_or_else(|| FileError::Broken("S3 stored an object without an entity tag".into()))
    }
}

/// Bytes of a part, so that all fit into as many as S3 allows.
fn part_size(length: u64, most: u64) -> u64 {
    let least = length.div_ceil(MAX_PARTS).div_ceil(MIB) * MIB;
    USUAL.min(most).max(least).max(SMALLEST)
}

/// An upload that is given up unless it was completed, whatever ends it.
struct Upload {
    client: Client,
    bucket: String,
    key: String,
    id: String,
    runtime: Handle,
    complete: bool,
}

impl Upload {
    fn new(s3: &S3, key: &str, id: &str) -> Self {
        let (client, bucket, runtime) = (s3.client.clone(), s3.bucket.clone(), s3.runtime.clone());
        Self { client, bucket, key: key.to_owned(), id: id.to_owned(), runtime, complete: false }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if self.complete {
            return;
        }
        let abort =
            self.client.abort_multipart_upload().bucket(&self.bucket).key(&self.key).upload_id(&self.id);
        self.runtime.spawn(async move {
            if let Err(e) = abort.send().await {
                tracing::warn!(cause = ?of_sdk(&e), "an unfinished upload stays in S3: a lifecycle rule should remove such");
            }
        });
    }
}

/// The content, up to the end of the part in hand.
struct Rest<'c> {
    content: &'c mut dyn Content,
    hashers: Option<Hashers>,
    /// What came behind the part before.
    ahead: Option<bytes::Bytes>,
    left: u64,
    is_last: bool,
}

#[async_trait::async_trait]
impl Content for Rest<'_> {
    async fn next(&mut self) -> Result<Option<bytes::Bytes>, FileError> {
        if self.left == 0 {
            // Behind the last part the content must end.
            return if self.is_last { self.content.next().await } else { Ok(None) };
        }
        let mut chunk = match self.ahead.take() {
            Some(chunk) => chunk,
            None => {
                let Some(chunk) = self.content.next().await? else { return Ok(None) };
                if let Some(hashers) = &mut self.hashers {
                    hashers.update(&chunk);
                }
                chunk
            }
        };
        let room = usize::try_from(self.left).unwrap_or(usize::MAX);
        if chunk.len() > room {
            self.ahead = Some(chunk.split_off(room));
        }
        self.left -= chunk.len() as u64;
        Ok(Some(chunk))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_parts_fit() {
        const GIB: u64 = 1024 * MIB;
        for (length, most, size) in [
            (6 * MIB, 5 * MIB, 5 * MIB),
            (6 * GIB, 5 * GIB, USUAL),
            (5 * 1024 * GIB, 5 * GIB, 525 * MIB),
            (200 * GIB, 5 * MIB, 21 * MIB),
        ] {
            assert_eq!(part_size(length, most), size, "{length} {most}");
            assert!(length.div_ceil(part_size(length, most)) <= MAX_PARTS);
        }
    }
}
