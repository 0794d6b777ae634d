//! Preconditions on entity tags. S3 compares with one strong tag, knows no `*` but in a PUT's If-None-Match, and not every
//! server looks at them where it should. Where a client asks for more, the object is asked for its tag first; the condition
//! sent along then holds for what happens in between.

use http::header::{self, HeaderValue};

use super::S3;
use super::signer::Verb;
use crate::files::conditions::{self, Comparison};
use crate::files::error::FileError;
use crate::files::key::ObjectKey;
use crate::files::store::Conditions;

/// One of each at most.
pub struct OneTag {
    pub if_match: Option<HeaderValue>,
    pub if_none_match: Option<HeaderValue>,
}

impl S3 {
    /// For reading: several tags, or weak ones, as the one among them that the object has.
    pub(super) async fn one_tag(
        &self,
        key: &ObjectKey,
        conditions: &Conditions,
    ) -> Result<OneTag, FileError> {
        let several = |field: &Option<HeaderValue>| {
            field.as_ref().is_some_and(|v| v.as_bytes().contains(&b',') || v.as_bytes().starts_with(b"W/"))
        };
        let (mut if_match, mut if_none_match) =
            (conditions.if_match.clone(), conditions.if_none_match.clone());
        if !several(&if_match) && !several(&if_none_match) {
            return Ok(OneTag { if_match, if_none_match });
        }
        let etag = self.etag(key).await?;
        if several(&if_match) {
            if !names(if_match.as_ref(), etag.as_ref(), Comparison::Strong) {
                return Err(FileError::PreconditionFailed);
            }
            if_match = etag.clone();
        }
        if several(&if_none_match) {
            if_none_match =
                if names(if_none_match.as_ref(), etag.as_ref(), Comparison::Weak) { etag } else { None };
        }
        Ok(OneTag { if_match, if_none_match })
    }

    /// For changing: the tag of the object that `if_match` lets be changed.
    pub(super) async fn matched(
        &self,
        key: &ObjectKey,
        if_match: Option<&HeaderValue>,
    ) -> Result<Option<HeaderValue>, FileError> {
        let Some(field) = if_match else { return Ok(None) };
        let etag = match self.etag(key).await {
            Err(FileError::NotFound) | Ok(None) => return Err(FileError::PreconditionFailed),
            etag => etag?,
        };
        match names(Some(field), etag.as_ref(), Comparison::Strong) {
            true => Ok(etag),
            false => Err(FileError::PreconditionFailed),
        }
    }

    async fn etag(&self, key: &ObjectKey) -> Result<Option<HeaderValue>, FileError> {
        let current = self.ask(Verb::Head, key.as_str(), |_| Ok(())).await?;
        let etag = current.head().and_then(|head| head.headers.get(header::ETAG).cloned());
        current.finish().await;
        Ok(etag)
    }
}

fn names(field: Option<&HeaderValue>, etag: Option<&HeaderValue>, comparison: Comparison) -> bool {
    field.zip(etag).is_some_and(|(field, etag)| conditions::names(field, etag, comparison))
}
