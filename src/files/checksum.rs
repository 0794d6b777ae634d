//! What a content must amount to: `Content-MD5` (RFC 1864, as S3 takes it) and `x-amz-checksum-*`.

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crc_fast::CrcAlgorithm;
use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use md5::Digest as _;

/// How a checksum is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    Md5,
    Crc32,
    Crc32c,
    Crc64Nvme,
    Sha1,
    Sha256,
}

impl Algorithm {
    pub const ALL: [Self; 6] =
        [Self::Md5, Self::Crc32, Self::Crc32c, Self::Crc64Nvme, Self::Sha1, Self::Sha256];

    pub fn header(self) -> HeaderName {
        HeaderName::from_static(match self {
            Self::Md5 => "content-md5",
            Self::Crc32 => "x-amz-checksum-crc32",
            Self::Crc32c => "x-amz-checksum-crc32c",
            Self::Crc64Nvme => "x-amz-checksum-crc64nvme",
            Self::Sha1 => "x-amz-checksum-sha1",
            Self::Sha256 => "x-amz-checksum-sha256",
        })
    }

    /// Bytes of a checksum.
    fn size(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Crc32 | Self::Crc32c => 4,
            Self::Crc64Nvme => 8,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }
}

/// A checksum that a client announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checksum {
    pub algorithm: Algorithm,
    bytes: Vec<u8>,
}

impl Checksum {
    /// All that `headers` announce.
    ///
    /// # Errors
    /// The name of a field that holds no checksum of its kind, or stands there twice.
    pub fn announced(headers: &HeaderMap) -> Result<Vec<Self>, HeaderName> {
        let mut found = Vec::new();
        for algorithm in Algorithm::ALL {
            let mut values = headers.get_all(algorithm.header()).iter();
            let Some(value) = values.next() else { continue };
            let bytes = STANDARD.decode(value.as_bytes()).ok().filter(|b| b.len() == algorithm.size());
            match bytes {
                Some(bytes) if values.next().is_none() => found.push(Self { algorithm, bytes }),
                _ => return Err(algorithm.header()),
            }
        }
        Ok(found)
    }

    /// In base64, as its field has it.
    pub fn value(&self) -> HeaderValue {
        HeaderValue::from_str(&STANDARD.encode(&self.bytes)).unwrap_or(HeaderValue::from_static(""))
    }
}

/// Computes what was announced while the content passes.
pub struct Hashers(Vec<(Checksum, Hasher)>);

impl Hashers {
    pub fn new(announced: &[Checksum]) -> Self {
        Self(announced.iter().map(|sum| (sum.clone(), Hasher::new(sum.algorithm))).collect())
    }

    pub fn update(&mut self, bytes: &[u8]) {
        for (_, hasher) in &mut self.0 {
            hasher.update(bytes);
        }
    }

    /// Whether the content amounts to all that was announced.
    pub fn agree(self) -> bool {
        self.0.into_iter().all(|(announced, hasher)| hasher.finish() == announced.bytes)
    }
}

enum Hasher {
    Md5(md5::Md5),
    Crc { digest: Box<crc_fast::Digest>, size: usize },
    Sha(digest::Context),
}

impl Hasher {
    fn new(algorithm: Algorithm) -> Self {
        let crc = |kind| Self::Crc { digest: Box::new(crc_fast::Digest::new(kind)), size: algorithm.size() };
        match algorithm {
            Algorithm::Md5 => Self::Md5(md5::Md5::new()),
            Algorithm::Crc32 => crc(CrcAlgorithm::Crc32IsoHdlc),
            Algorithm::Crc32c => crc(CrcAlgorithm::Crc32Iscsi),
            Algorithm::Crc64Nvme => crc(CrcAlgorithm::Crc64Nvme),
            Algorithm::Sha1 => Self::Sha(digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY)),
            Algorithm::Sha256 => Self::Sha(digest::Context::new(&digest::SHA256)),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Md5(md5) => md5.update(bytes),
            Self::Crc { digest, .. } => digest.update(bytes),
            Self::Sha(context) => context.update(bytes),
        }
    }

    fn finish(self) -> Vec<u8> {
        match self {
            Self::Md5(md5) => md5.finalize().to_vec(),
            Self::Crc { digest, size } => digest.finalize().to_be_bytes()[8 - size..].to_vec(),
            Self::Sha(context) => context.finish().as_ref().to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(algorithm: Algorithm, text: &str) -> String {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(&text.as_bytes()[..text.len() / 2]);
        hasher.update(&text.as_bytes()[text.len() / 2..]);
        STANDARD.encode(hasher.finish())
    }

    /// The check values of the CRC catalogue for "123456789", and of RFC 1321, FIPS 180-4 for "abc".
    #[test]
    fn known_answers() {
        assert_eq!(of(Algorithm::Crc32, "123456789"), STANDARD.encode(0xcbf4_3926_u32.to_be_bytes()));
        assert_eq!(of(Algorithm::Crc32c, "123456789"), STANDARD.encode(0xe306_9283_u32.to_be_bytes()));
        assert_eq!(
            of(Algorithm::Crc64Nvme, "123456789"),
            STANDARD.encode(0xae8b_1486_0a79_9888_u64.to_be_bytes())
        );
        assert_eq!(of(Algorithm::Md5, "abc"), "kAFQmDzST7DWlj99KOF/cg==");
        assert_eq!(of(Algorithm::Sha1, "abc"), "qZk+NkcGgWq6PiVxeFDCbJzQ2J0=");
        assert_eq!(of(Algorithm::Sha256, "abc"), "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=");
    }

    #[test]
    fn what_is_announced_is_compared() {
        let headers = |fields: &[(&'static str, &'static str)]| {
            fields
                .iter()
                .map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v)))
                .collect::<HeaderMap>()
        };
        let sums = Checksum::announced(&headers(&[
            ("content-md5", "kAFQmDzST7DWlj99KOF/cg=="),
            ("x-amz-checksum-crc32", "NSRBwg=="),
        ]))
        .unwrap();
        assert_eq!(sums.len(), 2);
        assert_eq!(sums[1].value(), "NSRBwg==");
        for (text, agrees) in [("abc", true), ("abd", false), ("", false)] {
            let mut hashers = Hashers::new(&sums);
            hashers.update(text.as_bytes());
            assert_eq!(hashers.agree(), agrees, "{text}");
        }
        assert!(Hashers::new(&[]).agree());
        for wrong in ["", "NSRBwg", "NSRB", "====", "NSRBwg==\t"] {
            assert!(Checksum::announced(&headers(&[("x-amz-checksum-crc32", wrong)])).is_err(), "{wrong}");
        }
        let mut twice = headers(&[("content-md5", "kAFQmDzST7DWlj99KOF/cg==")]);
        twice.append("content-md5", HeaderValue::from_static("kAFQmDzST7DWlj99KOF/cg=="));
        assert_eq!(Checksum::announced(&twice), Err(HeaderName::from_static("content-md5")));
    }
}
