//! Short digests, where a name or address is to be told from others and not to be found by who reads the store.

use aws_lc_rs::digest::{SHA256, digest};

/// The first 128 bits of SHA-256 (FIPS 180-4). Enough: whoever finds two texts that collide may share their counter.
pub fn short_digest(text: &str) -> u128 {
    digest(&SHA256, text.as_bytes())
        .as_ref()
        .iter()
        .take(16)
        .fold(0, |all, byte| all << 8 | u128::from(*byte))
}
