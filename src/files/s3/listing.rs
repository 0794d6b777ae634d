//! What lies below a prefix (ListObjectsV2).

use std::collections::BTreeMap;

use aws_sdk_s3::Client;
use aws_sdk_s3::types::EncodingType;

use super::failure::of_sdk;
use crate::clock::Timestamp;
use crate::files::error::FileError;
use crate::files::store::{Entry, List, Page};

/// One page. Its end is told by the last entry, not by S3's own token, which names the bucket's insides.
pub async fn list(client: &Client, bucket: &str, list: &List) -> Result<Page, FileError> {
    let answer = client
        .list_objects_v2()
        .bucket(bucket)
        .prefix(&list.prefix)
        .set_start_after(list.after.clone())
        .set_delimiter(list.folders.then(|| "/".to_owned()))
        .set_max_keys(i32::try_from(list.limit).ok())
        // Keys may hold what XML cannot.
        .encoding_type(EncodingType::Url)
        .send()
        .await
        .map_err(|e| of_sdk(&e))?;
    let encoded = answer.encoding_type() == Some(&EncodingType::Url);
    let plain = |text: &str| if encoded { decoded(text) } else { Some(text.to_owned()) };
    let mut entries = BTreeMap::new();
    for object in answer.contents() {
        let Some(key) = object.key().and_then(plain) else { continue };
        let entry = Entry::Object {
            key: key.clone(),
            size: object.size().and_then(|n| u64::try_from(n).ok()).unwrap_or_default(),
            modified: object
                .last_modified()
                .and_then(|t| t.to_millis().ok())
                .map(Timestamp)
                .unwrap_or_default(),
            etag: object.e_tag().unwrap_or_default().to_owned(),
        };
        entries.insert(key, entry);
    }
    for folder in answer.common_prefixes() {
        let Some(prefix) = folder.prefix().and_then(plain) else { continue };
        entries.insert(prefix.clone(), Entry::Folder { prefix });
    }
    // Servers differ in what a prefix is to them; what lies elsewhere is nobody's business here.
    entries.retain(|key, _| key.starts_with(&list.prefix));
    Ok(Page { entries: entries.into_values().collect(), more: answer.is_truncated().unwrap_or(false) })
}

/// `application/x-www-form-urlencoded`, as S3 encodes keys: a plus is a space.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&b, tail)) = rest.split_first() {
        rest = tail;
        match b {
            b'+' => bytes.push(b' '),
            b'%' => {
                let digit = |at: usize| tail.get(at).and_then(|b| char::from(*b).to_digit(16));
                bytes.push(u8::try_from(digit(0)? * 16 + digit(1)?).ok()?);
                rest = &tail[2..];
            }
            b => bytes.push(b),
        }
    }
    String::from_utf8(bytes).ok()
}
