//! What lies below a prefix (ListObjectsV2).

use std::collections::BTreeMap;

use aws_sdk_s3::Client;
use aws_sdk_s3::types::EncodingType;

use super::failure::of_sdk;
use crate::clock::Timestamp;
use crate::files::error::FileError;
use crate::files::store::{Entry, List, Page};
use crate::percent;

/// One page. The next one begins at S3's own token: behind a key it would be the same with Amazon's, but not with every
/// server that has its interface.
pub async fn list(client: &Client, bucket: &str, list: &List) -> Result<Page, FileError> {
    let answer = client
        .list_objects_v2()
        .bucket(bucket)
        .prefix(&list.prefix)
        .set_continuation_token(list.from.clone())
        .set_delimiter(list.folders.then(|| "/".to_owned()))
        .set_max_keys(i32::try_from(list.limit).ok())
        // Keys may hold what XML cannot.
        .encoding_type(EncodingType::Url)
        .send()
        .await
        .map_err(|e| of_sdk(&e))?;
    let encoded = answer.encoding_type() == Some(&EncodingType::Url);
    // `application/x-www-form-urlencoded`: a plus is a space.
    let plain = |text: &str| match encoded {
        true => percent::decode(&text.replace('+', " ")),
        false => Some(text.to_owned()),
    };
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
    let next = match answer.is_truncated() {
        Some(true) => {
            let no_token = || FileError::Broken("a listing that goes on has no continuation token".into());
            Some(answer.next_continuation_token().ok_or_else(no_token)?.to_owned())
        }
        _ => None,
    };
    Ok(Page { entries: entries.into_values().collect(), next })
}
