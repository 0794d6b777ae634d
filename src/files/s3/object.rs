//! An answer to GET or HEAD as an object, if it is one to the request that was sent.

use async_trait::async_trait;
use http::header::{self, HeaderName, HeaderValue};

use super::exchange::Answer;
use super::length;
use crate::files::checksum::Algorithm;
use crate::files::error::FileError;
use crate::files::range::ByteRange;
use crate::files::store::{Body, Empty, Found, Meta, Object, Read};

/// # Errors
/// `Broken`: an answer to another question, or of unknown length.
pub async fn of(answer: Answer, read: &Read) -> Result<Object, FileError> {
    let odd = |what: &str| FileError::Broken(format!("S3 gave {what}"));
    let Some(head) = answer.head() else { return Err(odd("no head")) };
    let headers = &head.headers;
    let get = |name: HeaderName| headers.get(name).cloned();
    let sums = Algorithm::ALL.into_iter().filter(|a| *a != Algorithm::Md5).map(Algorithm::header);
    let sums = sums.chain([HeaderName::from_static("x-amz-checksum-type")]);
    let meta = Meta {
        length: length(headers),
        content_type: get(header::CONTENT_TYPE),
        content_encoding: get(header::CONTENT_ENCODING),
        content_language: get(header::CONTENT_LANGUAGE),
        etag: get(header::ETAG),
        last_modified: get(header::LAST_MODIFIED),
        checksums: sums.filter_map(|name| Some((name.clone(), headers.get(&name)?.clone()))).collect(),
    };
    let conditional = read.conditions.if_none_match.is_some() || read.conditions.if_modified_since.is_some();
    let found = match head.status.as_u16() {
        200 => Found::Whole,
        206 => {
            let range = read.range.ok_or_else(|| odd("a part that was not asked for"))?;
            if meta.length == Some(0) {
                // MinIO's answer where nothing has an end.
                answer.finish().await;
                return Err(FileError::RangeNotSatisfiable { size: Some(0) });
            }
            let part = get(header::CONTENT_RANGE).as_ref().and_then(Part::read);
            let part = part.filter(|part| part.answers(range) && meta.length == Some(part.length()));
            Found::Part(part.ok_or_else(|| odd("another part than was asked for"))?.value())
        }
        304 if conditional => Found::NotModified,
        other => return Err(odd(&format!("status {other} where 200 was expected"))),
    };
    if read.head || found == Found::NotModified {
        answer.finish().await;
        return Ok(Object { found, meta, body: Box::new(Empty) });
    }
    if meta.length.is_none() {
        // The client could not tell the end of such an object from a broken connection.
        return Err(odd("an object of unknown length"));
    }
    Ok(Object { found, meta, body: Box::new(answer) })
}

/// `bytes first-last/size` (RFC 9110 section 14.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    first: u64,
    last: u64,
    size: u64,
}

impl Part {
    fn read(value: &HeaderValue) -> Option<Self> {
        let (range, size) = value.to_str().ok()?.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let part = Self { first: first.parse().ok()?, last: last.parse().ok()?, size: size.parse().ok()? };
        (part.first <= part.last && part.last < part.size).then_some(part)
    }

    fn answers(self, asked: ByteRange) -> bool {
        asked.within(self.size) == Some((self.first, self.last))
    }

    fn length(self) -> u64 {
        self.last - self.first + 1
    }

    fn value(self) -> HeaderValue {
        let text = format!("bytes {}-{}/{}", self.first, self.last, self.size);
        HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("bytes */*"))
    }
}

#[async_trait]
impl Body for Answer {
    async fn next(&mut self) -> Result<Option<&[u8]>, String> {
        Answer::next(self).await.map_err(|e| match e {
            FileError::Timeout(cause) | FileError::Unreachable(cause) | FileError::Broken(cause) => cause,
            other => format!("{other:?}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_the_one_that_was_asked_for() {
        let part = |text: &'static str| Part::read(&HeaderValue::from_static(text));
        let asked = |field| ByteRange::parse(field).unwrap();
        assert!(part("bytes 2-5/20").unwrap().answers(asked("bytes=2-5")));
        assert!(part("bytes 2-19/20").unwrap().answers(asked("bytes=2-")));
        assert!(part("bytes 2-19/20").unwrap().answers(asked("bytes=2-99")));
        assert!(part("bytes 15-19/20").unwrap().answers(asked("bytes=-5")));
        assert!(!part("bytes 0-3/20").unwrap().answers(asked("bytes=2-5")));
        assert!(!part("bytes 2-4/20").unwrap().answers(asked("bytes=2-5")));
        for odd in ["", "lines 2-5/20", "bytes 5-2/20", "bytes 2-5/3", "bytes 2-5/*", "bytes */20", "canary"]
        {
            assert_eq!(part(odd), None, "{odd}");
        }
    }
}
