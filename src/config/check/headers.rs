//! Names and values of headers.

use std::collections::BTreeMap;

use super::super::file::{self, Written};
use super::super::{HeaderEdits, Identity};
use super::Check;
use crate::header_alias::{fold, reads_as, reads_as_prefix};

/// Headers that say where a message ends or goes; a changed one makes two parties read two messages.
const FRAMING: [&str; 10] = [
    "host",
    "connection",
    "content-length",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "keep-alive",
    "expect",
    "http2-settings",
];

/// Whether some backends read the two as one name.
pub(super) fn same(a: &str, b: &str) -> bool {
    a.bytes().map(fold).eq(b.bytes().map(fold))
}

fn is_framing(name: &str) -> bool {
    FRAMING.iter().any(|framing| reads_as(name, framing)) || reads_as_prefix(name, "proxy-")
}

/// Headers that cannot carry an identity.
pub(super) fn is_reserved(name: &str) -> bool {
    is_framing(name)
        || ["authorization", "cookie", "forwarded"].iter().any(|reserved| reads_as(name, reserved))
        || reads_as_prefix(name, "x-forwarded-")
}

impl Check<'_> {
    /// Whether it is a name (RFC 9110 section 5.1); a problem when it is not.
    pub(super) fn header_name(&mut self, name: &Written<String>) -> bool {
        let good = name.value.len() <= 128 && http::HeaderName::from_bytes(name.value.as_bytes()).is_ok();
        if !good {
            self.error(&name.span, "not the name of a header")
                .help("write letters, digits and `-`: X-Tenant");
        }
        good
    }

    /// Edits of a request on its way to the target.
    pub(super) fn request_edits(&mut self, written: &file::HeaderEdits, identity: &Identity) -> HeaderEdits {
        for name in written.set.keys().chain(&written.remove) {
            if identity.headers.iter().any(|(ours, _)| same(ours, &name.value)) {
                self.error(&name.span, "an identity header: only a verified token sets it")
                    .help("remove it here, or rename it under [identity]");
            }
        }
        self.edits(written)
    }

    pub(super) fn edits(&mut self, written: &file::HeaderEdits) -> HeaderEdits {
        for name in written.set.keys().chain(&written.remove) {
            if self.header_name(name) && is_framing(&name.value) {
                self.error(&name.span, "this header belongs to the connection and cannot be edited")
                    .help("remove it");
            }
        }
        for removed in &written.remove {
            if written.set.keys().any(|set| set.value.eq_ignore_ascii_case(&removed.value)) {
                self.error(&removed.span, "a header both set and removed")
                    .help("`set` already replaces what was there; remove it here");
            }
        }
        let mut set: BTreeMap<String, (String, String)> = BTreeMap::new();
        for (name, value) in &written.set {
            if http::HeaderValue::from_str(&value.value).is_err() {
                self.error(&value.span, "not the value of a header")
                    .help("write visible ASCII text without line breaks");
            }
            let pair = (name.value.clone(), value.value.clone());
            if set.insert(name.value.to_ascii_lowercase(), pair).is_some() {
                self.error(&name.span, "this header is set twice")
                    .help("names of headers do not differ in case");
            }
        }
        HeaderEdits {
            set: set.into_values().collect(),
            remove: written.remove.iter().map(|name| name.value.clone()).collect(),
        }
    }
}
